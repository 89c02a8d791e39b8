"""What breaks "The odds are odd": matching logits, and the test's own statistic differentiated."""

import math

import pytest
import torch
from torch import nn

import fastadv
from fastadv import EOT, PGD, LogitMatching, OddsAreOdd, OddsEvasion
from fastadv.attacks import SampleLoss, logits_of_others
from fastadv.attacks.randomness import Step, mix
from fastadv.attacks.transforms import Noise
from fastadv.models import datasets, mnist_lenet5
from tests.attacks.nets import BatchInvariant, Recorder, samples

FIELDS = ("x_adv", "success", "distance", "loss")


@pytest.fixture(scope="module")
def net():
    return BatchInvariant(20, classes=4, seed=5)  # every class is predicted for some of the samples


@pytest.fixture(scope="module")
def x():
    return samples(60, 20, seed=2)


@pytest.fixture(scope="module")
def detector(net):
    detector = OddsAreOdd(net, [("normal", 0.1), ("sign", 0.05)], draws=128)
    detector.fit([samples(300, 20)], quiet=True)
    detector.cutoff = 1.5
    return detector


class Numbered(SampleLoss):
    """Notes which samples it is told about; rewards the logit of class row % 4."""

    def __init__(self):
        self.seen = []

    def check(self, samples):
        self.samples = samples

    def __call__(self, logits, y, target, rows):
        self.seen.append(rows)
        assert torch.equal(y, self.labels[rows])
        return logits.gather(1, rows[:, None] % 4).squeeze(1)


@pytest.mark.parametrize("gradient", [fastadv.Autograd(), EOT(Noise(0.05), 3, clean=True)])
def test_a_loss_is_told_which_samples_its_rows_are_through_chunks_copies_and_departures(net, x, gradient):
    loss = Numbered()
    loss.labels = net(x).argmax(1)
    attack = PGD(eps=0.2, steps=8, loss=loss, gradient=gradient, chunk=25)
    result = attack.run(net, x, loss.labels)
    assert loss.samples == 60
    assert torch.cat(loss.seen).unique().tolist() == list(range(60))
    assert min(map(len, loss.seen)) < 10  # solved samples have left
    assert result.success.any() and not result.success.all()
    logits = net(result.x_adv).detach()
    assert torch.equal(result.loss, logits.gather(1, (torch.arange(60) % 4)[:, None]).squeeze(1))


@pytest.mark.parametrize("early_stop", [True, False])
def test_each_sample_is_drawn_to_its_own_logits_whoever_is_attacked_with_it(net, x, early_stop):
    y, wanted = net(x).argmax(1), logits_of_others(net(x).detach())
    settings = {"eps": 0.2, "steps": 6, "early_stop": early_stop}
    whole = PGD(**settings, loss=LogitMatching(wanted), chunk=13).run(net, x, y)
    for row in (0, 17, 59):
        ids = torch.tensor([row])
        alone = PGD(**settings, loss=LogitMatching(wanted[ids])).run(net, x[ids], y[ids], ids=ids)
        for name in FIELDS:
            assert torch.equal(getattr(alone, name), getattr(whole, name)[ids])


def test_logit_matching_is_minus_the_squared_distance_and_comes_closer_step_by_step(net, x):
    wanted = logits_of_others(net(x).detach())
    loss = LogitMatching(wanted)
    logits, rows = net(x).detach(), torch.arange(60)
    expected = -(torch.linalg.vector_norm(logits.double() - wanted.double(), dim=1) ** 2)
    assert torch.allclose(loss(logits, rows, None, rows).double(), expected, rtol=1e-5)
    assert torch.equal(
        loss(logits[[5, 2]], rows[:2], None, torch.tensor([5, 2])), loss(logits, rows, None, rows)[[5, 2]]
    )
    reached = [PGD(eps=0.3, steps=steps, loss=loss, early_stop=False).run(net, x).loss for steps in (2, 40)]
    assert (reached[1] >= reached[0]).all()
    assert reached[1].mean() > 0.2 * expected.mean()


def test_the_logits_of_others_are_those_of_the_next_sample_of_another_class():
    logits = torch.eye(3)[[0, 0, 1, 2, 0]] * torch.arange(1.0, 6)[:, None]
    assert torch.equal(logits_of_others(logits), logits[[2, 2, 3, 4, 2]])
    with pytest.raises(ValueError, match="every sample has the same predicted class"):
        logits_of_others(torch.eye(3)[[0, 0]])
    with pytest.raises(
        ValueError, match=r"logits_of_others: logits must be \[B, K\] with B and K at least 1, got \[0, 3\]"
    ):
        logits_of_others(torch.empty(0, 3))


