"""CO2 at Mauna Loa: trend, season and missing months by a sum of two components, fitted by maximum likelihood.

    x_t = level_t + season_t + N(0, irregular variance),   level_t = level_{t-1} + trend_{t-1} + N(0, level variance),
    trend_t = trend_{t-1} + N(0, trend variance),   season_t = - (sum of the last 11) + N(0, seasonal variance)

Weeks are averaged to months; a month without a single week stays missing. The last years are kept back and forecast.
Thirteen states start at N(0, 1e6), and the first thirteen months observed are given and not scored.

    python examples/co2.py --held-out 60
"""

from importlib.util import find_spec
from pathlib import Path

import torch
import tyro
from matplotlib.figure import Figure
from pyro.distributions import constraints
from pyro.nn import PyroParam
from report import save
from torch import Tensor

from zoo import LGSSM
from zoo.data import Sequences, load
from zoo.infer import Band, draw_band, draw_points
from zoo.parts.kalman import Parameters
from zoo.parts.structural import local_linear_trend, seasonal
from zoo.plots.look import EXACT

AHEAD = "#5aa5dc"
VARIANCES = ("irregular", "level", "trend", "season")


def monthly(weekly: Sequences) -> tuple[Tensor, Tensor]:
    """Means of the weeks of each month, NaN for a month without a week, and the months' middles in years."""
    months = weekly.times[0].numpy().astype("datetime64[D]").astype("datetime64[M]")
    place, seen = torch.tensor((months - months[0]).astype(int)), weekly.mask[0]
    place, values = place[seen], weekly.values[0, seen, 0]
    sums, counts = torch.bincount(place, values), torch.bincount(place)
    return sums / counts, 1970 + (months[0].astype(int) + torch.arange(len(sums)).double() + 0.5) / 12


def components(irregular: Tensor, level: Tensor, trend: Tensor, season: Tensor, diffuse: float = 1e6) -> Parameters:
    """The sum of a trend and a season, from its four variances and the variance of the thirteen states at the start."""
    first = local_linear_trend(level, trend, irregular, initial_variance=diffuse)
    return first + seasonal(12)(season, initial_variance=diffuse)


def main(held_out: int = 36, out: Path = Path("runs/co2")) -> None:
    """Fits the model, fills the gaps, forecasts the months kept back, draws."""
    torch.set_num_threads(1)
    weekly = load("co2_weekly").train
    values, years = monthly(weekly)
    x, future = values[:-held_out].reshape(1, -1, 1), values[-held_out:]
    mask = ~x[..., 0].isnan()
    start = {name: PyroParam(torch.tensor(0.01).double(), constraints.positive) for name in VARIANCES}
    model = LGSSM(components, burn=13, **start).maximum_likelihood(x, mask=mask)
    print(f"{len(values)} months, {int((~mask).sum())} missing, {held_out} kept back")
    print(f"{'':14}" + "".join(f"{name:>14}" for name in VARIANCES) + "  log-likelihood")
    with torch.no_grad():
        rows = {"ours": [getattr(model, name) for name in VARIANCES] + [model.log_prob(x, mask=mask)]}
        mean, variance = (part[0].flatten() for part in model.forecast(x, held_out, mask=mask)[2:])
    if find_spec("statsmodels"):
        from statsmodels.tsa.api import UnobservedComponents

        # statsmodels counts frames where we count observations: the frame of the last observation given.
        theirs = UnobservedComponents(x.flatten().numpy(), "lltrend", seasonal=12)
        theirs.loglikelihood_burn = int((mask[0].cumsum(0) == model.burn).nonzero()[0]) + 1
        result = theirs.fit(disp=0)
        rows["statsmodels"] = [*result.params, result.llf]
    for name, row in rows.items():
        print(f"{name:14}" + "".join(f"{float(value):14.3e}" for value in row[:4]) + f"{float(row[4]):16.6f}")
    ahead = Band.normal(mean, variance.sqrt(), times=years[-held_out:])
    inside, error = ahead.covers(future).double().mean(), (future - mean).square().mean().sqrt()
    print(f"{held_out} months ahead: {100 * inside:.0f} % in their 90 % bands, root mean squared error {error:.2f} ppm")

    picture(out, weekly.columns[0], years, x, future, model, ahead)


@torch.no_grad()
def picture(out: Path, unit: str, years: Tensor, x: Tensor, future: Tensor, model: LGSSM, ahead: Band) -> None:
    """All months, the missing ones and those kept back, with their exact bands, to `out`/co2.png."""
    mask, p = ~x[..., 0].isnan(), model.system()
    q, held_out, values = model.posterior(x, mask=mask), len(future), torch.cat([x.flatten(), future])
    # Level and season are two of the thirteen states: the moments of their sum need the covariance of the two.
    signal = (q.mean[0] @ p.emission_matrix.mT).flatten()
    spread = (p.emission_matrix @ q.covariances[0] @ p.emission_matrix.mT).flatten()
    known, gaps = years[:-held_out], years[:-held_out][~mask[0]]
    bands = {
        "level": Band.normal(q.mean[0, :, 0], q.variance[0, :, 0].sqrt(), times=known),
        "level and season": Band.normal(signal, spread.sqrt(), times=known),
    }
    figure = Figure(figsize=(10.5, 6.4), layout="constrained")
    grid = figure.add_gridspec(2, 2)
    panels = (
        ("all months", grid[0, :], "level", (years[0].item() - 1, years[-1].item() + 1)),
        ("missing months", grid[1, 0], "level and season", (1962.9, 1965.6)),
        ("months kept back", grid[1, 1], "level and season", (years[-held_out].item() - 1, years[-1].item() + 0.2)),
    )
    for title, place, name, limits in panels:
        ax, small = figure.add_subplot(place), name == "level"
        draw_points(ax, known, x.flatten(), markersize=1.5 if small else 4)
        draw_points(ax, years[-held_out:], future, "held out", markersize=2 if small else 4.5)
        draw_band(ax, years, bands[name], "#8a4fa3" if small else EXACT, name)
        draw_band(ax, years, ahead, AHEAD, "forecast of measurements", "--")
        for number, gap in enumerate(gaps):
            label = None if number else "month without data"
            ax.axvspan(gap - 1 / 24, gap + 1 / 24, color="0.9", linewidth=0, label=label)
        shown = (years >= limits[0]) & (years <= limits[1]) & ~values.isnan()
        ax.set(xlim=limits, ylim=(values[shown].min().item() - 2, values[shown].max().item() + 2))
        ax.set(xlabel="year", ylabel=unit)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_title(title, fontsize=10)
    entries = {text: line for ax in figure.axes for line, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    save(figure, out / "co2.png", figure.axes)


if __name__ == "__main__":
    tyro.cli(main)
