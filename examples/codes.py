"""Codes of categorical variables on real digits: relaxed, straight-through and drawn, each judged by one-hot codes.

Four pairs are trained alike: Jang's loss with a falling temperature, its straight-through form, the Concrete bound with
a relaxed prior, and codes drawn from q with the leave-one-out score. Their training losses are not comparable; the
table holds the bounds of the discrete model. The picture shows a digit as it is decoded when one variable of its code
takes each of its values: a row for each variable.

    python examples/codes.py
    python examples/codes.py --groups 10 --categories 4 --epochs 200
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch
import tyro
from report import Report
from torch import Tensor, nn

import guides
from zoo import VAE
from zoo.data import Binarized, binarize, load
from zoo.infer import ELBO, RLOO, Scheduled, Tempered, fit, kl_per_site, log_likelihood, plot_images
from zoo.parts.conditionals import CodePrior

WIDTH = (128,)


def pair(groups: int, categories: int, family: Callable[..., Any], relaxed: float | None = None) -> tuple[VAE, Any]:
    """A VAE of digits whose latent is a code, and its guide; `relaxed` is the prior's temperature in training."""
    model = VAE(64, groups * categories, WIDTH, prior=CodePrior(groups, categories, temperature=relaxed))
    return model, guides.Amortized(model, hidden=WIDTH, family=partial(family, categories=categories))


def losses(groups: int, categories: int, steps: int) -> dict[str, nn.Module]:
    """The four pairs with their objectives."""

    def warm(step: int) -> float:
        return min(1.0, step / (steps / 5))

    def cooling(step: int) -> float:
        return max(0.5, math.exp(-1.4 * step / steps))

    made = {}
    for name, hard in (("relaxed (Jang)", False), ("straight-through", True)):
        model, guide = pair(groups, categories, partial(guides.GumbelSoftmax, hard=hard))
        bound = Tempered(ELBO(analytic_kl=True), kl_weight=warm)
        made[name] = Scheduled(bound, guide.family.temperature, cooling)(model, guide)
    both = pair(groups, categories, partial(guides.GumbelSoftmax, temperature=2 / 3), relaxed=0.5)
    made["both relaxed (Concrete)"] = Tempered(ELBO(), kl_weight=warm)(*both)
    made["drawn (RLOO)"] = Tempered(RLOO(4), kl_weight=warm)(*pair(groups, categories, guides.OneHot))
    return made


@torch.no_grad()
def variations(model: VAE, guide: Any, x: Tensor) -> Tensor:
    """The means of p(x | z) for one datum's most probable code, one variable at each of its values, `(G * C, 64)`."""
    blocks = guide.eval().posterior(x).mean.view(model.prior().logits.shape)
    groups, categories = blocks.shape
    one_hot = torch.eye(categories)
    codes = one_hot[blocks.argmax(-1)].repeat(groups, categories, 1, 1)
    for group in range(groups):
        codes[group, :, group] = one_hot
    return model.likelihood(codes.flatten(0, 1).flatten(1)).mean


def main(
    *,
    groups: int = 8,
    categories: int = 10,
    epochs: int = 150,
    num_particles: int = 1000,
    num_test: int = 300,
    shown: int = 8,
    seed: int = 0,
    out: Path = Path("runs/codes"),
) -> None:
    """Trains the four pairs, compares their bounds, and varies the code of a digit of class `shown`."""
    torch.set_num_threads(1)
    pyro.set_rng_seed(seed)
    digits = load("digits")
    train, bits = Binarized(digits.train), binarize(digits.test, seed=seed)
    test, digit = bits[:num_test], bits[digits.test.labels == shown][:1]
    page = Report(out, "Codes of categorical variables", f"{groups} variables of {categories} values, digits as bits")
    trained = losses(groups, categories, epochs * -(-len(train) // 64))
    rows = {}
    for name, loss in trained.items():
        fit(loss, train, epochs=epochs, batch_size=64, seed=seed, progress=False)
        found = log_likelihood(loss.model, loss.guide, test, num_particles=num_particles, seed=seed)
        kl = kl_per_site(loss.model, loss.guide, test, num_particles=100, seed=seed)["z"].mean().item()
        rows[name] = f"{found}; KL = {kl:.2f}"
    page.heading("Bounds of the discrete model, nats per image")
    page.table(rows)
    page.heading("One variable at each of its values")
    model, guide = trained["relaxed (Jang)"].model, trained["relaxed (Jang)"].guide
    picture = plot_images(variations(model, guide, digit), (8, 8), columns=categories)
    page.figure("codes", picture, "A row for each variable, a column for each value; the other variables as inferred.")
    print(f"wrote {page.write()}")


if __name__ == "__main__":
    tyro.cli(main)
