"""Attacks in every norm on a linear model, whose worst case is known."""

import math
from functools import partial

import pytest
import torch

from fastadv import FGSM, PGD, CarliniWagner
from tests.attacks.nets import BatchInvariant, Recorder, samples

SIZE = 40


def linear():
    """(model, w): two classes, the margin of the first is <w, x>."""
    generator = torch.Generator().manual_seed(4)
    w = torch.randn(SIZE, generator=generator, dtype=torch.float64)
    return (lambda x: torch.stack((x @ w, torch.zeros_like(x[:, 0])), 1)), w


def margins(attack):
    """How far the margin of five samples in the middle of a wide box falls, and w."""
    model, w = linear()
    x = samples(5, SIZE, dtype=torch.float64)
    y = torch.zeros(5, dtype=torch.int64)
    x_adv = attack.run(model, x, y).x_adv
    return (x_adv - x) @ w, w


@pytest.mark.parametrize("norm", [1, 1.1, 1.5, 2, 3, 7, math.inf])
@pytest.mark.parametrize("steps", [{"kind": PGD}, {"kind": PGD, "random_start": False}, {"kind": FGSM}])
def test_the_worst_case_margin_of_a_linear_model_is_reached(steps, norm):
    kind, options = steps["kind"], {name: value for name, value in steps.items() if name != "kind"}
    attack = kind(eps=0.3, norm=norm, loss="margin", bounds=(-9.0, 9.0), early_stop=False, **options)
    found, w = margins(attack)
    q = math.inf if norm == 1 else 1 if norm == math.inf else norm / (norm - 1)
    worst = -0.3 * torch.linalg.vector_norm(w, q)
    assert torch.allclose(found, worst.expand(5), rtol=1e-5)


def test_a_long_step_in_norm_0_finds_the_elements_that_count_most_in_the_box():
    model, w = linear()
    x = samples(5, SIZE, dtype=torch.float64)
    attack = PGD(eps=6, norm="l0", step_size=1e6, steps=3, loss="margin", early_stop=False)
    result = attack.run(model, x, torch.zeros(5, dtype=torch.int64))
    gains = torch.where(w > 0, x * w, (1 - x) * -w)
    assert torch.allclose((x - result.x_adv) @ w, gains.topk(6, dim=1).values.sum(1), rtol=1e-5)
    assert (result.distance == 6).all()


def test_the_l1_attack_gets_as_close_as_its_last_step_in_the_box_as_well():
    """The worst case is a linear program: the elements of largest |w| go to their bounds."""
    model, w = linear()
    x = samples(5, SIZE, dtype=torch.float64)
    steps = {"steps": 300, "step_size": lambda step, steps: 0.25 * 0.98**step}
    attack = PGD(eps=3, norm="l1", **steps, loss="margin", early_stop=False)
    found = (x - attack(model, x, torch.zeros(5, dtype=torch.int64))) @ w
    room = torch.where(w > 0, x, 1 - x)[:, w.abs().argsort(descending=True)]
    left = (3 - (room.cumsum(1) - room)).clamp(min=0)
    best = (torch.minimum(room, left) * w.abs().sort(descending=True).values).sum(1)
    assert torch.allclose(found, best, rtol=1e-3)


def in_the_box(size, peaked):
    """(model, w, room for its worst in the box, x) of a linear model on samples all over the box."""
    generator = torch.Generator().manual_seed(size)
    w = torch.randn(size, generator=generator, dtype=torch.float64)
    w = w**3 if peaked else w.sign() * (1 + 0.1 * w.abs())
    x = samples(16, size, dtype=torch.float64)
    return (
        lambda x: torch.stack((x.double() @ w, torch.zeros_like(w[0]).expand(len(x))), 1),
        w,
        torch.where(w > 0, x, 1 - x),
        x,
    )


@pytest.mark.parametrize("eps", [1.0, 0.05, 0.2])
@pytest.mark.parametrize("peaked", [False, True])
@pytest.mark.parametrize("size", [40, 300])
def test_l1_is_within_a_third_of_a_percent_of_the_worst_case_in_ball_and_box(size, peaked, eps):
    model, w, room, x = in_the_box(size, peaked)
    eps = eps if eps == 1 else eps * size
    attack = PGD(eps=eps, norm="l1", loss="margin", early_stop=False)
    found = (x - attack(model, x, torch.zeros(16, dtype=torch.int64))) @ w
    order = w.abs().argsort(descending=True)
    left = (eps - (room[:, order].cumsum(1) - room[:, order])).clamp(min=0)
    best = torch.minimum(room[:, order], left) @ w.abs()[order]
    assert (found <= best * (1 + 1e-9)).all()
    assert (found >= best * (1 - 1 / 300)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [12, 40])
