"""Evolution: unbiased where theory says so, with the variance that theory gives, every query counted."""

import math

import pytest
import torch
from torch import nn

from fastadv import KWTA, PGD, Evolution
from fastadv.attacks.randomness import Step
from fastadv.attacks.schedules import StagedSamples
from tests.attacks.nets import BatchInvariant, Recorder, samples

ROWS = 3000  # that many independent estimates at one point


def step(batch, number=0):
    return Step(number, 100, 7, torch.arange(batch))


def estimates(evolution, loss, point):
    """[ROWS, D] estimates of the slope of `loss` ([N, D] -> [N]) at one point."""
    x = point.expand(ROWS, -1).contiguous()
    return evolution.estimate(lambda x: loss(x)[:, None], x, lambda logits: logits[:, 0], step(ROWS))


def assert_mean(values, expected):
    """The means of the columns are what they should be, to 4.5 of their own standard errors."""
    error = values.std(0) / len(values) ** 0.5
    assert ((values.mean(0) - expected).abs() <= 4.5 * error).all()


SLOPE = torch.linspace(-1, 1, 10, dtype=torch.float64)
CURVATURE = torch.linspace(0.5, 3, 10, dtype=torch.float64)
POINT = torch.linspace(0.2, 0.8, 10, dtype=torch.float64)


def linear(x):
    return x @ SLOPE + 3


def quadratic(x):
    return linear(x) + (CURVATURE * x.square()).sum(1) / 2


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize(("loss", "slope"), [(linear, SLOPE), (quadratic, SLOPE + CURVATURE * POINT)])
def test_the_mean_is_the_exact_gradient_of_linear_and_quadratic_losses(loss, slope, antithetic):
    found = estimates(Evolution(0.1, 20, antithetic=antithetic), loss, POINT)
    assert_mean(found, slope)


@pytest.mark.parametrize("samples", [2, 8, 32])
def test_the_variance_on_a_linear_loss_is_what_theory_gives(samples):
    """m pairs give the mean of m terms (g . u) u: variance (|g|^2 + g_i^2) / m in element i."""
    found = estimates(Evolution(0.1, samples), linear, POINT)
    expected = (SLOPE.square().sum() + SLOPE.square()) / (samples / 2)
    # The variance of 3000 heavy-tailed terms is known to about sqrt(8 / 3000) = 5 %.
    assert torch.allclose(found.var(0), expected, rtol=0.2)


def test_antithetic_estimates_of_a_quadratic_vary_less_and_see_only_its_odd_part():
    pairs = estimates(Evolution(0.1, 20), quadratic, POINT)
    singles = estimates(Evolution(0.1, 20, antithetic=False), quadratic, POINT)
    assert (pairs.var(0) < singles.var(0) / 10).all()
    # Around its minimum a quadratic is even: pairs cancel to nothing, single draws do not.
    bottom = torch.zeros(10, dtype=torch.float64)

    def even(x):
        return (CURVATURE * x.square()).sum(1) / 2

    assert torch.equal(estimates(Evolution(0.1, 20), even, bottom), torch.zeros(ROWS, 10))
    assert (estimates(Evolution(0.1, 20, antithetic=False), even, bottom).var(0) > 0).all()


def test_the_sign_step_does_not_depend_on_the_divisor():
    """The published code divides by 4 n sigma where the unbiased estimate divides by n sigma."""

    class Published(Evolution):
        def estimate(self, *arguments):
            return super().estimate(*arguments) / 4

    model, x = BatchInvariant(20), samples(6, 20)
    ours, theirs = (
        PGD(eps=0.1, steps=5, gradient=kind(0.03, 50)).run(model, x, torch.arange(6) % 5)
        for kind in (Evolution, Published)
    )
    assert torch.equal(ours.x_adv, theirs.x_adv)


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_change_no_bit(antithetic, dtype):
    model, x = BatchInvariant(20), samples(5, 20, dtype=dtype)

    def slope(chunk):
        evolution = Evolution(0.05, 42, antithetic, chunk)
        return evolution.estimate(model, x, lambda logits: logits[:, 1], step(5))

    whole = slope(None)
    assert whole.dtype == torch.float32
    for chunk in (2, 3, 16, 100):
        assert torch.equal(slope(chunk), whole)


def test_only_the_samples_still_standing_are_evaluated_and_every_row_is_a_query():
    model, x = BatchInvariant(20), samples(10, 20)
    y = model(x).argmax(1)
    y[:4] = (y[:4] + 1) % 5
    recorder = Recorder(model)
    attack = PGD(eps=1e-4, steps=2, random_start=False, gradient=Evolution(0.05, 30, chunk=20))
    result = attack.run(recorder, x, y)
    assert [len(seen) for seen in recorder.inputs] == [10, 120, 60, 6, 120, 60, 6]
    assert torch.equal(result.queries, torch.tensor([1] * 4 + [63] * 6))