def test_logits_that_do_not_fit_are_refused_in_one_line(net, x):
    with pytest.raises(TypeError, match="LogitMatching: logits must be a floating-point tensor"):
        LogitMatching(torch.zeros(3, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"LogitMatching: logits must be \[B, K\], got shape \[4\]"):
        LogitMatching(torch.zeros(4))
    recorder = Recorder(net)
    with pytest.raises(ValueError, match=r"must be \[60, K\], a row for each sample, got \[59, 4\]"):
        PGD(eps=0.1, loss=LogitMatching(torch.zeros(59, 4)))(recorder, x)
    assert recorder.inputs == []
    with pytest.raises(ValueError, match=r"must be \[B, 4\] as the model's, got \[60, 5\]"):
        PGD(eps=0.1, loss=LogitMatching(torch.zeros(60, 5)))(net, x)


def statistic(net, detector, x, step, draws):
    """z-scores [B, K] by plain autograd through noise that is added as it is."""
    logits = net(x)
    t = logits.argmax(1)
    z = []
    for number, (kind, scale) in enumerate(detector.noise):
        seed = mix(step.key, step.number), number
        noisy = fastadv.ops.add_noise(x, draws, kind=kind, scale=scale, seed=seed, ids=step.ids)
        change = net(noisy.flatten(0, 1)).unflatten(0, (draws, len(x))) - logits
        gap = (change - change.gather(2, t.expand(draws, -1)[..., None])).mean(0)
        z.append((gap - detector.mean[number, t]) / detector.std[number, t].nan_to_num(nan=math.inf))
    return torch.stack(z).mean(0).scatter(1, t[:, None], -math.inf)


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("two_sided", [False, True])
def test_the_gradient_is_that_of_the_loss_and_of_the_detector_s_statistic(net, chunk, two_sided):
    net = BatchInvariant(20, classes=4, seed=5).double()
    x = samples(40, 20, dtype=torch.float64).round(decimals=1)  # some elements are at the box's faces
    detector = OddsAreOdd(net, [("normal", 0.1), ("sign", 0.05)], draws=8, two_sided=two_sided)
    detector.fit([samples(300, 20, dtype=torch.float64)], quiet=True)
    detector.cutoff = 0.8
    evasion, step = (
        OddsEvasion(detector, draws=8, weight=0.7, slack=0.5, chunk=chunk),
        Step(2, 9, 3, torch.arange(40)),
    )

    def objective(logits):
        return logits[:, 0].tanh()

    leaf = x.clone().requires_grad_()
    z = statistic(net, detector, leaf, step, 8)
    z = z.abs().masked_fill(z == -math.inf, -math.inf) if two_sided else z
    excess = (z - 0.3).relu()
    values = objective(net(leaf)) - 0.7 * excess.sum(1)
    (expected,) = torch.autograd.grad(values.sum(), leaf)
    assert (excess.sum(1) > 0).any() and (excess.sum(1) == 0).any()
    assert torch.allclose(evasion.estimate(net, x, objective, step), expected, rtol=1e-9, atol=1e-12)

    logits = net(x)
    judged, counts = evasion.judge(net, x, logits, objective(logits), step)
    assert torch.allclose(judged, values)
    assert torch.equal(counts, z.amax(1) <= 0.8 - 0.25)


@pytest.mark.parametrize("early_stop", [True, False])
def test_evasion_has_the_same_bits_in_any_chunks_and_whoever_is_attacked_with_a_sample(
    net, x, detector, early_stop
):
    settings = {"eps": 0.15, "steps": 5, "loss": "margin", "early_stop": early_stop}
    whole = PGD(**settings, gradient=OddsEvasion(detector, draws=7)).run(net, x)
    chunked = PGD(**settings, gradient=OddsEvasion(detector, draws=7, chunk=2), chunk=11).run(net, x)
    order = torch.tensor([40, 3, 22])
    some = PGD(**settings, gradient=OddsEvasion(detector, draws=7)).run(net, x[order], ids=order)
    for name in FIELDS:
        assert torch.equal(getattr(whole, name), getattr(chunked, name))
        assert torch.equal(getattr(whole, name)[order], getattr(some, name))


def test_success_is_misclassified_and_clear_of_the_cutoff(net, x, detector):
    y = net(x).argmax(1)
    # The detector's draws are others: z-scores differ by about one between the two.
    evasion = OddsEvasion(detector, slack=3.0)
    result = PGD(eps=0.25, steps=25, loss="margin", gradient=evasion).run(net, x, y)
    assert result.success.double().mean() > 0.3
    verdict = detector.examine(result.x_adv)
    assert torch.equal(verdict.predicted != y, (verdict.predicted != y) | result.success)
    assert verdict.flagged[result.success].double().mean() < 0.05
    # What plain PGD finds is misclassified no less, and flagged far more often.
    plain = detector.examine(PGD(eps=0.25, steps=25, early_stop=False)(net, x, y))
    assert plain.flagged[plain.predicted != y].double().mean() > 0.5


def test_nothing_counts_where_nothing_can_go_unnoticed(net, x, detector):
    wary = OddsAreOdd(net, detector.noise, draws=4)
    wary.mean, wary.std, wary.counts, wary.cutoff = detector.mean, detector.std, detector.counts, -1e9
    y = (net(x).argmax(1) + torch.arange(60) % 2) % 4  # half are misclassified to begin with
    for start in (True, False):
        attack = PGD(eps=0.2, steps=3, gradient=OddsEvasion(wary), random_start=start)
        result = attack.run(net, x, y)
        assert not result.success.any()
        assert (net(result.x_adv).argmax(1) != y).any()
    wary.cutoff = 1e9
    result = PGD(eps=0.2, steps=3, gradient=OddsEvasion(wary)).run(net, x, y)
    assert torch.equal(result.success, net(result.x_adv).argmax(1) != y)
    assert torch.equal(result.x_adv[1::2], x[1::2])


def test_fields_out_of_range_are_refused_by_name(net, detector):
    for settings, message in (
        ({"draws": 0}, "draws must be an integer of at least 1 or None, got 0"),
        ({"chunk": 1.5}, "chunk must be an integer of at least 1 or None, got 1.5"),
        ({"weight": 0.0}, "weight must be positive and finite, got 0.0"),
        ({"slack": -1.0}, "slack must be finite and at least 0, got -1.0"),
    ):
        with pytest.raises(ValueError) as error:
            OddsEvasion(detector, **settings)
        assert str(error.value) == f"OddsEvasion: {message}"
    with pytest.raises(ValueError, match="OddsEvasion: detector must be fitted"):
        OddsEvasion(OddsAreOdd(nn.Identity()))


@pytest.mark.parametrize("chunk", [None, 1])
def test_a_model_with_other_classes_than_the_detector_is_refused(detector, x, chunk):
    other = BatchInvariant(x[0].numel(), classes=7)
    with pytest.raises(
        ValueError, match=r"OddsEvasion: model must return logits \[3, 4\] as in the detector's fit"
    ):
        PGD(eps=0.1, gradient=OddsEvasion(detector, chunk=chunk))(
            other, x[:3], torch.zeros(3, dtype=torch.int64)
        )


def test_on_real_digits_matching_logits_lowers_the_score_of_pgd_noise_lowers_it_more_and_evasion_ends_it():
    try:
        model, (x, y) = mnist_lenet5(), datasets.digits()
    except fastadv.models.ModelError as error:
        pytest.skip(str(error))
    order = torch.randperm(5000, generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    detector = OddsAreOdd(model, [("normal", 0.05)], draws=8)
    detector.fit(x[:500].split(100), quiet=True)
    detector.calibrate(x[500:700].split(100), fpr=0.05, quiet=True)
    x, y = x[700:730], y[700:730]
    matching = LogitMatching(logits_of_others(model(x).detach()))
    eot = EOT(Noise(0.05, bounds=(0, 1)), 8, clean=True)
    attacks = {
        "pgd": PGD(eps=0.3, steps=20, early_stop=False),
        "matching": PGD(eps=0.3, steps=20, early_stop=False, loss=matching),
        "matching, noise": PGD(eps=0.3, steps=20, early_stop=False, loss=matching, gradient=eot),
        "evasion": PGD(eps=0.3, steps=20, loss="margin", gradient=OddsEvasion(detector)),
    }
    score, flagged = {}, {}
    for name, attack in attacks.items():
        verdict = detector.examine(attack(model, x, y))
        wrong = verdict.predicted != y
        assert wrong.double().mean() > 0.9
        score[name] = verdict.score[wrong].median()
        flagged[name] = verdict.flagged[wrong].double().mean()
    assert score["pgd"] > score["matching"] > score["matching, noise"] > detector.cutoff > score["evasion"]
    assert flagged["pgd"] > 0.9
    assert flagged["evasion"] < 0.25
