"""pgd_step: kernels against the reference, the ball, the box, and the samples' independence."""

import itertools
import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastadv import ops, reference
from tests.ops.inputs import DTYPES, NORMS, SHAPES, ULP, l2, poison, step_inputs

EPS = 0.1
RULES = ["steepest", "gradient"]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_linf_kernel_equals_the_reference_bit_for_bit(shape, dtype, rule, device, native):
    x_adv, x, grad = step_inputs(shape, dtype, device)
    settings = {"eps": EPS, "step_size": 0.03, "norm": math.inf, "rule": rule}
    poison(x)
    out = ops.pgd_step(x_adv, x, grad, **settings)
    expected = reference.pgd_step(x_adv.cpu(), x.cpu(), grad.cpu(), **settings)
    assert torch.equal(out.cpu(), expected)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_l2_kernel_agrees_with_the_float64_reference(shape, dtype, rule, device, native):
    x_adv, x, grad = step_inputs(shape, dtype, device)
    settings = {"eps": 0.5, "step_size": 0.2, "norm": 2, "rule": rule}
    poison(x)
    out = ops.pgd_step(x_adv, x, grad, **settings)
    exact = reference.pgd_step(x_adv.double().cpu(), x.double().cpu(), grad.double().cpu(), **settings)
    # Two units in the last place, of rounding towards x and of the arithmetic before it, and what float32
    # aims below the sphere: here delta and step together are at most twice as long as their sum.
    atol = 2 * ULP[dtype] + 2 * 0.5 * reference.SLACK.get(dtype, reference.SLACK[torch.float32])
    assert torch.allclose(out.double().cpu(), exact, rtol=0, atol=atol)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("rule", RULES)
def test_large_batches_split_among_threads_agree_with_the_reference(norm, rule, device, native):
    x_adv, x, grad = step_inputs((5, 3, 111, 113), torch.float32, device)
    settings = {"eps": 0.5 if norm == 2 else EPS, "step_size": 0.05, "norm": norm, "rule": rule}
    out = ops.pgd_step(x_adv, x, grad, **settings)
    expected = reference.pgd_step(x_adv.cpu(), x.cpu(), grad.cpu(), **settings)
    assert torch.allclose(out.cpu(), expected, rtol=0, atol=0 if norm == math.inf else 2 * ULP[torch.float32])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
def test_result_is_in_ball_and_box_in_the_dtypes_own_arithmetic(norm, dtype, device, backend):
    for seed, eps in itertools.product(range(3), (0.0, 1e-3, 8 / 255, 0.3)):
        x_adv, x, grad = step_inputs((4, 3, 19, 21), dtype, device, seed, radius=0.5)
        out = ops.pgd_step(x_adv, x, grad, eps=eps, step_size=eps, norm=norm)
        delta = out.double() - x.double()
        # eps in float32 is what an operator on float32 can know of it.
        radius = torch.tensor(eps, dtype=torch.float64 if dtype == torch.float64 else torch.float32).item()
        assert out.isfinite().all()
        assert out.min() >= 0
        assert out.max() <= 1
        if norm == math.inf:
            assert (out - x).abs().max() <= eps
            assert delta.abs().max() <= radius * (1 + 2**-24)
        else:
            assert (l2(delta) <= radius).all()


@pytest.mark.parametrize("norm", NORMS)
def test_gradient_of_norm_1e_30_still_moves_the_sample(norm, device, backend):
    _, x, grad = step_inputs((3, 3, 16, 16), torch.float32, device)
    x = 0.25 + 0.5 * x
    tiny = grad * (1e-30 / l2(grad).float().reshape(-1, 1, 1, 1))
    moved = ops.pgd_step(x, x, tiny, eps=0.5, step_size=0.1, norm=norm)
    expected = ops.pgd_step(x, x, grad, eps=0.5, step_size=0.1, norm=norm)
    assert torch.allclose(moved, expected, rtol=0, atol=1e-6)
    assert (moved != x).flatten(1).any(1).all()


