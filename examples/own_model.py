"""A model that is not in the zoo, in one file: stock guide, stock objective, stock check.

Binomial factor analysis of the 8x8 digits, whose pixels are counts 0..16 (blocks of 4x4 bits):

    z_n ~ N(0, I_2),   x_ni ~ Binomial(16, sigmoid(w_i' z_n + b_i)).

The library asks two things of a model: `forward` is a Pyro program with all sites in one batch plate, and, for
`guides.Amortized`, the model has the attributes `data_dim` and `latent_dim`.

    python examples/own_model.py --family full-rank --objective iwelbo --num-particles 5
"""

from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
import tyro
import words
from pyro.nn import PyroModule
from torch import nn

from zoo.data import load
from zoo.infer import compare, fit, grid_reference, hmc_reference, log_likelihood, plot_overlay


class BinomialFactors(PyroModule):
    """p(x, z) = N(z; 0, I) prod_i Binomial(x_i; 16, sigmoid(w_i' z + b_i))."""

    def __init__(self, data_dim: int, latent_dim: int, total_count: int) -> None:
        # A name of its own: under SVI two PyroModules of one name, or of none, share parameters silently.
        super().__init__("model")
        self.data_dim, self.latent_dim, self.total_count = data_dim, latent_dim, total_count
        self.logits = nn.Linear(latent_dim, data_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.latent_dim), 1.0).to_event(1))
            likelihood = dist.Binomial(self.total_count, logits=self.logits(z)).to_event(1)
            return pyro.sample("x", likelihood, obs=x)


def main(
    *,
    guide: str = "amortized",
    family: str = "diagonal",
    objective: str = "elbo",
    num_particles: int = 1,
    epochs: int = 60,
    num_checked: int = 6,
    seed: int = 0,
    out: Path = Path("runs/own_model"),
) -> None:
    """Fits the model to the digits and compares the guide with a grid and with HMC."""
    torch.set_num_threads(1)
    pyro.set_rng_seed(seed)
    digits = load("digits")
    train, test = digits.train.levels.float(), digits.test.levels.float()
    # A per-datum guide knows only the rows that it was fitted to: those that are checked.
    data = test if guide == "per-datum" else train
    model = BinomialFactors(digits.data_dim, 2, total_count=16)
    q = words.guide(guide, family, model, len(data), hidden=(100,))
    loss = words.objective(objective, num_particles)(model, q)
    # AutoNormal has parameters of the shape of the whole data: it cannot take a part.
    batch_size = len(data) if guide == "auto-normal" else 64
    fit(loss, data, epochs=epochs, batch_size=batch_size, seed=seed, out=out)

    rows = slice(0, num_checked)
    if guide == "auto-normal":
        print("auto-normal knows the training rows alone; the check below takes amortized or per-datum guides")
        return
    if guide == "amortized":
        print(log_likelihood(model, q, test, num_particles=1000, seed=seed))
    x, checked = test[rows], q if guide == "amortized" else q.rows(torch.arange(num_checked))
    grid, draws = grid_reference(model, x), hmc_reference(model, x, seed=seed)
    for reference in (grid, draws):
        print(compare(checked, reference, x, model=model, seed=seed))
    figure = plot_overlay(checked, [grid, draws], x)
    figure.savefig(out / "overlay.png", dpi=150)
    print(f"wrote {out / 'overlay.png'}")


if __name__ == "__main__":
    tyro.cli(main)
