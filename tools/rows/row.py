"""A row of the results: a pair, its data, its training and its figures, as values that can be compared."""

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from zoo.infer.training.settings import describe
from zoo.infer.training.step.batches import batches_of, rows_of

ROOT = Path(__file__).resolve().parents[2]
Figures = dict[str, Any]


class Splits(NamedTuple):
    """The data of a row: `train` and `validation` as `fit` takes them, `test` as `evaluate` does."""

    train: Any
    validation: Any
    test: Any


@dataclass(frozen=True, kw_only=True)
class Row:
    """A system that the runner trains, resumes and evaluates.

    A row ends by its plan, `epochs` or `steps`, and at the latest when the training has taken `minutes` of CPU time. A
    plan, and a schedule over it, give the same figures each time; a budget does not, since a busy machine's CPU is
    slower. So the plan should end a little before the budget: `python tools/runs.py --plan` says how many epochs fit.
    Where the budget ends a training first, the schedule stays where it was, and the row records `ended: budget`, its
    steps beside the planned ones, and the learning rate it had come to.

    Args:
        name: of results/NAME.json, and of the folder of the trained pair in the user's cache.
        system: the pair in words, for the tables.
        data: the splits; called once for each start.
        build: the loss, `objective(model, guide)`, from the splits; the generators are seeded before.
        evaluate: the figures of the best model by validation, from (model, guide, splits), once at the end: numbers,
            tensors and words. The generators are seeded before, so that a resumed row has the figures of an
            uninterrupted one; an evaluation that was killed, or has failed, is made again without the training.
        minutes: the budget of the training's CPU minutes. Evaluations do not count, and are recorded. A row that its
            budget has ended goes on when it is given a larger one.
        epochs, steps: the plan, one of the two.
        figure: the name of the main figure among those of `evaluate`, whose standard error is called `error`.
        unit: of that figure.
        check: the name of a figure of `evaluate`, and a function (model, guide, splits) that computes it alone, in
            seconds: by it `tools/ship.py` tells the pair of the record, and what half precision changes.
        look: figures along the way, from (model, guide, splits): fewer and cheaper than those of `evaluate`. The
            validation loss and each site's KL are on the curve anyway.
        every: epochs between two looks. A look writes results/NAME.json; the folder is written each epoch.
        batch_size, seed, optimizer: as in `zoo.infer.fit`.
        schedule: constructor (optimizer, planned steps) -> LRScheduler, such as `partial(cosine, last=1e-5)`.
        settings: further arguments of `zoo.infer.fit`: clip, average, groups, patience, compile.
        facts: words of the tables, such as the data's name and the paper's number.
        after: name of a row that must be done before, whose pair `build` starts from: `load_model(loss, cache() /
            after)`, with `cache` of rows/place.py.
        enough: tells of a point of the curve (`epoch`, `step`, `train`, `validation`, `kl`, ...) that the training may
            end there, before its plan: a sign, such as a KL, that a stage has done its work.
        note: a remark for the tables.

    Example:
        >>> import guides
        >>> from zoo import VAE
        >>> from zoo.data import Binarized, binarize, load
        >>> from zoo.infer import ELBO, log_likelihood
        >>> def data():
        ...     digits = load("digits")
        ...     return Splits(Binarized(digits.train), binarize(digits.valid, seed=1), binarize(digits.test, seed=2))
        >>> def build(splits):
        ...     model = VAE(64, 2, (50,))
        ...     return ELBO()(model, guides.Amortized(model, hidden=(50,)))
        >>> def evaluate(model, guide, splits):
        ...     return {"log_p": log_likelihood(model, guide, splits.test, num_particles=1000).mean}
        >>> row = Row(name="digits-vae", system="VAE", data=data, build=build, evaluate=evaluate, minutes=1, epochs=20)
    """

    name: str
    system: str
    data: Callable[[], Splits]
    build: Callable[[Splits], nn.Module]
    evaluate: Callable[[Any, Any, Splits], Figures]
    minutes: float
    epochs: int | None = None
    steps: int | None = None
    figure: str = "log_p"
    unit: str = "nats per datum"
    check: tuple[str, Callable[[Any, Any, Splits], float]] | None = None
    look: Callable[[Any, Any, Splits], Figures] | None = None
    every: int = 10
    batch_size: int = 128
    seed: int = 0
    optimizer: Callable[..., torch.optim.Optimizer] | None = None
    schedule: Callable[[torch.optim.Optimizer, int], Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    after: str | None = None
    enough: Callable[[Mapping[str, Any]], bool] | None = None
    note: str = ""

    def planned(self, splits: Splits) -> int:
        """The planned number of steps."""
        if self.steps is not None:
            return self.steps
        dropped = self.settings.get("drop_last", False)
        return self.epochs * len(batches_of(rows_of(splits.train), self.batch_size, self.seed, 0, drop_last=dropped))

    @property
    def arguments(self) -> str:
        """All that a resumed row must share with the one that was begun."""
        # Words of the tables may change, since they change no figure, and the budget, which changes no step.
        free = ("name", "system", "facts", "note", "minutes", "figure", "unit", "check")
        # nor do rows without a sign change, since signs are younger than rows that were begun
        names = [f.name for f in fields(self) if f.name not in free and (f.name != "enough" or self.enough)]
        return str({name: describe(getattr(self, name)) for name in names})

    def command(self, options: list[str]) -> list[str]:
        """The command of the process that trains it."""
        return [sys.executable, str(ROOT / "tools" / "runs.py"), "--row", self.name, *options]

    def shown(self) -> str:
        """The line of a list."""
        plan = f"{self.epochs} epochs" if self.epochs else f"{self.steps} steps"
        return f"{self.name}: {self.system}, {plan}, {self.minutes:g} CPU minutes"


@dataclass(frozen=True, kw_only=True)
class Script:
    """A row that a script of the repository trains and records by itself; it resumes by `--resume`.

    Args:
        name: of results/NAME.json, and of the folder runs/NAME.
        script: path in the repository.
        line: the arguments, without `--name`.
    """

    name: str
    script: str
    line: str

    @property
    def arguments(self) -> str:
        """All that a resumed row must share with the one that was begun."""
        return self.line

    def command(self, options: list[str]) -> list[str]:
        """The command of the process that trains it."""
        return [sys.executable, self.script, "--name", self.name, *shlex.split(self.line), "--resume"]

    def shown(self) -> str:
        """The line of a list."""
        return f"python {self.script} --name {self.name} {self.line}"


def cosine(optimizer: torch.optim.Optimizer, steps: int, *, last: float) -> torch.optim.lr_scheduler.LRScheduler:
    """Half a cosine from the optimiser's learning rate to `last` over the planned steps."""
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps, eta_min=last)
