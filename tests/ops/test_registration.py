"""What PyTorch knows of the operators: schemas, fake kernels, autograd, torch.compile."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import fastadv
from fastadv import ops
from tests.ops.inputs import DTYPES, NORMS, step_inputs

pytestmark = pytest.mark.usefixtures("native")


def calls(dtype, device, norm, requires_grad=False):
    """(operator, positional arguments) of every operator."""
    x_adv, x, grad = step_inputs((3, 4, 5, 6), dtype, device)
    last = torch.channels_last
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    scalar = torch.tensor(0.3, dtype=wide)
    each = torch.tensor([0.1, 0.2, 0.0], dtype=wide, device=device)
    active = torch.tensor([True, False, True], device=device)
    seed = torch.tensor([1, 2], device=device)
    ids = torch.tensor([7, 8, 9], device=device)
    library = torch.ops.fastadv
    grad.requires_grad_(requires_grad)
    yield library.pgd_step, (x_adv, x, grad, scalar, scalar, norm, 0.0, 1.0)
    yield library.pgd_step, (x_adv.to(memory_format=last), x, grad, each, each, norm, 0.0, 1.0, False, active)
    yield library.pgd_step_, (x_adv.clone(), x, grad, scalar, each, norm, -math.inf, math.inf)
    keep = (True, active, 1, False, torch.zeros_like(x), ~active)
    yield library.pgd_step_, (x_adv.clone(), x, grad, scalar, each, norm, 0.0, 1.0, *keep)
    yield library.project, (grad, each, norm)
    yield library.project, (grad.to(memory_format=last), scalar, norm)
    yield library.steepest, (grad, norm)
    yield library.random_in_ball, (x, each, norm, 0.0, 1.0, seed, ids)
    yield library.random_in_ball, (x.transpose(0, 1), scalar, norm, 0.0, 1.0, seed)
    yield library.add_noise, (grad, 2, "normal", 0.1, 0.0, 1.0, seed, ids, 3)
    yield library.add_noise, (grad.transpose(0, 1), 2, "sign", 0.1, -math.inf, math.inf, seed)
    clean, noisy = grad.detach()[0, :, 0], grad.detach()[:, :, 0]
    sums = torch.ones(4, 6, dtype=torch.float64, device=device)
    yield library.gap_moments, (clean, noisy)
    yield library.gap_moments, (clean, noisy, sums, sums)
    known = torch.rand(2, 5, 5, dtype=torch.float64, device=device)
    yield library.odds_score, (known, torch.arange(5, device=device), known, known, True)
    yield library.kwta, (grad, 7)
    yield library.kwta, (grad.to(memory_format=last), 7, "sample", "lowest_index", "straight_through", False)
    yield library.kwta, (grad.transpose(1, 2), 3, "channel")
    place, *means = (x.to(wide).clone() for _ in range(3))
    yield library.cw_step_, (x_adv.clone(), place, *means, x, grad, scalar, each, 0.1, 2, 0.0, 1.0)
    hinge = (each, active, torch.zeros_like(x), ~active)
    moved = x_adv.to(memory_format=last)
    yield library.cw_step_, (moved, place, *means, x, grad, each, scalar, 0.1, 1, 0.0, 1.0, *hinge)
    words = torch.arange(12, dtype=torch.int32, device=device).view(3, 4)
    constant = grad.detach()  # kwta_backward refuses to be differentiated
    yield library.kwta_backward, (constant.to(memory_format=last), words)
    words = torch.arange(60, dtype=torch.int32, device=device).view(60, 1)
    yield library.kwta_backward, (constant, words, "last")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck_passes_for_every_operator(dtype, norm, device):
    for op, args in calls(dtype, device, norm):
        torch.library.opcheck(op.default, args)


@pytest.mark.parametrize("norm", NORMS)
def test_opcheck_passes_where_inputs_require_grad(norm, device):
    for op, args in calls(torch.float64, device, norm, requires_grad=True):
        torch.library.opcheck(op.default, args)


@pytest.mark.parametrize("norm", NORMS)
def test_fake_cuda_tensors_give_the_real_shapes_and_strides_without_a_gpu(norm):
    for op, args in calls(torch.float32, "cpu", norm):
        real = op.default(*args)
        with FakeTensorMode(allow_non_fake_inputs=True):
            fakes = [
                torch.empty_strided(a.shape, a.stride(), dtype=a.dtype, device="cuda")
                if isinstance(a, torch.Tensor)
                else a
                for a in args
            ]
            out = op.default(*fakes)
        if real is None:
            assert out is None
            continue
        pairs = [(out, real)] if isinstance(real, torch.Tensor) else zip(out, real, strict=True)
        for fake, true in pairs:
            assert fake.device.type == "cuda"
            assert (fake.shape, fake.stride(), fake.dtype) == (true.shape, true.stride(), true.dtype)


def test_an_attacks_update_is_a_constant_to_autograd(device):
    x_adv, x, grad = (t.requires_grad_() for t in step_inputs((2, 5), torch.float32, device))
    assert not ops.pgd_step(x_adv, x, grad, eps=0.1, step_size=0.1).requires_grad
    assert not ops.random_in_ball(x, 0.1, seed=0).requires_grad


@pytest.mark.parametrize(
    "op",
    [
        lambda x: ops.kwta(x, 2),
        lambda x: ops.project(x, 0.1, 2),
        lambda x: ops.steepest(x, math.inf),
        lambda x: ops.add_noise(x, 2, scale=0.1, seed=0),
    ],
)
def test_forward_mode_is_refused_and_does_not_give_zeros(op, device):
    x = step_inputs((2, 5), torch.float32, device)[2]
    with pytest.raises(RuntimeError, match=r"forward-mode derivatives \(jvp\) are not supported"):
        torch.func.jvp(op, (x,), (torch.ones_like(x),))


def test_in_place_step_on_a_tensor_saved_for_backward_is_an_error(device):
    x_adv, x, grad = step_inputs((2, 5), torch.float32, device)
    weight = torch.ones(2, 5, device=device, requires_grad=True)
    loss = (weight * x_adv).sum()
    ops.pgd_step_(x_adv, x, grad, eps=0.1, step_size=0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("norm", NORMS)
def test_a_compiled_attack_step_has_no_graph_break_and_the_same_result(norm, device):
    def step(x_adv, x, grad):
        start = ops.random_in_ball(x, 0.1, norm, seed=3)
        moved = ops.pgd_step(x_adv, x, ops.steepest(grad, norm), eps=0.2, step_size=0.1, norm=norm)
        return start, ops.project(moved - x, 0.1, norm)

    arguments = step_inputs((2, 3, 8, 8), torch.float32, device)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for out, expected in zip(compiled(*arguments), step(*arguments), strict=True):
        assert torch.equal(out, expected)


def test_backend_choice_is_refused_where_it_is_unknown_and_said_where_it_holds():
    with pytest.raises(ValueError, match="must be one of auto, native, reference, got 'fast'"):
        fastadv.backend("fast")
    assert fastadv.backend("reference") == "reference"
    assert fastadv.backend("native") == "native"
    assert fastadv.backend("auto") == "native"
    info = fastadv.build_info()
    assert info["fastadv"] == fastadv.__version__
    assert info["backend"].startswith("native")
    assert "cpu" in info["kernels"]
