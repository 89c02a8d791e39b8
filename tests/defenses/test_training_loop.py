import csv
import json
import sys
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset

from fastadv import PGD
from fastadv.defenses.adversarial_training import (
    AdversarialLoss,
    Log,
    Numbered,
    SplitBatches,
    TensorBatches,
    Trainer,
    Validation,
    fast_fgsm,
    rise_and_fall,
)
from tests.defenses.training import BATCHES, EPOCHS, data, loader, net, trainer


def plain(model, lr=0.1, **settings):
    """Without what would make an update depend on anything but its samples."""
    optimizer = torch.optim.SGD(model.parameters(), lr)
    return Trainer(model, AdversarialLoss(None), optimizer, quiet=True, **settings)


def linear():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(5, 3)


def weights(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def test_the_loop_is_what_one_would_write(tmp_path):
    x, y = data()
    model, reference = linear(), linear()
    plain(model).fit([(x[:20], y[:20]), (x[20:], y[20:])], 2)
    optimizer = torch.optim.SGD(reference.parameters(), 0.1)
    for part in [slice(0, 20), slice(20, None)] * 2:
        optimizer.zero_grad()
        nn.functional.cross_entropy(reference(x[part]), y[part]).backward()
        optimizer.step()
    assert torch.equal(weights(model), weights(reference))
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_batches_of_one_update_count_by_their_samples():
    """Three batches of different sizes give the update of all their samples together."""
    x, y = data()
    whole, parts = linear(), linear()
    plain(whole).fit([(x, y)], 1)
    end = plain(parts, accumulate=3).fit([(x[:10], y[:10]), (x[10:40], y[10:40]), (x[40:], y[40:])], 1)
    assert end.update == 1
    assert (weights(whole) - weights(parts)).abs().max() < 1e-6
    assert (weights(whole) - weights(linear())).abs().max() > 1e-3


def test_starts_do_not_depend_on_how_an_update_is_cut_into_batches():
    x, y = data()
    ends = []
    for size, accumulate in ((57, 1), (10, 6)):
        model, generator = linear(), torch.Generator().manual_seed(0)
        loss = AdversarialLoss(fast_fgsm(0.3, step_size=0.01, seed=generator))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        made = Trainer(model, loss, optimizer, generator=generator, accumulate=accumulate, quiet=True)
        made.fit(TensorBatches(x, y, size), 2)
        ends.append((weights(model), generator.get_state()))
    assert (ends[0][0] - ends[1][0]).abs().max() < 1e-6
    assert torch.equal(ends[0][1], ends[1][1])


def test_an_attack_without_ids_draws_anew_for_each_batch_of_an_update():
    x, y = data()
    model, generator, drawn = linear(), torch.Generator().manual_seed(0), []

    def noise(model, x, y):
        drawn.append(torch.randn(x.shape, generator=generator))
        return x + 0.1 * drawn[-1]

    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    made = Trainer(model, AdversarialLoss(noise), optimizer, generator=generator, accumulate=3, quiet=True)
    assert made.fit(TensorBatches(x, y, 19), 1).update == 1
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])


def test_a_remainder_of_batches_is_an_update_too():
    x, y = data()
    assert plain(linear(), accumulate=4).fit([(x, y)] * 6, 2).update == 4


def test_the_schedule_steps_with_each_update():
    model, rates = linear(), []
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    schedule = MultiStepLR(optimizer, [2, 3], gamma=0.5)
    made = Trainer(
        model,
        AdversarialLoss(None),
        optimizer,
        schedule=schedule,
        quiet=True,
        after_update=lambda update: rates.append(optimizer.param_groups[0]["lr"]),
    )
    made.fit([data()], 4)
    assert rates == [1.0, 0.5, 0.25, 0.25]


def test_rise_and_fall_begins_and_ends_near_zero_with_the_rate_itself_in_between():
    optimizer = torch.optim.SGD(linear().parameters(), 2.0)
    schedule, rates = rise_and_fall(optimizer, 100), []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(2.0, rel=0.02)
    assert 0 < rates[-1] < 0.02
    assert optimizer.param_groups[0]["lr"] == 0


