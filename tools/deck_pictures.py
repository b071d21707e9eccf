"""Pictures of the deck's slides that no example and no row of results has, for docs/deck.md: two minutes of CPU.

python tools/deck_pictures.py
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from cells import ROOT
from hierarchy_pictures import store
from matplotlib.figure import Figure
from pyro.nn import PyroModule
from rows.pictures import mnist
from torch import Tensor

import guides
from zoo import VAE
from zoo.data import Binarized, Split
from zoo.infer import ELBO, fit, grid_reference, plot_overlay
from zoo.plots.look import CYCLE, array, plain

#: classes of the third picture
DIGITS = 4


class Square(PyroModule):
    """p(z) = N(0, I), p(x | z) = N(x; z_0^2 + z_1 / 2, 0.3^2): x does not tell the sign of z_0."""

    data_dim, latent_dim = 1, 2

    def __init__(self) -> None:
        super().__init__("square")

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            mean = z[..., :1].square() + 0.5 * z[..., 1:]
            pyro.sample("x", dist.Normal(mean, 0.3).to_event(1), obs=x)


def minima(steps: int, seed: int) -> Figure:
    """The same datum twice, each with a Gaussian of its own, started left and right."""
    model, x = Square(), torch.ones(2, 1)
    guide = guides.PerDatum(model, 2, family=guides.FullRank)
    with torch.no_grad():
        guide.table[:, 0] = torch.tensor([-0.5, 0.5])
    fit(ELBO(num_particles=20)(model, guide), x, steps=steps, batch_size=2, seed=seed, progress=False,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.02))  # fmt: skip
    titles = ["started left", "started right"]
    return plot_overlay(guide, grid_reference(model, x), x, titles=titles)


def flows(num: int, seed: int) -> Figure:
    """Histograms of draws under flows: a row for each start and family, a column for each number of flows."""
    generator = torch.Generator().manual_seed(seed)
    starts = {
        "N(0, I)": torch.randn(num, 2, generator=generator),
        "uniform": 4 * torch.rand(num, 2, generator=generator) - 2,
    }
    figure = Figure(figsize=(6.4, 6.6), layout="constrained")
    axes = figure.subplots(4, 4)
    for row, (start, kind) in enumerate((s, k) for s in starts for k in (guides.Planar, guides.Radial)):
        for column, count in enumerate((0, 1, 2, 10)):
            z = starts[start]
            if count:
                family = kind(2, 0, num_flows=count)
                parameters = torch.randn(family.num_parameters, generator=generator)
                # loc and log scale stay out: the flows alone are shown
                parameters[:4] = 0
                z = family.density(parameters, None).way(z)[-1]
            ax = axes[row, column]
            # flows move and stretch: the window follows the bulk of the draws
            low, high = z.quantile(torch.tensor([0.01, 0.99]), 0)
            middle, reach = (low + high) / 2, 0.75 * (high - low).max()
            window = torch.stack([middle - reach, middle + reach], -1).tolist()
            ax.hist2d(*z.T.numpy(), bins=80, range=window, cmap="Blues")
            ax.set(xticks=[], yticks=[], aspect="equal")
            ax.set_title(f"K = {count}" if count else start, fontsize=9)
            if not column:
                ax.set_ylabel(kind.__name__, fontsize=9)
    return figure


def digits(train: Split, test: Split, epochs: int, seed: int) -> Figure:
    """Draws of q(z | x) by class, and the manifold of mean images."""
    chosen = [replace(part, levels=part.levels[part.labels < DIGITS], labels=part.labels[part.labels < DIGITS])
              for part in (train, test)]  # fmt: skip
    torch.manual_seed(seed)
    model = VAE(test.levels.shape[1], 2, (200, 200))
    guide = guides.Amortized(model, hidden=(200, 200))
    fit(ELBO(analytic_kl=True)(model, guide), Binarized(chosen[0]), epochs=epochs, batch_size=100, seed=seed,
        progress=False)  # fmt: skip
    figure = Figure(figsize=(8.4, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    with torch.no_grad():
        drawn = guide.posterior(chosen[1].images).sample()
        levels = torch.linspace(0.03, 0.97, 15)
        at = dist.Normal(0.0, 1.0).icdf(levels)
        # the first row has the largest z[1], as the axis beside it
        grid = torch.stack(torch.meshgrid(at.flip(0), at, indexing="ij")[::-1], -1).reshape(-1, 2)
        means = model.likelihood(grid).mean
    for label in range(DIGITS):
        points = drawn[chosen[1].labels == label]
        left.plot(*points.T.numpy(), ".", color=CYCLE[label], markersize=2.5, alpha=0.6, label=str(label))
    left.set(xlabel="z[0]", ylabel="z[1]", xlim=(-4, 4), ylim=(-4, 4), aspect="equal")
    left.legend(frameon=False, markerscale=4, fontsize=8)
    plain(left)
    side = math.isqrt(model.data_dim)
    tiles = means.reshape(len(at), len(at), side, side).transpose(1, 2).flatten(2).flatten(0, 1)
    right.imshow(array(tiles), cmap="gray_r", vmin=0, vmax=1)
    right.set_axis_off()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(chosen.seed)
    store({
        "deck_minima": minima(chosen.steps, chosen.seed),
        "deck_flows": flows(200_000, chosen.seed),
        "deck_digits": digits(*mnist(), chosen.epochs, chosen.seed),
    }, chosen.out)  # fmt: skip


if __name__ == "__main__":
    main()
