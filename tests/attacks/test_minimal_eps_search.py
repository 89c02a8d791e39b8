"""How minimal_eps searches, told by an attack whose successes are written down beforehand."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fastadv import minimal_eps
from fastadv.attacks import AttackResult


@dataclass(frozen=True, kw_only=True)
class Scripted:
    """An attack that succeeds where `succeeds(eps, critical)` says so, each sample's `critical` being its x.

    What it finds is at `reach` times eps, but no nearer than `critical`. It keeps what it was asked for.
    """

    eps: float | torch.Tensor
    asked: list
    succeeds: object = staticmethod(lambda eps, critical: eps >= critical)
    reach: float = 1.0
    norm: float = math.inf
    bounds: tuple[float, float] | None = None
    early_stop: bool = True
    autocast: torch.dtype | None = None
    chunk: int | None = None

    def run(self, model, x, y=None, *, target=None, ids=None, on_step=None):
        assert self.early_stop
        critical, eps = x[:, 0].double(), self.eps.double()
        self.asked.append(dict(zip(ids.tolist(), eps.tolist(), strict=True)))
        success = self.succeeds(eps, critical)
        distance = torch.maximum(self.reach * eps, critical.clamp(max=eps))
        distance = torch.where(critical == 0, 0, distance)  # solved to begin with
        queries = torch.full((len(x),), 3)
        return AttackResult(x + 100 * eps[:, None], success, distance.where(success, 0), distance, queries)


def scripted(critical, **options):
    """(the attack, the result) for samples with these critical eps."""
    options = {"eps": 1.0, "tolerance": 2**-10, **options}
    tolerance = options.pop("tolerance")
    x = torch.tensor(critical, dtype=torch.float64)[:, None]
    attack = Scripted(asked=[], **options)
    return attack, minimal_eps(attack, nn.Identity(), x, torch.zeros(len(x)).long(), tolerance=tolerance)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(0.001, 1.2), min_size=1, max_size=6),
    st.sampled_from([1.0, 0.9, 0.6]),
    st.sampled_from([1, 0.1, 1e-3, 1e-6]),
)
def test_the_bracket_shrinks_around_the_critical_eps_until_it_is_as_narrow_as_asked(
    critical, reach, tolerance
):
    attack, found = scripted(critical, reach=reach, tolerance=tolerance)
    for number, value in enumerate(critical):
        asked = [run[number] for run in attack.asked if number in run]
        assert asked[0] == 1.0
        if value > 1:
            assert (found.eps[number], found.lower[number], len(asked)) == (math.inf, 1.0, 1)
            continue
        low, high = 0.0, math.inf
        for eps in asked:
            assert low < eps < high
            if eps >= value:
                high = max(reach * eps, value)
            else:
                low = eps
        assert (found.lower[number], found.eps[number]) == (low, high)
        assert low < value <= high
        assert high - low <= tolerance * (1 + 1e-9)
    assert torch.equal(found.success, torch.tensor(critical) <= 1)


@pytest.mark.parametrize("upper", [1, 7, 64, 100.9])
def test_norm_0_asks_for_whole_numbers_and_finds_the_exact_one(upper):
    critical = [1.0, 2.0, 5.0, 33.0, 64.0, 100.0, 101.0]
    attack, found = scripted(critical, norm=0, eps=upper)
    assert found.eps.tolist() == [value if value <= upper else math.inf for value in critical]
    assert all(eps == int(eps) for run in attack.asked for eps in run.values())
    assert len(attack.asked) <= 1 + math.ceil(math.log2(upper))


def test_a_wide_tolerance_in_norm_0_is_rounded_up_to_a_whole_number():
    _, found = scripted([37.0], norm=0, eps=100, tolerance=0.025)
    assert found.eps - found.lower <= 3


def test_of_successes_that_do_not_grow_with_eps_the_smallest_seen_is_kept():
    def succeeds(eps, critical):
        return (eps >= 1) | ((eps >= critical) & (eps < 0.4))

    _, found = scripted([0.3, 0.1], succeeds=succeeds, tolerance=2**-4)
    # Both fail at 1/2 and above, up to 1, and that is all there is to know: 0.3 and 0.1 go unseen.
    assert found.eps.tolist() == [1.0, 1.0]
    assert found.lower.tolist() == [1 - 2**-4] * 2

    def gap(eps, critical):
        return (eps >= critical) & ~((eps > 0.2) & (eps < 0.3))

    _, found = scripted([0.1], succeeds=gap, tolerance=2**-4)
    # 1 and 1/2 succeed, 1/4 does not.
    assert 0.25 < found.eps <= 0.3 + 2**-4


def test_a_success_nearer_than_a_failure_is_kept_and_the_search_goes_on_below_it():
    class Jumps(Scripted):
        def run(self, *args, **options):
            found = super().run(*args, **options)
            near = torch.full_like(found.distance, 0.2)  # at 3/4 it finds what is at 0.2; at 1/2 it failed
            return found._replace(distance=torch.where(self.eps == 0.75, near, found.distance))

    attack = Jumps(asked=[], eps=1.0, succeeds=lambda eps, critical: (eps >= 0.7) | (eps < 0.15))
    x = torch.full((1, 1), 0.01, dtype=torch.float64)
    found = minimal_eps(attack, nn.Identity(), x, torch.tensor([0]), tolerance=2**-4)
    asked = [run[0] for run in attack.asked]
    assert asked[:3] == [1.0, 0.5, 0.75]
    assert asked[3] == pytest.approx(0.1)
    assert found.eps <= 0.1
    assert found.lower < found.eps


def test_samples_that_are_done_leave_the_work():
    attack, found = scripted([0.0, 2.0, 0.4], tolerance=0.25)
    assert [sorted(run) for run in attack.asked] == [[0, 1, 2], [2], [2]]
    assert found.eps.tolist() == [0.0, math.inf, 0.5]
    assert found.queries.tolist() == [3, 3, 9]
    assert torch.equal(found.x_adv[:, 0], torch.tensor([100.0, 2.0, 50.4], dtype=torch.float64))


def test_each_sample_is_searched_up_to_its_own_eps():
    upper = torch.tensor([0.5, 4.0, 0.0])
    attack, found = scripted([0.3, 3.0, 0.1], eps=upper, tolerance=0.01)
    assert list(attack.asked[0].values()) == upper.tolist()
    assert ((found.eps - found.lower)[:2] <= 0.01 * upper[:2]).all()
    assert found.eps[2] == math.inf
    assert found.lower.tolist()[2] == 0.0


def test_without_labels_every_run_is_told_the_model_s_predictions():
    labels = []

    class Told(Scripted):
        def run(self, model, x, y=None, **options):
            labels.append(y.tolist())
            return super().run(model, x, y, **options)

    x = torch.tensor([[0.3, 0.2], [0.6, 0.7]], dtype=torch.float64)
    minimal_eps(Told(asked=[], eps=1.0), nn.Identity(), x, tolerance=0.25)
    assert labels == [[0, 1]] * 3
