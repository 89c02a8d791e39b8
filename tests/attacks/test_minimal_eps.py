"""What minimal_eps finds with the attacks themselves, and what it refuses."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from fastadv import EOT, FGSM, PGD, Evolution, minimal_eps
from fastadv.attacks import SampleLoss
from fastadv.attacks.transforms import Noise
from tests.attacks.nets import BatchInvariant, Norms, Recorder, samples


def two_classes(features=12):
    """(model, w): the margin of class 1 is w . x plus a constant."""
    torch.manual_seed(3)
    model = nn.Linear(features, 2).double()
    return model, (model.weight[1] - model.weight[0]).detach()


@pytest.mark.parametrize("make", [FGSM, lambda **options: PGD(random_start=False, steps=10, **options)])
@pytest.mark.parametrize(("norm", "dual"), [(math.inf, 1), (2, 2), (1, math.inf), (1.5, 3), (3, 1.5)])
def test_a_linear_model_s_minimal_eps_is_the_margin_over_the_dual_norm(make, norm, dual):
    model, w = two_classes()
    x = samples(20, 12, dtype=torch.float64)
    logits = model(x).detach()
    exact = (logits[:, 1] - logits[:, 0]).abs() / torch.linalg.vector_norm(w, dual)
    upper = 1.01 * exact.max().item()
    found = minimal_eps(make(eps=upper, norm=norm, bounds=None), model, x, tolerance=1e-4)
    assert found.success.all()
    assert (found.eps >= exact * (1 - 1e-9)).all()
    assert (found.eps <= exact + 1e-4 * upper).all()
    assert (found.lower <= exact * (1 + 1e-5)).all()


ATTACKS = {
    "pgd": PGD(eps=0.3, steps=5),
    "pgd-l2": PGD(eps=2.0, norm=2, steps=5, restarts=2, loss="margin"),
    "fgsm": FGSM(eps=0.3),
    "pgd-absolute-step": PGD(eps=0.3, steps=5, step_size=0.02, random_start=False),
    "pgd-eot": PGD(eps=0.3, steps=3, gradient=EOT(Noise(0.05), 3)),
    "pgd-evolution": PGD(eps=0.3, steps=3, gradient=Evolution(0.03, 40)),
}
each_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
SHAPE = (3, 4, 5)


def setting(batch=10, dtype=torch.float32, device="cpu"):
    """(model, x, y): every third label wrong from the start."""
    model = BatchInvariant(math.prod(SHAPE)).to(device)
    x = samples(batch, *SHAPE, dtype=dtype).to(device)
    y = model(x).argmax(1)
    y[::3] = (y[::3] + 1) % 5
    return model, x, y


def assert_equal(found, others, index=slice(None)):
    for field, other in zip(found, others, strict=True):
        assert torch.equal(field[index], other)


@each_attack
def test_a_batch_is_as_many_single_runs_bit_for_bit_whatever_the_chunk(attack):
    model, x, y = setting()
    found = minimal_eps(attack, model, x, y)
    assert found.success.any()
    assert_equal(found, minimal_eps(replace(attack, chunk=3), model, x, y))
    for i in range(len(x)):
        alone = minimal_eps(attack, model, x[i : i + 1], y[i : i + 1], ids=torch.tensor([i]))
        assert_equal(found, alone, slice(i, i + 1))


@each_attack
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_found_is_misclassified_and_within_its_eps_and_nothing_else_moves(attack, dtype, device):
    model, x, y = setting(dtype=dtype, device=device)
    found = minimal_eps(attack, model, x, y)
    assert found.x_adv.dtype == dtype
    assert torch.equal(found.success, found.eps.isfinite())
    assert torch.equal(found.success, model(found.x_adv).argmax(1) != y)
    distance = torch.linalg.vector_norm((found.x_adv.double() - x.double()).flatten(1), attack.norm, dim=1)
    assert (distance <= found.eps * (1 + 2**-22)).all()
    assert torch.equal(found.x_adv[~found.success], x[~found.success])
    assert (found.lower[~found.success] == attack.eps).all()
    assert (found.lower < found.eps).logical_or(found.eps == 0).all()
    # The attack itself, run at eps, succeeds wherever the search says it can, and never below `lower`.
    assert (~replace(attack, eps=found.lower).run(model, x, y).success | (found.eps == 0)).all()


@each_attack
def test_a_misclassified_sample_has_eps_0_and_comes_back_as_it_is(attack):
    model, x, y = setting()
    found = minimal_eps(attack, model, x, y)
    assert (found.eps[::3] == 0).all()
    assert (found.queries[::3] == 1).all()
    assert torch.equal(found.x_adv[::3], x[::3])
    assert (found.eps.reshape(-1)[[1, 2, 4, 5]] > 0).all()


@each_attack
def test_every_query_is_counted_and_none_is_made_for_samples_that_are_done(attack):
    model, x, y = setting(batch=6)
    for i in range(len(x)):
        recorder = Recorder(model)
        found = minimal_eps(attack, recorder, x[i : i + 1], y[i : i + 1], ids=torch.tensor([i]))
        assert found.queries.item() == sum(len(seen) for seen in recorder.inputs)


def test_a_constant_model_is_never_fooled():
    def constant(x):
        return 0 * x.flatten(1)[:, :2] + torch.tensor([1.0, 0.0])

    x = samples(3, 4)
    found = minimal_eps(PGD(eps=0.5, steps=3), constant, x)
    assert not found.success.any()
    assert found.eps.tolist() == [math.inf] * 3
    assert found.lower.tolist() == [0.5] * 3
    assert torch.equal(found.x_adv, x)
    assert found.x_adv.data_ptr() != x.data_ptr()


def test_without_labels_the_model_s_predictions_are_taken_once_for_all_runs():
    model, x, _ = setting()
    predicted = model(x).argmax(1)
    attack = replace(ATTACKS["pgd"], chunk=4)
    found, given_labels = minimal_eps(attack, model, x), minimal_eps(attack, model, x, predicted)
    assert_equal(found._replace(queries=found.queries - 1), given_labels)


def test_targets_are_reached_and_a_sample_at_its_target_has_eps_0():
    model, x, y = setting()
    target = model(x).argmax(1)
    target[::2] = (target[::2] + 1) % 5
    found = minimal_eps(PGD(eps=0.6, steps=10), model, x, y, target=target)
    assert (found.eps[1::2] == 0).all()
    assert (found.eps[::2] > 0).all()
    assert torch.equal(found.success, model(found.x_adv).argmax(1) == target)
    assert found.success[::2].any()
    assert_equal(found, minimal_eps(PGD(eps=0.6, steps=10, early_stop=False), model, x, y, target=target))


def test_step_sizes_and_losses_that_know_their_samples_go_with_them():
    class Towards(SampleLoss):
        """The logit of a class of each sample's own."""

        def __init__(self, classes):
            self.classes = classes

        def __call__(self, logits, y, target, rows):
            return logits.gather(1, self.classes[rows][:, None])[:, 0]

        def check(self, samples):
            if samples != len(self.classes):
                raise ValueError("one class for each sample")

    model, x, y = setting()
    classes, step_size = (y + 1 + torch.arange(10) % 4) % 5, torch.linspace(0.01, 0.1, 10)
    attack = PGD(eps=0.5, steps=6, loss=Towards(classes), step_size=step_size)
    found = minimal_eps(attack, model, x, y)
    assert len(set(found.eps.tolist())) > 3
    for i in range(len(x)):
        one = slice(i, i + 1)
        own = replace(attack, loss=Towards(classes[one]), step_size=step_size[one])
        assert_equal(found, minimal_eps(own, model, x[one], y[one], ids=torch.tensor([i])), one)
    with pytest.raises(ValueError, match="one class for each sample"):
        minimal_eps(replace(attack, loss=Towards(classes[:9])), model, x, y)


