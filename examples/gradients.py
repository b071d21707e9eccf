"""Signal-to-noise ratios of the gradient estimators over the number of particles, in a model of known gradients.

z ~ N(theta, I), x ~ N(z, I) in D dimensions, q(z) = N(m, s^2 I) with m and theta a little off their optimum (Rainforth
et al. 2018, Tucker et al. 2019). Every row of the batch is one replicate with parameters of its own, so one backward
pass gives as many independent gradients as there are rows. The exact gradient of the ELBO is printed beside the
estimates' means. Under the importance-weighted bound the model's ratio dips where its expected gradient changes sign.

    python examples/gradients.py --max-particles 1024
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pyro
import torch
import tyro
from pyro.nn import PyroModule
from report import save
from torch import nn

from zoo.infer import ELBO, IWELBO, Objective
from zoo.parts.distributions import DiagonalNormal

# The guide's sd (the posterior's is 0.707), and the distance of m and theta from the optimum: at the optimum itself the
# expected gradient is zero, and no estimator has a signal.
SCALE, OFFSET = 0.65, 0.1


class Model(PyroModule):
    """z_n ~ N(theta_n, I), x_n ~ N(z_n, I): one theta for each replicate n."""

    def __init__(self, theta: torch.Tensor) -> None:
        super().__init__("model")
        self.theta = nn.Parameter(theta)

    def forward(self, x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", DiagonalNormal(self.theta, torch.ones_like(self.theta)))
            pyro.sample("x", DiagonalNormal(z, torch.ones_like(z)), obs=x)


class Guide(PyroModule):
    """q(z_n) = N(m_n, s^2 I)."""

    def __init__(self, mean: torch.Tensor) -> None:
        super().__init__("guide")
        self.mean = nn.Parameter(mean)

    def forward(self, x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", DiagonalNormal(self.mean, torch.full_like(self.mean, SCALE)))


def gradients(objective: Objective, x: torch.Tensor, replicates: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of the bound by the guide's mean and by theta, `(replicates, D)` each."""
    found = []
    # In pieces, to bound the memory: 200,000 floats a piece.
    rows = max(1, 200_000 // (objective.num_particles * len(x)))
    for size in torch.arange(replicates).split(rows):
        many = x.expand(len(size), -1).contiguous()
        model = Model(many + OFFSET)
        guide = Guide((many + model.theta.detach()) / 2 + OFFSET)
        loss = objective(model, guide)
        loss(many).backward()
        found.append((-guide.mean.grad, -model.theta.grad))
    of_guide, of_model = (torch.cat(g) for g in zip(*found, strict=True))
    return of_guide, of_model


def signal_to_noise(gradient: torch.Tensor) -> float:
    """|mean| / sd of a single estimate, averaged over coordinates (they are alike)."""
    return (gradient.mean(0).abs() / gradient.std(0)).mean().item()


def main(dim: int = 20, replicates: int = 4000, max_particles: int = 256, seed: int = 0,
         out: Path = Path("runs/gradients")) -> None:  # fmt: skip
    """Estimates the ratio of each estimator, as a table and a figure."""
    torch.set_num_threads(1)
    pyro.set_rng_seed(seed)
    x = torch.randn(dim)
    particles = [2**i for i in range(max_particles.bit_length())]
    estimators = {
        "ELBO": ELBO,
        "ELBO, sticking": lambda k: ELBO(k, sticking=True),
        "IWELBO": IWELBO,
        "IWELBO, doubly": lambda k: IWELBO(k, gradient="doubly"),
    }
    ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in estimators}
    print(f"{'estimator':16} {'K':>5} {'SNR guide':>10} {'SNR model':>10} {'mean guide':>12} {'mean model':>12}")
    for name, make in estimators.items():
        for k in particles:
            of_guide, of_model = gradients(make(k), x, replicates)
            ratios[name].append((signal_to_noise(of_guide), signal_to_noise(of_model)))
            means = f"{of_guide.mean():12.5f} {of_model.mean():12.5f}"
            print(f"{name:16} {k:5d} {ratios[name][-1][0]:10.3f} {ratios[name][-1][1]:10.3f} {means}")
    # ELBO: d/dm = -2 (m - (x + theta) / 2) = -2 OFFSET; d/dtheta = m - theta = (x + theta) / 2 + OFFSET - theta =
    # OFFSET / 2
    print(f"{'exact, ELBO':16} {'':5} {'':10} {'':10} {-2 * OFFSET:12.5f} {OFFSET / 2:12.5f}")

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True, layout="constrained")
    styles = dict(zip(estimators, (("C7", "o"), ("C2", "s"), ("C0", "^"), ("C3", "D")), strict=True))
    for side, (axis, title) in enumerate(zip(axes, ("guide's mean $m$", r"model's mean $\theta$"), strict=True)):
        for name, (color, marker) in styles.items():
            axis.loglog(particles, [r[side] for r in ratios[name]], color=color, marker=marker, ms=4, label=name)
        axis.set(title=f"gradient of the {title}", xlabel="particles $K$", xscale="log")
        # After `set`, which gives base 10.
        axis.set_xscale("log", base=2)
        axis.grid(alpha=0.25, which="both")
    axes[0].set_ylabel("signal-to-noise ratio of one estimate")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    save(figure, out / "gradients.png")


if __name__ == "__main__":
    tyro.cli(main)
