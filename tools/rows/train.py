"""The training of a row in this process: within its CPU budget, from its last checkpoint, to its record."""

import json
import os
import platform
import time
from functools import partial
from typing import Any

import pyro
import torch

from rows.place import Place
from rows.row import Figures, Row, Splits
from zoo.infer import Moment, fit
from zoo.infer.training.settings import versions
from zoo.parts.aside import seeded

CURVE = ("epoch", "step", "train", "validation", "kl", "beta", "lr")


class Recorder:
    """A callback that keeps the curve and the CPU time of a row, writes its record, and ends it with its budget.

    Training is the time up to the last step of an epoch; validation, looks and the record are evaluation. All of it is
    part of the checkpoint: a resumed row goes on counting, and what a kill has lost is in neither curve nor time.
    """

    def __init__(self, row: Row, place: Place, splits: Splits) -> None:
        self.row, self.place, self.splits = row, place, splits
        self.seconds = {"training": 0.0, "evaluation": 0.0, "wall": 0.0}
        self.curve: list[dict[str, Any]] = []
        self.looks: list[dict[str, Any]] = []
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """Time, curve and looks so far."""
        return {"seconds": dict(self.seconds), "curve": list(self.curve), "looks": list(self.looks)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a result of `state_dict`."""
        self.seconds, self.curve, self.looks = state["seconds"], state["curve"], state["looks"]

    def count(self, kind: str) -> None:
        """Adds the time since the last call to that of training or of evaluation."""
        cpu, wall = time.process_time(), time.perf_counter()
        self.seconds[kind] += cpu - self.cpu
        self.seconds["wall"] += wall - self.wall
        self.cpu, self.wall = cpu, wall

    @property
    def minutes(self) -> float:
        """CPU minutes of training."""
        return self.seconds["training"] / 60

    @property
    def spent(self) -> bool:
        """Tells whether the budget is used up."""
        return self.minutes >= self.row.minutes

    @property
    def enough(self) -> bool:
        """Tells whether the row's sign says that the training has done its work."""
        return bool(self.curve) and self.row.enough is not None and self.row.enough(self.curve[-1])

    def started(self, now: Moment) -> bool:
        """Starts the clock after the data are read and the pair is looked over."""
        self.cpu, self.wall = time.process_time(), time.perf_counter()
        # a row that was killed in its evaluation does not go on training
        return self.spent or self.enough

    def stepped(self, now: Moment) -> bool:
        """Ends the training with its budget, within an epoch too: an epoch may take ten minutes."""
        self.count("training")
        return self.spent

    def epoch_ended(self, now: Moment) -> bool:
        """Notes a point of the curve, looks, and writes the record."""
        at = {"cpu_minutes": round(self.minutes, 4)}
        self.curve.append({name: now.record[name] for name in CURVE} | at)
        due = now.epoch % self.row.every == 0
        if due and self.row.look is not None:
            with seeded(self.row.seed):
                figures = plain(self.row.look(now.loss.model, now.loss.guide, self.splits))
            self.looks.append({"epoch": now.record["epoch"], **at, **figures})
        self.count("evaluation")
        if due or len(self.curve) == 1:
            self.save(planned=now.total)
        return self.spent or self.enough

    def save(self, *, planned: int, ended: str | None = None, figures: Figures | None = None) -> None:
        """Writes the record; `ended` and `figures` are None of a row that is still being trained."""
        row, last = self.row, self.curve[-1]
        # Of equal ones the first, as `fit` keeps it; without validation data it keeps the latest.
        kept = min(self.curve, key=lambda point: float("inf") if point["validation"] is None else point["validation"])
        kept = last if self.splits.validation is None else kept
        self.place.save({
            "name": row.name, "system": row.system, **row.facts,
            "figures": figures, "ended": ended, "epochs": last["epoch"], "best_epoch": kept["epoch"],
            "steps": last["step"], "planned_steps": planned, "lr": last["lr"],
            "cpu_minutes": round(self.minutes, 4), "budget_cpu_minutes": row.minutes,
            "evaluation_cpu_minutes": round(self.seconds["evaluation"] / 60, 4),
            "wall_minutes": round(self.seconds["wall"] / 60, 4),
            "command": self.place.command, "seed": row.seed, "versions": versions(),
            "hardware": f"cpu, {torch.get_num_threads()} thread(s) of {os.cpu_count()}, {platform.machine()}",
            "note": row.note, "date": time.strftime("%Y-%m-%d"), "looks": self.looks, "curve": self.curve,
        })  # fmt: skip


def train(row: Row, place: Place) -> int:
    """Trains a row to its end, from its last checkpoint where there is one, and writes its figures.

    Returns:
        0; 130 if Ctrl-C has stopped it.
    """
    torch.set_num_threads(1)
    splits = row.data()
    pyro.set_rng_seed(row.seed)
    loss, planned = row.build(splits), row.planned(splits)
    recorder = Recorder(row, place, splits)
    result = fit(
        loss, splits.train, epochs=row.epochs, steps=row.steps, batch_size=row.batch_size, optimizer=row.optimizer,
        schedule=row.schedule and partial(row.schedule, steps=planned), validation=splits.validation, seed=row.seed,
        out=place.folder, resume=True, progress=False, callbacks=[recorder], **row.settings,
    )  # fmt: skip
    if result.interrupted:
        return 130
    early = "budget" if recorder.spent else "enough" if recorder.enough else "patience"
    ended = "plan" if result.step >= planned else early
    recorder.cpu, recorder.wall = time.process_time(), time.perf_counter()
    pyro.set_rng_seed(row.seed)
    figures = plain(row.evaluate(loss.model, loss.guide, splits))
    recorder.count("evaluation")
    recorder.save(planned=planned, ended=ended, figures=figures)
    return 0


def plain(figures: Figures) -> Figures:
    """Figures in JSON's types, as records and checkpoints hold them: tensors and numpy's arrays become lists."""
    return json.loads(json.dumps(figures, default=lambda value: value.tolist()))


class _Timer:
    """A callback that ends a training after some seconds of CPU time of its steps, the first ones not counted."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.steps, self.spent, self.since = seconds, 0, 0.0, 0.0

    def started(self, now: Moment) -> None:
        self.since = time.process_time()

    def epoch_ended(self, now: Moment) -> None:
        # Validation does not count, as it does not in the budget.
        self.since = time.process_time()

    def stepped(self, now: Moment) -> bool:
        before, self.since = self.since, time.process_time()
        # The first steps fill caches and start the optimiser's state; but a plan of one or two has no others.
        if now.step > min(3, now.total - 1):
            self.steps, self.spent = self.steps + 1, self.spent + self.since - before
        return self.spent >= self.seconds


def plan(row: Row, seconds: float = 20.0) -> str:
    """The CPU time of a step, and how many epochs of it fit into the row's budget, in words."""
    torch.set_num_threads(1)
    splits = row.data()
    pyro.set_rng_seed(row.seed)
    timer, planned = _Timer(seconds), row.planned(splits)
    fit(
        row.build(splits), splits.train, epochs=row.epochs, steps=row.steps, batch_size=row.batch_size,
        optimizer=row.optimizer, schedule=row.schedule and partial(row.schedule, steps=planned), seed=row.seed,
        validation=splits.validation, progress=False, callbacks=[timer], **row.settings | {"patience": None},
    )  # fmt: skip
    step = timer.spent / timer.steps
    fit_in = int(60 * row.minutes / step)
    epochs = f", {fit_in / (planned / row.epochs):.1f} epochs" if row.epochs else ""
    return f"{row.name}: {1000 * step:.1f} ms a step; {row.minutes:g} minutes hold {fit_in} steps{epochs}; planned " \
           f"are {planned} steps{f', {row.epochs} epochs' if row.epochs else ''}"  # fmt: skip
