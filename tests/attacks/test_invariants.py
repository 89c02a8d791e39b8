"""What holds for every attack: those in every_attack.py."""

import dataclasses
import math

import pytest
import torch

from fastadv import CarliniWagner
from fastadv.attacks.losses import LOSSES
from tests.attacks.every_attack import MINIMAL_NORM, configured, every_attack
from tests.attacks.nets import BatchInvariant, Norms, Recorder, samples

pytestmark = every_attack
SHAPE = (3, 4, 5)


def setting(batch=12, dtype=torch.float32, device="cpu"):
    """(model, x, y): half the labels right, the others wrong from the start."""
    model = BatchInvariant(math.prod(SHAPE)).to(device)
    x = samples(batch, *SHAPE, dtype=dtype).to(device)
    with torch.no_grad():
        y = model(x).argmax(1)
    y[::3] = (y[::3] + 1) % 5
    return model, x, y


def of_x_itself(inputs, batch):
    """The evaluations that are not of several copies of the samples, as those of estimated gradients are."""
    return [seen for seen in inputs if len(seen) == batch]


def norm_of(delta, attack):
    if attack.norm == 0 and attack.pixels:
        delta = delta.ne(0).any(1, keepdim=True)
    return torch.linalg.vector_norm(delta.double().flatten(1), attack.norm, dim=1)


def assert_in_ball_and_box(attack, x_adv, x, bounds=(0.0, 1.0)):
    assert x_adv.dtype == x.dtype
    assert x_adv.shape == x.shape
    assert x_adv.isfinite().all()
    if bounds is not None:
        assert x_adv.min() >= torch.tensor(bounds[0], dtype=x.dtype)
        assert x_adv.max() <= torch.tensor(bounds[1], dtype=x.dtype)
    if isinstance(attack, CarliniWagner):
        return  # no ball
    # eps as the compute dtype knows it, and one ulp of the float32 difference.
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    eps = torch.as_tensor(attack.eps, dtype=wide).double()
    assert (norm_of(x_adv.double() - x.double(), attack) <= eps * (1 + 2**-23)).all()
    if attack.norm == math.inf:
        assert (x_adv - x).abs().max() <= attack.eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("early_stop", [True, False])
def test_1_x_adv_is_in_ball_and_box_in_the_inputs_own_dtype(make, early_stop, dtype, device):
    model, x, y = setting(dtype=dtype, device=device)
    attack = configured(make, early_stop=early_stop)
    recorder = Recorder(model)
    result = attack.run(recorder, x, y)
    assert_in_ball_and_box(attack, result.x_adv, x)
    assert all(seen.dtype == dtype for seen in recorder.inputs)
    # Success is a statement about the tensor that comes back.
    assert torch.equal(result.success, model(result.x_adv).argmax(1) != y)
    exact = norm_of(result.x_adv.double() - x.double(), attack)
    assert torch.allclose(result.distance, exact, rtol=2**-23, atol=0)
    assert (~torch.eq(result.x_adv, x)).any()


def test_2_with_early_stop_the_first_success_comes_back_and_the_sample_leaves(make):
    model, x, y = setting()
    attack = configured(make, early_stop=True)
    result = attack.run(model, x, y)
    solved_before = model(x).argmax(1) != y
    assert solved_before.any()
    assert torch.equal(result.x_adv[solved_before], x[solved_before])
    assert (result.queries[solved_before] == 1).all()
    attacked = result.success & ~solved_before
    assert attacked.any()
    if make in MINIMAL_NORM.values():
        assert torch.equal(result.x_adv[~result.success], x[~result.success])
        return  # the nearest success comes back, not the first
    for i in attacked.nonzero().flatten().tolist():
        recorder = Recorder(model)
        attack.run(recorder, x[i : i + 1], y[i : i + 1], ids=torch.tensor([i]))
        iterates = of_x_itself(recorder.inputs, 1)
        succeeds = [bool(model(seen).argmax(1) != y[i]) for seen in iterates]
        assert succeeds.index(True) == len(succeeds) - 1
        assert result.queries[i] == sum(len(seen) for seen in recorder.inputs)
        assert recorder.inputs[-1] is iterates[-1]
        assert torch.equal(iterates[-1][0], result.x_adv[i])


