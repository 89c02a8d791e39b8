"""The Odds are Odd: the statistic on linear models, its moments, its promises of false positives."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

import fastadv
from fastadv import PGD, OddsAreOdd
from fastadv.defenses.odds_statistics import GapStatistics, held_out_cutoff, normal_cutoff
from fastadv.models import datasets, mnist_lenet5
from tests.attacks.nets import BatchInvariant, Recorder, samples
from tests.defenses.detectors import fitted


def linear(features=12, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(features, classes).double()
    with torch.no_grad():
        model.weight.copy_(torch.randn(classes, features, generator=generator, dtype=torch.float64))
        model.bias.zero_()
    return model


@pytest.mark.parametrize(("kind", "factor"), [("normal", 1), ("sign", 1), ("uniform", 3**-0.5)])
def test_on_a_linear_model_the_gaps_have_mean_0_and_the_norm_of_the_weights_difference_as_spread(
    kind, factor
):
    model, scale, draws = linear(), 0.1, 200
    x = samples(200, 12, dtype=torch.float64)
    gaps = OddsAreOdd(model, [(kind, scale)], draws, bounds=None).gaps(x)
    for t in gaps.predicted.unique().tolist():
        mine = gaps.predicted == t
        expected = factor * scale * (model.weight - model.weight[t]).norm(dim=1).detach()
        others = torch.arange(4) != t
        n = int(mine.sum())
        # n means of `draws` numbers each: 5 standard errors, of their mean, of their spread, of the variance.
        assert (gaps.mean[0, mine].mean(0) / expected)[others].abs().max() < 5 / math.sqrt(n * draws)
        spread = gaps.mean[0, mine].std(0) * math.sqrt(draws) / expected
        assert (spread[others] - 1).abs().max() < 5 / math.sqrt(2 * (n - 1))
        variance = gaps.variance[0, mine].mean(0) / expected**2
        assert (variance[others] - 1).abs().max() < 5 * math.sqrt(2 / (n * draws)) + 1 / draws
        assert (gaps.mean[0, mine, t] == 0).all()


def test_gaps_of_logits_are_those_of_features_and_differences_of_weights():
    """The authors' code takes <phi(x + noise) - phi(x), w_i - w_t>; the bias and the rest cancel."""
    torch.manual_seed(0)
    body, head = nn.Sequential(nn.Linear(10, 30), nn.Tanh()).double(), nn.Linear(30, 5).double()
    x = samples(8, 10, dtype=torch.float64)
    gaps = OddsAreOdd(nn.Sequential(body, head), [("uniform", 0.2)], draws=7, seed=3).gaps(x, torch.arange(8))
    with torch.no_grad():
        noisy = fastadv.ops.add_noise(x, 7, kind="uniform", scale=0.2, seed=(3, 0))
        moved = body(noisy) - body(x)
        differences = head.weight - head.weight[gaps.predicted][:, None]
        expected = torch.einsum("dbf,bkf->bk", moved, differences) / 7
    assert torch.allclose(gaps.mean[0], expected, rtol=0, atol=1e-12)


def test_the_mean_over_draws_narrows_as_their_root():
    x, model = samples(3000, 12, dtype=torch.float64), linear()
    few, many = (OddsAreOdd(model, [("normal", 0.1)], n, bounds=None).gaps(x).mean[0].std() for n in (4, 64))
    assert (few / many).item() == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("spread", ["examples", "joint"])
def test_streamed_moments_are_those_of_two_passes(spread):
    generator = torch.Generator().manual_seed(0)
    draws = 1e3 + torch.randn(2, 90, 40, 3, generator=generator, dtype=torch.float64)  # [kinds, B, draws, K]
    predicted = torch.randint(3, (90,), generator=generator)
    statistics = GapStatistics(2, 3)
    for part in torch.arange(90).split(7):
        gaps = draws[:, part]
        statistics.add(predicted[part], gaps[0, :, 0].float(), gaps.mean(2), gaps.var(2, correction=0))
    for t in range(3):
        mine = draws[:, predicted == t]
        assert torch.allclose(statistics.mean[:, t], mine.mean((1, 2)), rtol=1e-14)
        over = (
            mine.mean(2).std(1, correction=0)
            if spread == "examples"
            else mine.flatten(1, 2).std(1, correction=0)
        )
        assert torch.allclose(statistics.std(spread)[:, t], over, rtol=1e-9)
    assert statistics.counts.tolist() == predicted.bincount().tolist()


