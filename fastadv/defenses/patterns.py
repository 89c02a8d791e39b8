"""Activation patterns: which units of a net are on."""

from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from fastadv.attacks.attack import undisturbed

from .convert import RELU_MODULES
from .kwta import KWTA


def activation_pattern(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Which units of each k-WTA and ReLU layer are on for each sample.

    The A(.) of Xiao et al. (2020), section 3: the set of winners. A winner is on even where its value is 0;
    a unit of a ReLU is on where its input is positive.

    Args:
        model: run once, in eval mode and without gradients; left as it was. Only modules are seen:
            `KWTA`, `nn.ReLU` and `nn.ReLU6`. A compiled net is run uncompiled.
        x: [B, ...] samples for it.

    Returns:
        By the layer's name, in the order of the calls: bool [B, N], with N the elements of a sample there in
        logical order. A layer that is called several times has the entries "name", "name#2", ...

    Raises:
        ValueError: no such layer ran.
    """
    patterns: dict[str, Tensor] = {}

    def watching(name: str) -> Callable[..., None]:
        def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            (values,) = (*args, *kwargs.values())
            on = module.pattern(values) if isinstance(module, KWTA) else values > 0
            keys = (name if call == 1 else f"{name}#{call}" for call in count(1))
            patterns[next(key for key in keys if key not in patterns)] = on.flatten(1)

        return watch

    # Before the forward pass, because a ReLU may overwrite its input.
    handles = [
        module.register_forward_pre_hook(watching(name), with_kwargs=True)
        for name, module in model.named_modules()
        if isinstance(module, (KWTA, *RELU_MODULES))
    ]
    try:
        # In eager mode: a net that is compiled and has run does not call new hooks.
        with torch.compiler.set_stance("force_eager"), undisturbed(model), torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    if not patterns:
        raise ValueError("activation_pattern: no KWTA or ReLU module ran in the model's forward pass")
    return patterns