def test_a_generator_gives_other_numbers_in_each_run_and_the_same_from_the_same_state():
    model, x, y = setting()

    def search():
        attack = replace(ATTACKS["pgd"], seed=torch.Generator().manual_seed(1))
        return minimal_eps(attack, model, x, y)

    assert_equal(search(), search())


def test_nothing_of_the_user_s_changes():
    model = Norms()
    model.norm.eval()
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, float(number))
    x = samples(6, 3, 8, 8)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = {name: module.training for name, module in model.named_modules()}
    before, rng = x.clone(), torch.get_rng_state()
    eps = torch.full((6,), 0.5)
    minimal_eps(PGD(eps=eps, steps=3), model, x)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    for number, parameter in enumerate(model.parameters()):
        assert torch.equal(parameter.grad, torch.full_like(parameter, float(number)))
    assert torch.equal(x, before)
    assert torch.equal(eps, torch.full((6,), 0.5))
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("eps", [1e-6, 0.3])
def test_progress_never_goes_back_and_reaches_the_end(chunk, eps):
    model, x, y = setting()
    seen = []
    minimal_eps(
        PGD(eps=eps, steps=4, chunk=chunk),
        model,
        x,
        y,
        on_step=lambda step, steps: seen.append((step, steps)),
    )
    done = [step for step, _ in seen]
    assert done == sorted(done)
    assert len({steps for _, steps in seen}) == 1
    assert done[0] >= 1
    assert seen[-1][0] == seen[-1][1]


