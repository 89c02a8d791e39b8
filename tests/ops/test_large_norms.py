"""Norms so large that no float64 can tell their balls from that of norm inf."""

import math

import pytest
import torch

from fastadv import ops

AS_LINF = 2.0**55
BOX = (0.0, 1.0)


def samples(device, dtype=torch.float64):
    """Directions, and x inside the box."""
    generator = torch.Generator().manual_seed(0)
    shapes = [torch.randn(3, 1000, generator=generator), torch.rand(3, 1000, generator=generator)]
    return [numbers.to(device, dtype) for numbers in shapes]


def results(norm, device):
    """Of every operator that takes a norm."""
    delta, x = samples(device)
    return {
        "project": ops.project(delta, 0.5, norm),
        "in a box": ops.project(delta, 0.5, norm, x=x, bounds=BOX),
        "steepest": ops.steepest(delta, norm),
        "random": ops.random_in_ball(x, 0.1, norm, seed=0),
        "step": ops.pgd_step(x, x, delta, eps=0.1, step_size=0.2, norm=norm),
        "step_": ops.pgd_step_(x.clone(), x, delta, eps=0.1, step_size=0.2, norm=norm),
    }


@pytest.mark.parametrize("norm", [AS_LINF, 1e18, 1e300])
def test_from_2_to_the_55_on_a_norm_is_inf(norm, device, backend):
    expected = results(math.inf, device)
    for name, result in results(norm, device).items():
        assert torch.equal(result, expected[name]), name


@pytest.mark.parametrize("norm", [1e12, 1e15, AS_LINF * (1 - 2**-53)])
def test_below_it_the_balls_come_as_near_as_their_norms(norm, device, backend):
    """N^(1/p) - 1 is ln N / p; the rest is what results aim below the sphere."""
    expected = results(math.inf, device)
    for name, result in results(norm, device).items():
        if name != "random":
            apart = 2 * math.log(1000) / norm + 2 * 2.0**-41
            torch.testing.assert_close(result, expected[name], rtol=apart, atol=apart)


@pytest.mark.usefixtures("native")
def test_the_kernels_themselves_take_it_for_inf(device):
    delta, x = samples(device)
    eps, step_size = (torch.tensor(number, dtype=torch.float64) for number in (0.5, 0.2))
    for op, before, after in (
        (torch.ops.fastadv.project, (delta, eps), ()),
        (torch.ops.fastadv.steepest, (delta,), ()),
        (torch.ops.fastadv.pgd_step, (x, x, delta, eps, step_size), BOX),
        (torch.ops.fastadv.random_in_ball, (x, eps), (*BOX, torch.tensor([1, 2], device=device))),
    ):
        assert torch.equal(op(*before, 1e300, *after), op(*before, math.inf, *after))


def test_derivatives_are_those_of_norm_inf(device, backend):
    for function in (lambda d, norm: ops.project(d, 0.5, norm), ops.steepest):
        gradients = []
        for norm in (1e300, math.inf):
            delta = samples(device)[0].requires_grad_()
            (function(delta, norm) * samples(device)[1]).sum().backward()
            gradients.append(delta.grad)
        assert torch.equal(*gradients)
