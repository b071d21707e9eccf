"""Rows of discrete codes on static MNIST: 200 variables of 2 values, and 20 of 10; relaxed, straight-through, drawn.

Networks are those of Jang et al. (784-512-256-code and back). Plans end a little before their budget on this project's
machine.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

import guides
from rows.hierarchies import Rise, evaluate, row
from rows.pictures import mean_of, static_mnist
from rows.row import Row, Splits
from zoo import VAE
from zoo.infer import ELBO, RLOO, VIMCO, Objective, Scheduled, Tempered
from zoo.parts.conditionals import Bernoulli, CodePrior

HIDDEN = (512, 256)
#: groups and categories
SHAPES = ((200, 2), (20, 10))


@dataclass(frozen=True)
class Fall:
    """A temperature that falls from 1 to `last` over some steps, by the same factor each step."""

    steps: int
    last: float = 0.5

    def __call__(self, step: int) -> float:
        return max(self.last, math.exp(math.log(self.last) * step / self.steps))


def pair(
    splits: Splits, shape: tuple[int, int], family: Callable[..., Any], relaxed: float | None = None
) -> tuple[VAE, guides.Amortized]:
    """A VAE of codes and its guide; `relaxed` is the temperature of the prior in training."""
    groups, categories = shape
    likelihood, prior = partial(Bernoulli, mean=mean_of(splits)), CodePrior(groups, categories, temperature=relaxed)
    model = VAE(784, groups * categories, HIDDEN[::-1], likelihood=likelihood, prior=prior)
    return model, guides.Amortized(model, hidden=HIDDEN, family=partial(family, categories=categories))


def warmed(objective: Objective, steps: int) -> Tempered:
    """With the whole KL from the start, most variables shut for good."""
    return Tempered(objective, kl_weight=Rise(steps // 5))


def jang(splits: Splits, *, shape: tuple[int, int], steps: int, hard: bool = False) -> nn.Module:
    """The loss of Jang et al., whose temperature falls over the first half of the plan."""
    model, guide = pair(splits, shape, partial(guides.GumbelSoftmax, hard=hard))
    bound = warmed(ELBO(analytic_kl=True), steps)
    return Scheduled(bound, guide.family.temperature, Fall(steps // 2))(model, guide)


def concrete(splits: Splits, *, shape: tuple[int, int], steps: int) -> nn.Module:
    """The loss of Maddison et al. at their temperatures, 2/3 for q and 1/2 for p."""
    model, guide = pair(splits, shape, partial(guides.GumbelSoftmax, temperature=2 / 3), relaxed=0.5)
    return warmed(ELBO(), steps)(model, guide)


def drawn(splits: Splits, *, shape: tuple[int, int], steps: int, objective: Callable[[int], Objective]) -> nn.Module:
    """The loss of codes that are drawn, four for each image."""
    model, guide = pair(splits, shape, guides.OneHot)
    return warmed(objective(4), steps)(model, guide)


def codes(name: str, system: str, build: Callable[..., nn.Module], steps: int) -> list[Row]:
    """A row for each shape, 15 CPU minutes each."""
    rows = []
    for shape in SHAPES:
        words = f"{shape[0]}x{shape[1]}"
        rows.append(row(
            f"codes-{words}-{name}", system, partial(build, shape=shape, steps=steps), steps=steps,
            minutes=15, data=static_mnist, batch_size=100, evaluate=evaluate,
            facts={"data": "binarized_mnist", "codes": words.replace("x", " × ")},
        ))  # fmt: skip
    return rows


#: steps that fit: of one relaxed code for each image, and of four drawn ones
ONE, FOUR = 28_000, 18_000

ROWS: list[Row] = [
    *codes("jang", "GumbelSoftmax, closed-form KL (Jang)", jang, ONE),
    *codes("concrete", "GumbelSoftmax, relaxed prior (Concrete)", concrete, ONE),
    *codes("straight-through", "GumbelSoftmax(hard=True), closed-form KL", partial(jang, hard=True), ONE),
    *codes("rloo", "OneHot, RLOO(4)", partial(drawn, objective=RLOO), FOUR),
    *codes("vimco", "OneHot, VIMCO(4)", partial(drawn, objective=VIMCO), FOUR),
]
