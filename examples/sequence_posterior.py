"""A short trajectory under a nonlinear deep Markov model: three guides beside NUTS over time, and the truth.

The state falls into one of two wells and now and then changes over; it is seen through noise:

    z_t ~ N(1.2 tanh(1.5 z_{t-1}), 0.7^2),   x_t ~ N(z_t, noise^2)

The model is known, each guide is trained on sequences drawn from it. `Smoother` conditions z_t on z_{t-1} and x_{t:T},
as the posterior does; `Filter` on x_{1:t} in place of x_{t:T}, so it learns of a change late; `MeanField` on all of x,
but not on z_{t-1}. The loss of each is log p(x) - ELBO, its KL from the posterior, in nats a frame.

    python examples/sequence_posterior.py --frames 20 --steps 800 --draws 500
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import tyro
from matplotlib.figure import Figure
from report import save
from torch import Tensor, nn

from guides import Filter, MeanField, Smoother
from zoo import DMM
from zoo.infer import ELBO, Band, NotAReference, draw_band, draw_points, fit, log_likelihood, nuts_reference, terms
from zoo.parts.conditionals import Normal
from zoo.parts.distributions import DiagonalNormal
from zoo.plots.look import GUIDE


class Wells(nn.Module):
    """N(1.2 tanh(1.5 z), 0.7^2): a transition of our own."""

    def __init__(self, latent_dim: int, hidden: Sequence[int] = ()) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((latent_dim,), 0.7))

    def forward(self, z: Tensor) -> DiagonalNormal:
        return DiagonalNormal(1.2 * torch.tanh(1.5 * z), self.scale)


def two_wells(noise: float) -> DMM:
    """The DMM at the head of this file, without a parameter to train."""
    model = DMM(1, 1, transition=Wells, hidden=(), likelihood=partial(Normal, scale=noise))
    with torch.no_grad():
        model.likelihood.loc.weight.fill_(1.0)
        model.likelihood.loc.bias.zero_()
    return model.requires_grad_(False)


def main(*, frames: int = 20, noise: float = 1.0, steps: int = 800, draws: int = 500, warmup: int = 300,
         chains: int = 4, num_test: int = 500, seed: int = 1,
         out: Path = Path("runs/sequence_posterior")) -> None:  # fmt: skip
    """Draws sequences, trains the guides, samples one posterior by NUTS, lays the bands over each other."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = two_wells(noise)
    _, data = model.generate(4000, frames)
    _, test = model.generate(num_test, frames)
    # A sequence that changes wells once, in the middle: there the guides differ.
    changes: Tensor = torch.zeros(1)
    while changes.sum() != 1 or not changes[frames // 3 : 1 + 2 * frames // 3].any():
        z, x = model.generate(1, frames)
        changes = z[0, 1:, 0].sign() != z[0, :-1, 0].sign()
    try:
        found = nuts_reference(model, x, num_samples=draws, warmup=warmup, chains=chains, seed=seed, target_accept=0.9)
    except NotAReference as refusal:
        # Too few draws for a reference; they serve the picture.
        print(refusal)
        found = refusal.inference_data
    nuts = torch.as_tensor(found["posterior"]["z"].values.copy()).reshape(-1, frames)

    print(f"{'':12}{'log p(x) - ELBO, nats per frame':>34}{'this sequence':>16}{'mean off, sd':>15}{'sd, ratio':>12}")
    figure = Figure(figsize=(7.5, 7.5), layout="constrained")
    axes, times = figure.subplots(3, 1, sharex=True, sharey=True), torch.arange(1, frames + 1)
    for ax, kind in zip(axes, (Smoother, Filter, MeanField), strict=True):
        guide = kind(model, hidden=(32,), recurrent=32)
        optimizer = partial(torch.optim.Adam, lr=5e-3)
        schedule = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=steps)
        fit(ELBO()(model, guide), data, steps=steps, optimizer=optimizer, schedule=schedule, seed=seed, progress=False)
        lost = []
        for sequences in (test, x):
            found_test = log_likelihood(model, guide, sequences, num_particles=1000)
            lost.append((found_test.per_datum - found_test.elbo).mean().item() / frames)
        with torch.no_grad():
            q = terms(model, guide, x, num_particles=4000).latents["z"][:, 0, :, 0]
        off, ratio = ((q.mean(0) - nuts.mean(0)) / nuts.std(0)).abs().max(), q.std(0) / nuts.std(0)
        spread = f"{ratio.min():.2f} to {ratio.max():.2f}"
        print(f"{kind.__name__:12}{lost[0]:34.3f}{lost[1]:16.3f}{off:15.2f}{spread:>15}")
        draw_band(ax, times, Band.of_draws(nuts), label="NUTS")
        draw_band(ax, times, Band.of_draws(q), GUIDE, "guide", "--", edges=True)
        ax.plot(times, z[0, :, 0], color="black", linewidth=0.9, linestyle=(0, (1, 1.5)), label="truth", zorder=5)
        draw_points(ax, times, x[0, :, 0])
        ax.set_title(f"{kind.__name__}: {lost[1]:.3f} nats per frame from the posterior", fontsize=10)
        ax.set_ylabel("$z_t$, $x_t$")
    axes[-1].set_xlabel("frame")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    save(figure, out / "sequence_posterior.png", axes)


if __name__ == "__main__":
    tyro.cli(main)
