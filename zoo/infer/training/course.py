"""The course of a training: epoch after epoch, until it has taken all steps, gets no better or is interrupted."""

import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor

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
        keeps_models: copy the state dict at the end of an epoch whose model is to be kept.
    """

    def __init__(
        self,
        training: Training,
        *,
        seed: int,
        steps: int | None,
        epochs: int | None,
        patience: int | None,
        keeps_models: bool,
    ) -> None:
        self.training, self.seed, self.patience, self.keeps_models = training, seed, patience, keeps_models
        self.per_epoch = len(training.batcher.batches(seed, 0))
        self.total = int(steps or (epochs or 0) * self.per_epoch)
        self.progress = Progress()
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] | None = None
        self.interrupted = False
        self.started = time.perf_counter()

    def resume(self, folder: Folder) -> None:
        """Goes on from the checkpoint in a folder.

        Raises:
            ValueError: the checkpoint is not one of this training, or already past its end.
        """
        self.progress = self.training.restore(folder.load(self.training.loss, self.training.settings))
        self.history = folder.history(self.progress.epoch)
        self.started -= self.progress.seconds
        if self.progress.step > self.total:
            done = f"step {self.progress.step}, epoch {self.progress.epoch}"
            raise ValueError(f"{folder.last}: already at {done}; asked to stop at step {self.total}")

    @property
    def finished(self) -> bool:
        progress = self.progress
        if self.interrupted or progress.step >= self.total:
            return True
        return bool(
            self.patience is not None and progress.best and progress.epoch - progress.best["epoch"] >= self.patience
        )

    def rest_of_epoch(self, interrupt: Interrupt) -> Iterator[Tensor]:
        """The row numbers of each batch that is left of the epoch under way, until the training is interrupted."""
        progress = self.progress
        end = min(self.per_epoch, progress.position + self.total - progress.step)
        for batch in self.training.batcher.batches(self.seed, progress.epoch)[progress.position : end]:
            self.interrupted = self._is_interrupted(interrupt)
            if self.interrupted:
                return
            yield batch

    def _is_interrupted(self, interrupt: Interrupt) -> bool:
        parallel = self.training.parallel
        if parallel.world == 1:
            return interrupt.seen
        # All processes must stop at the same step, or those that go on would wait forever for the gradients of those
        # that stopped. Every twentieth step, since a question to all is answered when the slowest of them comes to it.
        return self.progress.step % 20 == 0 and parallel.sum(interrupt.seen)[0] > 0

    def step(self, batch: Tensor) -> None:
        """One optimiser step.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        self.training.step(batch, self.progress)

    def end_epoch(self) -> Ended:
        """Ends the epoch, or the part of it that was asked for or that an interruption has left.

        Raises:
            FloatingPointError: a parameter is not finite, so that nothing of this epoch may be saved.
        """
        progress, training = self.progress, self.training
        refuse_nonfinite_parameters(training.loss, f"epoch {progress.epoch + 1}, step {progress.step}")
        progress.seconds = time.perf_counter() - self.started
        if self.interrupted:
            # Without a validation loss of this point, the best model of an earlier epoch stays the one to keep.
            latest = training.held_out is None or progress.best is None
            return Ended(None, self._copy() if latest else None)
        record = training.record(progress)
        self.history.append(record)
        if progress.position == self.per_epoch:
            progress.epoch, progress.position, progress.loss, progress.rows = progress.epoch + 1, 0, 0.0, 0
        if training.held_out is not None and progress.best is not None and _score(record) >= _score(progress.best):
            return Ended(record, None)
        progress.best, self.best = record, self._copy()
        return Ended(record, self.best)

    def _copy(self) -> dict[str, Tensor] | None:
        return tensors_of(self.training.loss) if self.keeps_models else None

    def take_best(self, folder: Folder | None) -> None:
        """Gives the loss the parameters of the epoch with the lowest validation loss; without validation the latest."""
        progress = self.progress
        if self.training.held_out is None or progress.best is None or progress.best["step"] == progress.step:
            return
        if self.best is not None:
            self.training.loss.load_state_dict(self.best)
        elif folder is not None:
            # Resumed, and no epoch since was better: the best is that of the earlier part.
            load_model(self.training.loss, folder.path)

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