def test_fit_gives_mean_and_spread_of_the_gaps_by_predicted_class(net, x):
    detector = fitted(net, x, noise=[("normal", 0.1), ("sign", 0.05)])
    gaps = detector.gaps(x)
    for t in range(4):
        mine = gaps.mean[:, gaps.predicted == t]
        assert torch.allclose(detector.mean[:, t], mine.mean(1))
        others = torch.arange(4) != t
        assert torch.allclose(detector.std[:, t, others], mine.std(1, correction=0)[:, others])
        assert detector.counts[t] == mine.shape[1]


def test_only_samples_that_the_model_gets_right_count_where_that_is_asked_for(net, x):
    y = net(x).argmax(1)
    right = torch.arange(len(x)) % 3 > 0
    y = torch.where(right, y, (y + 1) % 4)
    detector = OddsAreOdd(net, draws=4)
    detector.fit(zip(x.split(64), y.split(64), strict=True), correct_only=True, quiet=True)
    gaps = detector.gaps(x)
    assert detector.counts.tolist() == gaps.predicted[right].bincount(minlength=4).tolist()
    assert torch.allclose(detector.mean[0, 0], gaps.mean[0, right & (gaps.predicted == 0)].mean(0))


@pytest.mark.parametrize("chunk", [1, 130, None])
@pytest.mark.parametrize("batch", [13, 400])
def test_statistics_and_scores_have_the_same_bits_in_any_chunks_and_batches(net, x, chunk, batch):
    noise, draws = [("normal", 0.1), ("uniform", 0.2)], 5
    whole, parts = (OddsAreOdd(net, noise, draws, chunk=size) for size in (400, chunk))
    whole.fit([x], quiet=True)
    parts.fit(x.split(batch), quiet=True)
    for name in ("mean", "std", "counts"):
        assert torch.equal(getattr(whole, name).nan_to_num(9), getattr(parts, name).nan_to_num(9))
    assert torch.equal(torch.cat([parts.score(part) for part in x.split(batch)]), whole.score(x))


def test_statistics_have_the_same_bits_with_one_and_two_threads(net, x):
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            detector = fitted(net, x, chunk=1000)
            found.append((detector.mean, detector.std.nan_to_num(9), detector.score(x)))
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, *found))


def test_a_forward_never_has_more_rows_than_the_chunk_or_the_batch(net, x):
    """So memory does not grow with the number of draws."""
    for draws in (10, 1000):
        model = Recorder(net)
        OddsAreOdd(model, draws=draws, chunk=50).gaps(x[:20])
        assert {len(seen) for seen in model.inputs} == {20, 40}
        assert sum(map(len, model.inputs)) == 20 * (draws + 1)
    model = Recorder(net)
    OddsAreOdd(model, draws=3, chunk=7).gaps(x[:20])
    assert [len(seen) for seen in model.inputs] == [20] * 4


def test_noise_changes_with_the_seed_and_is_another_for_every_kind_and_sample(net, x):
    same, ids = x[:1].expand(6, -1), torch.arange(6)
    gaps = OddsAreOdd(net, [("normal", 0.1), ("normal", 0.1)], draws=4).gaps(same, ids).mean
    assert len(gaps[..., 0].flatten().unique()) == 12
    assert not torch.equal(
        OddsAreOdd(net, [("normal", 0.1)], draws=4, seed=1).gaps(same, ids).mean[0], gaps[0]
    )


