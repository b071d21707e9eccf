"""Rows of codes of simulated shapes: VAE, beta-VAEs, beta-TCVAEs, a capacity; five seeds each, judged by known factors.

The spread over seeds is as large as the effects of the objectives, so that tables give medians and ranges. Networks are
one for all. Plans end a little before their budget on this project's machine.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

import guides
from rows.hierarchies import ADAM, row
from rows.row import Figures, Row, Splits
from zoo import VAE
from zoo.data import load
from zoo.infer import (
    ELBO,
    Objective,
    Tempered,
    TotalCorrelation,
    beta_vae_score,
    dci,
    kl_per_unit,
    log_likelihood,
    mig,
    sap,
    terms,
)
from zoo.parts.aside import aside, seeded

LATENTS, WIDTHS = 10, (256, 256)
#: steps of 64 pictures that fit into the minutes, and those of the total correlation, whose batch meets itself
MINUTES, STEPS, PAIRED = 5, 50_000, 30_000


@dataclass(frozen=True)
class Grow:
    """A capacity that grows from 0 to `nats` over some steps."""

    steps: int
    nats: float

    def __call__(self, step: int) -> float:
        return self.nats * min(1.0, step / self.steps)


def pictures() -> Splits:
    """12,000, 1,000 and 2,000 shapes; those to test as a split, with their factors."""
    data = load("shapes")
    return Splits(data.train.images, data.valid.images, data.test)


def pair(splits: Splits, *, objective: Callable[[], Objective]) -> nn.Module:
    """The loss of a VAE of shapes."""
    model = VAE(splits.train.shape[-1], LATENTS, hidden=WIDTHS)
    # made here: an objective counts the steps of one training
    return objective()(model, guides.Amortized(model, hidden=WIDTHS))


def weighted(weight: float) -> Tempered:
    return Tempered(ELBO(analytic_kl=True), kl_weight=weight)


def growing(nats: float, force: float) -> Tempered:
    """A capacity that grows over most of a training to `nats`, of the mean KL of a batch."""
    return Tempered(ELBO(analytic_kl=True), kl_weight=force, capacity=Grow(STEPS * 4 // 5, nats), batch_mean=True)


def evaluate(model: Any, guide: Any, splits: Splits) -> Figures:
    """The bound, its parts, and the scores of the means of q(z | x) against the factors."""
    x, factors = splits.test.images, splits.test.factors
    found = log_likelihood(model, guide, x, num_particles=100)
    units = kl_per_unit(model, guide, x)["z"].mean(0)
    with aside(guide), torch.no_grad():
        codes = guide.posterior(x).mean
    gap, forests = mig(codes, factors), dci(codes, factors)
    return {
        "elbo": found.elbo.mean().item(),
        "error": found.elbo.std().item() / len(x) ** 0.5,
        "reconstruction": reconstruction(model, guide, splits),
        "kl": {"z": units.sum().item()},
        "kl_units": units.tolist(),
        "mig": gap.score,
        "mig_factors": gap.per_factor.tolist(),
        "information": gap.table.max(0).tolist(),
        "sap": sap(codes, factors).score,
        "disentanglement": forests.disentanglement,
        "completeness": forests.completeness,
        "informativeness": forests.informativeness,
        "beta_vae_score": beta_vae_score(codes, factors).score,
        "num_test": len(x),
    }


def reconstruction(model: Any, guide: Any, splits: Splits) -> float:
    """E_q[log p(x | z)] of the test pictures, nats each, by ten draws of a fixed seed."""
    with aside(guide), aside(model), torch.no_grad(), seeded(0):
        return terms(model, guide, splits.test.images, num_particles=10).log_likelihood.mean().item()


def shapes(name: str, system: str, objective: Callable[[], Objective], *, steps: int = STEPS) -> list[Row]:
    """A row for each of five seeds."""
    return [
        row(
            f"shapes-{name}-{seed}", system, partial(pair, objective=objective), steps=steps, minutes=MINUTES,
            data=pictures, batch_size=64, optimizer=ADAM, seed=seed, evaluate=evaluate, figure="elbo",
            check=("reconstruction", reconstruction), facts={"data": "shapes", "objective": name},
        )
        for seed in range(5)
    ]  # fmt: skip


ROWS: list[Row] = [
    *shapes("vae", "VAE", partial(ELBO, analytic_kl=True)),
    *(row for beta in (2.0, 4.0, 8.0, 16.0)
      for row in shapes(f"beta-{beta:.0f}", f"beta-VAE, β = {beta:.0f}", partial(weighted, beta))),
    *(row for beta in (4.0, 8.0)
      for row in shapes(f"tc-{beta:.0f}", f"beta-TCVAE, β = {beta:.0f}",
                        partial(TotalCorrelation, beta, 12_000, analytic_kl=True), steps=PAIRED)),
    *shapes("capacity", "capacity, 0 to 10 nats, γ = 20", partial(growing, 10.0, 20.0)),
]  # fmt: skip
