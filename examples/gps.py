"""GPS tracks of vehicles with fixes dropped: constant velocity in irregular time, and the share of fixes in its bands.

    place_t = place_{t-1} + dt velocity_{t-1} + ...,   velocity_t = velocity_{t-1} + ...,   x_t = place_t + N(0, sd^2)

Velocity is a Brownian motion in continuous time, so A and Q follow from each step dt. Its diffusion and the sd of a fix
are fitted to each track by maximum likelihood, from the fixes kept; those dropped are then held against their bands.
Vehicles stand, drive and turn. One Gaussian fits all three: its bands of 90 % are about right, narrower ones too wide.

    python examples/gps.py --num-tracks 10
"""

from functools import partial
from pathlib import Path

import torch
import tyro
from matplotlib.figure import Figure
from pyro.distributions import constraints
from pyro.nn import PyroParam
from report import save
from torch import Tensor

from zoo import LGSSM
from zoo.data import load
from zoo.infer import draw_points, draw_regions
from zoo.parts import kalman
from zoo.parts.kalman import Parameters
from zoo.plots.look import EXACT

DROPS = (("10 %, one by one", 0.1, 0, "#9cc7e8"), ("30 %, one by one", 0.3, 0, "#5aa5dc"),
         ("50 %, one by one", 0.5, 0, EXACT), ("30 %, a minute at a time", 0.3, 60, "#8a4fa3"))  # fmt: skip


def metres(degrees: Tensor) -> Tensor:
    """East and north of the first fix, from longitude and latitude: flat, as a city nearly is."""
    shrink = torch.stack([degrees[0, 1].deg2rad().cos(), torch.ones_like(degrees[0, 1])])
    return (degrees - degrees[0]).deg2rad() * 6_371_000 * shrink


def constant_velocity(times: Tensor, diffusion: Tensor, sd: Tensor) -> Parameters:
    """States (east, north, their velocities); times `(T,)` in seconds, diffusion in m²/s³, sd of a fix in metres."""
    dt = times.diff(prepend=times[:1])
    one, nil, eye = torch.ones_like(dt), torch.zeros_like(dt), torch.eye(2).to(dt)
    move = torch.stack([one, dt, nil, one], -1).unflatten(-1, (2, 2))
    spread = torch.stack([dt**3 / 3, dt**2 / 2, dt**2 / 2, dt], -1).unflatten(-1, (2, 2))
    start = torch.diag(dt.new_tensor([1e4, 1e4, 1e3, 1e3]))
    # A floor of 10 cm: some tracks are as smooth as if fixes had no error, and sd = 0 is singular.
    noise = (sd**2 + 0.1**2) * eye
    move, spread = torch.kron(move, eye), diffusion * torch.kron(spread, eye)
    return Parameters(dt.new_zeros(4), start, move, spread, torch.eye(2, 4).to(dt), noise)


def drop(times: Tensor, share: float, seconds: float, generator: torch.Generator) -> Tensor:
    """True where a fix is kept: a share of the fixes, or of slots of so many seconds, is dropped; ends are kept."""
    slot = torch.arange(len(times)) if seconds == 0 else ((times - times[0]) / seconds).long()
    kept = (torch.rand(int(slot.max()) + 1, generator=generator) >= share)[slot]
    return kept.index_fill(0, torch.tensor([0, len(times) - 1]), True)


def fit(times: Tensor, x: Tensor, kept: Tensor) -> LGSSM:
    """The model of one track, its diffusion and sd by maximum likelihood from the fixes kept."""
    start = {n: PyroParam(torch.tensor(v).double(), constraints.positive) for n, v in (("diffusion", 1.0), ("sd", 3.0))}
    return LGSSM(partial(constant_velocity, times), **start).maximum_likelihood(x[None], mask=kept[None], restarts=0)


@torch.no_grad()
def predicted(model: LGSSM, times: Tensor, x: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Means `(T, 2)` and covariances of a fix at each of the times, given the fixes kept."""
    p = constant_velocity(times, model.diffusion, model.sd)
    q = kalman.smoother(p, x, mask=kept)
    return q.smoothed_means[:, :2], q.smoothed_covariances[:, :2, :2] + p.emission_covariance


def main(num_tracks: int = 1000, shown: int = 28, seconds: float = 600.0, seed: int = 5,
         out: Path = Path("runs/gps")) -> None:  # fmt: skip
    """Drops fixes, counts them in their bands, draws a part of one track."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    tracks = load("gps_tracks").train
    tracks = tracks[tracks.lengths >= 100]
    stamps, degrees = (part.split(tracks.lengths.tolist()) for part in (tracks.stamps, tracks.frames))
    found = [(t - t[0], metres(d)) for t, d in zip(stamps, degrees, strict=True)]
    figure = Figure(figsize=(11.0, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    masses = torch.linspace(0.01, 0.99, 99).double()
    print(f"{'dropped':26}  fixes   in bands of 50 %   90 %   99 %   tracks with 85 to 95 % of them in 90 %")
    for name, share, at_once, colour in DROPS:
        # The mass of the smallest band that holds each dropped coordinate: all bands are counted at once.
        needed = []
        for times, x in found[:num_tracks]:
            kept = drop(times, share, at_once, generator)
            mean, covariance = predicted(fit(times, x, kept), times, x, kept)
            errors = ((x - mean) / covariance.diagonal(dim1=-2, dim2=-1).sqrt())[~kept]
            needed.append(torch.erf(errors.abs() / 2**0.5))
        inside = (torch.cat(needed).reshape(-1, 1) < masses).double().mean(0)
        fair = sum(0.85 <= (mass < 0.9).double().mean() <= 0.95 for mass in needed)
        shares = "".join(f"{100 * inside[n - 1]:7.1f}" for n in (50, 90, 99))
        print(f"{name:26} {sum(map(len, needed)):6d} {'':11}{shares} {fair:15d} of {len(needed)}")
        right.plot(100 * masses, 100 * inside, color=colour, linewidth=1.5, label=name)
    right.plot([0, 100], [0, 100], color="black", linewidth=0.8, linestyle=":")
    right.plot([90, 90], [85, 95], color="black", linewidth=3, alpha=0.6, label="85 to 95 % in the band of 90 %")
    right.set(xlabel="mass of the band, %", ylabel="dropped fixes in it, %")
    times, x = found[tracks.labels.tolist().index(shown)]
    kept = drop(times, 0.3, 60, torch.Generator().manual_seed(seed))
    # A time for each second too, without a fix: missing frames are where the smoother predicts.
    every = torch.cat([times, torch.arange(times[-1].item()).double()]).unique()
    place, known = torch.searchsorted(every, times), torch.zeros(len(every), dtype=torch.bool)
    dense, known = x.new_zeros(len(every), 2).index_copy(0, place, x), known.index_copy(0, place, kept)
    mean, covariance = predicted(fit(times, x, kept), every, dense, known)
    draw_regions(left, mean[every <= seconds], covariance[every <= seconds], EXACT, "a fix, smoothed")
    draw_points(left, *x[kept & (times <= seconds)].T)
    draw_points(left, *x[~kept & (times <= seconds)].T, label="dropped, a minute at a time")
    left.set(xlabel=f"east, m ({seconds:.0f} s of track {shown})", ylabel="north, m", aspect="equal")
    for ax in (left, right):
        ax.legend(frameon=False, fontsize=8)
    save(figure, out / "gps.png", (left, right))


if __name__ == "__main__":
    tyro.cli(main)
