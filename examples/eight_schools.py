"""Latents that all data share: eight schools, and the last layer of a network, each guide held against NUTS.

The effects of eight schools have a mean and a spread that are latent too (Rubin 1981); the weights of the last layer of
a small network, and the noise, are latent while its features are fixed. Such a latent stands outside the plate of the
data, and the posterior is one, of everything together: one verdict for each guide.

    python examples/eight_schools.py --steps 3000
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
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroSample
from report import save
from torch import nn

import guides
from zoo.infer import ELBO, NotAReference, compare, fit, nuts_reference

EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]).unsqueeze(-1)
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]).unsqueeze(-1)


class Schools(PyroModule):
    """N(mu; 0, 5^2) HalfNormal(tau; 10) prod_n N(z_n; 0, 1) N(y_n; mu + tau z_n, error_n^2)."""

    latent_dim = 1

    def __init__(self):
        super().__init__("schools")

    def forward(self, y, error):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0)).unsqueeze(-1)
        tau = pyro.sample("tau", dist.HalfNormal(10.0)).unsqueeze(-1)
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Normal(y.new_zeros(1), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(mu + tau * z, error).to_event(1), obs=y)


class LastLayer(PyroModule):
    """N(w; 0, I) HalfNormal(sigma; 0.5) prod_n N(y_n; w^T h(u_n), sigma^2), h a network that is not learned."""

    def __init__(self, features: nn.Module, width: int):
        super().__init__("layer")
        self.features = features.requires_grad_(False).eval()
        self.weight = PyroSample(dist.Normal(torch.zeros(width), 1.0).to_event(1))
        self.scale = PyroSample(dist.HalfNormal(0.5))

    def forward(self, y, u):
        # asked for here, outside the plate: inside it the data would have weights of their own
        w, scale = self.weight, self.scale
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal((self.features(u) * w).sum(-1), scale), obs=y)


def curve(num: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy points of a sine, with a gap in the middle, and their places."""
    u = torch.cat([torch.rand(num // 2) * 2 - 3, torch.rand(num - num // 2) * 2 + 1])
    return u.sin() + 0.2 * torch.randn(num), u.unsqueeze(-1)


def main(*, steps: int = 800, samples: int = 350, warmup: int = 150, seed: int = 0,
         out: Path = Path("runs/eight_schools")) -> None:  # fmt: skip
    """Samples both posteriors by NUTS, fits the guides, prints the verdicts as one table."""
    torch.set_num_threads(1)
    pyro.set_rng_seed(seed)
    schools, features = Schools(), nn.Sequential(nn.Linear(1, 4), nn.Tanh())
    # steps side by side: features that are nearly the same would leave their weights nearly unknown
    nn.init.constant_(features[0].weight, 2.0)
    with torch.no_grad():
        features[0].bias.copy_(torch.tensor([4.5, 2.0, -2.0, -4.5]))
    layer = LastLayer(features, 4)
    trials = {
        "eight schools": (schools, (EFFECTS, ERRORS), {
            "AutoNormal": AutoNormal,
            "PerDatum x AutoNormal": lambda m: guides.Factorised(guides.PerDatum(m, 8), AutoNormal(m)),
            "AutoMultivariateNormal": AutoMultivariateNormal,
        }),
        "last layer": (layer, curve(40), {
            "AutoNormal": AutoNormal, "AutoMultivariateNormal": AutoMultivariateNormal,
        }),
    }  # fmt: skip
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    print(f"{'posterior':14} {'guide':24} {'gap, nats':>16} {'mean / sd':>10} {'sd ratio':>9} {'k-hat':>6}  verdict")
    for ax, (title, (model, data, choices)) in zip(axes, trials.items(), strict=True):
        try:
            reference = nuts_reference(model, *data, num_samples=samples, warmup=warmup, target_accept=0.85, seed=seed)
        except NotAReference as refusal:
            print(refusal)
            reference = refusal.inference_data
        for name, make in choices.items():
            guide = make(model)
            adam = partial(torch.optim.Adam, lr=0.02)
            fit(ELBO(8)(model, guide), data, steps=steps, batch_size=len(data[0]), optimizer=adam, progress=False)
            found = compare(guide, reference, *data, model=model, seed=seed)
            [row] = found.rows()
            print(f"{title:14} {name:24} {row['gap']:8.3f} +- {row['gap_error']:.3f} {row['mean_error']:10.2f} "
                  f"{row['sd_ratio']:9.2f} {row['pareto_k']:6.2f}  {row['verdict']} {row['reason']}")  # fmt: skip
            ax.plot(found.sd_ratio[0], "o-", markersize=4, linewidth=0.8, label=name)
        ax.axhline(1.0, color="black", linewidth=0.6)
        ax.set(title=title, ylabel="sd of the guide / sd of NUTS")
        ax.set_xticks(range(len(found.coordinates)), found.coordinates, rotation=60, fontsize=8)
        ax.legend(frameon=False, fontsize=8)
    save(figure, out / "eight_schools.png", axes)


if __name__ == "__main__":
    tyro.cli(main)
