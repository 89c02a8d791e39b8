"""The Odds are Odd: the statistic on linear models, its moments, its promises of false positives."""

import math
import threading
import warnings

import pytest
import torch
from scipy import stats
from torch import nn

import fastadv
from fastadv import PGD, OddsAreOdd
from fastadv.attacks import OddsEvasion
from fastadv.defenses.odds_statistics import GapStatistics
from fastadv.models import datasets, mnist_lenet5
from tests.attacks.nets import BatchInvariant, Norms, Recorder, samples


def linear(features=12, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(features, classes).double()
    with torch.no_grad():
        model.weight.copy_(torch.randn(classes, features, generator=generator, dtype=torch.float64))
        model.bias.zero_()
    return model


def fitted(model, x, noise=(("normal", 0.1),), **settings):
    detector = OddsAreOdd(model, noise, **{"draws": 16, **settings})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector.fit(x.split(50), quiet=True)
    return detector


@pytest.fixture(scope="module")
def net():
    return BatchInvariant(20, classes=4, seed=5)  # every class is predicted for some of the samples


@pytest.fixture(scope="module")
def x():
    return samples(400, 20)


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
    gaps = OddsAreOdd(nn.Sequential(body, head), [("uniform", 0.2)], draws=7, seed=3).gaps(x)
    with torch.no_grad():
        noisy = fastadv.ops.add_noise(x, 7, kind="uniform", scale=0.2, seed=(3, 0))
        moved = body(noisy) - body(x)
        differences = head.weight - head.weight[gaps.predicted][:, None]
        expected = torch.einsum("dbf,bkf->bk", moved, differences) / 7
    assert torch.allclose(gaps.mean[0], expected, rtol=0, atol=1e-12)


def test_the_mean_over_draws_narrows_as_their_root():
    x, model = samples(300, 12, dtype=torch.float64), linear()
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
    ids = torch.arange(400)
    scores = [
        parts.score(part, number) for part, number in zip(x.split(batch), ids.split(batch), strict=True)
    ]
    assert torch.equal(torch.cat(scores), whole.score(x))


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
    same = x[:1].expand(6, -1)
    gaps = OddsAreOdd(net, [("normal", 0.1), ("normal", 0.1)], draws=4).gaps(same).mean
    assert len(gaps[..., 0].flatten().unique()) == 12
    assert not torch.equal(OddsAreOdd(net, [("normal", 0.1)], draws=4, seed=1).gaps(same).mean[0], gaps[0])


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
    with pytest.warns(UserWarning, match="fewer than 3 samples were predicted as 2: these never flag"):
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


def test_called_as_a_module_it_is_the_model_and_can_be_attacked(net, x):
    detector = fitted(net, x)
    assert torch.equal(detector(x), net(x))
    y = net(x).argmax(1)
    attack = PGD(eps=0.1, steps=3)
    assert torch.equal(attack(detector, x, y), attack(net, x, y))


def test_the_model_is_asked_in_eval_mode_and_left_as_it_was():
    model = Norms()
    model.norm.eval()
    state, x = {name: t.clone() for name, t in model.state_dict().items()}, samples(30, 3, 5, 5)
    rng = torch.get_rng_state()
    detector = fitted(model, x)
    detector.calibrate([x], fpr=0.1, quiet=True)
    first, second = detector.examine(x), detector.examine(x)
    assert all(map(torch.equal, first, second))
    assert model.training and model.drop.training and not model.norm.training
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), rng)


def test_casting_the_module_casts_the_model_and_not_the_statistics(net, x):
    detector = fitted(BatchInvariant(20, classes=4), x)
    mean = detector.mean
    detector.half()
    assert detector.model.first.dtype == torch.float16
    assert torch.equal(detector.mean, mean)
    assert detector.std.dtype == torch.float64
    assert set(detector.state_dict()) == {"model.first", "model.second"}
    assert detector.detect(x.half()).shape == (400,)


def test_autocast_changes_the_model_s_arithmetic_only(x):
    torch.manual_seed(0)
    model = nn.Linear(20, 4)
    plain, cast = (OddsAreOdd(model, draws=4, autocast=dtype).gaps(x) for dtype in (None, torch.bfloat16))
    assert cast.logits.dtype == torch.float32
    assert not torch.equal(cast.logits, plain.logits)
    assert torch.equal(cast.logits, model.bfloat16()(x.bfloat16()).float())


def test_an_empty_batch_has_no_scores(net, x):
    assert fitted(net, x).score(x[:0]).shape == (0,)