def test_an_empty_batch_gives_an_empty_result():
    model, x, _ = setting()
    found = minimal_eps(PGD(eps=0.3), model, x[:0])
    assert found.x_adv.shape == (0, *SHAPE)
    assert [len(field) for field in found] == [0] * 5


REFUSED = [
    ({"attack": PGD}, TypeError, "attack must have an eps up to which to search, as PGD"),
    ({"attack": "pgd"}, TypeError, "attack must have an eps up to which to search, as PGD"),
    ({"tolerance": 0}, ValueError, "tolerance must be a number from 1e-06 to 1, got 0"),
    ({"tolerance": 1.5}, ValueError, "tolerance must be a number from 1e-06 to 1, got 1.5"),
    ({"tolerance": math.nan}, ValueError, "tolerance must be a number from 1e-06 to 1, got nan"),
    ({"tolerance": "fine"}, ValueError, "tolerance must be a number from 1e-06 to 1, got 'fine'"),
    ({"x": torch.full((2, 3), 1.5)}, ValueError, r"x must lie within bounds \(0.0, 1.0\), got \[1.5, 1.5\]"),
    ({"y": torch.tensor([0.0, 1.0])}, TypeError, "y must be int64, got torch.float32"),
    ({"attack": PGD(eps=torch.ones(3))}, ValueError, r"eps must be a number or have shape \[2\], got \[3\]"),
    (
        {"attack": PGD(eps=0.1, step_size=torch.ones(3))},
        ValueError,
        r"step_size must be a number or have shape \[2\], got \[3\]",
    ),
    ({"model": lambda x: x[:, 0], "y": None}, ValueError, r"model must return logits \[2, K\]"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), REFUSED)
def test_bad_arguments_are_refused_by_name_before_any_work(wrong, error, message):
    arguments = {"attack": PGD(eps=0.1), "model": lambda x: x, "x": samples(2, 3), "y": torch.tensor([0, 1])}
    with pytest.raises(error, match=f"minimal_eps: {message}"):
        minimal_eps(**{**arguments, **wrong})


def test_lower_is_the_largest_failure_below_eps_though_a_nearer_success_skips_one():
    generator = torch.Generator().manual_seed(2)
    w = torch.randn(30, generator=generator).double()
    x = torch.rand(8, 30, generator=torch.Generator().manual_seed(3)).double()
    bias = -(x @ w).max() - 0.2

    def model(z):
        score = z @ w + bias
        return torch.stack([-score, score], 1) / 2

    attack = PGD(eps=0.5, norm=2)
    found = minimal_eps(attack, model, x[:1], torch.zeros(1, dtype=torch.int64))
    assert 0 < found.lower < found.eps
    again = PGD(eps=found.lower.item(), norm=2).run(model, x[:1], torch.zeros(1, dtype=torch.int64))
    assert not again.success
    assert (found.eps - found.lower) * 256 / 0.5 < 1.1
