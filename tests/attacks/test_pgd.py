"""PGD and FGSM: known optima, the published iterates, targets, restarts, schedules."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastadv import EOT, FGSM, PGD, Autograd, Evolution, StepDecay
from fastadv.attacks.schedules import ConstantStep, SpreadDecay, StagedSamples
from fastadv.attacks.transforms import Noise
from tests.attacks.nets import BatchInvariant, Recorder, samples


def linear(features=6, classes=2):
    torch.manual_seed(3)
    return nn.Linear(features, classes).double()


@pytest.mark.parametrize("attack", [FGSM, PGD])
@pytest.mark.parametrize("norm", [math.inf, 2])
def test_a_linear_model_meets_its_exact_worst_case(attack, norm):
    """The margin of a linear model falls by exactly eps * ||w||_q, 1/p + 1/q = 1 (the survey's section 5)."""
    model, eps = linear(), 0.25
    x = samples(5, 6, dtype=torch.float64)
    y = model(x).argmax(1)
    x_adv = attack(eps=eps, norm=norm, bounds=None, early_stop=False, loss="margin")(model, x, y)
    weight = (model.weight[1 - y] - model.weight[y]).detach()
    dual = torch.linalg.vector_norm(weight, 1 if norm == math.inf else 2, dim=1)

    def margins(z):
        logits = model(z)
        return logits.gather(1, 1 - y[:, None]).squeeze(1) - logits.gather(1, y[:, None]).squeeze(1)

    # From a random start, 40 steps on the l2 sphere leave an angle of about 1e-3 to the optimum.
    rtol = 1e-5 if attack is PGD and norm == 2 else 1e-9
    assert torch.allclose(margins(x_adv) - margins(x), eps * dual, rtol=rtol, atol=0)


def test_fgsm_is_one_step_of_pgd_from_the_clean_sample():
    model, x = BatchInvariant(12), samples(8, 12)
    y = model(x).argmax(1)
    fgsm = FGSM(eps=0.1, early_stop=False)(model, x, y)
    pgd = PGD(eps=0.1, step_size=0.1, steps=1, random_start=False, early_stop=False)(model, x, y)
    x.requires_grad_()
    (grad,) = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)
    assert torch.equal(fgsm, pgd)
    assert torch.allclose(fgsm, (x + 0.1 * grad.sign()).clamp(0, 1).detach(), atol=1e-7)