def test_two_threads_may_serve_at_once(net, x):
    detector = fitted(net.eval(), x)
    expected, found = detector.score(x), {}
    threads = [threading.Thread(target=lambda n=n: found.setdefault(n, detector.score(x))) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(score, expected) for score in found.values())
    assert len(found) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise": []}, "noise must have at least one (kind, scale), got none"),
        ({"noise": [("laplace", 0.1)]}, "kind of noise must be 'normal', 'uniform' or 'sign', got 'laplace'"),
        ({"noise": [("normal", 0.0)]}, "scale of noise must be positive and finite, got 0.0"),
        ({"draws": 0}, "draws must be an integer of at least 1, got 0"),
        ({"chunk": 0.5}, "chunk must be an integer of at least 1, got 0.5"),
        ({"bounds": (1, 0)}, "bounds must be (lower, upper) with lower < upper, got (1, 0)"),
        ({"autocast": torch.float32}, "autocast must be torch.float16, torch.bfloat16 or None"),
        ({"two_sided": 1}, "two_sided must be True or False, got 1"),
        ({"seed": -1}, "seed must be an integer in [0, 2^63), got -1"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(net, settings, message):
    with pytest.raises(ValueError) as error:
        OddsAreOdd(net, **settings)
    assert str(error.value).startswith(f"OddsAreOdd: {message}")
    assert "\n" not in str(error.value)


def test_bad_use_is_refused_in_one_line(net, x):
    blank, detector = OddsAreOdd(net), fitted(net, x)
    cases = [
        (
            lambda: blank.score(x),
            "OddsAreOdd.examine: the detector knows no clean samples yet: call fit first",
        ),
        (lambda: detector.threshold(0.1), "OddsAreOdd: there are no held-out scores: call calibrate first"),
        (lambda: detector.threshold(0.0, source="normal"), "OddsAreOdd: fpr must be in (0, 1), got 0.0"),
        (lambda: detector.threshold(0.1, source="x"), "source must be 'held_out' or 'normal', got 'x'"),
        (lambda: detector.score(x + 1), "OddsAreOdd: x must lie within bounds (0.0, 1.0), got "),
        (lambda: detector.score(x / 0), "OddsAreOdd: x must be finite"),
        (lambda: blank.fit([], quiet=True), "OddsAreOdd.fit: loader must have samples that count, got none"),
        (lambda: blank.fit([x], std="both", quiet=True), "std must be 'examples' or 'joint', got 'both'"),
        (
            lambda: blank.fit([x], correct_only=True, quiet=True),
            "loader must give batches (x, y), got x alone",
        ),
        (lambda: detector.calibrate([x[:5]], fpr=0.01, quiet=True), "fpr 0.01 needs at least 99 held-out"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError) as error:
            call()
        assert message in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(TypeError, match=r"OddsAreOdd: model must be a torch\.nn\.Module, got function"):
        OddsAreOdd(lambda x: x)
    detector.model = BatchInvariant(20, classes=3)
    with pytest.raises(ValueError, match=r"model must return logits \[400, 4\] as in fit, got \[400, 3\]"):
        detector.score(x)


def test_everything_works_in_inference_mode_and_what_is_learnt_there_serves_outside(net, x):
    plain, y, attack = fitted(net, x), net(x).argmax(1), PGD(eps=0.2, steps=5)
    plain.calibrate([x], fpr=0.05, quiet=True)
    plain.fit_correction([(x, y)], attack, quiet=True)
    with torch.inference_mode():
        inside, ids = x.clone(), torch.arange(len(x))
        labels = y.clone()
        assert inside.is_inference()
        detector = fitted(net, inside)
        detector.calibrate([inside], fpr=0.05, quiet=True)
        detector.fit_correction([(inside, labels)], attack, quiet=True)
        for found in (detector, plain):
            assert torch.equal(found.score(inside, ids), plain.score(x))
            assert torch.equal(found.detect(inside), plain.detect(x))
            assert torch.equal(found.predict(inside), plain.predict(x))
            assert all(map(torch.equal, found.gaps(inside), plain.gaps(x)))
            assert all(map(torch.equal, found.judge(found.gaps(inside)), plain.examine(x)))
    for name in ("mean", "std", "counts", "held_out"):
        assert not getattr(detector, name).is_inference()
        assert torch.equal(getattr(detector, name).nan_to_num(9), getattr(plain, name).nan_to_num(9))
    evasion = OddsEvasion(detector, draws=2)  # differentiates by the statistics
    assert PGD(eps=0.1, steps=2, gradient=evasion)(net, x[:5], y[:5]).shape == (5, 20)


def test_a_cutoff_that_is_not_finite_and_a_fit_that_fails_leave_the_detector_as_it_was(net, x):
    detector = fitted(net, x)
    detector.calibrate([x], fpr=0.05, quiet=True)
    state = detector.cutoff, detector.held_out, detector.mean
    std, detector.std = detector.std, torch.full_like(detector.std, math.nan)
    with pytest.raises(
        ValueError, match=r"OddsAreOdd: the cutoff for fpr 0\.1 would be -inf: too many held-out"
    ):
        detector.calibrate([x], fpr=0.1, quiet=True)
    detector.std = std

    class Sums(nn.Module):
        def forward(self, x):
            return torch.stack((x.sum((1, 2)), x.amax((1, 2))), 1) / (x[:, 0, :1] > 0)

    detector.model = Sums()
    broken = torch.rand(4, 2, 3)
    broken[3] = 0
    with pytest.raises(ValueError, match="the model returned NaN or infinite logits"):
        detector.fit([broken[:3], broken[3:]], quiet=True)
    assert detector.input_shape == (20,)
    assert (detector.cutoff, detector.held_out, detector.mean) == state


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


@pytest.mark.parametrize(("batch", "got"), [({"x": 1}, "dict"), ([], "list"), ("x", "str"), (3, "int")])
def test_batches_that_are_none_are_refused_by_name(net, batch, got):
    with pytest.raises(TypeError) as error:
        OddsAreOdd(net).fit([batch], quiet=True)
    assert str(error.value) == f"OddsAreOdd.fit: loader must give batches x or (x, y, ...), got {got}"


def test_a_progress_bar_is_shown_on_a_terminal_unless_quiet(net, x, capfd, monkeypatch):
    for terminal, quiet in ((True, False), (True, True), (False, False)):
        monkeypatch.setenv("FORCE_COLOR", "1" if terminal else "")
        OddsAreOdd(net, draws=2).fit(x.split(100), quiet=quiet)
        out, err = capfd.readouterr()
        assert out == ""
        assert ("fit" in err) == (terminal and not quiet)


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
