"""Backward pass differentiable approximation: the survey's section 9."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Layer = Callable[[Tensor], Tensor]


class BPDA(nn.Module):
    """A layer as it is going forward, and as a substitute of it going backward.

    Athalye, Carlini, Wagner, "Obfuscated gradients give a false sense of security" (ICML 2018), section
    4.1; the survey's section 9. Put it in the place of a layer or preprocessor that has no useful
    derivative, and attack the model with any attack:

        defended = nn.Sequential(BPDA(transforms.JPEG(quality=75)), model)
        x_adv = PGD(eps=8 / 255)(defended, x, y)

    The output is the layer's own, bit for bit. The gradient with respect to the input is the upstream
    gradient (`backward=None`, the straight-through estimator), or that times the substitute's derivative
    at the layer's own input; the substitute runs in the backward pass only, under the autocast of the
    forward pass. No gradient ever reaches the parameters of either. Both are given copies of the input, so
    that layers which work in place, such as `nn.ReLU(inplace=True)`, change neither it nor the derivative.

    Modules are registered: modes, devices, `state_dict` and `deepcopy` reach them as "layer" and
    "substitute". In `torch.compile` the identity is part of the graph; a substitute breaks the graph.

    Args:
        forward: a module or callable x -> y; need not be differentiable, nor be written in PyTorch.
        backward: a differentiable module or callable x -> [the shape of y], or None for the identity.

    Raises:
        TypeError: forward or backward is not callable; on use, forward returns no floating-point tensor.
        ValueError: on use, y has not the shape that the gradient needs, or the substitute's output does
            not depend on x.
    """

    def __init__(self, forward: Layer, backward: Layer | None = None) -> None:
        """Wrap `forward`."""
        super().__init__()
        if not callable(forward):
            raise TypeError(f"BPDA: forward must be a module or callable, got {forward!r}")
        if backward is not None and not callable(backward):
            raise TypeError(f"BPDA: backward must be a module, a callable or None, got {backward!r}")
        self.layer = forward
        self.substitute = backward

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for x."""
        with torch.no_grad():
            y = self.layer(x.clone())  # which it may overwrite: x is the caller's, and the substitute's
        if not isinstance(y, Tensor) or not y.is_floating_point():
            got = y.dtype if isinstance(y, Tensor) else type(y).__name__
            raise TypeError(f"BPDA: forward must return a floating-point tensor, got {got}")
        if self.substitute is None and y.shape != x.shape:
            raise ValueError(
                f"BPDA: forward must keep the shape {list(x.shape)} where backward is the identity, "
                f"got {list(y.shape)}: give a substitute"
            )
        return _Substituted.apply(x, y, self.substitute)


class _Substituted(torch.autograd.Function):
    """y, with the derivative of substitute(x)."""

    @staticmethod
    def forward(x: Tensor, y: Tensor, substitute: Layer | None) -> Tensor:
        return y.detach()  # neither an input nor a view: what comes after may work in place

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Layer | None], output: Tensor) -> None:
        x, _, ctx.substitute = inputs
        ctx.dtype = x.dtype
        if ctx.substitute is not None:
            ctx.save_for_backward(x)
            kind = x.device.type
            ctx.autocast = kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        if ctx.substitute is None:
            return upstream.to(ctx.dtype), None, None
        (x,) = ctx.saved_tensors
        with torch.enable_grad(), torch.autocast(*ctx.autocast):
            x = x.detach().requires_grad_()
            y = ctx.substitute(x.clone())  # which it may overwrite, where a leaf may not be
        if y.shape != upstream.shape:
            raise ValueError(
                f"BPDA: backward must return the shape of forward's output, {list(upstream.shape)}, "
                f"got {list(y.shape)}"
            )
        if not y.requires_grad:
            raise ValueError("BPDA: backward must be differentiable, but its output does not depend on x")
        (gradient,) = torch.autograd.grad(y, x, upstream.to(y.dtype))
        return gradient, None, None
