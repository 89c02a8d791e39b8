"""CarliniWagner: least distances of models that have them in closed form, confidence, bad fields."""

import itertools
import math

import pytest
import torch
from torch import nn

from fastadv import BPDA, EOT, CarliniWagner, Evolution
from fastadv.attacks.transforms import Noise
from tests.attacks.nets import BatchInvariant, samples


class TwoClasses(nn.Module):
    """A linear model whose boundary goes through the middle of the box; all logits are negative."""

    def __init__(self, features, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(2, features, generator=generator) / features**0.5)

    def forward(self, x):
        return ((x.flatten(1) - 0.5)[:, None] * self.w).sum(-1) - 100

    def difference(self):
        return (self.w[0] - self.w[1]).detach()


def linear(features=30, batch=8):
    """(model, x well inside the box, y, margin of each)."""
    model = TwoClasses(features)
    x = 0.5 + 0.15 * (2 * samples(batch, features) - 1)
    logits = model(x).detach()
    return model, x, logits.argmax(1), (logits[:, 0] - logits[:, 1]).abs()


def test_l2_is_within_1_percent_of_the_distance_to_the_boundary():
    model, x, y, margin = linear()
    result = CarliniWagner(steps=500).run(model, x, y)
    least = margin / model.difference().norm()
    assert result.success.all()
    assert (result.distance >= least * (1 - 1e-5)).all()
    assert (result.distance <= 1.01 * least).all()


def test_the_cross_entropy_finds_successes_too_but_does_not_stop_at_the_boundary():
    model, x, y, margin = linear()
    result = CarliniWagner(steps=500, objective="ce").run(model, x, y)
    least = margin / model.difference().norm()
    assert result.success.all()
    # Beside a norm that is not squared the best image is met on the way across: within a few of Adam's steps.
    assert (result.distance <= least + 0.01 * 30**0.5).all()


def test_a_sample_next_to_the_boundary_is_not_taken_by_adams_first_step_for_good():
    model, x, y, margin = linear(features=300)
    away = model.difference() / model.difference().norm() ** 2
    x = x - (y * -2 + 1)[:, None] * (margin - 0.02)[:, None] * away
    result = CarliniWagner(steps=500).run(model, x, y)
    least = 0.02 / model.difference().norm()  # a fifth of the length of a step of lr 0.01
    assert (result.distance <= 1.03 * least).all()


def test_l2_passes_over_at_most_three_c_that_are_too_small_and_never_the_last():
    model, x, y, margin = linear()
    worth = margin / model.difference().norm() ** 2
    for search_steps, tried in ((1, 1), (2, 1), (4, 1), (6, 3)):
        attack = CarliniWagner(steps=1, search_steps=search_steps, c_init=float(worth.min()) * 1e-7)
        # One query of x, one for its slope, two for each descent of a single step.
        assert (attack.run(model, x, y).queries == 2 + 2 * tried).all()
    attack = CarliniWagner(steps=1, search_steps=4, c_init=float(worth.max()) * 1e3)
    assert (attack.run(model, x, y).queries == 2 + 2 * 4).all()


def test_linf_is_within_2_percent_of_the_distance_to_the_boundary():
    model, x, y, margin = linear()
    result = CarliniWagner(norm="linf", steps=200).run(model, x, y)
    least = margin / model.difference().abs().sum()
    assert result.success.all()
    assert (result.distance >= least * (1 - 1e-5)).all()
    assert (result.distance <= 1.02 * least).all()


