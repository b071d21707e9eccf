"""The course of a training: epoch after epoch, until it has taken all steps, gets no better or is interrupted."""

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor

from zoo.infer.training.callbacks import Moment
from zoo.infer.training.checkpoint import Folder, load_model, tensors_of
from zoo.infer.training.interrupt import Interrupt
from zoo.infer.training.step.nonfinite import refuse_nonfinite_parameters
from zoo.infer.training.step.training import Progress, Training


class Ended(NamedTuple):
    """The results of an epoch, for the files of the training.

    Attributes:
        record: the epoch's record; None of an epoch that was interrupted.
        model: the state dict to keep as the pair's; None where an earlier one is better, or none is kept.
    """

    record: dict[str, Any] | None
    model: dict[str, Tensor] | None


class Course:
    """The epochs of a training.

    Args:
        training: made ready for its first step.
        seed: seed of the order of the rows, common to all processes.
        steps, epochs: length of the training; one of the two.
        patience: epochs to go on for without a better validation loss; None goes on to the end.
        folder: the folder of the files; None writes none.
    """

    def __init__(
        self,
        training: Training,
        *,
        seed: int,
        steps: int | None,
        epochs: int | None,
        patience: int | None,
        folder: Folder | None,
    ) -> None:
        self.training, self.seed, self.patience, self.folder = training, seed, patience, folder
        self.per_epoch = len(training.batcher.batches(seed, 0))
        self.total = int(steps or (epochs or 0) * self.per_epoch)
        self.progress = Progress()
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] | None = None
        self.interrupted = self.stopped = False
        self.started = time.perf_counter()

    def resume(self, folder: Folder) -> None:
        """Goes on from the checkpoint in the folder.

        Raises:
            ValueError: the checkpoint is not one of this training, or already past its end.
        """
        checkpoint = folder.load(self.training.loss, self.training.settings)
        self.progress = self.training.restore(checkpoint, folder.last)
        self.history = folder.history(self.progress.epoch)
        self.started -= self.progress.seconds
        if self.progress.step > self.total:
            done = f"step {self.progress.step}, epoch {self.progress.epoch}"
            raise ValueError(f"{folder.last}: already at {done}; asked to stop at step {self.total}")

    def start(self) -> None:
        """Calls the callbacks before the first step."""
        self.training.calls.started(self._now())
        self._hear()

    @property
    def finished(self) -> bool:
        progress = self.progress
        if self.interrupted or self.stopped or progress.step >= self.total:
            return True
        return bool(
            self.patience is not None and progress.best and progress.epoch - progress.best["epoch"] >= self.patience
        )

    def rest_of_epoch(self, interrupt: Interrupt) -> Iterator[Tensor]:
        """The row numbers of each batch that is left of the epoch, until the training is interrupted or stopped."""
        progress = self.progress
        end = min(self.per_epoch, progress.position + self.total - progress.step)
        for batch in self.training.batcher.batches(self.seed, progress.epoch)[progress.position : end]:
            # All processes must stop at the same step, or those that go on would wait forever for the gradients of
            # those that stopped. Every twentieth step, since a question to all is answered when the slowest hears it.
            if self.training.parallel.world == 1 or progress.step % 20 == 0:
                self._hear(interrupt)
            if self.interrupted or self.stopped:
                return
            yield batch

    def _hear(self, interrupt: Interrupt | None = None) -> None:
        """Notes what the user, or a callback in any of the processes, has asked for."""
        parallel, calls = self.training.parallel, self.training.calls
        broken = calls.error is not None or (interrupt is not None and interrupt.seen)
        seen, asked = parallel.sum(broken, calls.asked)
        self.interrupted, self.stopped = seen > 0, self.stopped or asked > 0

    def _now(self, record: dict[str, Any] | None = None) -> Moment:
        """The moment as callbacks see it."""
        training, progress = self.training, self.progress
        path = None if self.folder is None else self.folder.path
        return Moment(training.loss, training.optimizer, progress.epoch, progress.step, self.total, record,
                      training.parallel.rank == 0, path)  # fmt: skip

    def step(self, batch: Tensor) -> None:
        """One optimiser step.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        self.training.step(batch, self.progress)
        if self.training.calls:
            self.training.calls.stepped(self._now())

    def end_epoch(self) -> Ended:
        """Ends the epoch, or the part of it that was asked for or that an interruption has left.

        Raises:
            FloatingPointError: a parameter is not finite, so that nothing of this epoch may be saved.
        """
        progress, training = self.progress, self.training
        refuse_nonfinite_parameters(training.loss, f"epoch {progress.epoch + 1}, step {progress.step}")
        progress.seconds = time.perf_counter() - self.started
        with training.averaged():
            if self.interrupted:
                # Without a validation loss of this point, the best model of an earlier epoch stays the one to keep.
                latest = training.held_out is None or progress.best is None
                return Ended(None, self._copy() if latest else None)
            record = training.record(progress)
            self.history.append(record)
            if progress.position == self.per_epoch:
                progress.epoch, progress.position, progress.loss, progress.rows = progress.epoch + 1, 0, 0.0, 0
                # Of whole epochs alone: a part that `steps` cut off is no epoch to a training that goes on from there.
                training.plateau(record["validation"])
            better = training.held_out is None or progress.best is None or _score(record) < _score(progress.best)
            if better:
                progress.best, self.best = record, self._copy()
            # A copy, for the record goes into files that a callback's additions may not fit.
            training.calls.epoch_ended(self._now(copy.deepcopy(record)))
        # All processes take part, also one whose callback raised an error.
        self._hear()
        return Ended(record, self.best if better else None)

    def _copy(self) -> dict[str, Tensor] | None:
        kept = self.folder is not None or self.training.held_out is not None
        return tensors_of(self.training.loss) if kept else None

    @contextmanager
    def giving_averages(self) -> Iterator[None]:
        """A context that ends with the averages in the loss, if the training has any, after an error too."""
        try:
            yield
        finally:
            if self.training.average is not None:
                self.training.average.take()

    def finish(self) -> None:
        """Gives the loss the parameters to keep.

        They are those of the epoch with the lowest validation loss, or without validation, and where the training was
        interrupted, the latest.
        """
        progress, training = self.progress, self.training
        if self.interrupted or training.held_out is None or progress.best is None:
            return
        if progress.best["step"] == progress.step:
            return
        if self.best is not None:
            training.loss.load_state_dict(self.best)
        elif self.folder is not None:
            # Resumed, and no epoch since was better: the best is that of the earlier part.
            load_model(training.loss, self.folder.path)

    def summary(self) -> str:
        """The epoch's mean loss so far, the KL of the epoch before and the KL weight, in words."""
        progress, parts = self.progress, self.training.parts
        mean, quantity = progress.loss / max(progress.rows, 1), parts.objective.quantity if parts.ours else "bound"
        said = [f"{mean:.3f} nats" if quantity == "bound" else f"{quantity} {-mean:.3f} nats"]
        if self.history and self.history[-1]["kl"]:
            said.append(f"KL {sum(self.history[-1]['kl'].values()):.2f}")
        weight = self.training.kl_weight
        if isinstance(weight, dict):
            said.append("beta " + ", ".join(f"{number:.3g} of {site}" for site, number in weight.items()))
        elif weight is not None:
            said.append(f"beta {weight:.3g}")
        return ", ".join(said)


def _score(record: dict[str, Any]) -> float:
    # A validation loss that is not finite is recorded as None, and no epoch is worse.
    return math.inf if record["validation"] is None else record["validation"]