@pytest.mark.parametrize("scale", [1e-42, 1e-38, 1e-20, 1e20, 1e37])
def test_l2_direction_does_not_depend_on_the_gradients_scale(scale, device, backend):
    _, x, grad = step_inputs((2, 3, 8, 8), torch.float32, device)
    # Quantised so that scaling loses no digits even where float32 is subnormal.
    grad = (grad * 8).round() / 8
    scaled = (grad.double() * scale).float()
    grad = scaled.double() / scale  # what the scaling left of it
    out = ops.pgd_step(x, x, scaled, eps=0.5, step_size=0.1, norm=2, bounds=None)
    expected = reference.pgd_step(x.double(), x.double(), grad, eps=0.5, step_size=0.1, norm=2, bounds=None)
    assert torch.allclose(out.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("norm", NORMS)
def test_nan_gradients_move_nothing_and_give_no_nan(norm, rule, device, backend):
    x_adv, x, grad = step_inputs((3, 40), torch.float32, device)
    grad[1, 7] = math.nan
    out = ops.pgd_step(
        x_adv, x, grad, eps=EPS if norm == math.inf else 5.0, step_size=0.02, norm=norm, rule=rule
    )
    assert out.isfinite().all()
    still = out[1, 7] if norm == math.inf else out[1]
    start = x_adv[1, 7] if norm == math.inf else x_adv[1]
    assert torch.allclose(still, start, rtol=0, atol=1e-7)
    assert (out[0] != x_adv[0]).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
def test_inactive_samples_keep_their_bits_and_the_others_do_not_notice(norm, dtype, device, backend):
    x_adv, x, grad = step_inputs((5, 3, 9, 7), dtype, device)
    x_adv[1] = 0.77  # outside the ball: any touch would show
    active = torch.tensor([True, False, True, True, False], device=device)
    step = {"eps": EPS, "step_size": 0.03, "norm": norm}
    out = ops.pgd_step(x_adv, x, grad, **step, active=active)
    everyone = ops.pgd_step(x_adv, x, grad, **step)
    assert torch.equal(out[~active], x_adv[~active])
    assert torch.equal(out[active], everyone[active])


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5, 7), (4, 3, 80, 81)])
@pytest.mark.parametrize("norm", NORMS)
def test_each_sample_is_stepped_by_its_own_eps_and_step_size_as_if_alone(norm, shape, device, backend):
    x_adv, x, grad = step_inputs(shape, torch.float32, device)
    eps = torch.tensor([0.0, 0.02, 0.3, 1.5], device=device)
    step_size = torch.tensor([0.1, 0.0, 0.05, 0.7], device=device)
    out = ops.pgd_step(x_adv, x, grad, eps=eps, step_size=step_size, norm=norm)
    for i in range(4):
        alone = ops.pgd_step(
            x_adv[i : i + 1].clone(),
            x[i : i + 1].clone(),
            grad[i : i + 1].clone(),
            eps=eps[i].item(),
            step_size=step_size[i].item(),
            norm=norm,
        )
        assert torch.equal(out[i : i + 1], alone)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
def test_in_place_equals_functional(norm, dtype, device, backend):
    x_adv, x, grad = step_inputs((3, 3, 10, 10), dtype, device)
    expected = ops.pgd_step(x_adv, x, grad, eps=EPS, step_size=0.03, norm=norm)
    returned = ops.pgd_step_(x_adv, x, grad, eps=EPS, step_size=0.03, norm=norm)
    assert returned is x_adv
    assert torch.equal(x_adv, expected)


@pytest.mark.parametrize("step_size", [1e10, 3e38, math.inf])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("norm", NORMS)
def test_a_step_too_long_for_float32_ends_on_the_ball(norm, rule, step_size, device, backend):
    x = torch.full((1, 4), 0.5, device=device)
    grad = torch.tensor([[3e30, -4e30, 0.0, 1e20]], device=device)
    out = ops.pgd_step(x, x, grad, eps=0.1, step_size=step_size, norm=norm, rule=rule)
    expected = x + 0.1 * (grad.sign() if norm == math.inf else (grad.double() / l2(grad)).float())
    assert torch.allclose(out, expected, rtol=0, atol=1e-6)
    assert torch.linalg.vector_norm((out - x).double(), norm) <= 0.1 + 2**-28