def test_what_the_net_draws_follows_from_the_seed_and_leaves_the_global_generator():
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        state, model = torch.get_rng_state(), net()
        made = trainer(model)
        made.fit(loader("tensors", made.generator), 1)
        assert torch.equal(torch.get_rng_state(), state)
        results.append(weights(model))
    assert torch.equal(*results)
    torch.manual_seed(0)
    state, model = torch.get_rng_state(), net()
    made = trainer(model, own_draws=False)
    made.fit(loader("tensors", made.generator), 1)
    assert not torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(weights(model), results[0])


class Scripted:
    """A validation with given results, which looks at the weights."""

    def __init__(self, *robust):
        self.robust = list(robust)
        self.seen = []

    def __call__(self, model):
        self.seen.append(weights(model).clone())
        value = self.robust[len(self.seen) - 1]
        return Validation([data()], lambda model, x, y: x)(model)._replace(robust=value)


def test_it_ends_with_the_weights_of_the_best_robust_accuracy_and_stops_without_a_better_one():
    model, validation = linear(), Scripted(0.1, 0.5, 0.5, 0.4, 0.9)
    end = plain(model, validation=validation, patience=2).fit([data()], 5)
    assert (end.epoch, end.best, end.best_epoch, end.stopped) == (4, 0.5, 2, True)
    assert torch.equal(weights(model), validation.seen[1])
    model, validation = linear(), Scripted(0.1, 0.5, 0.4, 0.4, 0.9)
    end = plain(model, validation=validation).fit([data()], 5)
    assert (end.epoch, end.best, end.best_epoch, end.stopped) == (5, 0.9, 5, False)


def test_a_further_fit_begins_with_the_last_weights_and_not_with_the_best():
    ends = []
    for plan in ((4,), (2, 4)):
        model, validation = linear(), Scripted(0.5, 0.1, 0.1, 0.9)
        made = plain(model, validation=validation)
        for epochs in plan:
            made.fit([data()], epochs)
        ends.append(torch.stack([*validation.seen, weights(model)]))
    assert torch.equal(*ends)


def test_a_validation_counts_what_is_right_before_and_after_the_attack_in_eval_mode():
    x, y = data()
    model = net().train()
    attack = PGD(eps=0.1, steps=3)
    found = Validation(TensorBatches(x, y, 10), attack)(model)
    assert model.training
    model.eval()
    x_adv = attack(model, x, y)
    clean = model(x).argmax(1) == y
    assert found.samples == 57
    assert found.clean == clean.double().mean()
    assert found.robust == (clean & (model(x_adv).argmax(1) == y)).double().mean()
    assert 0 < found.robust < found.clean
    with pytest.raises(ValueError, match="Validation: loader must give samples, got none"):
        Validation([], attack)(model)


def test_each_update_and_each_pass_is_logged(tmp_path):
    epochs = []
    made = trainer(net(), tmp_path, after_epoch=epochs.append)
    end = made.fit(loader("tensors", made.generator), EPOCHS)
    updates = [json.loads(line) for line in (tmp_path / "updates.jsonl").read_text().splitlines()]
    assert [row["update"] for row in updates] == list(range(1, EPOCHS * BATCHES + 1))
    assert [row["epoch"] for row in updates] == [epoch for epoch in (1, 2, 3) for _ in range(BATCHES)]
    assert set(updates[0]) == {"epoch", "update", "loss", "accuracy", "learning_rate"}
    rows = list(csv.DictReader((tmp_path / "epochs.csv").open()))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert max(float(row["robust"]) for row in rows) == end.best
    last = updates[-BATCHES:]
    mean = sum(row["loss"] * size for row, size in zip(last, [10] * 5 + [7], strict=True)) / 57
    assert float(rows[-1]["loss"]) == pytest.approx(mean)
    assert [epoch.loss for epoch in epochs] == [float(row["loss"]) for row in rows]
    assert [epoch.validation.robust for epoch in epochs] == [float(row["robust"]) for row in rows]


def test_a_log_that_is_shorter_than_the_checkpoint_says_is_gone_on_with_as_it_is(tmp_path):
    log = Log(tmp_path)
    (tmp_path / "updates.jsonl").write_text("{}\n")
    log.open({"updates.jsonl": 100}, 7)
    log.update({"update": 8})
    log.close()
    assert (tmp_path / "updates.jsonl").read_bytes() == b'{}\n{"update": 8}\n'