def test_scores_are_the_largest_z_score_of_the_other_classes(net, x):
    detector = fitted(net, x, noise=[("normal", 0.1), ("sign", 0.05)])
    gaps, verdict = detector.gaps(x), detector.examine(x)
    rows, t = torch.arange(400), gaps.predicted
    z = ((gaps.mean - detector.mean[:, t]) / detector.std[:, t]).mean(0)
    z[rows, t] = -math.inf
    assert torch.allclose(verdict.score, z.amax(1), rtol=1e-12)
    assert torch.equal(verdict.towards, z.argmax(1))
    assert torch.equal(verdict.flagged, verdict.score > detector.cutoff)
    assert torch.equal(detector.detect(x), verdict.flagged)
    assert torch.equal(verdict.predicted, net(x).argmax(1))
    two_sided = fitted(net, x, noise=[("normal", 0.1), ("sign", 0.05)], two_sided=True).score(x)
    z[rows, t] = 0
    assert torch.allclose(two_sided, z.abs().amax(1), rtol=1e-12)


def test_gaps_are_judged_as_the_samples_are_examined(net, x):
    detector = fitted(net, x)
    gaps = detector.gaps(x[:50])
    for two_sided in (True, False):
        detector.two_sided, detector.cutoff = two_sided, 1.0
        for judged, examined in zip(detector.judge(gaps), detector.examine(x[:50]), strict=True):
            assert torch.equal(judged, examined)
    with pytest.raises(ValueError, match=r"OddsAreOdd.judge: the detector knows no clean samples yet"):
        OddsAreOdd(net).judge(gaps)


@pytest.mark.parametrize("cutoff", [0.5, 1.5, 3.0902])
def test_thresholds_of_pairs_and_of_z_scores_decide_alike(net, x, cutoff):
    """The survey's max over i of Delta_ti - tau_ti > 0 and the authors' max of z > Phi^-1(q)."""
    detector = fitted(net, x)
    detector.cutoff = cutoff
    gaps = detector.gaps(x)
    rows, t = torch.arange(400), gaps.predicted
    excess = gaps.mean[0] - detector.pair_thresholds()[0, t]
    excess[rows, t] = -math.inf
    flagged = detector.detect(x)
    assert torch.equal(excess.amax(1) > 0, flagged)
    assert flagged.any() or cutoff > 3


def test_the_normal_cutoffs_are_those_of_the_authors_and_of_bonferroni(net, x):
    assert OddsAreOdd(net).cutoff == pytest.approx(3.0902, abs=5e-5)
    ten = fitted(BatchInvariant(20, classes=10), x)
    assert ten.threshold(0.009, source="normal") == pytest.approx(3.0902, abs=5e-5)  # 9 classes at 0.001
    assert ten.threshold(0.05, source="normal") == pytest.approx(stats.norm.isf(0.05 / 9))
    ten.two_sided = True
    assert ten.threshold(0.05, source="normal") == pytest.approx(stats.norm.isf(0.05 / 18))


@pytest.mark.parametrize("fpr", [0.01, 0.05])
@pytest.mark.parametrize("two_sided", [False, True])
def test_clean_samples_are_flagged_no_more_often_than_promised(fpr, two_sided):
    net, x = BatchInvariant(10, classes=4, seed=5), samples(6000, 10)
    detector = fitted(net, x[:1000], draws=8, chunk=None, two_sided=two_sided)
    detector.calibrate(x[1000:3000].split(500), fpr=fpr, quiet=True)
    assert detector.cutoff == detector.threshold(fpr)
    flagged = detector.detect(x[3000:], ids=torch.arange(3000, 6000)).double().mean().item()
    # Both the cutoff, from 2000 scores, and the rate, of 3000, vary.
    deviation = math.sqrt(fpr * (1 - fpr) * (1 / 2000 + 1 / 3000))
    assert abs(flagged - fpr) <= 3 * deviation


def test_a_rank_is_that_of_the_decimal_number_asked_for_and_small_rates_are_answered():
    scores = torch.arange(1.0, 10.0)
    assert held_out_cutoff(scores, 0.7) == 3.0  # in floats 10 * (1 - 0.7) is more than 3
    for fpr in (1e-320, 0.0, 1.0, math.nan, "a"):
        with pytest.raises(ValueError, match=r"OddsAreOdd: fpr must be in \(0, 1\)"):
            held_out_cutoff(scores, fpr)
    with pytest.raises(ValueError, match="needs at least 99999999999999"):
        held_out_cutoff(scores, 1e-17)
    assert normal_cutoff(1e-17, 9) == pytest.approx(stats.norm.isf(1e-17 / 9))