@pytest.mark.parametrize("distance", [1.0, 1e2, 1e4, 1e6])
def test_an_iterate_far_outside_and_a_step_that_cancels_it_end_in_the_ball(distance, device, backend):
    unit = torch.nn.functional.normalize(step_inputs((500, 50), torch.float32, device)[2])
    x = torch.zeros_like(unit)
    out = ops.pgd_step(distance * unit, x, -unit, eps=1e-3, step_size=distance, norm=2, bounds=None)
    assert (l2(out) <= 1e-3).all()


def test_memory_that_overlaps_in_part_is_refused(device, native):
    memory, grad = torch.rand(2, 9, device=device), torch.ones(2, 8, device=device)
    contiguous = memory.flatten()
    with pytest.raises(RuntimeError, match="pgd_step_: x shares part of the output's memory"):
        ops.pgd_step_(contiguous[1:9].view(1, 8), contiguous[:8].view(1, 8), grad[:1], eps=0.1, step_size=0.1)


def test_a_leaf_that_requires_grad_is_not_overwritten(device, backend):
    x_adv, x, grad = step_inputs((2, 5), torch.float32, device)
    with pytest.raises(RuntimeError, match="x_adv requires grad and cannot be overwritten: detach it"):
        ops.pgd_step_(x_adv.requires_grad_(), x, grad, eps=0.1, step_size=0.1)


def test_a_default_device_does_not_move_the_numbers_of_a_call(backend):
    x_adv, x, grad = step_inputs((2, 5), torch.float32, "cpu")
    expected = ops.pgd_step(x_adv, x, grad, eps=0.1, step_size=0.1)
    torch.set_default_device("meta")
    try:
        out = ops.pgd_step(x_adv, x, grad, eps=0.1, step_size=0.1)
    finally:
        torch.set_default_device("cpu")
    assert torch.equal(out, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 9, 7), (5, 3, 75, 77)])
def test_better_samples_leave_their_iterate_in_best_before_they_move(shape, norm, dtype, device, backend):
    x_adv, x, grad = step_inputs(shape, dtype, device)
    better = torch.tensor([True, False, True, False, True], device=device)
    active = torch.tensor([True, True, False, False, True], device=device)
    start, best = x_adv.clone(), torch.full_like(x_adv, 0.25)
    step = {"eps": EPS, "step_size": 0.03, "norm": norm, "active": active}
    moved = ops.pgd_step(x_adv, x, grad, **step)
    ops.pgd_step_(x_adv, x, grad, **step, best=best, better=better)
    assert torch.equal(x_adv, moved)
    assert torch.equal(best[better], start[better])
    assert (best[~better] == 0.25).all()


@pytest.mark.parametrize("norm", NORMS)
def test_best_iterates_are_kept_in_any_memory_format(norm, device, backend):
    x_adv, x, grad = step_inputs((2, 4, 5, 6), torch.float32, device)
    better = torch.tensor([True, False], device=device)
    for best in layouts(torch.zeros_like(x)).values():
        if best.stride(0) == 0:
            continue
        z = x_adv.clone()
        ops.pgd_step_(z, x, grad, eps=EPS, step_size=0.03, norm=norm, best=best, better=better)
        assert torch.equal(best[0], x_adv[0])
        assert torch.count_nonzero(best[1]) == 0


