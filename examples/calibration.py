"""Calibration by simulation: ranks of true latents among a guide's draws, over data that the model itself draws.

A VAE of two latents with random weights, which stay, and encoders of three families trained on draws of it; beside them
probabilistic PCA with its exact posterior, which must pass. Ranks are uniform if the guide is the posterior. Each is
held against an exact band at 1 % over all ranked quantities (Talts et al. 2018, Saeilynoja et al. 2022).

    python examples/calibration.py --families diagonal spline --steps 20000
"""

from pathlib import Path

import pyro
import torch
import tyro
import words
from pyro import poutine
from report import Report

import guides
from zoo import PPCA, VAE
from zoo.infer import ELBO, fit, plot_coverage, plot_ranks, simulation_based_calibration


def main(
    *,
    families: tuple[str, ...] = ("diagonal", "full-rank", "iaf"),
    data_dim: int = 10,
    hidden: tuple[int, ...] = (64,),
    encoder: tuple[int, ...] = (64, 64),
    steps: int = 3000,
    num_train: int = 50_000,
    num_data: int = 2000,
    num_draws: int = 99,
    seed: int = 0,
    out: Path = Path("runs/calibration"),
) -> None:
    """Trains a guide of each family on draws of one model, ranks, and draws the ranks of all in one picture."""
    torch.set_num_threads(1)
    pyro.set_rng_seed(seed)
    page = Report(out, "Calibration by simulation", f"{num_data} data, {num_draws} draws of each guide")
    model = VAE(data_dim, 2, hidden)
    # Weights as torch starts them make a posterior that is next to the prior. With larger ones the data know z, and the
    # posterior is bent: a family can be wrong.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
        x = poutine.uncondition(model)(torch.zeros(num_train, data_dim))
    # The data are the model's own for as long as the model stays.
    model.requires_grad_(False)

    found = {}
    for word in families:
        pyro.set_rng_seed(seed)
        guide = guides.Amortized(model, family=words.family(word), hidden=encoder)
        fit(ELBO(num_particles=4)(model, guide), x, steps=steps, batch_size=256, seed=seed, progress=False)
        found[word] = simulation_based_calibration(model, guide, num_data, num_draws, seed=seed)
        page.heading(f"VAE, {word}")
        page.preformatted(str(found[word]))
    exact = PPCA(data_dim, 2)
    found["PPCA, exact"] = simulation_based_calibration(exact, guides.Exact(exact), num_data, num_draws, seed=seed)
    page.heading("Probabilistic PCA, exact posterior")
    page.preformatted(str(found["PPCA, exact"]))

    page.heading("Ranks")
    page.figure("calibration", plot_ranks(found), "Cumulative ranks minus the diagonal, and the band at 1 %.")
    page.figure("coverage", plot_coverage(found[families[0]]), f"Coverage of credible regions, {families[0]}.")
    print(f"wrote {page.write()}")


if __name__ == "__main__":
    tyro.cli(main)
