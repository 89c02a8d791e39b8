import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastadv import PGD
from fastadv.defenses.adversarial_training import AdversarialLoss, Validation, fast_fgsm, madry_pgd
from fastadv.defenses.adversarial_training.loss import attacked
from tests.attacks.nets import Norms, Recorder, samples

X, Y = samples(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 0, 1])


def pgd(**settings):
    return PGD(eps=0.1, steps=3, early_stop=False, **settings)


def without_dropout():
    model = Norms()
    model.drop.p = 0.0
    return model.train()


def gradients(model):
    return [parameter.grad.clone() for parameter in model.parameters()]


def test_the_gradient_is_that_at_the_frozen_worst_case():
    model = without_dropout()
    reference = copy.deepcopy(model)
    loss = AdversarialLoss(pgd())(model, X, Y)
    loss.backward()
    x_adv = pgd()(reference, X, Y)
    expected = F.cross_entropy(reference(x_adv), Y)
    expected.backward()
    assert torch.equal(loss, expected)
    for one, other in zip(gradients(model), gradients(reference), strict=True):
        assert torch.equal(one, other)


def test_nothing_is_differentiated_through_an_attack_of_one_s_own():
    """x_adv = scale * x would give the scale a gradient if it were."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    scale = torch.ones((), requires_grad=True)
    AdversarialLoss(lambda model, x, y: scale * x)(model, X, Y).backward()
    assert scale.grad is None
    assert model[1].weight.grad is not None


def test_batchnorm_and_grad_know_of_the_update_s_forward_alone():
    model = without_dropout()
    reference = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7)
    adversarial = AdversarialLoss(pgd())
    adversarial(model, X, Y)
    assert all(torch.equal(grad, torch.full_like(grad, 7)) for grad in gradients(model))
    assert model.norm.num_batches_tracked == 1
    reference(pgd()(reference, X, Y))
    assert torch.equal(model.norm.running_mean, reference.norm.running_mean)
    assert torch.equal(model.norm.running_var, reference.norm.running_var)


def test_the_attack_meets_the_net_in_eval_mode_and_the_loss_in_the_modes_that_it_was_in():
    model, seen = without_dropout(), []
    model.drop.eval()  # a mode of its own, which must survive
    for module in (model.norm, model.drop):
        module.register_forward_pre_hook(lambda module, _: seen.append((type(module), module.training)))
    AdversarialLoss(pgd())(model, X, Y)
    assert seen[-2:] == [(nn.BatchNorm2d, True), (nn.Dropout, False)]
    assert len(seen) > 4
    assert not any(training for _, training in seen[:-2])


def test_a_mixture_is_the_weighted_sum_of_both_losses_in_one_forward_pass():
    model = Recorder(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)))
    loss = AdversarialLoss(pgd(), mix=0.75)(model, X, Y)
    x_adv = pgd()(model.model, X, Y)
    parts = [F.cross_entropy(model.model(x), Y) for x in (x_adv, X)]
    assert loss.item() == pytest.approx(0.75 * parts[0].item() + 0.25 * parts[1].item(), rel=1e-6)
    assert torch.equal(model.inputs[-1], torch.cat([x_adv, X]))


def test_without_an_attack_it_is_the_loss_itself_and_a_share_means_nothing():
    model = without_dropout().eval()
    expected = F.cross_entropy(model(X), Y)
    assert torch.equal(AdversarialLoss(None, mix=0.5)(model, X, Y), expected)


def test_it_counts_the_adversarial_samples_that_the_net_gets_right():
    model = without_dropout().eval()
    right = AdversarialLoss(pgd(), mix=0.5).evaluate(model, X, Y).right
    assert right == (model(pgd()(model, X, Y)).argmax(1) == Y).sum()


def test_a_loss_of_one_s_own_is_taken():
    model = without_dropout().eval()
    loss = AdversarialLoss(None, lambda logits, y: F.multi_margin_loss(logits, y))(model, X, Y)
    assert torch.equal(loss, F.multi_margin_loss(model(X), Y))


def test_under_autocast_the_net_computes_in_bfloat16_and_the_budget_stays_float32():
    seen = []

    class Watched(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            seen.append((x.dtype, out.dtype))
            return out

    model = nn.Sequential(nn.Flatten(), Watched(192, 4))
    given = []

    def attack(model, x, y):
        given.append(pgd(autocast=torch.bfloat16)(model, x, y))
        return given[0]

    loss = AdversarialLoss(attack, autocast=torch.bfloat16)(model, X, Y)
    assert loss.dtype == torch.float32
    assert {out for _, out in seen} == {torch.bfloat16}
    assert given[0].dtype == torch.float32
    assert (given[0] - X).abs().max() <= torch.tensor(0.1)
    loss.backward()
    assert model[1].weight.grad.dtype == torch.float32


def test_a_part_without_samples_has_no_loss_and_no_gradient():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    loss = AdversarialLoss(pgd())(model, X[:0], Y[:0], torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss == 0
    assert not any(grad.any() for grad in gradients(model))


def test_with_ids_a_sample_s_start_does_not_depend_on_its_batch():
    model = without_dropout().eval()
    ids = torch.tensor([5, 3, 8, 1, 0, 9])
    adversarial = AdversarialLoss(fast_fgsm(0.1))
    whole = adversarial.worst_case(model, X, Y, ids)
    for part in (slice(0, 2), slice(2, 6)):
        own = adversarial.worst_case(model, X[part], Y[part], ids[part])
        assert (own - whole[part]).abs().max() < 1e-6


def test_ids_are_given_to_an_attack_that_takes_them_and_to_no_other():
    model, ids, given = without_dropout(), torch.arange(6), []

    def plain(model, x, y):
        return x

    def named(model, x, y, ids=None):
        given.append(ids)
        return x

    def others(model, x, y, **others):
        given.append(others["ids"])
        return x

    class Method:
        def __call__(self, model, x, y, *, ids=None):
            given.append(ids)
            return x

    for attack in (plain, named, partial(named), others, Method()):
        for made in (
            AdversarialLoss(attack).worst_case(model, X, Y, ids),
            attacked("test", attack, model, X, Y, ids),
        ):
            assert torch.equal(made, X)
        Validation([(X, Y, ids)], attack)(model)
    assert len(given) == 3 * 4
    assert all(torch.equal(seen, ids) for seen in given)
    attacked("test", named, model, X, Y, None)
    assert given[-1] is None


def test_a_generator_gives_each_batch_starts_of_its_own():
    model = without_dropout().eval()
    adversarial = AdversarialLoss(fast_fgsm(0.1, step_size=0.0, seed=torch.Generator().manual_seed(0)))
    first, second = (adversarial.worst_case(model, X, Y) for _ in range(2))
    assert (first != second).float().mean() > 0.9


def test_the_published_constants():
    cifar, mnist, fast = madry_pgd(8 / 255), madry_pgd(0.3, steps=40, step_size=0.01), fast_fgsm(0.3)
    assert cifar.steps == 10
    assert cifar.step_size(0, 10) * 8 / 255 == pytest.approx(2 / 255)
    assert (mnist.steps, mnist.step_size) == (40, 0.01)
    assert (fast.steps, fast.step_size(0, 1)) == (1, 1.25)
    for attack in (cifar, mnist, fast):
        assert attack.random_start
        assert not attack.early_stop
        assert attack.keep == "last"


@pytest.mark.parametrize("steps", [0, -1, 2.5, float("inf"), True, "7"])
def test_steps_that_are_no_count_are_named(steps):
    with pytest.raises(ValueError, match=r"^madry_pgd: steps must be an integer of at least 1, got "):
        madry_pgd(0.1, steps=steps)


@pytest.mark.parametrize("make", [fast_fgsm, madry_pgd])
def test_for_norm_0_no_more_than_eps_elements_change_and_the_loss_rises(make):
    model = without_dropout().eval()
    x_adv = make(5, norm=0)(model, X, Y)
    assert ((x_adv != X).flatten(1).sum(1) <= 5).all()
    assert F.cross_entropy(model(x_adv), Y) > F.cross_entropy(model(X), Y)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"attack": PGD}, TypeError, r"AdversarialLoss: attack must be an instance, got the class PGD"),
        ({"attack": 3}, TypeError, "AdversarialLoss: attack must be callable or None, got 3"),
        ({"mix": 0}, ValueError, r"AdversarialLoss: mix must be a number in \(0, 1\], got 0"),
        ({"mix": 1.5}, ValueError, r"mix must be a number in \(0, 1\], got 1.5"),
        ({"mix": float("nan")}, ValueError, r"mix must be a number in \(0, 1\], got nan"),
        ({"autocast": torch.float64}, ValueError, "autocast must be torch.float16, torch.bfloat16 or None"),
    ],
)
def test_settings_that_are_none_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        AdversarialLoss(**{"attack": None} | change)


@pytest.mark.parametrize(
    ("attack", "error", "got"),
    [
        (pgd().run, TypeError, "AttackResult"),
        (lambda model, x, y: None, TypeError, "NoneType"),
        (lambda model, x, y: x[:1], ValueError, r"\[1, 3, 8, 8\]"),
        (lambda model, x, y: x.flatten(1), ValueError, r"\[6, 192\]"),
    ],
)
def test_an_attack_that_returns_something_else_is_told_what_is_wanted(attack, error, got):
    model = without_dropout()
    wanted = r"attack must return the adversarial samples, a tensor of the shape of x, \[6, 3, 8, 8\]"
    with pytest.raises(error, match=f"^AdversarialLoss: {wanted}, got {got}$"):
        AdversarialLoss(attack)(model, X, Y)
    with pytest.raises(error, match=f"^Validation: {wanted}, got {got}$"):
        Validation([(X, Y)], attack)(model)
