"""A model of two levels on real digits: every guide of hierarchies over the draws of HMC and NUTS, in one picture.

The model is trained with a top-down guide and then frozen, so that the posterior and log p(x) are the same for all
guides. The picture has a panel for each digit, z_1 across and z_2 upwards: the regions of 50 % and 95 % of each guide
over the draws. The table holds each guide against the draws, where these have passed their checks.

    python examples/hierarchy.py
    python examples/hierarchy.py --num-checked 1 --nuts-seconds 600
"""

from functools import partial
from pathlib import Path

import pyro
import torch
import tyro
from arviz import InferenceData
from matplotlib.figure import Figure
from report import Report
from torch import Tensor

import guides
from zoo import Hierarchical
from zoo.data import Binarized, binarize, load
from zoo.infer import ELBO, NotAReference, Tempered, compare, fit, hmc_reference, log_likelihood, nuts_reference, terms
from zoo.plots.contours import Window, draw_contours, histogram
from zoo.plots.look import CYCLE, DRAWS, plain

HIDDEN = ((64,), (32,))
GUIDES = {
    "bottom-up": guides.BottomUp,
    "top-down": guides.TopDown,
    "ladder": guides.Ladder,
    "bidirectional": partial(guides.Bidirectional, bottom_up=[1]),
}


def pairs_of(draws: InferenceData, row: int) -> Tensor:
    """The first entries of z_1 and z_2 of one datum, chains together, `(K, 2)`."""
    sites = [torch.as_tensor(draws.posterior[site].values)[:, :, row, 0].flatten() for site in ("z_1", "z_2")]
    return torch.stack(sites, -1)


def overlay(found: dict[str, InferenceData], drawn: dict[str, Tensor]) -> Figure:
    """A panel for each datum: draws of samplers as dots, and the contours of the guides' draws, `(K, N, 2)`."""
    num = next(iter(drawn.values())).shape[1]
    figure = Figure(figsize=(3.2 * num, 3.6), layout="constrained")
    for row, ax in enumerate(figure.subplots(1, num, squeeze=False)[0]):
        dots = {name: pairs_of(draws, row) for name, draws in found.items()}
        clouds = [*dots.values(), *(draws[:, row] for draws in drawn.values())]
        window = Window.around([(cloud.mean(0), cloud.std(0)) for cloud in clouds])
        for (name, cloud), marker in zip(dots.items(), "ox", strict=False):
            few = cloud[:: max(1, len(cloud) // 300)]
            ax.scatter(*few.T, s=5, marker=marker, color=DRAWS, alpha=0.5, linewidths=0.6, label=name)
        for (name, draws), colour in zip(drawn.items(), CYCLE, strict=False):
            draw_contours(ax, window, histogram(draws[:, row], window), colour, "solid")
            ax.plot([], [], color=colour, label=name)
        ax.set(xlabel="first entry of z_1", ylabel="first entry of z_2" if row == 0 else "", title=f"digit {row}")
        plain(ax)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def main(
    *,
    latent_dims: tuple[int, int] = (2, 2),
    epochs: int = 100,
    num_checked: int = 3,
    draws: int = 1000,
    nuts_seconds: float = 240.0,
    seed: int = 0,
    out: Path = Path("runs/hierarchy"),
) -> None:
    """Trains the model and every guide, finds the posterior by HMC and NUTS, compares."""
    torch.set_num_threads(1)
    pyro.set_rng_seed(seed)
    digits = load("digits")
    train, x = Binarized(digits.train), binarize(digits.test.shuffled(seed), seed=seed)[:num_checked]
    model = Hierarchical(digits.data_dim, latent_dims, tuple(tuple(reversed(widths)) for widths in HIDDEN))
    # Free bits keep the upper level open: without them the model may learn to do without it.
    training = {"epochs": epochs, "batch_size": 64, "seed": seed, "progress": False}
    fit(Tempered(ELBO(), free_bits=0.5)(model, guides.TopDown(model, hidden=HIDDEN)), train, **training)
    model.requires_grad_(False)
    trained = {name: make(model, hidden=HIDDEN) for name, make in GUIDES.items()}
    for guide in trained.values():
        fit(ELBO()(model, guide), train, **training)

    page = Report(out, "A model of two levels on digits", f"latents of {latent_dims}, every guide of hierarchies")
    options = {"num_samples": draws, "seed": seed}
    finders = {
        "HMC": lambda: hmc_reference(model, x, warmup=draws, **options),
        "NUTS": lambda: nuts_reference(model, x, warmup=draws // 3, time_budget=nuts_seconds, **options),
    }
    found, checked = {}, {}
    for name, finder in finders.items():
        try:
            found[name] = checked[name] = finder()
        except NotAReference as refusal:
            # Draws that failed their checks are shown as they are, and nothing is held against them.
            found[f"{name}, checks failed"] = refusal.inference_data
            page.preformatted(f"{name}: {refusal}")
    drawn = {}
    for name, guide in trained.items():
        page.heading(name)
        page.text(f"log p(x) by 1000 draws: {log_likelihood(model, guide, x, num_particles=1000, seed=seed).mean:.2f}")
        for sampler, reference in checked.items():
            page.preformatted(f"against {sampler}\n{compare(guide, reference, x, seed=seed)}")
        with torch.no_grad():
            latents = terms(model, guide, x, num_particles=20_000).latents
        drawn[name] = torch.stack([latents["z_1"][..., 0], latents["z_2"][..., 0]], -1)
    page.heading("All guides over the draws")
    page.figure("overlay", overlay(found, drawn), "Contours hold 50 % and 95 % of each guide; dots are the samplers'.")
    print(f"wrote {page.write()}")


if __name__ == "__main__":
    tyro.cli(main)
