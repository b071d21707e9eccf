"""A positive latent: counts whose rate is a Gamma variable, the guide's family mapped onto the positive numbers.

    p(z) = Gamma(z; 2, 1),   p(x | z) = Poisson(x; z),   so that p(z | x) = Gamma(z; 2 + x, 2).

`Amortized` reads the support from `model.prior()`, and any family over the reals is mapped onto it (`guides.Onto`). The
grid integrates in log z and gives the density of z itself; here the posterior is also known, and lies under the grid's.

    python examples/positive.py --steps 2000
"""

from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import pyro
import torch
import tyro
from matplotlib import pyplot as plt
from pyro import distributions as dist
from pyro.nn import PyroModule
from report import save

import guides
from zoo.infer import ELBO, compare, fit, grid_reference

FAMILIES = {"Diagonal": guides.Diagonal, "Mixture": guides.Mixture, "Spline": partial(guides.Spline, hidden=(16,))}


class Counts(PyroModule):
    """p(x, z) = Gamma(z; 2, 1) Poisson(x; z)."""

    data_dim, latent_dim = 1, 1

    def __init__(self):
        super().__init__("model")

    def prior(self):
        return dist.Gamma(torch.full((1,), 2.0), 1.0).to_event(1)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", dist.Poisson(z).to_event(1), obs=x)


def main(*, steps: int = 600, counts: tuple[int, ...] = (0, 1, 4), seed: int = 0,
         out: Path = Path("runs/positive")) -> None:  # fmt: skip
    """Fits the families on draws of the model, prints the verdicts, draws the densities over the grid's."""
    torch.set_num_threads(1)
    pyro.set_rng_seed(seed)
    model, x = Counts(), torch.tensor(counts, dtype=torch.float).unsqueeze(-1)
    data = dist.Poisson(dist.Gamma(2.0, 1.0).sample((2000, 1))).sample()
    reference = grid_reference(model, x)
    trained = {}
    for name, family in FAMILIES.items():
        trained[name] = guides.Amortized(model, family=family, hidden=(32,))
        adam = partial(torch.optim.Adam, lr=5e-3)
        fit(ELBO(4)(model, trained[name]), data, steps=steps, optimizer=adam, seed=seed, progress=False)
        print(name, compare(trained[name], reference, x, seed=seed), sep="\n")

    z = torch.linspace(0.005, 8.0, 400)
    points = z.reshape(-1, 1, 1).expand(-1, len(x), 1)
    with torch.no_grad():
        exact = reference.log_density(points.double(), torch.arange(len(x))).exp()
        densities = {name: guide.posterior(x).log_prob(points).exp() for name, guide in trained.items()}
    figure, axes = plt.subplots(1, len(x), figsize=(3.2 * len(x), 2.8), layout="constrained", squeeze=False)
    for n, ax in enumerate(axes[0]):
        ax.plot(z, exact[:, n], color="black", linewidth=2.5, alpha=0.35, label="grid")
        for name, density in densities.items():
            ax.plot(z, density[:, n], linewidth=1.0, label=name)
        ax.set(title=f"x = {counts[n]}", xlabel="z", ylim=(0, None))
    axes[0, 0].set_ylabel("density")
    axes[0, 0].legend(frameon=False, fontsize=8)
    save(figure, out / "positive.png", axes[0])


if __name__ == "__main__":
    tyro.cli(main)
