"""k winners take all as a layer, in place of ReLU.

Xiao, Zhong and Zheng, "Enhancing adversarial defense by k-winners-take-all", ICLR 2020; the survey's
section 8.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastadv import ops
from fastadv._checks import ROW_DIMS, is_real
from fastadv.ops import Backward, Per, Ties


class KWTA(nn.Module):
    """Keeps the k largest of each row with k = max(1, int(gamma * N)), N the length of the row; others are 0.

    The product is rounded down in floating point, as in the authors' code: gamma 0.29 keeps 28 of 100, since
    0.29 * 100 is 28.999... Where they fail, on rows shorter than 1 / gamma, one winner is left.

    `gamma` may be changed at any time, also of a compiled net: after its second value nothing is compiled
    again. It is part of `state_dict`, since a net is trained for the gamma it ends with: loading restores it.
    A state that has none, such as that of a net with ReLU, leaves it as it is. `per`, `ties` and `backward`
    are, like a convolution's stride, not part of the state.

    A copy has a gamma of its own, and what copies parameters and buffers only does not carry it over: a
    `torch.optim.swa_utils.AveragedModel` keeps the gamma that the net had when the average was made. Where
    gamma is annealed, call `set_gamma` on the average too.

    `torch.export` may leave the batch, height and width open (`Dim`), but not the last dimension with
    per="last". A program keeps the gamma of its export; one that was exported with rows of more than 32
    elements and more than one winner refuses others.
    """

    _gamma: float

    def __init__(
        self, gamma: float, per: Per = "sample", ties: Ties = "all", backward: Backward = "mask"
    ) -> None:
        """No parameters.

        Args:
            gamma: the sparsity ratio, in (0, 1].
            per: what a row is: all of a "sample" (C*H*W), each "channel" of it (H*W), or the "last"
                dimension.
            ties: of elements that equal the k-th largest "all" win, as in the authors' code, or those of
                "lowest_index", so that exactly k do.
            backward: who gets the gradient: the winners ("mask"), or everyone ("straight_through").

        Raises:
            TypeError: gamma is not a number.
            ValueError: gamma is not in (0, 1], or another argument is none of these.
        """
        super().__init__()
        choices = {
            "per": (per, tuple(ROW_DIMS)),
            "ties": (ties, ("all", "lowest_index")),
            "backward": (backward, ("mask", "straight_through")),
        }
        for name, (value, allowed) in choices.items():
            if value not in allowed:
                raise ValueError(f"KWTA: {name} must be one of {', '.join(allowed)}, got {value!r}")
        self.gamma = gamma
        self.per: Per = per
        self.ties: Ties = ties
        self.backward: Backward = backward

    @property
    def gamma(self) -> float:
        """The sparsity ratio, in (0, 1]; setting it to anything else raises TypeError or ValueError."""
        return self._gamma

    @gamma.setter
    def gamma(self, value: float) -> None:
        if not is_real(value):
            raise TypeError(f"KWTA: gamma must be a number in (0, 1], got {value!r}")
        if not 0 < value <= 1:
            raise ValueError(f"KWTA: gamma must be in (0, 1], got {value}")
        self._gamma = float(value)

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] of any floating dtype and memory format -> the same; see `fastadv.ops.kwta`."""
        return ops.kwta(x, self._winners(x), per=self.per, ties=self.ties, backward=self.backward)

    def pattern(self, x: Tensor) -> Tensor:
        """Which elements of x win: bool, shaped like x. A winner may well be 0."""
        return ops.kwta_mask(x, self._winners(x), per=self.per, ties=self.ties)

    def _winners(self, x: Tensor) -> int:
        first = ROW_DIMS[self.per]
        # int, but one that an exported program computes where it leaves the length open.
        return max(1, torch.sym_int(self._gamma * math.prod(x.shape[first:])))

    def extra_repr(self) -> str:
        """The settings, for `print(model)`."""
        return f"gamma={self.gamma:g}, per={self.per!r}, ties={self.ties!r}, backward={self.backward!r}"

    def get_extra_state(self) -> Tensor:
        """gamma, as a float64 tensor so that every format of weights can hold it."""
        # Not a buffer: on a GPU, reading it at each forward pass would wait for the device.
        # On the CPU whatever the default device: from torch.device("meta") no number could be read.
        return torch.tensor(self.gamma, dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Restore gamma; raises ValueError where it is not in (0, 1]."""
        self.gamma = float(state)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        # Weights of a net with ReLU, and those that others published, have no gamma: nothing is missing.
        own = {f"{prefix}_extra_state": self.get_extra_state()}
        super()._load_from_state_dict({**own, **state_dict}, prefix, *args)


def set_gamma(model: nn.Module, gamma: float) -> int:
    """Set the sparsity ratio of every `KWTA` in a model, as annealing does during training.

    Xiao et al. (2020), appendix: a net that is trained with a large gamma is trained on while gamma falls.

    Args:
        model: left as it is but for its `KWTA` modules.
        gamma: in (0, 1].

    Returns:
        How many modules were set.

    Raises:
        TypeError: gamma is not a number.
        ValueError: gamma is not in (0, 1], or the model has no `KWTA` module.
    """
    layers = [module for module in model.modules() if isinstance(module, KWTA)]
    if not layers:
        raise ValueError(f"set_gamma: model has no KWTA module, it is a {type(model).__name__}: see convert")
    for layer in layers:
        layer.gamma = gamma
    return len(layers)
