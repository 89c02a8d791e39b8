"""The detector in use: as a module, in threads and inference mode, and what it refuses."""

import math
import threading

import pytest
import torch
from torch import nn

from fastadv import PGD, OddsAreOdd
from fastadv.attacks import OddsEvasion
from fastadv.defenses.odds_gaps import content_ids
from tests.attacks.nets import BatchInvariant, Norms, samples
from tests.defenses.detectors import fitted


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
        ({"bounds": 3}, "bounds must be (lower, upper) with lower < upper, got 3"),
        ({"draws": 0}, "draws must be an integer in 1 .. 1048576, got 0"),
        ({"draws": 2**20 + 1}, "draws must be an integer in 1 .. 1048576, got 1048577"),
        ({"chunk": 0.5}, "chunk must be an integer of at least 1 or None, got 0.5"),
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
        (
            lambda: detector.threshold(0.0, source="normal"),
            "OddsAreOdd: fpr must be in (0, 1) and at least 1e-300, got 0.0",
        ),
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
        inside = x.clone()
        labels = y.clone()
        assert inside.is_inference()
        detector = fitted(net, inside)
        detector.calibrate([inside], fpr=0.05, quiet=True)
        detector.fit_correction([(inside, labels)], attack, quiet=True)
        for found in (detector, plain):
            assert torch.equal(found.score(inside), plain.score(x))
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


def test_samples_of_another_shape_than_the_first_are_refused(net, x):
    with pytest.raises(
        ValueError, match=r"fit: loader must give samples of one shape, got \[20\], then \[4, 5\]"
    ):
        OddsAreOdd(net, draws=2).fit([x[:5], x[5:9].reshape(4, 4, 5)], quiet=True)


@pytest.mark.parametrize("noise", ["normal", ("normal", 0.03), [("normal",)], None, 3])
def test_noise_that_is_no_list_of_pairs_is_refused(net, noise):
    with pytest.raises(TypeError, match=r"OddsAreOdd: noise must be a list of \(kind, scale\), got "):
        OddsAreOdd(net, noise)


def test_samples_that_come_one_by_one_have_noise_of_their_own_and_the_scores_of_any_batch(net, x):
    detector = fitted(net, x)
    whole = detector.score(x[:30])
    assert torch.equal(torch.cat([detector.score(sample[None]) for sample in x[:30]]), whole)
    assert torch.equal(detector.score(x[:30].flip(0)), whole.flip(0))
    ids = content_ids(x)
    assert len(ids.unique()) == len(x) and ids.min() >= 0 and ids.max() < 2**31
    assert torch.equal(content_ids(-0.0 * x[:1]), content_ids(0.0 * x[:1]))
    moved = x[:1].repeat(20, 1)
    moved[torch.arange(20), torch.arange(20)] += 2**-20
    assert len(content_ids(moved).unique()) == 20


def test_promises_hold_for_samples_that_come_one_by_one():
    torch.manual_seed(0)
    model, x = nn.Linear(50, 5), torch.randn(3500, 50)
    rates = []
    for seed in range(4):
        detector = OddsAreOdd(model, [("normal", 0.1)], draws=16, bounds=None, seed=seed)
        detector.fit(x[:2000].split(500), quiet=True)
        detector.calibrate(x[2000:3000].split(500), fpr=0.05, quiet=True)
        flagged = torch.cat([detector.detect(sample[None]) for sample in x[3000:]])
        rates.append(float(flagged.double().mean()))
    # 0.05 of 500, with the cutoffs' own error: with one noise for all they would be 0 or 0.18.
    assert all(abs(rate - 0.05) < 4 * (0.05 * 0.95 * (1 / 500 + 1 / 1000)) ** 0.5 for rate in rates)


def test_an_attack_of_the_user_s_own_meets_the_model_in_eval_mode():
    model = Norms().train()
    x = torch.rand(40, 3, 8, 8)
    detector = fitted(model, x, draws=2)
    before, modes = model.norm.running_mean.clone(), []

    def attack(model, x, y):
        modes.append(model.training)
        return model(x).mean() * 0 + torch.rand_like(x)

    y = (detector.predict(x) + 1) % 4
    detector.fit_correction([(x, y)], attack, quiet=True)
    assert modes == [False] and model.training and torch.equal(model.norm.running_mean, before)


def test_a_class_whose_gaps_never_vary_is_unknown_however_many_samples_it_has():
    class Constant(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :1] * 0 + torch.tensor([1.0, 0.0])

    detector = OddsAreOdd(Constant(), draws=2)
    with pytest.warns(UserWarning, match="predicted as 0, 1: these never flag"):
        assert detector.fit([torch.rand(50, 4)], quiet=True) == [0, 1]