def test_tensorboard_gets_the_same_numbers_and_is_told_where_a_resumed_training_goes_on(
    tmp_path, monkeypatch
):
    written = []

    class Writer:
        def __init__(self, folder, purge_step):
            written.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def close(self):
            written.append("closed")

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    log = Log(tmp_path, tensorboard=True)
    log.open({}, 4)
    log.update({"epoch": 1, "update": 5, "loss": 0.5})
    log.epoch({"epoch": 1, "update": 5, "robust": 0.25})
    log.close()
    assert written == [(str(tmp_path), 4), ("update/loss", 0.5, 5), ("epoch/robust", 0.25, 5), "closed"]


def test_without_tensorboard_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match="Log: tensorboard is not installed: pip install tensorbo"):
        Log(tmp_path, tensorboard=True)


def test_the_bar_shows_the_loss_and_the_accuracy_under_attack(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    made = trainer(net(), quiet=False)
    made.fit(loader("tensors", made.generator), 1)
    shown = capsys.readouterr().err
    assert "epoch 1/1" in shown
    assert "loss" in shown
    assert "right" in shown


def test_batches_of_tensors_are_all_samples_once_in_an_order_drawn_anew_and_know_their_numbers():
    x, y = data()
    batches = TensorBatches(x, y, 10, torch.Generator().manual_seed(0))
    passes = [list(batches) for _ in range(2)]
    assert [len(part[0]) for part in passes[0]] == [10] * 5 + [7]
    assert len(batches) == 6
    orders = [torch.cat([ids for _, _, ids in parts]) for parts in passes]
    assert not torch.equal(*orders)
    for parts, order in zip(passes, orders, strict=True):
        assert torch.equal(order.sort().values, torch.arange(57))
        assert torch.equal(torch.cat([part[0] for part in parts]), x[order])
        assert torch.equal(torch.cat([part[1] for part in parts]), y[order])
    in_order = torch.cat([ids for _, _, ids in TensorBatches(x, y, 10)])
    assert torch.equal(in_order, torch.arange(57))


def test_a_dataloader_of_numbered_samples_gives_the_same_batches():
    x, y = data()
    order = SplitBatches(57, 10, torch.Generator().manual_seed(3))
    numbered = Numbered(TensorDataset(x, y))
    loader = DataLoader(numbered, batch_sampler=order, collate_fn=numbered.collate)
    for one, other in zip(loader, TensorBatches(x, y, 10, torch.Generator().manual_seed(3)), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_batch_of_no_samples_has_the_shapes_and_dtypes_of_one():
    numbered = Numbered(TensorDataset(*data()))
    for part, one in zip(numbered.collate([]), numbered.collate([numbered[3]]), strict=True):
        assert part.shape == (0, *one.shape[1:])
        assert part.dtype == one.dtype


def test_bad_settings_are_refused_in_one_line():
    model = linear()
    x, y = data()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for settings, error, message in (
        ({"accumulate": 0}, ValueError, "Trainer: accumulate must be an integer of at least 1, got 0"),
        ({"patience": 2}, ValueError, "Trainer: patience needs a validation"),
        ({"schedule": ReduceLROnPlateau(optimizer)}, TypeError, "schedule must step without a metric"),
    ):
        with pytest.raises(error, match=message):
            plain(model, **settings)
    for batches, epochs, error, message in (
        ([(x, y)], 0, ValueError, "epochs must be an integer of at least 1, got 0"),
        ([], 1, ValueError, "loader must give batches, got none"),
        ([(x[:0], y[:0])], 1, ValueError, "loader must give batches of at least 1 sample, got 0"),
        ([x], 1, TypeError, r"loader must give batches \(x, y\) or \(x, y, ids\), got Tensor"),
        ([(x,)], 1, TypeError, "got 1 parts"),
    ):
        with pytest.raises(error, match=message):
            plain(model).fit(batches, epochs)
    with pytest.raises(ValueError, match="x and y must be of one length, got 57 and 3"):
        TensorBatches(x, y[:3], 10)
    with pytest.raises(ValueError, match="samples and batch_size must be at least 1, got 57 and 0"):
        TensorBatches(x, y, 0)


def test_a_loss_that_is_not_finite_ends_the_training():
    x, y = data()
    with pytest.raises(
        FloatingPointError, match=r"Trainer.fit: the loss is nan in update 2: try a lower rate"
    ):
        plain(linear()).fit([(x, y), (x * torch.nan, y)], 1)
