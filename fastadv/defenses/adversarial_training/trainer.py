"""The loop: updates, validation, checkpoints, and going on from them."""

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from fastadv.attacks.attack import check_counts
from fastadv.attacks.randomness import mix

from . import checkpoint, distributed
from .log import Bar, Log
from .loss import AdversarialLoss, takes_ids
from .position import Epoch, Position
from .validation import Accuracy, Batch, Validation, device_of, unpacked


class Trainer:
    """Trains a model, alone or in several processes, in such a way that it can be killed and goes on.

        generator = torch.Generator().manual_seed(0)
        loss = AdversarialLoss(madry_pgd(0.3, seed=generator))
        trainer = Trainer(model, loss, optimizer, generator=generator, checkpoint=Path("checkpoint.pt"))
        trainer.resume()
        trainer.fit(TensorBatches(x, y, 128, generator), epochs=10)

    One generator is behind everything random: the order of the samples, the attack's starts, and what the
    model itself draws. It is part of the checkpoint, and so a training that was killed ends, on a CPU, with
    the very weights of one that was not. For that the loader must draw its order from this generator when
    it is iterated (`TensorBatches`, or a DataLoader with `generator=`): its first batches are skipped.

    Under `torchrun` (within `distributed.process_group`) each process trains on its part of each batch and
    the gradients are those of the whole batch, whatever the sizes of the parts. The model is wrapped here.
    Sums are rounded otherwise than in one process, and an attack's sign steps amplify that with each update.
    Where a batch has fewer samples than there are processes, the model meets an empty part: it must take one,
    as `x.flatten(1)` does and `x.view(x.size(0), -1)` does not.

    A checkpoint does not hold the global generators: a dataset that draws from them, as random augmentation
    does, draws other numbers after a resumption.

    Args:
        model: [B, ...] -> logits [B, K], on its device; changed in place.
        loss: `AdversarialLoss`.
        optimizer: of the model's parameters.
        schedule: of torch; its step is an update, not a pass.
        generator: a CPU generator; None is one with the seed 0.
        accumulate: batches per update. Their gradients are averaged over all samples.
        validation: measured after each pass. The model ends with the weights of the best robust accuracy
            (Rice, Wong, Kolter, "Overfitting in adversarially robust deep learning", ICML 2020).
        patience: stop after so many passes without a better one; None never stops early.
        checkpoint: the file to keep; None keeps none.
        checkpoint_every: write it after so many updates, besides after each pass.
        settings: kept in the checkpoint; one with others is not gone on from.
        log: in process 0 only, what to write.
        own_draws: what the model draws in an update, as for dropout, follows from the generator's seed and
            the update, and the global generator is put back afterwards. False leaves it to the global
            generator, as it must be where several threads train at once, for they share it.
        quiet: show no progress bar.
        before_epoch: called with 0, 1, ... before each pass, and again where one is gone on with, to change
            what should change, as with `set_gamma`.
        after_epoch: called with each `Epoch`.
        after_update: called with the number of updates done.

    Raises:
        TypeError: the schedule steps on a metric.
        ValueError: a count is below 1, patience without validation, or a generator not of the CPU.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: AdversarialLoss,
        optimizer: Optimizer,
        *,
        schedule: LRScheduler | None = None,
        generator: torch.Generator | None = None,
        accumulate: int = 1,
        validation: Validation | None = None,
        patience: int | None = None,
        checkpoint: Path | None = None,
        checkpoint_every: int | None = None,
        settings: Mapping[str, str | int | float | bool | None] | None = None,
        log: Log | None = None,
        own_draws: bool = True,
        quiet: bool = False,
        before_epoch: Callable[[int], object] = lambda epoch: None,
        after_epoch: Callable[[Epoch], object] = lambda epoch: None,
        after_update: Callable[[int], object] = lambda update: None,
    ) -> None:
        """Nothing is trained yet."""
        check_counts("Trainer", accumulate=accumulate, patience=patience, checkpoint_every=checkpoint_every)
        if isinstance(schedule, ReduceLROnPlateau):
            raise TypeError("Trainer: schedule must step without a metric, got a ReduceLROnPlateau")
        if patience is not None and validation is None:
            raise ValueError("Trainer: patience needs a validation")
        if generator is not None and generator.device.type != "cpu":
            raise ValueError(f"Trainer: generator must be of the CPU, got one of {generator.device}")
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.schedule = schedule
        self.generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.accumulate = accumulate
        self.validation = validation
        self.patience = patience
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.settings = dict(settings or {})
        self.log = log
        self.own_draws = own_draws
        self.quiet = quiet
        self.before_epoch = before_epoch
        self.after_epoch = after_epoch
        self.after_update = after_update
        self.position = Position()
        self.device = device_of(model)
        self._parallel = model
        self._order = self.generator.get_state()
        self._best: dict[str, Any] | None = None
        self._last: dict[str, Any] | None = None
        self._log_sizes: dict[str, int] = {}

    def resume(self) -> bool:
        """Go on from the checkpoint, where there is one.

        Returns:
            Whether there was.

        Raises:
            CheckpointError: the file is no checkpoint, damaged, or of another training; nothing was changed.
            OSError: it cannot be read.
        """
        path = self.checkpoint
        if path is None or not path.exists():
            return False
        content = checkpoint.read(path)
        own = self._content()
        checkpoint.check_fit(path, "training", own, content)
        checkpoint.check_settings(path, own["settings"], content["settings"])
        checkpoint.check_settings(path, own["kinds"], content["kinds"])
        checkpoint.check_fit(path, "model", own["model"], content["model"])
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(content["schedule"])
        self.generator.set_state(content["generator"])
        self._order = content["order"]
        self._best = content["best"] or None
        self._last = None
        self._log_sizes = content["log"]
        self.position = Position(**content["position"])
        return True

    def fit(self, loader: Iterable[Batch], epochs: int) -> Position:
        """Train until so many passes are done, those before a resumption or of an earlier fit counted.

        A further fit begins, as a resumption does, with the last weights, not with the best ones.

        Args:
            loader: batches (x, y) or (x, y, ids): [B, ...], [B] int64 and [B] int64. With ids the attack's
                start of a sample does not depend on how an update is cut into batches, nor on the number of
                processes. In several processes each gives its part of each batch, and all give equally many.
            epochs: at least 1.

        Returns:
            Where the training ended. The model is in eval mode, with its best weights where there was a
            validation, and without gradients.

        Raises:
            TypeError: the loader gives batches that are none.
            ValueError: epochs is below 1, or the loader gives no samples; or as the attack.
            FloatingPointError: the loss is not finite any more.
            CheckpointError: processes begin after different numbers of updates.
            OSError: a checkpoint or log cannot be written.
        """
        check_counts("Trainer.fit", epochs=epochs)
        begun = distributed.in_all(self.position.update, self.device)
        if len(set(begun)) > 1:
            raise checkpoint.CheckpointError(
                f"Trainer.fit: processes must begin after equally many updates, got {begun}: each must read "
                "the same checkpoint, or none"
            )
        if self._last is not None:
            self.model.load_state_dict(self._last)
            self._last = None
        if self.log is not None:
            self.log.open(self._log_sizes, self.position.update)
        batches = len(loader) if isinstance(loader, Sized) else None
        self._parallel = distributed.parallel(self.model, self.device)
        try:
            with Bar(epochs, batches, quiet=self.quiet or distributed.rank() > 0) as bar:
                while self.position.epoch < epochs and not self.position.stopped:
                    self._pass(loader, bar)
        finally:
            self._parallel = self.model  # a wrapped model must not outlive the process group
            if self.log is not None:
                self._log_sizes = self.log.sizes()
                self.log.close()
        if self._best is not None:
            self._last = copy.deepcopy(self.model.state_dict())
            self.model.load_state_dict(self._best)
        self.optimizer.zero_grad()
        self.model.eval()
        return self.position

    def _pass(self, loader: Iterable[Batch], bar: Bar) -> None:
        position, began = self.position, time.perf_counter()
        before = position.seconds
        self.model.train()
        self.before_epoch(position.epoch)
        batches = self._batches(loader)
        while group := list(islice(batches, self.accumulate)):
            self._update(group)
            position.seconds = before + time.perf_counter() - began
            bar.show(position.epoch, position.batch, position.mean_loss, position.accuracy)
            self.after_update(position.update)
            if self.checkpoint_every is not None and position.update % self.checkpoint_every == 0:
                self._keep()
        if position.samples == 0:
            raise ValueError("Trainer.fit: loader must give batches, got none")
        accuracy = None
        if self.validation is not None:
            distributed.share_buffers(self.model)
            accuracy = self.validation(self.model)
        position.seconds = before + time.perf_counter() - began
        self._turn(accuracy)

    def _turn(self, accuracy: Accuracy | None) -> None:
        """From one pass to the next."""
        rate = self.optimizer.param_groups[0]["lr"]
        epoch = self.position.turn(accuracy, learning_rate=rate, patience=self.patience)
        if self.position.best_epoch == epoch.epoch:
            self._best = copy.deepcopy(self.model.state_dict())
        if self.log is not None:
            self.log.epoch(epoch.row())
        self._keep()
        self.after_epoch(epoch)

    def _batches(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of this pass that are still to be done, in the order that was drawn for it."""
        done = self.position.batch
        if done == 0:
            self._order = self.generator.get_state()
            return iter(loader)
        now = self.generator.get_state()
        self.generator.set_state(self._order)
        batches = iter(loader)
        for _ in islice(batches, done):
            pass
        self.generator.set_state(now)
        return batches

    def _update(self, group: list[Batch]) -> None:
        distributed.share_buffers(self.model)
        parts = [unpacked("Trainer.fit", batch, self.device) for batch in group]
        own = sum(len(x) for x, _, _ in parts)
        samples = int(distributed.all_sum(torch.tensor(own, device=self.device)))
        if samples == 0:
            raise ValueError("Trainer.fit: loader must give batches of at least 1 sample, got 0")
        # The means over parts are weighted, so that their sum over parts and processes, of which
        # DistributedDataParallel takes the mean, is the mean over all samples.
        weight = distributed.world() / samples
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        self.optimizer.zero_grad()
        drawn = self.generator.get_state()
        for number, (x, y, ids) in enumerate(parts):
            if ids is not None and takes_ids(self.loss.attack):
                # The attack draws one key for all, and by its id each sample has a start of its own.
                self.generator.set_state(drawn)
            with self._unsynchronised() if number < len(parts) - 1 else contextlib.nullcontext():
                with self._draws(number):
                    evaluated = self.loss.evaluate(self._parallel, x, y, ids)
                (evaluated.loss * (len(x) * weight)).backward()
            sums += torch.stack([evaluated.loss.detach().double() * len(x), evaluated.right.double()])
        self.optimizer.step()
        rate = self.optimizer.param_groups[0]["lr"]
        if self.schedule is not None:
            self.schedule.step()
        loss, right = distributed.all_sum(sums).tolist()
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"Trainer.fit: the loss is {loss} in update {self.position.update + 1}: try a lower rate"
            )
        self.position.add(len(group), samples, loss, int(right))
        if self.log is not None:
            row = {
                "epoch": self.position.epoch + 1,
                "update": self.position.update,
                "loss": loss / samples,
            }
            self.log.update(row | {"accuracy": right / samples, "learning_rate": rate})

    def _unsynchronised(self) -> contextlib.AbstractContextManager[None]:
        net = self._parallel
        return net.no_sync() if isinstance(net, DistributedDataParallel) else contextlib.nullcontext()

    @contextlib.contextmanager
    def _draws(self, part: int) -> Iterator[None]:
        """What the model draws in this part of an update comes from the seed, the update and the process."""
        if not self.own_draws:
            yield
            return
        stream = (self.position.update * self.accumulate + part) * distributed.world() + distributed.rank()
        key = mix(self.generator.initial_seed(), stream)
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.default_generator.manual_seed(key)
            if self.device.type == "cuda":
                torch.cuda.manual_seed(key)
            yield

    def _keep(self) -> None:
        if self.checkpoint is not None and distributed.rank() == 0:
            checkpoint.write(self.checkpoint, self._content())

    def _content(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": {} if self.schedule is None else self.schedule.state_dict(),
            "kinds": {
                "optimizer": type(self.optimizer).__name__,
                "schedule": type(self.schedule).__name__,
                "parameters": [len(group["params"]) for group in self.optimizer.param_groups],
            },
            "generator": self.generator.get_state(),
            "order": self._order,
            "best": {} if self._best is None else dict(self._best),
            "log": {} if self.log is None else self.log.sizes(),
            "position": asdict(self.position),
            "settings": self.settings,
        }