@pytest.mark.parametrize("eps", [2, 0.1, 0.3])
@pytest.mark.parametrize("peaked", [False, True])
@pytest.mark.parametrize("size", [40, 300])
def test_l0_reaches_the_worst_case_in_ball_and_box(size, peaked, eps, steps, dtype):
    model, w, room, x = in_the_box(size, peaked)
    eps = eps if eps == 2 else int(eps * size)
    attack = PGD(eps=eps, norm="l0", steps=steps, loss="margin", early_stop=False)
    x_adv = attack(model, x.to(dtype), torch.zeros(16, dtype=torch.int64))
    best = (room * w.abs()).topk(eps, dim=1).values.sum(1)
    assert torch.allclose((x - x_adv) @ w, best, rtol=1e-4 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize(("norm", "length"), [(0, 2), (1, 1)])
@pytest.mark.parametrize(("keep", "long"), [("last", 0), ("best", 2)])
def test_the_last_twelfth_of_the_steps_is_long_unless_the_last_iterate_is_kept(norm, length, keep, long):
    model, x = Recorder(BatchInvariant(30)), 0.4 + 0.2 * samples(4, 30)
    attack = PGD(eps=30, norm=norm, step_size=0.1, steps=24, random_start=False, early_stop=False, keep=keep)
    x_adv = attack(model, x, torch.zeros(4, dtype=torch.int64))
    iterates = torch.stack(model.inputs + ([x_adv] if keep == "last" else []))
    moves = iterates.diff(dim=0).norm(p=length, dim=2).amax(1)
    assert len(moves) == 24
    assert (moves[: 24 - long] <= 0.1 * (1 + 1e-5)).all()
    assert long == 0 or moves[24 - long] > 0.2


@pytest.mark.parametrize("keep", ["last", "best"])
def test_steps_below_norm_2_are_16_step_sizes_long_and_at_the_end_longer_for_the_best(keep):
    model, x = Recorder(BatchInvariant(30)), 0.4 + 0.2 * samples(4, 30)
    attack = PGD(eps=30, norm=1.5, step_size=0.02, steps=24, random_start=False, early_stop=False, keep=keep)
    x_adv = attack(model, x, torch.zeros(4, dtype=torch.int64))
    iterates = torch.stack(model.inputs + ([x_adv] if keep == "last" else []))
    moves = iterates.diff(dim=0).norm(p=1.5, dim=2).amax(1)
    usual = 16 * 0.02 * (1 + 1e-5)
    assert len(moves) == 24
    assert (moves[:20] <= usual).all()
    assert (moves[20:] > usual).any() == (keep == "best")


def test_the_distance_of_norm_0_counts_elements_or_pixels():
    model = BatchInvariant(2 * 9)
    x = samples(4, 2, 9)
    result = PGD(eps=3, norm=0, steps=5, pixels=True, early_stop=False).run(model, x)
    changed = (result.x_adv != x).any(1).sum(1)
    assert torch.equal(result.distance, changed.double())
    assert (changed > 0).all()
    by_elements = PGD(eps=3, norm=0, steps=5, early_stop=False).run(model, x)
    assert torch.equal(by_elements.distance, (by_elements.x_adv != x).flatten(1).sum(1).double())


@pytest.mark.parametrize("attack", [partial(PGD, eps=3, steps=5), partial(CarliniWagner, steps=20)])
def test_pixels_of_vectors_are_their_elements(attack):
    model, x = BatchInvariant(18), samples(4, 18)
    by_pixel, by_element = (attack(norm=0, pixels=pixels).run(model, x) for pixels in (True, False))
    assert torch.equal(by_pixel.x_adv, by_element.x_adv)
    assert torch.equal(by_pixel.distance, by_element.distance)
    assert torch.equal(by_pixel.distance, (by_pixel.x_adv != x).sum(1).double())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm": 0, "random_start": True}, "random_start must be left alone for norm 0"),
        ({"norm": 0, "restarts": 2}, "restarts must be left alone for norm 0"),
        ({"norm": 1, "spread": 2}, r"spread must be a number in \[0, 1\], got 2"),
        ({"norm": 2, "pixels": True}, "pixels is for norm 0, got norm 2"),
    ],
)
def test_fields_that_do_not_fit_the_norm_are_refused(fields, message):
    with pytest.raises(ValueError, match=f"PGD: {message}"):
        PGD(eps=1, **fields)
