"""A thrown ball seen through noise: filtered, smoothed, predicted and imputed, all exact, with and without the control.

The state is position and velocity, z = (x, x', y, y'). Gravity is the control u = (0, 0, g, g), and every prediction
is conditional on it: p(x_{t+k} | x_{1:t}, u). One throw makes the figure, many measure the calibration. Without the
control the same model throws along straight lines, with false certainty. Process noise learned by maximum likelihood
widens its regions, which helps for the next few frames; the errors of its means stay.

    python examples/ball.py --frames 40 --seen 16
"""

import math
from pathlib import Path

import torch
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pyro.distributions import constraints
from pyro.nn import PyroParam
from report import save
from torch import Tensor

from zoo import LGSSM
from zoo.infer import draw_points, draw_regions
from zoo.parts import kalman
from zoo.parts.kalman import Forecast, Parameters
from zoo.parts.structural import ball
from zoo.plots.look import EXACT, GUIDE

# The colour of exact regions that include the noise of a measurement.
SEEN = "#5aa5dc"


def place(p: Parameters, means: Tensor, covariances: Tensor) -> tuple[Tensor, Tensor]:
    """Moments of the place C z of the ball, from those of its state."""
    return means @ p.emission_matrix.mT, p.emission_matrix @ covariances @ p.emission_matrix.mT


def calibration(ahead: Forecast, x: Tensor, mass: float = 0.9) -> tuple[Tensor, Tensor]:
    """Share of throws inside the region of that mass, and root mean squared error in metres, both by step ahead."""
    # A region of mass m of a Normal in the plane is the ellipse with squared radius -2 log(1 - m).
    error = x - ahead.observation_means
    distance = (error * torch.linalg.solve(ahead.observation_covariances, error)).sum(-1)
    return (distance < -2 * math.log(1 - mass)).double().mean(0), error.square().sum(-1).mean(0).sqrt()


def panel(ax: Axes, title: str, z: Tensor, x: Tensor, seen: Tensor, *found: tuple[Tensor, Tensor, str, str]) -> None:
    """Regions (means, covariances, colour, label), the true path, and the measurements, rings where not seen."""
    for means, covariances, colour, label in found:
        draw_regions(ax, means, covariances, colour, label, "--" if colour == GUIDE else "-")
    ax.plot(z[:, 0], z[:, 2], color="black", linewidth=0.9, linestyle=(0, (1, 1.5)), label="true path", zorder=3)
    draw_points(ax, *x[seen].T)
    draw_points(ax, *x[~seen].T, label="held out")
    ax.set_title(title, fontsize=10)


def main(frames: int = 32, seen: int = 12, gap: tuple[int, int] = (8, 26), throws: int = 1000, dt: float = 0.08,
         noise: float = 0.5, seed: int = 4, out: Path = Path("runs/ball")) -> None:  # fmt: skip
    """Throws the ball, predicts it with and without gravity, and draws the four panels."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model, g = ball(dt, measurement_variance=noise**2, dtype=torch.float64)
    thrown = model._replace(
        initial_mean=torch.tensor([0.0, 8.0, 0.0, 11.0]).double(),
        initial_covariance=torch.diag(torch.tensor([0.01, 1.0, 0.01, 1.0])).double(),
    )
    u, ahead = g.expand(frames, 4), frames - seen
    z, x = kalman.sample(thrown, frames, u, (throws,))

    # The same model without its control, and then with the noise in the velocities that is most likely given the
    # throws: noise of any size is no substitute for a force that is known.
    free, velocities = model._replace(transition_input=None), torch.diag(torch.tensor([0.0, 1.0, 0.0, 1.0]).double())
    learned = LGSSM(
        lambda variance: free._replace(transition_covariance=model.transition_covariance + variance * velocities),
        variance=PyroParam(torch.tensor(0.01).double(), constraints.positive),
    ).maximum_likelihood(x[:100])
    forecasts = {
        "with the control": kalman.forecast(model, x[:, :seen], ahead, u),
        "without": kalman.forecast(free, x[:, :seen], ahead),
        "without, process noise learned": learned.forecast(x[:, :seen], ahead),
    }
    shown = [k for k in (1, 5, 10, 20, 50) if k <= ahead]
    print(f"{throws} throws, {seen} frames of {dt} s seen, predictions k frames ahead: share of the measurements in")
    print(f"their 90 % regions, root mean squared error\n{'':32}" + "".join(f"k = {k:<15}" for k in shown))
    for name, found in forecasts.items():
        inside, error = calibration(found, x[:, seen:])
        print(f"{name:32}" + "".join(f"{100 * inside[k - 1]:4.0f} %, {error[k - 1]:5.2f} m   " for k in shown))

    z, x, kept = z[0], x[0], torch.ones(frames, dtype=torch.bool)
    kept[slice(*gap)] = False
    filtered, smoothed = kalman.filter(model, x, u), kalman.smoother(model, x, u)
    imputed = kalman.smoother(model, x, u, mask=kept)
    figure = Figure(figsize=(9.6, 6.6), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    everything, label = torch.ones_like(kept), "place of the ball"
    found = place(model, filtered.filtered_means, filtered.filtered_covariances)
    panel(axes[0, 0], "filtered: $p(z_t\\,|\\,x_{1:t}, u)$", z, x, everything, (*found, EXACT, label))
    found = place(model, smoothed.smoothed_means, smoothed.smoothed_covariances)
    panel(axes[0, 1], "smoothed: $p(z_t\\,|\\,x_{1:T}, u)$", z, x, everything, (*found, EXACT, label))
    known, blind, _ = ((f.observation_means[0], f.observation_covariances[0]) for f in forecasts.values())
    panel(axes[1, 0], f"predicted: $p(x_{{{seen}+k}}\\,|\\,x_{{1:{seen}}}, u)$", z, x, torch.arange(frames) < seen,
          (*known, SEEN, "a measurement there"), (*blind, GUIDE, "the same without the control $u$"))  # fmt: skip
    mean, covariance = place(model, imputed.smoothed_means, imputed.smoothed_covariances)
    there = mean[~kept], (covariance + model.emission_covariance)[~kept]
    panel(axes[1, 1], "imputed: $p(x_t\\,|\\,x$ outside the gap$, u)$", z, x, kept,
          (*there, SEEN, "a measurement there"), (mean, covariance, EXACT, label))  # fmt: skip
    # The prediction without gravity is a straight line, which leaves the picture.
    axes[0, 0].set_ylim(x[:, 1].min().item() - 1.5, x[:, 1].max().item() + 3.5)
    for ax in axes[1]:
        ax.set_xlabel("distance, m")
    for ax in axes[:, 0]:
        ax.set_ylabel("height, m")
    entries = {text: line for ax in axes.flat for line, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    save(figure, out / "ball.png", axes.flat)


if __name__ == "__main__":
    tyro.cli(main)
