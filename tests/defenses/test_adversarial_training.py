import copy

import pytest
import torch
from torch import nn

from fastadv import PGD
from fastadv.defenses import train


@pytest.fixture
def data():
    """Two classes that a small first feature tells for sure, and a wide, noisy second one mostly."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 2, (400,), generator=generator)
    sign = 2.0 * y[:, None] - 1
    wide = 0.5 + 0.3 * sign + 0.12 * torch.randn(400, 1, generator=generator)
    x = torch.cat([0.5 + 0.02 * sign, wide], 1).clamp(0, 1)
    return x, y


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))


def accuracy(model, x, y):
    return (model(x).argmax(1) == y).double().mean().item()


def attack(seed):
    return PGD(eps=0.1, steps=5, early_stop=False, seed=seed)


def test_adversarial_training_makes_a_net_robust_that_natural_training_does_not(data):
    natural, robust = net(), net()
    train(natural, *data, epochs=30, weight_decay=0)
    train(robust, *data, epochs=30, weight_decay=0, attack=attack(torch.Generator().manual_seed(0)))
    evaluate = PGD(eps=0.1, steps=20)
    assert accuracy(natural, *data) > 0.99
    under_attack = [accuracy(model, evaluate(model, *data), data[1]) for model in (natural, robust)]
    assert under_attack[0] < 0.75 < 0.9 < under_attack[1]


def test_training_is_a_matter_of_its_seed_and_leaves_the_global_generator(data):
    state = torch.get_rng_state()
    models = [net() for _ in range(3)]
    torch.set_rng_state(state)
    for model, seed in zip(models, (1, 1, 2), strict=True):
        train(model, *data, epochs=2, attack=attack(torch.Generator().manual_seed(seed)), seed=seed)
    assert torch.equal(torch.get_rng_state(), state)
    first, again, other = (nn.utils.parameters_to_vector(model.parameters()) for model in models)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_attack_meets_the_net_as_it_is_and_the_update_is_made_on_what_it_returns_in_train_mode(data):
    model, seen = net(), []
    model.register_forward_pre_hook(lambda module, args: seen.append((module.training, args[0])))

    def shift(model, x, y):
        return x + 1

    train(model, *data, epochs=1, attack=shift, batch_size=400)
    ((training, x),) = seen
    assert training
    assert torch.equal(x.sort(0).values, (data[0] + 1).sort(0).values)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_epochs_and_steps_are_told_as_they_come_the_short_last_batch_included(data):
    epochs, steps = [], []
    train(
        net(),
        *data,
        epochs=2,
        batch_size=150,
        on_epoch=epochs.append,
        on_step=lambda step, all_steps: steps.append((step, all_steps)),
    )
    assert epochs == [0, 1]
    assert steps == [(n, 6) for n in range(1, 7)]


def test_the_last_updates_are_the_smallest(data):
    model, moves = net(), []
    before = copy.deepcopy(list(model.parameters()))

    def on_step(step, steps):
        nonlocal before
        now = copy.deepcopy(list(model.parameters()))
        moves.append(sum((a - b).abs().max() for a, b in zip(now, before, strict=True)).item())
        before = now

    train(model, *data, epochs=10, on_step=on_step)
    assert 0 < moves[-1] < 0.02 * max(moves)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs and batch_size must be at least 1"),
        ({"batch_size": 0}, "epochs and batch_size must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate positive"),
        (
            {"y": torch.zeros(3, dtype=torch.int64)},
            "x and y must be of one length, at least 1, got 400 and 3",
        ),
        ({"x": torch.zeros(0, 2), "y": torch.zeros(0, dtype=torch.int64)}, "got 0 and 0"),
    ],
)
def test_numbers_out_of_range_are_refused_before_any_work(data, change, message):
    model = net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        train(model, **{"x": data[0], "y": data[1], "epochs": 1} | change)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