@pytest.mark.parametrize("features", [1, 2, 7, 12])
def test_l0_is_exact_where_all_choices_can_be_tried(features):
    model, x, y, margin = linear(features, batch=12)
    w = model.difference()
    # What an element can add to the margin: its room in the box, in the direction that helps.
    room = torch.where((w > 0) == (y == 1)[:, None], 1 - x, x) * w.abs()
    result = CarliniWagner(norm=0, steps=200).run(model, x, y)
    for i in range(len(x)):
        enough = [
            size
            for size in range(1, features + 1)
            for chosen in itertools.combinations(range(features), size)
            if room[i, list(chosen)].sum() > margin[i] * (1 + 1e-3)
        ]
        assert result.success[i] == bool(enough)
        assert result.distance[i] == (min(enough) if enough else 0)
        assert (result.x_adv[i] != x[i]).sum() == result.distance[i]


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_l0_is_exact_on_linear_models_anywhere_in_the_box(seed, pixels):
    """The fewest are the first, by what they can add to the margin, that add up to what is asked."""
    model = TwoClasses(12, seed)
    x = samples(10, 3, 2, 2, seed=seed)
    logits = model(x).detach()
    y, margin = logits.argmax(1), (logits[:, 0] - logits[:, 1]).abs()
    w = model.difference().reshape(3, 2, 2)
    gains = torch.where((w > 0) == (y == 1).reshape(-1, 1, 1, 1), 1 - x, x) * w.abs()
    gains = (gains.sum(1) if pixels else gains).flatten(1).sort(descending=True).values.cumsum(1)
    asked = margin + 0.4  # so that several are needed
    fewest = 1 + (gains <= asked[:, None] * (1 + 1e-3)).sum(1)
    result = CarliniWagner(norm=0, steps=200, pixels=pixels, confidence=0.4).run(model, x, y)
    assert torch.equal(result.success, fewest <= gains.shape[1])
    assert result.success.any()
    assert torch.equal(result.distance[result.success], fewest[result.success].double())


def test_l0_counts_pixels_or_elements():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 3)).requires_grad_(False)
    x = 0.3 + 0.4 * samples(6, 3, 4, 4)
    y = model(x).argmax(1)
    by_pixel = CarliniWagner(norm="l0", steps=100).run(model, x, y)
    by_element = CarliniWagner(norm="l0", steps=100, pixels=False).run(model, x, y)
    assert by_pixel.success.all() and by_element.success.all()
    assert torch.equal(by_pixel.distance, (by_pixel.x_adv != x).any(1).flatten(1).sum(1).double())
    assert torch.equal(by_element.distance, (by_element.x_adv != x).flatten(1).sum(1).double())
    assert (by_pixel.distance <= by_element.distance).all()


def gap_of(model, x, y, target=None):
    logits = model(x).detach()
    one = y if target is None else target
    own = logits.gather(1, one[:, None])[:, 0]
    other = logits.scatter(1, one[:, None], -math.inf).amax(1)
    return other - own if target is None else own - other