def layouts(tensor):
    """The same values in memory formats a caller may bring."""
    wide = torch.zeros(*tensor.shape[:-1], tensor.shape[-1] + 3, dtype=tensor.dtype, device=tensor.device)
    wide[..., 1:-2] = tensor
    shifted = torch.zeros(tensor.numel() + 1, dtype=tensor.dtype, device=tensor.device)[1:].view(tensor.shape)
    shifted.copy_(tensor)
    return {
        "contiguous": tensor,
        "channels_last": tensor.to(memory_format=torch.channels_last),
        "slice of a larger tensor": wide[..., 1:-2],
        "off a 16-byte boundary": shifted,
        "batch not outermost": tensor.transpose(0, 1).contiguous().transpose(0, 1),
        "expanded": tensor[:1].expand(tensor.shape),
    }


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("in_place", [False, True])
def test_any_mix_of_memory_formats_gives_the_contiguous_result(norm, in_place, device, backend):
    x_adv, x, grad = step_inputs((3, 4, 5, 6), torch.float32, device)
    step = {"eps": 0.5, "step_size": 0.2, "norm": norm}
    for names in itertools.product(layouts(x), repeat=3):
        if in_place and names[0] == "expanded":
            continue  # writing to one memory through many names is refused by PyTorch itself
        a, b, c = (layouts(t)[name] for t, name in zip((x_adv, x, grad), names, strict=True))
        plain = ops.pgd_step(a.contiguous(), b.contiguous(), c.contiguous(), **step)
        if in_place:
            a = a.clone(memory_format=torch.preserve_format) if names[0] == "contiguous" else a
            out = ops.pgd_step_(a, b, c, **step)
        else:
            out = ops.pgd_step(a, b, c, **step)
            assert out.stride() == torch.empty_like(a).stride()
        # Sums of l2 run in memory order, so another format may round differently.
        assert torch.allclose(out, plain, rtol=0, atol=0 if norm == math.inf else 2 * ULP[torch.float32]), (
            names
        )


def test_results_do_not_depend_on_the_number_of_threads(native):
    x_adv, x, grad = step_inputs((1, 3, 150, 151), torch.float32, "cpu")
    threads = torch.get_num_threads()
    outs = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            outs.append(ops.pgd_step(x_adv, x, grad, eps=0.5, step_size=0.2, norm=2))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])


@settings(max_examples=100, deadline=None)
@given(
    size=st.integers(1, 70),
    eps=st.floats(0, 2),
    step_size=st.floats(0, 2),
    norm=st.sampled_from(NORMS),
    dtype=st.sampled_from(DTYPES),
    lower=st.floats(-2, 0),
    upper=st.floats(1, 3),
    seed=st.integers(0, 2**31),
)
def test_any_step_stays_in_ball_and_box_and_agrees_with_the_reference(
    device, size, eps, step_size, norm, dtype, lower, upper, seed
):
    x_adv, x, grad = step_inputs((2, size), dtype, device, seed, radius=0.4)
    arguments = {"eps": eps, "step_size": step_size, "norm": norm, "bounds": (lower, upper)}
    out = ops.pgd_step(x_adv, x, grad, **arguments)
    expected = reference.pgd_step(x_adv, x, grad, **arguments)
    assert torch.allclose(
        out.double(), expected.double(), rtol=0, atol=0 if norm == math.inf else 4 * ULP[dtype]
    )
    assert out.min() >= torch.tensor(lower, dtype=dtype)
    assert out.max() <= torch.tensor(upper, dtype=dtype)
    if norm == math.inf:
        assert (out - x).abs().max() <= eps
    else:
        known = torch.tensor(eps, dtype=torch.float64 if dtype == torch.float64 else torch.float32).item()
        assert (l2(out.double() - x.double()) <= known).all()


DIGEST = """
import hashlib, torch
from fastadv import ops
from tests.ops.inputs import DTYPES, NORMS, step_inputs
digest = hashlib.sha256()
for dtype in DTYPES:
    for norm in NORMS:
        step = ops.pgd_step(*step_inputs((3, 3, 77, 79), dtype, "cpu"), eps=0.3, step_size=0.1, norm=norm)
        digest.update(step.view(torch.uint8).numpy().tobytes())
print(torch.ops.fastadv._simd_level(), digest.hexdigest())
"""


def test_simd_levels_give_the_same_bits(native):
    digests = {}
    for wanted in ("base", "avx2", ""):  # chosen once per process, so each is asked in one of its own
        environment = os.environ | {"FASTADV_SIMD": wanted}
        command = [sys.executable, "-c", DIGEST]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        level, digests[wanted] = run.stdout.split()
        assert wanted != "base" or level == "baseline"
    assert len(set(digests.values())) == 1