def test_2_without_early_stop_the_iterate_of_highest_loss_or_the_last_comes_back_evaluated(make):
    if make in MINIMAL_NORM.values():
        pytest.skip("of attacks without a ball the nearest success does")
    model, x, y = setting()
    attack = configured(make, early_stop=False)
    recorder = Recorder(model)
    result = attack.run(recorder, x, y)
    steps, restarts = getattr(attack, "steps", 1), getattr(attack, "restarts", 1)
    iterates = of_x_itself(recorder.inputs, len(x))
    assert len(iterates) == restarts * (steps + 1)
    assert (result.queries * len(x) == sum(len(seen) for seen in recorder.inputs)).all()
    moved = [seen for number, seen in enumerate(iterates) if number % (steps + 1) > 0]
    losses = torch.stack([value_of(attack, model(seen), y) for seen in moved])
    best = torch.full((len(x),), steps - 1) if attack.keep == "last" else losses.argmax(0)
    expected = torch.stack([moved[best[i]][i] for i in range(len(x))])
    assert torch.equal(result.x_adv, expected)
    assert torch.allclose(result.loss, losses.gather(0, best[None])[0])


def test_2_of_all_successes_the_nearest_comes_back_the_last_iterate_included(make):
    if make not in MINIMAL_NORM.values():
        pytest.skip("of attacks in a ball the iterate of highest loss does")
    model, x, y = setting()
    attack = make()
    for i in range(len(x)):
        recorder = Recorder(model)
        result = attack.run(recorder, x[i : i + 1], y[i : i + 1], ids=torch.tensor([i]))
        iterates = torch.cat(of_x_itself(recorder.inputs, 1))
        succeeds = model(iterates).argmax(1) != y[i]
        assert result.success == succeeds.any()
        found = norm_of(iterates - x[i], attack)[succeeds]
        # Distances are compared from the image that tanh space has of x, some 1e-6 away from it.
        assert (
            result.distance <= found.amin() + 1e-5 if succeeds.any() else torch.equal(result.x_adv[0], x[i])
        )
        assert result.queries == sum(len(seen) for seen in recorder.inputs)


def value_of(attack, logits, y):
    return LOSSES[attack.loss](logits, y, None)


def test_2_a_targeted_sample_already_at_its_target_comes_back_unchanged(make):
    model, x, _ = setting()
    target = model(x).argmax(1)
    target[::2] = (target[::2] + 1) % 5
    result = configured(make, early_stop=True).run(model, x, target=target)
    assert torch.equal(result.x_adv[1::2], x[1::2])
    assert result.success[1::2].all()
    assert torch.equal(result.success, model(result.x_adv).argmax(1) == target)


@pytest.mark.parametrize("early_stop", [True, False])
def test_3_a_result_depends_on_the_sample_seed_and_id_not_on_batch_mates_or_chunks(make, early_stop):
    model, x, y = setting()
    attack = configured(make, early_stop=early_stop)
    whole = attack.run(model, x, y)
    chunked = dataclasses.replace(attack, chunk=5).run(model, x, y)
    for whole_field, chunked_field in zip(whole, chunked, strict=True):
        assert torch.equal(whole_field, chunked_field)
    order = torch.tensor([7, 1, 10])
    some = attack.run(model, x[order], y[order], ids=order)
    for whole_field, some_field in zip(whole, some, strict=True):
        assert torch.equal(whole_field[order], some_field)


def test_4_nothing_of_the_users_changes(make):
    model = Norms()
    model.norm.eval()  # a frozen BatchNorm inside a model that trains
    model.head.bias.requires_grad_(False)
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, float(number))
    x, y = samples(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 0, 1])
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = {name: module.training for name, module in model.named_modules()}
    x_before, y_before, rng = x.clone(), y.clone(), torch.get_rng_state()
    make().run(model, x, y)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == [True] * 5 + [False]
    for number, parameter in enumerate(model.parameters()):
        assert torch.equal(parameter.grad, torch.full_like(parameter, float(number)))
    assert torch.equal(x, x_before)
    assert not x.requires_grad
    assert torch.equal(y, y_before)
    assert torch.equal(torch.get_rng_state(), rng)


