"""cw_step_: kernels against the reference, the derivative it stands for, the box, samples' independence."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastadv import ops, reference
from tests.ops.inputs import DTYPES, FIRST_SEED, SHAPES, ULP
from tests.ops.test_pgd_step import layouts

STATE = ("x_adv", "w", "m", "v")
TAUS = [None, 0.05]


def wide(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def cw_inputs(shape, dtype, device="cpu", seed=0, bounds=(0.0, 1.0)):
    """[x_adv, w, m, v, x, grad] of a search under way; x in the box, some of it on its faces."""
    generator = torch.Generator().manual_seed(FIRST_SEED + seed)
    lower, upper = bounds

    def random():
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    unit = (random() / 4 + 0.5).clamp(0, 1)
    w = torch.atanh((2 * unit - 1) * 0.999999) + 0.2 * random()
    x_adv, x = (lower + (upper - lower) * part for part in (torch.sigmoid(2 * w), unit))
    x_adv, x, grad = (t.to(device, dtype) for t in (x_adv, x, random()))
    w, m, v = (t.to(device, wide(dtype)) for t in (w, 0.1 * random(), 0.1 * random().square()))
    return [x_adv, w, m, v, x, grad]


def copies(tensors):
    return [tensor.clone() for tensor in tensors]


STEP = {"c": 0.7, "lr": 0.02, "step": 3, "weight": 0.4}


@pytest.mark.parametrize(("tau", "stretch"), [(None, 0.0), (0.05, 0.0), (None, 0.7)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernel_agrees_with_the_reference(shape, dtype, tau, stretch, device, native):
    inputs = cw_inputs(shape, dtype, device)
    got, expected = copies(inputs), [t.cpu() for t in inputs]
    distance = ops.cw_step_(*got, **STEP, tau=tau, stretch=stretch)
    exact = reference.cw_step_(*expected, **STEP, tau=tau, stretch=stretch)
    unit = ULP[wide(dtype)]
    for name, a, b in zip(STATE, got, expected, strict=False):
        # A few roundings of the compute dtype, and the neighbour in that of the samples.
        atol = 8 * unit * (4 if name == "w" else 1) + (ULP[dtype] / 2 if name == "x_adv" else 0)
        assert torch.allclose(a.cpu().double(), b.double(), rtol=8 * unit, atol=atol), name
    assert distance.dtype == torch.float64 and distance.shape == shape[:1]
    moved = (got[0].double() - got[4].double()).abs().cpu().flatten(1)
    terms = (
        moved.square() if tau is None else (moved - float(torch.tensor(tau, dtype=wide(dtype)))).clamp(min=0)
    )
    # Of the images that it has made the distance is known to float32's subtraction.
    assert torch.allclose(distance.cpu(), terms.sum(1), rtol=1e-6, atol=1e-6 * (tau is not None))
    assert torch.allclose(distance.cpu(), exact, rtol=0.05 if dtype.itemsize == 2 else 1e-5, atol=1e-6)


@pytest.mark.parametrize(("tau", "stretch"), [(None, 0.0), (0.05, 0.0), (None, 1.0), (0.05, 0.1)])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-2.5, 3.0)])
def test_a_step_is_adam_on_the_objective_as_autograd_differentiates_it(bounds, tau, stretch, device, backend):
    """With pytorch's own Adam, over several steps from rest."""
    *_, x, _ = cw_inputs((3, 4, 5), torch.float64, device, bounds=bounds)
    c = torch.tensor([0.1, 1.0, 30.0], device=device, dtype=torch.float64)
    target = torch.linspace(*bounds, x[0].numel(), device=device, dtype=torch.float64).view(x[0].shape)
    lower, upper = bounds
    place = torch.atanh(((x - lower) * 2 / (upper - lower) - 1).clamp(-1, 1) * 0.8 / (1 + stretch)) * (
        1 + stretch
    )

    def image(w):  # none gets to a face of the box here
        return lower + (upper - lower) * ((1 + stretch) * torch.tanh(w / (1 + stretch)) + 1) / 2

    def reward(x_adv):
        return -(x_adv - target).pow(4).flatten(1).sum(1)

    def distance(x_adv):
        delta = x_adv - x
        terms = delta.square() if tau is None else (delta.abs() - tau).clamp(min=0)
        return terms.flatten(1).sum(1)

    free = place.clone().requires_grad_()
    adam = torch.optim.Adam([free], lr=0.02)
    w, m, v, x_adv = place.clone(), torch.zeros_like(x), torch.zeros_like(x), image(place)
    for step in range(1, 6):
        adam.zero_grad()
        (0.5 * distance(image(free)) - c * reward(image(free))).sum().backward()
        adam.step()
        seen = x_adv.clone().requires_grad_()
        (grad,) = torch.autograd.grad(reward(seen).sum(), seen)
        got = ops.cw_step_(
            x_adv,
            w,
            m,
            v,
            x,
            grad,
            c=c,
            lr=0.02,
            step=step,
            bounds=bounds,
            weight=0.5,
            tau=tau,
            stretch=stretch,
        )
        assert torch.allclose(w, free.detach(), rtol=0, atol=1e-9)
        assert torch.allclose(x_adv, image(free).detach(), rtol=0, atol=1e-9)
        assert torch.allclose(got, distance(image(free)).detach(), rtol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_images_are_in_the_box_wherever_w_is_and_accurate_next_to_its_lower_face(dtype, device, backend):
    bounds = (-0.1, 0.7)
    w = torch.tensor([[-1e30, -200.0, -40, -9, -1, 0, 1, 9, 40, 200, 1e30]], device=device, dtype=wide(dtype))
    x_adv = torch.zeros_like(w, dtype=dtype)
    zeros = torch.zeros_like(w)
    ops.cw_step_(
        x_adv, w, zeros, zeros.clone(), x_adv.clone(), x_adv.clone(), c=0.0, lr=0.0, step=1, bounds=bounds
    )
    assert x_adv.min() >= torch.tensor(bounds[0], dtype=dtype)
    assert x_adv.max() <= torch.tensor(bounds[1], dtype=dtype)
    assert (x_adv.diff() >= 0).all()
    expected = bounds[0] + 0.8 * torch.sigmoid(2 * w.double())
    assert torch.allclose(x_adv.double(), expected, rtol=0, atol=2 * ULP[dtype])
    if dtype == torch.float32:
        ops.cw_step_(x_adv, w, zeros, zeros.clone(), x_adv.clone(), x_adv.clone(), c=0.0, lr=0.0, step=1)
        assert torch.allclose(
            x_adv[0, 2:4].double(), torch.sigmoid(2 * w[0, 2:4].double()), rtol=1e-6, atol=0
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_stretched_images_reach_the_faces_of_the_box_exactly_and_leave_them_at_once(dtype, device, backend):
    for stretch in (0.01, 0.3, 1.0, 50.0):
        x = torch.tensor([[-0.1, 0.7]], device=device, dtype=dtype)
        inwards = torch.tensor([[1.0, -1.0]], device=device, dtype=dtype)
        w, m, v = (torch.zeros_like(x, dtype=wide(dtype)) for _ in range(3))
        w += torch.tensor([-1e30, 20.0], device=device)
        x_adv = torch.full_like(x, 0.3)

        def step(grad, lr, step, of=(x_adv, w, m, v, x), stretch=stretch):
            return ops.cw_step_(
                *of, grad, c=1.0, lr=lr, step=step, bounds=(-0.1, 0.7), weight=0, stretch=stretch
            )

        assert step(torch.zeros_like(x), 0.0, 1) == 0
        assert torch.equal(x_adv, x)
        rest = w.clone()
        for number in range(1, 41):
            step(-inwards, 0.01, number)
        assert torch.equal(x_adv, x) and torch.equal(w, rest)
        for state in (m, v):
            state.zero_()
        step(inwards, 0.1 * rest[0, 1].item(), 1)
        assert x_adv[0, 0] > -0.1 and x_adv[0, 1] < 0.7


def test_a_saturated_pixel_has_the_derivative_that_tanh_has_there(device, native):
    w = torch.atanh(torch.tensor([[0.999999, -0.999999]], dtype=torch.float64, device=device))
    for dtype in (torch.float32, torch.float64):
        place = w.to(dtype)
        x = torch.sigmoid(2 * place)
        m, v = torch.zeros_like(place), torch.zeros_like(place)
        ops.cw_step_(x, place.clone(), m, v, x.clone(), torch.ones_like(x), c=1.0, lr=0.0, step=1)
        expected = -0.1 * 2 * torch.sigmoid(2 * place.double()) * torch.sigmoid(-2 * place.double())
        assert torch.allclose(m.double(), expected, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=0)


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 9, 7), (5, 3, 75, 77)])
def test_inactive_samples_keep_their_bits_and_better_ones_leave_their_image(
    shape, dtype, tau, device, backend
):
    inputs = cw_inputs(shape, dtype, device)
    active = torch.tensor([True, False, True, True, False], device=device)
    better = torch.tensor([True, True, False, False, False], device=device)
    got, everyone = copies(inputs), copies(inputs)
    best = torch.full_like(inputs[0], 0.25)
    distance = ops.cw_step_(*got, **STEP, tau=tau, active=active, best=best, better=better)
    ops.cw_step_(*everyone, **STEP, tau=tau)
    for before, after, moved in zip(inputs, got, everyone, strict=True):
        assert torch.equal(after[~active], before[~active])
        assert torch.equal(after[active], moved[active])
    assert torch.equal(best[better], inputs[0][better])
    assert (best[~better] == 0.25).all()
    still = copies(inputs)
    as_it_is = ops.cw_step_(*still, **STEP, tau=tau, active=torch.zeros_like(active))
    assert torch.equal(distance[~active], as_it_is[~active])


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5, 7), (4, 3, 80, 81)])
def test_each_sample_moves_by_its_own_numbers_as_if_alone(shape, tau, device, native):
    inputs = cw_inputs(shape, torch.float32, device)
    c, weight = torch.tensor([[0.0, 0.1, 3.0, 1e6], [1.0, 0.0, 0.5, 2.0]], device=device)
    taus = None if tau is None else torch.tensor([0.0, 0.01, 0.1, 1.0], device=device)
    got = copies(inputs)
    distance = ops.cw_step_(*got, c=c, weight=weight, tau=taus, lr=0.1, step=2)
    for i in range(4):
        alone = [t[i : i + 1].clone() for t in inputs]
        numbers = {
            "c": c[i].item(),
            "weight": weight[i].item(),
            "tau": None if tau is None else taus[i].item(),
        }
        assert torch.equal(ops.cw_step_(*alone, **numbers, lr=0.1, step=2), distance[i : i + 1])
        for whole, single in zip(got, alone, strict=True):
            assert torch.equal(whole[i : i + 1], single)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_a_nan_gradient_moves_nothing_and_a_huge_one_leaves_no_nan(bad, device, backend):
    inputs = cw_inputs((2, 40), torch.float32, device)
    inputs[5][1, 7] = bad
    got, plain = copies(inputs), copies(inputs)
    plain[5][1, 7] = 0.0
    distance = ops.cw_step_(*got, **STEP)
    ops.cw_step_(*plain, **STEP)
    assert distance.isfinite().all()
    assert all(t.isfinite().all() for t in got[:4])
    others = torch.ones(2, 40, dtype=torch.bool, device=device)
    others[1, 7] = False
    for a, b in zip(got[:4], plain[:4], strict=True):
        assert torch.equal(a[others], b[others])
    if bad != bad:
        for before, after in zip(inputs[1:4], got[1:4], strict=True):
            assert torch.equal(before[1, 7], after[1, 7])
    else:
        assert (got[1][1, 7] > inputs[1][1, 7]) == (bad > 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_any_mix_of_memory_formats_gives_the_contiguous_result(dtype, device, backend):
    inputs = cw_inputs((3, 4, 5, 6), dtype, device)
    plain = copies(inputs)
    expected = ops.cw_step_(*plain, **STEP)
    names = [name for name in layouts(inputs[0]) if name != "expanded"]
    for shift in range(len(names)):
        for stride in (0, 1, 2):
            mixed = [
                layouts(t.clone())[names[(shift + i * stride) % len(names)]] for i, t in enumerate(inputs)
            ]
            best = layouts(torch.zeros_like(inputs[0]))[names[(shift + 1) % len(names)]]
            better = torch.tensor([True, False, True], device=device)
            distance = ops.cw_step_(*mixed, **STEP, best=best, better=better)
            for a, b in zip(mixed, plain, strict=True):
                assert torch.equal(a, b)
            assert torch.equal(best[better], inputs[0][better])
            assert torch.allclose(distance, expected, rtol=1e-12)  # sums run in memory order


def test_results_do_not_depend_on_the_number_of_threads(native):
    inputs = cw_inputs((1, 3, 150, 151), torch.float32)
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            got = copies(inputs)
            results.append([ops.cw_step_(*got, **STEP), *got])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


DIGEST = """
import hashlib, torch
from fastadv import ops
from tests.ops.test_cw_step import DTYPES, TAUS, STEP, cw_inputs
digest = hashlib.sha256()
for dtype in DTYPES:
    for tau in TAUS:
        got = cw_inputs((3, 3, 77, 79), dtype)
        for result in (ops.cw_step_(*got, **STEP, tau=tau), *got):
            digest.update(result.view(torch.uint8).numpy().tobytes())
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


@settings(max_examples=50, deadline=None)
@given(
    size=st.integers(1, 70),
    c=st.floats(0, 1e10),
    lr=st.floats(0, 10),
    step=st.integers(1, 10_000),
    dtype=st.sampled_from(DTYPES),
    tau=st.sampled_from([None, 0.0, 0.3]),
    seed=st.integers(0, 2**31),
)
def test_any_step_ends_in_the_box_and_without_a_nan(device, size, c, lr, step, dtype, tau, seed):
    got = cw_inputs((2, size), dtype, device, seed, bounds=(-1.0, 2.0))
    distance = ops.cw_step_(*got, c=c, lr=lr, step=step, bounds=(-1.0, 2.0), tau=tau)
    assert all(t.isfinite().all() for t in (distance, *got))
    assert got[0].min() >= -1 and got[0].max() <= 2
    assert (distance >= 0).all()


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"bounds": (0.0, float("inf"))}, ValueError, "cw_step_: bounds must be finite"),
        ({"lr": -0.1}, ValueError, "cw_step_: lr must be at least 0, got -0.1"),
        ({"stretch": -1.0}, ValueError, "cw_step_: stretch must be at least 0, got -1.0"),
        ({"stretch": float("inf")}, ValueError, "cw_step_: stretch must be finite, got inf"),
        ({"step": 0}, ValueError, "cw_step_: step must be at least 1, got 0"),
        ({"c": -1.0}, ValueError, "cw_step_: c must be at least 0, got -1.0"),
        ({"c": torch.ones(3)}, RuntimeError, r"c must have shape \[\] or \[2\], got \[3\]"),
        (
            {"w": torch.zeros(2, 5, dtype=torch.float64)},
            RuntimeError,
            "w must be float32|w must be torch.float32",
        ),
        ({"v": torch.zeros(2, 4)}, RuntimeError, r"v must have the shape of x_adv, \[2, 5\], got \[2, 4\]"),
        (
            {"grad": torch.zeros(2, 4)},
            RuntimeError,
            r"grad must have the shape of x_adv, \[2, 5\], got \[2, 4\]",
        ),
        ({"active": torch.ones(2)}, RuntimeError, "active must be "),
        ({"best": torch.zeros(2, 5)}, RuntimeError, "best and better must come together"),
        (
            {"w": torch.zeros(2, 5, requires_grad=True)},
            RuntimeError,
            "w requires grad and cannot be overwritten",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changed, error, message, backend):
    names = (*STATE, "x", "grad")
    arguments = dict(zip(names, cw_inputs((2, 5), torch.float32), strict=True)) | STEP | changed
    tensors = [arguments.pop(name) for name in names]
    with pytest.raises(error, match=message) as raised:
        ops.cw_step_(*tensors, **arguments)
    assert "\n" not in str(raised.value)


def test_memory_that_overlaps_in_part_is_refused(native):
    memory = torch.rand(9)
    _, _, *rest = cw_inputs((1, 8), torch.float32)
    with pytest.raises(RuntimeError, match="cw_step_: w shares part of the output's memory"):
        ops.cw_step_(memory[:8].view(1, 8), memory[1:].view(1, 8), *rest, **STEP)