NORMS = [2, math.inf, 0]


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("objective", ["margin", "ce"])
@pytest.mark.parametrize("norm", NORMS)
def test_the_gap_is_at_least_the_confidence_and_costs_distance(norm, objective, targeted):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 4)).requires_grad_(False)
    model[0].weight.mul_(20)
    x = 0.4 + 0.2 * samples(6, 20)
    y = model(x).argmax(1)
    target = model(x).topk(2).indices[:, 1] if targeted else None
    # The gradient of the cross-entropy fades as confidence grows, and Adam remembers how large it was.
    attack = {"norm": norm, "steps": 150 if objective == "margin" else 600, "objective": objective}
    near = CarliniWagner(**attack).run(model, x, y, target=target)
    far = CarliniWagner(**attack, confidence=5.0).run(model, x, y, target=target)
    assert near.success.all() and far.success.all()
    assert (gap_of(model, near.x_adv, y, target) >= 0).all()
    assert (gap_of(model, far.x_adv, y, target) >= 5).all()
    assert (far.distance >= near.distance).all() and (far.distance > near.distance).any()
    if objective == "margin":
        assert torch.allclose(far.loss, gap_of(model, far.x_adv, y, target), atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_with_confidence_a_misclassified_sample_goes_on_until_it_is_misclassified_by_so_much(norm):
    model, x, y, margin = linear()
    x, y = x[:2], y[:2]
    wrong = 1 - y
    enough, more = float(margin[:2].min()) / 2, float(margin[:2].max()) + 0.2
    assert torch.equal(CarliniWagner(norm=norm, steps=100, confidence=enough)(model, x, wrong), x)
    result = CarliniWagner(norm=norm, steps=100, confidence=more).run(model, x, wrong)
    assert result.success.all() and (result.distance > 0).all()
    assert (gap_of(model, result.x_adv, wrong) >= more).all()


@pytest.mark.parametrize("objective", ["margin", "ce"])
@pytest.mark.parametrize("norm", NORMS)
def test_of_a_model_that_cannot_be_broken_every_sample_comes_back_and_no_success_is_claimed(norm, objective):
    def model(x):
        return torch.stack([x.flatten(1).sum(1) * 1e-3 + 10, x.flatten(1).sum(1) * 0], 1)

    x = samples(3, 2, 5)
    result = CarliniWagner(norm=norm, steps=30, search_steps=9, objective=objective).run(
        model, x, torch.zeros(3, dtype=torch.int64)
    )
    assert not result.success.any()
    assert torch.equal(result.x_adv, x)
    assert (result.distance == 0).all()
    assert (
        torch.allclose(result.loss, gap_of(model, x, torch.zeros(3, dtype=torch.int64))) or objective == "ce"
    )


@pytest.mark.parametrize("norm", NORMS)
def test_a_batch_of_64_gives_what_64_single_runs_give_bit_for_bit(norm):
    model = BatchInvariant(12)
    x = samples(64, 12)
    y = model(x).argmax(1)
    attack = CarliniWagner(norm=norm, steps=40, search_steps=6, c_init=0.1)
    whole = attack.run(model, x, y)
    assert whole.success.any()
    for i in range(64):
        alone = attack.run(model, x[i : i + 1], y[i : i + 1])
        for field, single in zip(whole, alone, strict=True):
            assert torch.equal(field[i : i + 1], single)


@pytest.mark.parametrize("norm", NORMS)
def test_pixels_at_the_faces_of_the_box_move(norm):
    model, x, y, _ = linear()
    x = (x > 0.5).float()
    y = model(x).argmax(1)
    result = CarliniWagner(norm=norm, steps=400, lr=0.05).run(model, x, y)
    assert result.success.all()
    assert (result.x_adv - x).abs().amax(1).min() > 0.01


def test_the_tanh_map_is_inverse_at_the_start_and_stays_in_any_box():
    seen = []

    def model(x):
        seen.append(x.detach().clone())
        return torch.stack([x.sum(1), -x.sum(1)], 1)

    x = 5 * samples(4, 9) - 2
    x[0, :3] = torch.tensor([-2.0, 3.0, 0.0])
    CarliniWagner(steps=3, search_steps=2, bounds=(-2.0, 3.0), objective="ce", lr=10.0)(model, x)
    starts = [seen[1], seen[5]]
    for start in starts:
        assert torch.allclose(start, x, rtol=0, atol=5e-6)
    assert all(image.min() >= -2 and image.max() <= 3 for image in seen)


def test_the_surveys_lambda_is_one_over_c():
    """With one descent and c fixed: d / dx' of CE - lambda ||x' - x|| vanishes where it ends."""
    model, x, y, _ = linear(features=10, batch=2)
    strength, images = 1.5, []

    def watched(x):
        images.append(x.detach().clone())
        return model(x) * 6

    CarliniWagner(objective="ce", search_steps=1, c_init=1 / strength, steps=4000, lr=0.003)(watched, x, y)
    end = next(image for image in reversed(images) if len(image) == 2)
    end.requires_grad_()
    reward = nn.functional.cross_entropy(model(end) * 6, y, reduction="sum")
    (slope,) = torch.autograd.grad(reward, end)
    delta = (end - x).detach()
    inside = (end > 0.01) & (end < 0.99)
    pull = strength * delta / delta.norm(dim=1, keepdim=True)
    assert (slope - pull)[inside].abs().max() < 0.05 * pull.abs().max()


GRADIENTS = {
    "eot": EOT(Noise(0.01), 3),
    "eot logits": EOT(Noise(0.01), 4, "logits", chunk=2),
    "evolution": Evolution(0.02, 60),
}


@pytest.mark.parametrize("gradient", GRADIENTS.values(), ids=GRADIENTS.keys())
@pytest.mark.parametrize("norm", NORMS)
def test_gradients_may_be_estimated(norm, gradient):
    model, x, y, margin = linear(features=12, batch=4)
    attack = CarliniWagner(norm=norm, steps=60, search_steps=8, c_init=0.5, lr=0.03, gradient=gradient)
    result = attack.run(model, x, y)
    assert result.success.all()
    assert torch.equal(model(result.x_adv).argmax(1) != y, result.success)
    if norm == 2:
        assert (result.distance < 1.3 * margin / model.difference().norm()).all()
    assert (result.queries > 3).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_layer_without_a_derivative_is_attacked_through_its_substitute(norm):
    model, x, y, _ = linear(features=12, batch=4)
    rounded = nn.Sequential(BPDA(lambda x: (x * 20).round() / 20), model)
    y = rounded(x).argmax(1)
    result = CarliniWagner(norm=norm, steps=100, search_steps=8, c_init=1.0).run(rounded, x, y)
    assert result.success.all()
    assert (rounded(result.x_adv).argmax(1) != y).all()


@pytest.mark.parametrize("norm", NORMS)
def test_progress_rises_to_all_steps(norm):
    model, x, y, _ = linear(batch=3)
    reports = []
    attack = CarliniWagner(norm=norm, steps=10, search_steps=3, chunk=2)
    attack(model, x, y, on_step=lambda done, steps: reports.append((done, steps)))
    assert {steps for _, steps in reports} == {60}
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    assert reports[-1] == (60, 60)


@pytest.mark.parametrize("norm", [2, math.inf, 0])
@pytest.mark.parametrize("search_steps", [1, 2, None])
def test_a_single_step_is_taken_and_judged(norm, search_steps):
    model, x, y, _ = linear()
    result = CarliniWagner(norm=norm, steps=1, search_steps=search_steps, lr=1, c_init=100).run(model, x, y)
    assert result.success.all()
    assert (model(result.x_adv).argmax(1) != y).all()


def test_norms_have_names():
    for name, norm in (("l2", 2), ("linf", math.inf), ("l0", 0)):
        assert CarliniWagner(norm=name) == CarliniWagner(norm=norm)


@pytest.mark.parametrize(
    ("field", "error", "message"),
    [
        ({"norm": 1}, ValueError, "norm must be 2, inf or 0, got 1"),
        ({"norm": "l1"}, ValueError, "norm must be 2, inf or 0, got 'l1'"),
        ({"confidence": -1.0}, ValueError, "confidence must be finite and at least 0, got -1.0"),
        ({"lr": 0.0}, ValueError, "lr must be positive and finite, got 0.0"),
        ({"c_init": math.inf}, ValueError, "c_init must be positive and finite, got inf"),
        ({"steps": 0}, ValueError, "steps must be an integer of at least 1, got 0"),
        ({"search_steps": 1.5}, ValueError, "search_steps must be an integer of at least 1, got 1.5"),
        ({"objective": "dlr"}, ValueError, "objective must be 'margin' or 'ce', got 'dlr'"),
        ({"bounds": None}, ValueError, r"bounds must be \(lower, upper\), the image of tanh space, got None"),
        ({"bounds": (0.0, math.inf)}, ValueError, "bounds must be finite, the image of tanh space"),
        ({"gradient": Evolution}, TypeError, "gradient must be an instance, got the class Evolution"),
        ({"gradient": None}, TypeError, "gradient must be a Gradient such as"),
    ],
)
def test_bad_fields_are_refused_in_one_line(field, error, message):
    with pytest.raises(error, match=f"^CarliniWagner: {message}"):
        CarliniWagner(**field)


@pytest.mark.parametrize("norm", [2, math.inf, 0])
def test_a_box_255_times_as_wide_has_distances_255_times_as_large(norm):
    model, x, y, _ = linear()
    attack = {"norm": norm, "steps": 100, "search_steps": 12}
    unit = CarliniWagner(**attack).run(model, x, y)
    wide = CarliniWagner(**attack, bounds=(0.0, 255.0)).run(lambda z: model(z / 255), 255 * x, y)
    assert unit.success.all() and wide.success.all()
    assert torch.allclose(wide.distance / (255 if norm != 0 else 1), unit.distance, rtol=0.02)