def test_4_modes_are_restored_when_the_model_fails(make):
    class Failing(Norms):
        def forward(self, x):
            raise KeyError("broken")

    model = Failing()
    with pytest.raises(KeyError):
        make().run(model, samples(2, 3, 8, 8), torch.tensor([0, 1]))
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("when", ["always", "without gradients"])
def test_4_a_model_that_changes_its_input_in_place_is_refused_and_harms_nothing(make, when):
    linear = torch.nn.Linear(12, 5)

    def model(x):
        if when == "always" or not x.requires_grad:
            with torch.no_grad():
                x.mul_(0.5)
        return linear(x)

    x = samples(6, 12)
    before, y = x.clone(), linear(0.5 * x).argmax(1)
    with pytest.raises(ValueError, match="model must not change its input in place"):
        configured(make, early_stop=False).run(model, x, y)  # to the end, where the last iterate is evaluated
    assert torch.equal(x, before)


def test_5_gradients_of_parameters_are_never_computed(make):
    model = Norms()

    def refuse(_):
        raise AssertionError("the gradient of a parameter was computed")

    for parameter in model.parameters():
        parameter.register_hook(refuse)
    configured(make, early_stop=False).run(model, samples(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]))


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_6_only_the_model_runs_under_autocast_and_the_budget_is_kept(make, precision, device):
    seen = []

    class Watched(Norms):
        def forward(self, x):
            out = super().forward(x)
            seen.append((torch.is_autocast_enabled(x.device.type), x.dtype, out.dtype))
            return out

    x, y = samples(4, 3, 8, 8).to(device), torch.tensor([0, 1, 2, 3], device=device)
    attack = dataclasses.replace(configured(make, early_stop=False), autocast=precision)
    result = attack.run(Watched().to(device), x, y)
    assert set(seen) == {(True, torch.float32, precision)}
    assert result.loss.dtype == torch.float32
    assert not torch.is_autocast_enabled(device)
    assert_in_ball_and_box(attack, result.x_adv, x)
    # The iterates are float32's, not half's: most of them are no half number.
    assert (result.x_adv.to(precision).float() != result.x_adv).float().mean() > 0.5


def test_7_dropping_solved_samples_changes_no_other_samples_result(make):
    model, x, y = setting(batch=20)
    attack = configured(make, early_stop=True)
    result = attack.run(model, x, y)
    assert result.success.sum() > 0
    for i in range(len(x)):  # alone, there is nobody to drop
        alone = attack.run(model, x[i : i + 1], y[i : i + 1], ids=torch.tensor([i]))
        assert torch.equal(alone.x_adv[0], result.x_adv[i])
        assert alone.success[0] == result.success[i]


@pytest.mark.parametrize("shape", [(9,), (4, 5), (1, 28, 28), (2, 3, 4, 5)])
@pytest.mark.parametrize("bounds", [(-2.0, 3.0), None])
def test_8_any_sample_shape_and_any_bounds_or_none(make, bounds, shape, device):
    model = BatchInvariant(math.prod(shape)).to(device)
    x = (samples(5, *shape) * 5 - 2).to(device)
    y = model(x).argmax(1)
    if bounds is None and make in MINIMAL_NORM.values():
        with pytest.raises(ValueError, match="the image of tanh space"):
            make(bounds=None)
        return
    attack = dataclasses.replace(configured(make, early_stop=False), bounds=bounds)
    result = attack.run(model, x, y)
    x_adv = result.x_adv
    assert_in_ball_and_box(attack, x_adv, x, bounds)
    if make in MINIMAL_NORM.values():
        assert result.success.any()
        x_adv, x = x_adv[result.success], x[result.success]
    assert (x_adv != x).any(dim=tuple(range(1, x.dim()))).all()


def test_9_same_seed_same_result(make, device):
    model, x, y = setting(device=device)
    first, second = make().run(model, x, y), make().run(model, x, y)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradients_are_found_in_any_context(make, context):
    model, x, y = setting()
    with context():
        x_adv = make()(model, x.clone(), y.clone())
    assert torch.equal(x_adv, make()(model, x, y))
    assert not x_adv.requires_grad


def test_an_empty_batch_gives_an_empty_result(make):
    model, x, y = setting()
    result = make().run(model, x[:0], y[:0])
    assert result.x_adv.shape == (0, *SHAPE)
    assert result.success.shape == (0,)


def test_without_labels_the_models_own_predictions_are_attacked(make):
    model, x, _ = setting()
    predicted = model(x).argmax(1)
    assert torch.equal(make()(model, x), make()(model, x, predicted))