def test_the_held_out_cutoff_is_the_order_statistic_that_keeps_the_promise_exactly(net, x):
    detector = fitted(net, x)
    detector.calibrate([x[:99]], quiet=True)
    scores = detector.score(x[:99]).sort().values
    assert torch.equal(detector.held_out.sort().values, scores)
    # 1 in 100 exceeds the largest of 99, 5 in 100 the fifth largest.
    assert detector.threshold(0.01) == scores[-1]
    assert detector.threshold(0.05) == scores[-5]
    with pytest.raises(ValueError, match=r"fpr 0.009 needs at least 111 held-out scores, got 99"):
        detector.threshold(0.009)


def test_classes_with_fewer_than_three_samples_never_flag_and_are_named(net, x):
    predicted = net(x).argmax(1)
    rare, usual = x[predicted == 2], x[predicted != 2]
    detector = OddsAreOdd(net, [("normal", 0.1)], draws=8)
    with pytest.warns(UserWarning, match="fewer than 3 samples.* were predicted as 2: these never flag"):
        unknown = detector.fit([usual, rare[:2]], quiet=True)
    assert unknown == detector.unknown == [2]
    assert detector.counts[2] == 2
    detector.cutoff = -1e9
    verdict = detector.examine(x)
    assert torch.equal(verdict.flagged, predicted != 2)
    assert (verdict.score[predicted == 2] == -math.inf).all()
    three = OddsAreOdd(net, [("normal", 0.1)], draws=8)
    assert three.fit([usual, rare[:3]], quiet=True) == []


def test_a_sample_whose_logits_are_not_finite_is_flagged():
    class Overflows(nn.Module):
        def forward(self, x):
            return torch.stack((x.sum(1), x[:, 0], 1 / (x[:, 1] > 0)), 1)

    x = samples(50, 6) / 2 + 0.4
    detector = fitted(Overflows(), x)
    assert not detector.detect(x).all()
    x[3, 1] = 0
    verdict = detector.examine(x)
    assert verdict.score[3] == math.inf
    assert verdict.flagged[3]


def test_a_pair_that_varies_by_rounding_alone_is_unknown_and_all_others_are_as_before():
    class Tied(nn.Module):
        def forward(self, x):
            first = x[:, :4].sum(1) * 3
            return torch.stack((first, first + 0.1, x[:, 4:].sum(1) * 3), 1)

    x = samples(200, 8)
    detector = fitted(Tied(), x)
    gaps = detector.gaps(x)
    tied = gaps.mean[0, gaps.predicted == 1, 0].std(correction=0)
    assert 0 < tied < 1e-6
    assert detector.std[0, 1, 0].isnan()
    known = gaps.mean[0, gaps.predicted == 1, 2].std(correction=0)
    assert torch.allclose(detector.std[0, 1, 2], known)
    assert detector.score(x).abs().max() < 6


def test_a_large_logit_of_one_class_leaves_the_pairs_of_others_known(net, x):
    class Masked(nn.Module):
        def forward(self, x):
            return torch.cat((net(x), torch.full((len(x), 1), -1e9)), 1)

    detector = fitted(Masked(), x)
    assert torch.equal(detector.std[:, :4, :4].nan_to_num(9), fitted(net, x).std.nan_to_num(9))


def test_pgd_on_real_digits_is_flagged_far_more_often_than_clean_digits():
    try:
        model, (x, y) = mnist_lenet5(), datasets.digits()
    except fastadv.models.ModelError as error:
        pytest.skip(str(error))
    order = torch.randperm(5000, generator=torch.Generator().manual_seed(0))
    fit, held, test, truth = x[order[:500]], x[order[500:700]], x[order[700:760]], y[order[700:760]]
    detector = OddsAreOdd(model, [("normal", 0.05)], draws=8)
    detector.fit(fit.split(100), quiet=True)
    detector.calibrate(held.split(100), fpr=0.05, quiet=True)
    x_adv = PGD(eps=0.2, steps=10, early_stop=False)(model, test, truth)
    assert (model(x_adv).argmax(1) != truth).double().mean() > 0.9
    assert detector.detect(test).double().mean() < 0.2
    assert detector.detect(x_adv).double().mean() > 0.8
