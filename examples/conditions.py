"""Quadrants of a digit given, the others predicted: a conditional VAE beside a network without latents.

Of each MNIST digit one, two or three quadrants are the condition y, and the pixels of the others are x: p(x | y) =
int p(z | y) p(x | z, y) dz. A network that gives each pixel's probability by itself cannot say that two strokes
exclude each other. Pixels are bits, one Bernoulli draw of the grey values (ink 1), drawn anew for each epoch of the
training; Pyro's own example of this model scores the grey values by the Bernoulli formula.

    python examples/conditions.py
    python examples/conditions.py --epochs 2 --quadrants 1 --num-test 100
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pyro
import torch
import tyro
from report import save
from torch import Tensor

import guides
from zoo import VAE
from zoo.data import binarize, load
from zoo.infer import ELBO, fit, log_likelihood
from zoo.parts.conditionals import Bernoulli
from zoo.parts.networks import WithHead

# Nats per digit as pyro.ai/examples/cvae reports them, by quadrants given: its network, and its CVAE.
REPORTED = {1: (100.4, 71.8), 2: (61.9, 51.0), 3: (25.4, 24.2)}


class Quadrants:
    """Digits as data for `fit`: (pixels to predict, no mask, given pixels), of a fresh draw of the bits."""

    def __init__(self, grey: Tensor, given: Tensor) -> None:
        self.grey, self.given = grey, given

    def __len__(self) -> int:
        return len(self.grey)

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, None, Tensor]:
        bits = torch.bernoulli(self.grey[index], generator=generator)
        return bits[:, ~self.given], None, bits[:, self.given]


def places(num: int) -> Tensor:
    """True at the pixels of the first quadrants: lower left, upper left, upper right."""
    given = torch.zeros(28, 28, dtype=torch.bool)
    for rows, columns in ((slice(14, 28), slice(14)), (slice(14), slice(14)), (slice(14), slice(14, 28)))[:num]:
        given[rows, columns] = True
    return given.flatten()


def network_alone(data: Quadrants, hidden: tuple[int, ...], epochs: int, batch_size: int, seed: int) -> WithHead:
    """p(x | y) = prod_i Bernoulli(x_i; f_i(y)), trained as the pair is: `fit` takes any module that gives a loss."""
    network = WithHead((int(data.given.sum()),), int((~data.given).sum()), Bernoulli, hidden)

    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor, mask: None, y: Tensor) -> Tensor:
            return -self.network(y).log_prob(x).sum()

    fit(Loss(), data, epochs=epochs, batch_size=batch_size, seed=seed, progress=False)
    return network


def main(
    *,
    quadrants: tuple[int, ...] = (1, 2, 3),
    epochs: int = 8,
    hidden: tuple[int, ...] = (300,),
    latent_dim: int = 30,
    num_test: int = 1000,
    num_particles: int = 100,
    seed: int = 0,
    out: Path = Path("runs/conditions"),
) -> None:
    """Trains both for each number of quadrants, prints their -log p(x | y), and draws predictions for the first."""
    torch.set_num_threads(1)
    digits = load("mnist")
    bits = binarize(digits.test, seed=seed)[:num_test]
    panels: list[Tensor] = []
    for num in quadrants:
        pyro.set_rng_seed(seed)
        data = Quadrants(digits.train.images, given := places(num))
        x, y = bits[:, ~given], bits[:, given]
        model = VAE(x.shape[1], latent_dim, hidden, condition_dim=y.shape[1])
        guide = guides.Amortized(model, hidden=hidden)
        fit(ELBO(analytic_kl=True)(model, guide), data, epochs=epochs, batch_size=200, seed=seed, progress=False)
        network = network_alone(data, hidden, epochs, 200, seed)
        found = log_likelihood(model, guide, x, None, y, num_particles=num_particles, seed=seed)
        with torch.no_grad():
            alone = -network(y).log_prob(x).mean()
        print(f"{num} given: network {alone:.1f}, CVAE {-found.mean:.1f} (bound {-found.elbo.mean():.1f}) nats; "
              "reported by Pyro, of grey values: {} and {}".format(*REPORTED[num]))  # fmt: skip
        if not panels:
            with torch.no_grad():
                few = y[:10]
                rows = [torch.full_like(x[:10], 0.5), x[:10], network(few).mean]
                # the pixels' probabilities at one draw of z: their own noise would hide the strokes
                rows += [model.likelihood(model.generate(10, few)[0]["z"], few).mean for _ in range(3)]
                panels = [torch.zeros(10, 784).masked_scatter(given, few).masked_scatter(~given, row) for row in rows]

    figure, axes = plt.subplots(6, 1, figsize=(6.2, 4.4), layout="constrained")
    for axis, panel, label in zip(axes, panels, ("given", "truth", "network", "CVAE", "CVAE", "CVAE"), strict=True):
        axis.imshow(panel.view(10, 28, 28).permute(1, 0, 2).flatten(1).numpy(), cmap="gray_r", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
        axis.set_ylabel(label, rotation=0, ha="right", va="center")
    save(figure, out / "conditions.png", axes)


if __name__ == "__main__":
    tyro.cli(main)
