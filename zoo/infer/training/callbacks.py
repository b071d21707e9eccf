"""Callbacks of a training: a user's own code at its start, after each step and at the end of each epoch.

There is no method for the end of a training, since `fit` returns then.
"""

from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from zoo.infer.training.step.stored import storable
from zoo.parts.aside import aside, streams_kept


@dataclass(frozen=True)
class Moment:
    """The state of a training, as a callback sees it: loss, optimiser, epoch, step, the record of the epoch.

    Attributes:
        loss: the module that is trained, `objective(model, guide)`. At the end of an epoch of a training with
            `average` its parameters are the averages.
        optimizer: the optimiser, whose `param_groups` hold the learning rates.
        epoch: number of completed epochs.
        step, total: number of optimiser steps, taken and asked for.
        record: a copy of the epoch's record, as in `Fit.history`; None unless an epoch has ended.
        writes: True in the process that writes the files; with one process, always.
        folder: `out` of the training; None without.
    """

    loss: nn.Module
    optimizer: torch.optim.Optimizer
    epoch: int
    step: int
    total: int
    record: dict[str, Any] | None
    writes: bool
    folder: Path | None


@runtime_checkable
class Callback(Protocol):
    """Code of the user's that `fit` calls at the start, after each step and at the end of each epoch.

    Each method may return True, which ends the training.

    Random numbers that a callback draws do not move the streams of the training, and gradients are switched off. With
    several processes all of them call their own callbacks, so that a changed KL weight changes everywhere; a callback
    that writes asks `now.writes`. One that asks for the end ends the training of all.

    After an error of `stepped`, `epoch_ended` or `state_dict`, `sys.exit` among them, the other callbacks are called,
    the training is saved, and then the error is raised.

    A callback with the methods `state_dict` and `load_state_dict` is saved in the checkpoints (after its call at the
    end of the epoch), and set back when the training is resumed; its state holds tensors, numbers, words, lists and
    dictionaries alone. Any other state is an error, after which the callback begins anew; so does a callback without
    these methods.

    Example:
        >>> class Unused:
        ...     '''Ends a training whose latent has come out of use.'''
        ...     def started(self, now): ...
        ...     def stepped(self, now): ...
        ...     def epoch_ended(self, now):
        ...         return now.record["kl"]["z"] < 0.01
        >>> from zoo import PPCA
        >>> from zoo.infer import ELBO, fit
        >>> from guides import Exact
        >>> model = PPCA(3, 1)
        >>> unused = model.weight.data.zero_()  # z tells nothing of x
        >>> loss = ELBO()(model, Exact(model))
        >>> fit(loss, torch.zeros(20, 3), epochs=9, batch_size=20, progress=False, callbacks=[Unused()]).epochs
        1
    """

    def started(self, now: Moment) -> bool | None:
        """Called before the first step, or before the first one of a resumed training."""

    def stepped(self, now: Moment) -> bool | None:
        """Called after each optimiser step. To end here ends the epoch too, with its record."""

    def epoch_ended(self, now: Moment) -> bool | None:
        """Called in evaluation mode at the end of each epoch, before its files are written.

        The part of an epoch that `steps` or a callback cuts off ends in the same way.
        """


def check_callbacks(callbacks: Iterable[Any]) -> list[Callback]:
    """The callbacks as a list.

    Raises:
        TypeError: no list of objects with the three methods.
    """
    expected = "callbacks: expected a list of objects with the methods started, stepped and epoch_ended"
    if not isinstance(callbacks, list | tuple):
        raise TypeError(f"{expected}, got {type(callbacks).__name__}")
    for i, callback in enumerate(callbacks):
        if isinstance(callback, type):
            raise TypeError(f"{expected}; number {i} is the class {callback.__name__} itself")
        if not isinstance(callback, Callback):
            raise TypeError(f"{expected}; number {i} is a {type(callback).__name__}")
    return list(callbacks)


class Calls:
    """The callbacks of a training, and their answers.

    Attributes:
        asked: True once one of them has asked for the end.
        error: the first error of one of them after a step or an epoch, or of a state. It is kept, since the training
            is to be saved before it is raised: an hour's steps are worth more than a picture of them.

    Args:
        callbacks: the caller's.
    """

    def __init__(self, callbacks: list[Callback]) -> None:
        self.callbacks, self.asked = callbacks, False
        self.error: Exception | SystemExit | None = None

    def __bool__(self) -> bool:
        return bool(self.callbacks)

    def started(self, now: Moment) -> None:
        """Calls `started` of each."""
        with self._apart(now):
            for callback in self.callbacks:
                self._note(callback.started(now))

    def stepped(self, now: Moment) -> None:
        """Calls `stepped` of each."""
        # Without `aside`: to set the mode of each part of a deep pair would take longer than a small step.
        with streams_kept(), torch.no_grad():
            for callback in self.callbacks:
                try:
                    self._note(callback.stepped(now))
                except (Exception, SystemExit) as error:
                    self._keep(error, f"a callback after step {now.step}")

    def epoch_ended(self, now: Moment) -> None:
        """Calls `epoch_ended` of each."""
        with self._apart(now):
            for callback in self.callbacks:
                try:
                    self._note(callback.epoch_ended(now))
                except (Exception, SystemExit) as error:
                    self._keep(error, f"a callback after step {now.step}")

    def _note(self, answer: bool | None) -> None:
        self.asked = self.asked or bool(answer)

    def _keep(self, error: Exception | SystemExit, origin: str) -> None:
        # And goes on with the next callback: one that counts would count wrong in the resumed training.
        error.add_note(f"Raised by {origin}; the training is saved up to there.")
        self.error = self.error or error

    def _apart(self, now: Moment) -> AbstractContextManager[None]:
        # Nothing to call needs nothing put back: an epoch of a toy is as short as that takes.
        return aside(now.loss) if self.callbacks else nullcontext()

    def state(self) -> dict[str, Any]:
        """Name -> state of those that have one; without a state that cannot be saved, whose error is kept."""
        states = {}
        for name, callback in self._stateful().items():
            try:
                states[name] = storable(callback.state_dict(), f"callback {name}")
            except Exception as error:
                self._keep(error, f"the state of the callback {name}")
        return states

    def restore(self, state: dict[str, Any], file: Path) -> None:
        """Sets the states back.

        Args:
            file: the checkpoint, for errors.

        Raises:
            ValueError: the checkpoint holds the state of a callback that is missing.
        """
        stateful = self._stateful()
        if missing := [name for name in state if name not in stateful]:
            raise ValueError(f"{file}: holds the state of the callback {missing[0]}, which is not among callbacks=")
        # Those that the checkpoint does not know begin anew: a picture may be added to a training that runs already.
        for name in state:
            stateful[name].load_state_dict(state[name])

    def _stateful(self) -> dict[str, Any]:
        # By class and number, since the list may have got a picture in front.
        found: dict[str, Any] = {}
        seen: Counter[str] = Counter()
        for callback in self.callbacks:
            if hasattr(callback, "state_dict") and hasattr(callback, "load_state_dict"):
                name = type(callback).__qualname__
                seen[name] += 1
                found[f"{name} {seen[name]}"] = callback
        return found