class SmallCNN(nn.Sequential):
    """A net whose loss rises smoothly enough for two implementations to stay together for 40 steps."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Softplus(),
            nn.Conv2d(8, 8, 3, 2, 1),
            nn.Softplus(),
            nn.Flatten(),
            nn.Linear(8 * 64, 10),
        )


def test_linf_iterates_are_torchattacks_iterates():
    torchattacks = pytest.importorskip("torchattacks")
    model, x = SmallCNN().eval(), samples(16, 3, 16, 16)
    y = model(x).argmax(1)
    ours, theirs = Recorder(model).eval(), Recorder(model).eval()
    settings = {"eps": 8 / 255, "steps": 40, "random_start": False}
    PGD(step_size=2 / 255, early_stop=False, **settings)(ours, x, y)
    final = torchattacks.PGD(theirs, alpha=2 / 255, **settings)(x, y)
    assert len(theirs.inputs) == 40
    for mine, published in zip(ours.inputs, [*theirs.inputs, final], strict=True):
        assert torch.allclose(mine, published, rtol=0, atol=1e-6)


def test_l2_loss_is_no_lower_than_torchattacks():
    torchattacks = pytest.importorskip("torchattacks")
    model, x = SmallCNN().eval(), samples(16, 3, 16, 16)
    y = model(x).argmax(1)
    settings = {"eps": 0.5, "steps": 40, "random_start": False}
    result = PGD(norm=2, step_size=0.1, early_stop=False, **settings).run(model, x, y)
    published = torchattacks.PGDL2(model, alpha=0.1, **settings)(x, y)
    assert (result.loss >= F.cross_entropy(model(published), y, reduction="none") - 1e-6).all()


def test_targeted_attack_reaches_targets_given_as_tensor_or_int():
    torch.manual_seed(0)
    model, x = nn.Linear(30, 5), samples(10, 30)
    y = model(x).argmax(1)
    target = (y + 1) % 5
    for loss in ("ce", "margin", "dlr", "logit_gap"):
        result = PGD(eps=0.5, steps=60, loss=loss).run(model, x, y, target=target)
        assert torch.equal(result.success, model(result.x_adv).argmax(1) == target)
        assert result.success.all(), loss
    same = PGD(eps=0.3).run(model, x, target=torch.full((10,), 2))
    assert torch.equal(PGD(eps=0.3).run(model, x, target=2).x_adv, same.x_adv)


@pytest.mark.parametrize("norm", [math.inf, 2])
def test_more_restarts_never_lower_any_samples_loss(norm):
    model, x = BatchInvariant(20), samples(16, 20)
    y = model(x).argmax(1)
    losses = [
        PGD(eps=0.05, norm=norm, steps=2, restarts=r, early_stop=False).run(model, x, y).loss
        for r in (1, 3, 9)
    ]
    assert (losses[1] >= losses[0]).all()
    assert (losses[2] >= losses[1]).all()
    assert (losses[2] > losses[0]).any()


def test_random_starts_differ_by_seed_and_a_generator_gives_a_new_one_each_call():
    model, x = BatchInvariant(20), samples(4, 20)
    y = model(x).argmax(1)

    def attack(seed):
        return PGD(eps=0.1, steps=1, step_size=0.0, seed=seed, early_stop=False)(model, x, y)

    assert torch.equal(attack(1), attack(1))
    assert not torch.equal(attack(1), attack(2))
    generator = torch.Generator().manual_seed(5)
    first, second = attack(generator), attack(generator)
    assert not torch.equal(first, second)
    assert torch.equal(attack(torch.Generator().manual_seed(5)), first)


def test_eps_and_step_size_per_sample_act_as_if_each_sample_were_alone():
    model, x = BatchInvariant(20), samples(4, 20)
    y = model(x).argmax(1)
    eps, step_size = torch.tensor([0.0, 0.05, 0.1, 0.4]), torch.tensor([0.01, 0.02, 0.0, 0.1])
    for early_stop in (True, False):
        result = PGD(eps=eps, step_size=step_size, steps=8, early_stop=early_stop, chunk=3).run(model, x, y)
        for i in range(4):
            alone = PGD(eps=eps[i].item(), step_size=step_size[i].item(), steps=8, early_stop=early_stop).run(
                model, x[i : i + 1], y[i : i + 1], ids=torch.tensor([i])
            )
            assert torch.equal(alone.x_adv[0], result.x_adv[i])
        assert torch.equal(result.x_adv[0], x[0])


def test_eps_zero_returns_the_sample_itself_but_not_the_same_memory():
    model, x = BatchInvariant(20), samples(4, 20)
    x_adv = PGD(eps=0.0)(model, x)
    assert torch.equal(x_adv, x)
    assert x_adv.data_ptr() != x.data_ptr()


def test_default_schedule_crosses_the_ball_and_then_takes_quarter_steps():
    for steps in (1, 2, 3, 5, 10, 40, 60, 100):
        sizes = [StepDecay()(step, steps) for step in range(steps)]
        assert sizes == sorted(sizes, reverse=True)
        assert sum(sizes) >= 1.5
    assert [StepDecay()(step, 60) for step in (0, 39, 40, 59)] == [0.25, 0.25, 0.0625, 0.0625]
    assert StepDecay(0.5)(0, 60) == 0.5
    assert StepDecay()(0, 2) == 1.25


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -0.1, True, "0.1", None, torch.tensor(0.1)])
def test_a_schedule_of_no_number_in_range_is_refused_when_it_is_made(wrong):
    for schedule in (ConstantStep, StepDecay):
        message = f"^{schedule.__name__}: fraction must be a positive, finite number, got "
        with pytest.raises(ValueError, match=message):
            schedule(wrong)
    with pytest.raises(ValueError, match=r"^SpreadDecay: first must be a number in \[0, 1\], got "):
        SpreadDecay(wrong)


def test_steps_of_length_zero_are_no_schedule_and_a_spread_of_zero_is_one():
    for schedule in (ConstantStep, StepDecay):
        with pytest.raises(ValueError, match="fraction must be a positive, finite number, got 0"):
            schedule(0)
    assert SpreadDecay(0)(0, 10) == 0


def test_step_size_may_be_any_schedule_in_fractions_of_eps():
    model, x = BatchInvariant(20), samples(4, 20)
    y = model(x).argmax(1)
    common = {"eps": 0.2, "steps": 5, "random_start": False, "early_stop": False}
    absolute = PGD(step_size=0.05, **common)(model, x, y)
    assert torch.equal(PGD(step_size=ConstantStep(0.25), **common)(model, x, y), absolute)
    assert torch.equal(PGD(step_size=lambda step, steps: 0.25, **common)(model, x, y), absolute)


def test_cosine_like_decay_ends_closer_to_a_maximum_inside_the_ball():
    class Bowl(nn.Module):
        def forward(self, x):
            loss = -(x - 0.53).square().sum(1)
            return torch.stack((torch.zeros_like(loss), loss), 1)

    x, y = torch.full((1, 8), 0.5, dtype=torch.float64), torch.tensor([0])
    settings = {"eps": 0.1, "steps": 30, "early_stop": False, "random_start": False}
    losses = [
        PGD(loss=lambda z, y, t: z[:, 1], step_size=size, **settings).run(Bowl(), x, y).loss
        for size in (None, ConstantStep(0.25))
    ]
    assert losses[0] >= losses[1]


def test_a_callable_loss_is_maximised_and_must_give_one_value_per_sample():
    model, x = BatchInvariant(20), samples(4, 20)
    y = model(x).argmax(1)
    result = PGD(eps=0.1, loss=lambda logits, y, target: logits[:, 3], early_stop=False).run(model, x, y)
    assert (result.loss > model(x)[:, 3]).all()
    assert torch.allclose(result.loss, model(result.x_adv)[:, 3])
    with pytest.raises(ValueError, match=r"PGD: loss must return one value per sample, \[4\], got \[\]"):
        PGD(eps=0.1, loss=lambda logits, y, target: logits.sum())(model, x, y)


def test_losses_that_need_more_than_there_is_say_so():
    model, x = BatchInvariant(6, classes=2), samples(3, 6)
    y = model(x).argmax(1)
    with pytest.raises(ValueError, match="dlr loss needs at least 3 classes, got 2: use 'margin'"):
        PGD(eps=0.1, loss="dlr")(model, x, y)
    with pytest.raises(ValueError, match="'logit_gap' is a targeted objective"):
        PGD(eps=0.1, loss="logit_gap")(model, x, y)
    with pytest.raises(ValueError, match="targeted dlr loss needs at least 4 classes, got 3"):
        PGD(eps=0.1, loss="dlr")(BatchInvariant(6, classes=3), x, target=0)


def test_wrong_labels_of_a_later_chunk_are_refused_before_its_work():
    model, x = Recorder(BatchInvariant(6)), samples(6, 6)
    with pytest.raises(ValueError, match=r"PGD: y must be classes 0 .. 4, got 0 .. 99"):
        PGD(eps=0.1, steps=20, chunk=1)(model, x, torch.tensor([0, 1, 2, 3, 4, 99]))
    assert len(model.inputs) == 1


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("gradient", [Autograd(), Evolution(0.03, 10)])
def test_the_call_gives_the_last_iterate_without_an_evaluation_of_it(early_stop, gradient):
    model, x = BatchInvariant(20), samples(16, 20)
    y = model(x).argmax(1)
    y[::4] = (y[::4] + 1) % 5
    attack = PGD(eps=0.03, steps=5, keep="last", early_stop=early_stop, gradient=gradient, chunk=6)
    called, run = Recorder(model), Recorder(model)
    result = attack.run(run, x, y)
    assert torch.equal(attack(called, x, y), result.x_adv)
    assert 0 < result.success.sum() < 16
    chunks = 3
    assert len(run.inputs) == len(called.inputs) + chunks
    kept = PGD(eps=0.03, steps=5, early_stop=early_stop, gradient=gradient, chunk=6).run(model, x, y)
    assert (result.loss <= kept.loss).all()


def test_with_one_step_the_last_iterate_is_the_best():
    model, x = BatchInvariant(20), samples(16, 20)
    y = model(x).argmax(1)
    one = PGD(eps=0.1, steps=1, early_stop=False)
    last = PGD(eps=0.1, steps=1, early_stop=False, keep="last")
    for best, kept in zip(one.run(model, x, y), last.run(model, x, y), strict=True):
        assert torch.equal(best, kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": "first"}, "PGD: keep must be 'best' or 'last', got 'first'"),
        ({"keep": "last", "restarts": 2}, "PGD: keep must be 'best' with several restarts, got 'last'"),
    ],
)
def test_a_keep_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        PGD(eps=0.1, **change)


@pytest.mark.parametrize("wrong", [-0.1, float("nan"), float("inf")])
def test_a_bad_eps_among_per_sample_ones_is_refused_by_its_value(wrong):
    for eps in (torch.tensor([0.1, wrong, 0.2]), torch.tensor(wrong)):
        with pytest.raises(ValueError, match=rf"PGD: eps must be finite and at least 0, got {wrong}"):
            PGD(eps=eps)(BatchInvariant(6), samples(3, 6))


def test_numpy_numbers_are_numbers():
    model, x = BatchInvariant(6), samples(3, 6)
    attack = PGD(eps=np.float32(0.1), steps=np.int64(3), restarts=np.int64(1), seed=np.int64(0))
    expected = PGD(eps=float(np.float32(0.1)), steps=3)(model, x, target=2)
    assert torch.equal(attack(model, x, target=np.int64(2)), expected)


@pytest.mark.parametrize("field", [{"seed": None}, {"seed": 1.5}, {"seed": -1}, {"gradient": None}])
def test_fields_of_a_wrong_type_are_refused_by_name(field):
    with pytest.raises((TypeError, ValueError), match=f"PGD: {next(iter(field))} must be"):
        PGD(eps=0.1, **field)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: PGD(eps=0.1, gradient=Evolution),
            "PGD: gradient must be an instance, got the class Evolution",
        ),
        (lambda: FGSM(eps=0.1, gradient=EOT), "FGSM: gradient must be an instance, got the class EOT"),
        (lambda: PGD(eps=0.1, step_size=StepDecay), "PGD: step_size must be an instance, got the class Step"),
        (
            lambda: PGD(eps=0.1, loss=nn.CrossEntropyLoss),
            "PGD: loss must be an instance, got the class Cross",
        ),
        (
            lambda: EOT(Noise, 5),
            r"EOT: transform must be an instance, got the class Noise: write Noise\(...\)",
        ),
        (
            lambda: Evolution(0.1, StagedSamples),
            "Evolution: samples must be an instance, got the class Staged",
        ),
    ],
)
def test_a_class_in_place_of_an_instance_is_refused_when_the_attack_is_made(make, message):
    with pytest.raises(TypeError, match=message) as raised:
        make()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("early_stop", [True, False])
def test_progress_is_reported_once_per_step_and_reaches_the_end(early_stop):
    model, x = BatchInvariant(20), samples(7, 20)
    y = model(x).argmax(1)
    seen = []
    attack = PGD(eps=0.4, steps=6, restarts=2, chunk=3, early_stop=early_stop)
    attack(model, x, y, on_step=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (36, 36)
    assert all(total == 36 for _, total in seen)
    assert seen == sorted(seen)


def test_a_model_that_turns_to_nan_is_no_success():
    class Cliff(nn.Module):
        def forward(self, x):
            logits = torch.stack((x.sum(1), 1 + 0 * x.sum(1)), 1)
            return torch.where((x.sum(1) > 5).unsqueeze(1), logits, logits / 0 * 0)

    x = torch.full((2, 8), 0.65)
    y = Cliff()(x).argmax(1)
    result = PGD(eps=0.3, random_start=False, steps=5).run(Cliff(), x, y)
    assert not result.success.any()
    assert result.x_adv.isfinite().all()


def test_memory_format_of_the_input_is_kept():
    model = SmallCNN().eval()
    x = samples(4, 3, 16, 16).to(memory_format=torch.channels_last)
    y = model(x).argmax(1)
    x_adv = PGD(eps=0.01, steps=3, early_stop=False)(model, x, y)
    assert x_adv.is_contiguous(memory_format=torch.channels_last)


def test_the_model_need_not_be_a_module():
    weight = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    result = PGD(eps=0.3).run(lambda x: x @ weight, samples(6, 20))
    assert result.success.any()


def test_a_gradient_may_be_any_callable_of_model_x_and_objective():
    def doubled(model, x, objective):
        logits, values, gradient = Autograd()(model, x, objective)
        return logits, values, 2 * gradient

    model, x = BatchInvariant(20), samples(6, 20)
    settings = {"eps": 0.1, "rule": "gradient", "step_size": 0.02, "random_start": False}
    mine = PGD(**settings, gradient=doubled)(model, x)
    assert torch.equal(mine, PGD(**settings | {"step_size": 0.04})(model, x))


def test_attacks_compare_and_print_as_values():
    assert PGD(eps=0.1) == PGD(eps=0.1, gradient=Autograd())
    assert PGD(eps=0.1) != PGD(eps=0.2)
    assert repr(FGSM(eps=0.1)).startswith("FGSM(eps=0.1, norm=inf, pixels=False, loss='ce'")
