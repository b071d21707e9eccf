"""Disentangling: does a coordinate of the code stand for one factor of the pictures, such as the place of a shape?

Pictures of squares, ellipses and hearts, whose scale, rotation and place are known, are learnt by the same VAE under
four objectives: the ELBO, the beta-VAE, a weight of the total correlation alone (beta-TCVAE), and a KL drawn to a
capacity that grows. The table sets reconstruction against the scores of the code: x, y and scale come to stand on few
coordinates, the more so where the total correlation is weighed or the KL has a capacity. Rotation is found by none:
squares and ellipses look alike after a part of a turn. Another seed may order the objectives in another way. The
picture has the information of each code about each factor, as a share of the factor's entropy, and pictures along the
codes of the beta-VAE.

    python examples/disentangling.py
    python examples/disentangling.py --epochs 100 --seed 1
"""

from pathlib import Path
from typing import Any

import pyro
import torch
import tyro
from matplotlib.figure import Figure
from report import save
from torch import Tensor

import guides
from zoo import VAE
from zoo.data import load
from zoo.data.simulated.shapes import FACTORS
from zoo.infer import ELBO, Objective, Tempered, TotalCorrelation, dci, fit, kl_per_unit, mig, sap, terms

LATENTS, WIDTHS = 8, (256, 256)


def objectives(num_data: int, steps: int) -> dict[str, Objective]:
    """The four objectives; each takes the KL in closed form."""
    elbo = ELBO(analytic_kl=True)

    def growing(step: int) -> float:
        return min(8.0, 10.0 * step / steps)

    return {
        "ELBO": elbo,
        "beta-VAE, beta = 4": Tempered(elbo, kl_weight=4.0),
        "total correlation, beta = 6": TotalCorrelation(6.0, num_data, analytic_kl=True),
        "capacity, 0 to 8 nats": Tempered(elbo, kl_weight=20.0, capacity=growing, batch_mean=True),
    }


@torch.no_grad()
def codes_of(guide: Any, x: Tensor) -> Tensor:
    """The means of q(z | x), `(N, LATENTS)`."""
    return guide.eval().posterior(x).mean


@torch.no_grad()
def along(model: Any, code: Tensor, coordinates: list[int], places: int) -> Tensor:
    """Means of p(x | z), where one coordinate of the code at a time goes from -2 to 2: `(coordinates, places, D)`."""
    z = code.repeat(len(coordinates), places, 1)
    for row, coordinate in enumerate(coordinates):
        z[row, :, coordinate] = torch.linspace(-2, 2, places)
    return model.likelihood(z).mean


def drawing(tables: dict[str, Any], pictures: Tensor, coordinates: list[int]) -> Figure:
    """The information of codes about factors, an image for each objective; below them pictures along the codes."""
    figure = Figure(figsize=(2.2 * len(tables), 6.4), layout="constrained")
    above, below = figure.subfigures(2, height_ratios=(1, 1.35))
    for ax, (name, table) in zip(above.subplots(1, len(tables)), tables.items(), strict=True):
        shown = ax.imshow(table, vmin=0, vmax=1, cmap="Blues")
        ax.set_title(name, fontsize=8)
        ax.set_xticks(range(len(FACTORS)), FACTORS, rotation=60, fontsize=7)
        ax.set_yticks(range(LATENTS), [f"z{i + 1}" for i in range(LATENTS)], fontsize=7)
    above.colorbar(shown, ax=above.axes, label="I(code; factor) / H(factor)", shrink=0.8)
    grid = below.subplots(*pictures.shape[:2])
    for row, coordinate, images in zip(grid, coordinates, pictures, strict=True):
        row[0].set_ylabel(f"z{coordinate + 1}", fontsize=8, rotation=0, labelpad=10, va="center")
        for ax, image in zip(row, images, strict=True):
            ax.imshow(image.view(16, 16).numpy(), cmap="gray_r", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
    below.suptitle("pictures along the codes of the beta-VAE, from -2 to 2", fontsize=8)
    return figure


def main(
    *, epochs: int = 20, num_train: int = 12_000, seed: int = 0, out: Path = Path("runs/disentangling")
) -> None:  # fmt: skip
    """Trains the four pairs, prints their scores, draws the information and the pictures along the codes."""
    torch.set_num_threads(1)
    data = load("shapes")
    train = data.train.images[:num_train]
    x, factors = data.test.images, data.test.factors
    tables, pictures, coordinates = {}, torch.empty(0), [0]
    print(f"{'':28} log p(x | z)      KL     MIG     SAP   DCI: D       C       I   (nats per image)")
    for name, objective in objectives(len(train), epochs * -(-len(train) // 64)).items():
        pyro.set_rng_seed(seed)
        model = VAE(x.shape[1], LATENTS, hidden=WIDTHS)
        loss = objective(model, guides.Amortized(model, hidden=WIDTHS))
        fit(loss, train, epochs=epochs, batch_size=64, seed=seed, progress=False)
        with torch.no_grad():
            likelihood = terms(model, loss.guide, x).log_likelihood.mean().item()
        units = kl_per_unit(model, loss.guide, x, seed=seed)["z"].mean(0)
        codes = codes_of(loss.guide, x)
        found, forests = mig(codes, factors), dci(codes, factors)
        scores = (found.score, sap(codes, factors).score, forests.disentanglement, forests.completeness)
        numbers = (units.sum().item(), *scores, forests.informativeness)
        print(f"{name:28} {likelihood:12.2f}", *(f"{number:7.3f}" for number in numbers))
        tables[name] = found.table
        if name.startswith("beta"):
            coordinates = units.argsort(descending=True)[:5].tolist()
            pictures = along(model, codes[:1], coordinates, 9)
    save(drawing(tables, pictures, coordinates), out / "disentangling.png")


if __name__ == "__main__":
    tyro.cli(main)
