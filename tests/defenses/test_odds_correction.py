"""The correction: an optimum of the regression that it states, applied to flagged samples and to no other."""

import pytest
import torch
import torch.nn.functional as F

from fastadv import PGD, OddsAreOdd
from fastadv.defenses.odds_correction import correct, fit_corrections
from tests.attacks.nets import BatchInvariant, samples


def test_the_regression_is_at_its_optimum_and_keeps_the_standardisation_to_itself():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 6, generator=generator, dtype=torch.float64) * 10 + 5
    features[:, 2] = 3  # says nothing, and has no scale
    labels = (features[:, 0] > 5).long() * 2 + (features[:, 1] > 5).long() * (features[:, 0] > 5)
    predicted = torch.full((200,), 1)
    correction = fit_corrections(features, predicted, labels)[1]
    assert correction.labels.tolist() == [0, 2, 3]
    scale = torch.where(features.std(0) > 0, features.std(0, correction=0), 1)
    weight = (correction.weight * scale).requires_grad_()
    bias = (correction.bias + correction.weight @ features.mean(0)).requires_grad_()
    standard = (features - features.mean(0)) / scale
    index = torch.searchsorted(correction.labels, labels)
    loss = F.cross_entropy(standard @ weight.T + bias, index, reduction="sum") + weight.square().sum() / 2
    gradients = torch.autograd.grad(loss, (weight, bias))
    assert max(g.abs().max() for g in gradients) < 1e-4  # of values that begin above 10
    found = correct({1: correction}, features, predicted)
    assert (found == labels).double().mean() > 0.9


def test_classes_without_a_correction_keep_their_prediction():
    corrections = fit_corrections(torch.zeros(2, 3).double(), torch.tensor([0, 0]), torch.tensor([2, 2]))
    features = torch.randn(3, 3, dtype=torch.float64)
    assert correct(corrections, features, torch.tensor([0, 1, 2])).tolist() == [2, 1, 2]


@pytest.fixture(scope="module")
def setting():
    net, x = BatchInvariant(20, classes=4, seed=5), samples(500, 20)
    y = net(x).argmax(1)
    attack = PGD(eps=0.2, steps=15, early_stop=False)
    detector = OddsAreOdd(net, [("normal", 0.05), ("normal", 0.1)], draws=16)
    detector.fit([x[:300]], quiet=True)
    detector.cutoff = 0.5
    plain = detector.predict(attack(net, x[300:], y[300:]))
    detector.fit_correction(zip(x[:300].split(70), y[:300].split(70), strict=True), attack, quiet=True)
    return net, x[300:], y[300:], attack(net, x[300:], y[300:]), plain, detector


def test_flagged_samples_are_corrected_and_unflagged_predictions_stay_untouched(setting):
    net, x, y, x_adv, plain, detector = setting
    for batch in (x, x_adv):
        verdict = detector.examine(batch)
        assert torch.equal(verdict.label[~verdict.flagged], net(batch).argmax(1)[~verdict.flagged])
        assert torch.equal(verdict.predicted, net(batch).argmax(1))
        assert torch.equal(detector.predict(batch), verdict.label)
    verdict = detector.examine(x_adv)
    assert verdict.flagged.double().mean() > 0.3
    assert torch.equal(plain, verdict.predicted)  # nothing is corrected before it was learnt
    before = (plain == y)[verdict.flagged].double().mean()
    after = (verdict.label == y)[verdict.flagged].double().mean()
    assert after > before + 0.4


def test_labels_are_needed_and_so_is_an_attack_that_flips_something(setting):
    net, x, y, _, _, detector = setting
    with pytest.raises(ValueError, match=r"fit_correction: loader must give batches \(x, y\), got x alone"):
        detector.fit_correction([x], PGD(eps=0.1), quiet=True)
    with pytest.raises(ValueError, match="the attack flips no sample: nothing can be learnt"):
        detector.fit_correction([(x, y)], lambda model, x, y: x, quiet=True)
    with pytest.raises(ValueError, match="call fit first"):
        OddsAreOdd(net).fit_correction([(x, y)], PGD(eps=0.1), quiet=True)


def test_labels_that_are_no_classes_and_attacks_that_return_something_else_are_refused(setting):
    _, x, y, _, _, detector = setting
    before, name = detector.corrections, "OddsAreOdd.fit_correction"
    cases = [
        (y - 9, PGD(eps=0.1), f"{name}: y must be classes 0 .. 3, got "),
        (y + 4, PGD(eps=0.1), f"{name}: y must be classes 0 .. 3, got "),
        (y, lambda model, x, y: x[:7], f"{name}: attack must return samples [200, 20], got [7, 20]"),
        (y, lambda model, x, y: None, f"{name}: attack must return samples [200, 20], got NoneType"),
        (y, lambda model, x, y: x + 1, f"{name}: x must lie within bounds"),
    ]
    for labels, attack, message in cases:
        with pytest.raises(ValueError) as error:
            detector.fit_correction([(x, labels)], attack, quiet=True)
        assert str(error.value).startswith(message)
        assert "\n" not in str(error.value)
    assert detector.corrections is before


def test_fitting_anew_forgets_scores_corrections_and_the_cutoff(setting):
    net, x, y, *_ = setting
    detector = OddsAreOdd(net, draws=4)
    detector.fit([x], quiet=True)
    detector.calibrate([x], fpr=0.1, quiet=True)
    detector.fit_correction([(x, y)], PGD(eps=0.2, steps=5), quiet=True)
    detector.fit([x], quiet=True)
    assert detector.corrections == {}
    assert len(detector.held_out) == 0
    assert detector.cutoff == OddsAreOdd(net).cutoff
