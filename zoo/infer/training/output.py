"""The files and the bar of a training: all that is shown and written of it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from zoo.infer.training.checkpoint import Folder, shapes_of
from zoo.infer.training.course import Course, Ended
from zoo.infer.training.settings import versions
from zoo.parts.recorded.pair import description_of


class Bar:
    """A bar over the steps of a training, with its losses beside it.

    Args:
        course: the training.
        shown: False shows nothing and costs nothing.
    """

    def __init__(self, course: Course, *, shown: bool) -> None:
        self.course, self.shown, self.due = course, shown, 0.0
        self.bar = tqdm(
            total=course.total, initial=course.progress.step, disable=not shown, unit="step", mininterval=0.5
        )

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.bar.close()

    def step(self) -> None:
        """Notes a step."""
        if not self.shown:
            return
        self.bar.update()
        # Twice a second, as often as tqdm draws the bar.
        if time.perf_counter() > self.due:
            self.due = time.perf_counter() + 0.5
            self.bar.set_postfix_str(self.course.summary(), refresh=False)


class Tensorboard:
    """The records of a training as scalars of tensorboard.

    Args:
        path: folder of the training.
        step: the step to go on from; later ones of an earlier run are purged.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, path: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("tensorboard=True needs the extra: pip install 'pyro-latent-zoo[tensorboard]'") from error
        self.writer = SummaryWriter(path / "tensorboard", purge_step=step + 1)

    def write(self, record: dict[str, Any]) -> None:
        """Writes the record of an epoch."""
        for name in ("train", "validation", "beta", "lr", "kl"):
            # a number, or one for each site
            numbers = record[name] if isinstance(record[name], dict) else {"": record[name]}
            for site, number in numbers.items():
                if number is not None:
                    self.writer.add_scalar(f"{name}/{site}" if site else name, number, record["step"])


class Output:
    """The files of a training. The first process writes them; the others only take part in gathering a checkpoint.

    Args:
        course: the training.
        folder: None writes nothing.
    """

    def __init__(self, course: Course, folder: Folder | None) -> None:
        self.course, self.folder = course, folder
        self.first = course.training.parallel.rank == 0
        self.board: Tensorboard | None = None

    def start(self, limits: dict[str, Any], *, resumed: bool, tensorboard: bool) -> None:
        """Tries the folder out, and writes config.json.

        Args:
            limits: the arguments of `fit` that a resumed training may change.
            resumed: go on with the files that are there; else they are kept as `*.old`.

        Raises:
            OSError: the folder cannot be written to.
            ValueError: the state of optimiser, schedule or a callback cannot be read back.
            Exception: that of a callback's `state_dict`.
        """
        if self.folder is None:
            return
        training = self.course.training
        checkpoint = training.checkpoint(self.course.progress)
        self._raise()
        if not self.first:
            return
        self.folder.probe(checkpoint)
        config = {
            "settings": training.settings,
            "run": limits,
            "versions": versions(),
            "parameters": shapes_of(training.loss.state_dict()),
        }
        # Once, and not at each epoch: the pair is built a second time and compared.
        self.folder.start(config, self.course.history if resumed else None, description_of(training.loss))
        self.board = Tensorboard(self.folder.path, self.course.progress.step) if tensorboard else None

    def save(self, ended: Ended) -> None:
        """Writes a checkpoint, with the record of an epoch and the model to keep where they are not None.

        Raises:
            Exception: that of a callback, after the files are written.
        """
        if self.folder is not None:
            # Called on every process, as a checkpoint gathers the random streams of all.
            checkpoint = self.course.training.checkpoint(self.course.progress)
            if self.first:
                self.folder.save(checkpoint, ended.model, ended.record)
            if self.board is not None and ended.record is not None:
                self.board.write(ended.record)
        self._raise()

    def _raise(self) -> None:
        """Raises the error of a callback, if there is one."""
        if self.course.training.calls.error is not None:
            raise self.course.training.calls.error

    def close(self) -> None:
        """Closes tensorboard, and says where an interrupted training stopped."""
        if self.board is not None:
            self.board.writer.close()
        if self.course.interrupted and self.first:
            progress, folder = self.course.progress, self.folder
            where = "not saved, for want of out=" if folder is None else f"saved in {folder.last}, resume=True goes on"
            print(f"stopped in epoch {progress.epoch + 1} after step {progress.step}: {where}")

    @contextmanager
    def naming_the_checkpoint(self) -> Iterator[None]:
        """A context that adds to a FloatingPointError which checkpoint is the last good one."""
        try:
            yield
        except FloatingPointError as error:
            if self.folder is None:
                raise
            raise FloatingPointError(f"{error}. {self.folder.good}") from error
