"""Nets with k-WTA from nets with ReLU."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from fastadv.attacks.attack import undisturbed
from fastadv.attacks.bpda import BPDA
from fastadv.ops import Per

from .kwta import KWTA

RELU_MODULES = (nn.ReLU, nn.ReLU6)
RELU_FUNCTIONS = (F.relu, F.relu6, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)
# What allows inference by fused kernels, which would still compute the ReLU, or on nested tensors, which
# only these take.
FUSED = {nn.TransformerEncoderLayer: "activation_relu_or_gelu", nn.TransformerEncoder: "use_nested_tensor"}


def convert(
    model: nn.Module,
    gamma: float,
    *,
    per: Per = "sample",
    skip: str | Sequence[str] = (),
    example: Tensor | None = None,
) -> list[str]:
    """Replace the ReLU modules of a model, `nn.ReLU` and `nn.ReLU6`, by `KWTA`, in place.

    The published ResNet-18 keeps the ReLU of its stem: `convert(cifar_resnet18(), 0.1, skip="stem.relu")`.
    Names are those of `model.named_modules()`. A ReLU that the forward pass calls in several places, as in
    torchvision's ResNets, becomes one KWTA that is called there, each time with the k of what it is given;
    one that is registered under several names is replaced under each that is not skipped. Hooks on a ReLU go
    with it. Weights and their names stay, and so do the training modes. The substitute of a `BPDA` is the
    attacker's and is not converted, unless the net itself uses the same module.

    A forward pass that calls `functional.relu`, or a ReLU that it holds in a list of its own, cannot be
    converted by replacing modules: give an `example`, and such a model is refused instead of half converted.

    Args:
        model: any model; left as it was where an error is raised.
        gamma: the sparsity ratio, in (0, 1].
        per: what a row is, as in `KWTA`.
        skip: names, or patterns such as "layer4.*", of ReLUs to keep.
        example: a batch that the converted model is run on, once and in eval mode, to see whether it still
            computes a ReLU that is not skipped.

    Returns:
        The names of the modules that were replaced, in the order of `model.named_modules()`.

    Raises:
        TypeError: gamma is not a number.
        ValueError: gamma is not in (0, 1]; there is nothing to replace; a name in `skip` matches no
            ReLU; or the converted model still computes a ReLU on `example`.
    """
    KWTA(gamma, per)  # refuses bad settings before any work
    modules = dict(model.named_modules(remove_duplicate=False))
    substitutes = tuple(
        f"{name}.substitute.".lstrip(".") for name, module in modules.items() if isinstance(module, BPDA)
    )
    relus = {
        name: module
        for name, module in modules.items()
        if isinstance(module, RELU_MODULES) and not f"{name}.".startswith(substitutes)
    }
    if "" in relus:
        raise ValueError("convert: model is itself a ReLU and cannot be replaced in place: use KWTA(gamma)")
    patterns = [skip] if isinstance(skip, str) else list(skip)
    unmatched = [pattern for pattern in patterns if not _matching(relus, [pattern])]
    if unmatched:
        raise ValueError(
            f"convert: skip matches no ReLU: {', '.join(unmatched)}; there is {', '.join(relus) or 'none'}"
        )
    skipped = _matching(relus, patterns)
    names = [name for name in relus if name not in skipped]
    if not names:
        which = "every ReLU is skipped" if relus else "model has no nn.ReLU or nn.ReLU6 module"
        raise ValueError(
            f"convert: nothing to replace: {which} (calls of functional.relu cannot be replaced)"
        )
    with ExitStack() as undo:
        replacements: dict[nn.Module, KWTA] = {}
        for name in names:
            relu = relus[name]
            undo.callback(model.set_submodule, name, relu)
            if relu not in replacements:
                replacements[relu] = KWTA(gamma, per).train(relu.training)
            model.set_submodule(name, replacements[relu])
        converted = set(replacements.values())
        for module in model.modules():
            for kind, flag in FUSED.items():
                if isinstance(module, kind) and not converted.isdisjoint(module.modules()):
                    undo.callback(setattr, module, flag, getattr(module, flag))
                    setattr(module, flag, False)
        if example is not None and (calls := functional_relus(model, example)):
            raise ValueError(
                f"convert: the model would be half converted, for its forward pass calls {', '.join(calls)}: "
                "make nn.ReLU modules of these, called by their names"
            )
        undo.pop_all()
    return names


def functional_relus(model: nn.Module, x: Tensor) -> list[str]:
    """The calls of functional ReLUs in a model's forward pass, which `convert` cannot replace.

    Seen are `functional.relu` and `relu6`, `torch.relu` and `Tensor.relu`, also in place, outside modules
    that are ReLUs. Not seen are other ways to write one, such as clamp(min=0), and scripted code.

    Args:
        model: run once, in eval mode and without gradients; left as it was.
        x: [B, ...] samples for it.

    Returns:
        In the order of the calls, each as "relu in layer1.0": the function, and the module that calls it;
        empty where there is none.
    """
    watch = _Watch(model)
    handles: list[RemovableHandle] = []
    try:
        for name, module in model.named_modules():
            handles += watch.follow(name, module)
        # In eager mode: a net that is compiled and has run calls neither hooks nor functions.
        with torch.compiler.set_stance("force_eager"), undisturbed(model), torch.no_grad(), watch:
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return watch.calls


class _Watch(TorchFunctionMode):
    """Writes down the calls of ReLU functions, each with the innermost module that is running."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.running = [("", model)]
        self.calls: list[str] = []

    def follow(self, name: str, module: nn.Module) -> tuple[RemovableHandle, RemovableHandle]:
        """Notice when the module's forward pass begins and ends."""
        return (
            module.register_forward_pre_hook(lambda *_: self.running.append((name, module))),
            module.register_forward_hook(lambda *_: (self.running.pop(), None)[1], always_call=True),
        )

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name, module = self.running[-1]
        if func in RELU_FUNCTIONS and not isinstance(module, RELU_MODULES):
            self.calls.append(f"{func.__name__} in {name or type(module).__name__}")
        return func(*args, **(kwargs or {}))


def _matching(names: Iterable[str], patterns: Iterable[str]) -> set[str]:
    return {name for name in names for pattern in patterns if fnmatchcase(name, pattern)}