def test_the_schedule_gives_each_steps_number_and_the_default_is_the_published_one():
    published = StagedSamples()
    assert [published(step, 100) for step in (0, 19, 20, 39, 40, 99)] == [100, 100, 1000, 1000, 20000, 20000]
    x, y = samples(3, 20), torch.tensor([0, 1, 2])
    schedule = StagedSamples(((0, 2), (1, 6), (3, 10)))
    attack = PGD(eps=1e-6, steps=4, restarts=2, gradient=Evolution(0.1, schedule), early_stop=False)
    recorder = Recorder(BatchInvariant(20))
    result = attack.run(recorder, x, y)
    each = [3, 6, 3, 18, 3, 18, 3, 30, 3]
    assert [len(seen) for seen in recorder.inputs] == each + each
    assert (result.queries == 2 * sum(each) // 3).all()


def test_a_model_that_is_not_differentiable_at_all_falls():
    class Counting(nn.Module):
        """Votes of step functions, computed outside of PyTorch."""

        def forward(self, x):
            votes = ((x.detach().double().numpy() @ weight) > 0).reshape(len(x), 5, 400).mean(2)
            return torch.from_numpy(votes).float()

    weight = torch.randn(20, 2000, generator=torch.Generator().manual_seed(0)).double().numpy()
    x = samples(16, 20)
    model = Counting()
    y = model(x).argmax(1)
    attack = {"eps": 0.2, "steps": 20, "loss": "margin"}
    result = PGD(**attack, gradient=Evolution(0.1, 60)).run(model, x, y)
    assert result.success.float().mean() > 0.9
    assert torch.equal(result.success, model(result.x_adv).argmax(1) != y)
    with pytest.raises(ValueError, match="no gradient reaches x"):
        PGD(**attack).run(model, x, y)


def test_on_a_kwta_net_evolution_finds_what_pgd_misses():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 300), KWTA(0.1), nn.Linear(300, 300), KWTA(0.1), nn.Linear(300, 5))
    x = samples(60, 20)
    y = model(x).argmax(1)
    attack = {"eps": 0.02, "steps": 15, "random_start": False, "loss": "margin"}
    found = PGD(**attack, gradient=Evolution(0.02, 300)).run(model, x, y).success
    missed = ~PGD(**attack).run(model, x, y).success
    assert (found & missed).any()
    assert found.sum() > (~missed).sum()


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_copies_without_a_finite_loss_add_nothing_and_the_others_what_they_add_alone(value, antithetic):
    draws, lost = 12, torch.tensor([0, 3, 4])
    seen = []

    def slope(change):
        def objective(logits):
            return change(logits[:, 0].unflatten(0, (-1, draws, 2))).flatten()

        def model(x):
            seen.append(x)
            return linear(x)[:, None]

        x = samples(2, 10, dtype=torch.float64)
        copies = 2 * draws if antithetic else draws
        return Evolution(0.1, copies, antithetic).estimate(model, x, objective, step(2)), x

    def some_are_lost(losses):
        losses[0, lost, 0] = value
        return losses

    found, x = slope(some_are_lost)
    copies = seen[-1].unflatten(0, (-1, draws, 2))
    noise = (copies[0] - x) / 0.1
    weights = linear(copies[0]) - (linear(copies[1]) if antithetic else 0)
    weights[lost, 0] = 0
    expected = (noise * weights[:, :, None]).sum(0) / (len(copies) * draws * 0.1)
    torch.testing.assert_close(found, expected)
    nowhere, _ = slope(lambda losses: losses.fill_(value))
    assert torch.equal(nowhere, torch.zeros_like(x))


def test_copies_are_not_clipped_and_a_model_may_clip_them_itself():
    x = torch.zeros(3, 20)
    seen = Recorder(BatchInvariant(20))
    attack = PGD(eps=0.1, steps=1, gradient=Evolution(0.1, 40), early_stop=False)
    attack(seen, x, torch.tensor([0, 1, 2]))
    assert any(inputs.min() < -0.2 for inputs in seen.inputs)
    clipped = Recorder(BatchInvariant(20))
    attack(lambda x: clipped(x.clamp(0, 1)), x, torch.tensor([0, 1, 2]))
    assert all(inputs.min() >= 0 for inputs in clipped.inputs)


def test_steps_draw_anew():
    x = samples(3, 20)
    first, again, second = (
        Evolution(0.1, 4).estimate(BatchInvariant(20), x, lambda logits: logits[:, 0], step(3, number))
        for number in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert (first != second).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 10), "Evolution: sigma must be positive and finite, got 0.0"),
        ((math.inf, 10), "Evolution: sigma must be positive and finite, got inf"),
        (("a", 10), "Evolution: sigma must be positive and finite, got 'a'"),
        ((0.1, 7), "Evolution: samples must be an even integer of at least 2 or a schedule, got 7"),
        ((0.1, 0, False), "Evolution: samples must be an integer of at least 1 or a schedule, got 0"),
        ((0.1, 2.0), "Evolution: samples must be an even integer of at least 2 or a schedule, got 2.0"),
        ((0.1, 4, True, 1), "Evolution: chunk must be an integer of at least 2 or None, got 1"),
    ],
)
def test_bad_fields_are_refused_when_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        Evolution(*arguments)


@pytest.mark.parametrize("stages", [(), ((1, 10),), ((0, 10), (5, 20), (5, 30)), ((0, 10), (-1, 20))])
def test_stages_out_of_order_are_refused(stages):
    with pytest.raises(ValueError, match="StagedSamples: stages must start at step 0"):
        StagedSamples(stages)


@pytest.mark.parametrize(
    "stages",
    [5, (5,), ((0, 0),), ((0, 10), (5, True)), ((0, math.nan),), ((False, 10),), ((0, "9"),), ((0, 1, 2),)],
)
def test_stages_that_are_no_pairs_of_integers_are_refused(stages):
    with pytest.raises(ValueError, match=r"^StagedSamples: stages must be pairs of integers, .* got "):
        StagedSamples(stages)


def test_a_schedule_that_gives_no_even_number_is_refused_when_it_does():
    attack = PGD(eps=0.1, gradient=Evolution(0.1, lambda step, steps: 3), early_stop=False)
    with pytest.raises(
        ValueError, match="samples must be an even integer of at least 2 or a schedule, got 3"
    ):
        attack(BatchInvariant(6), samples(4, 6))
