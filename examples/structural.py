"""A structural report of the UK's gas consumption: fit, standard errors, diagnostics, components, forecast.

    log x_t = trend_t + season_t + N(0, noise variance),   trend_t = trend_{t-1} + slope_{t-1},
    slope_t = slope_{t-1} + N(0, trend variance),   season_t = -(sum of the last 3) + N(0, seasonal variance)

The five states start exactly diffuse: nothing is known of them, and no quarter is left out of the likelihood. The last
quarters are kept back and forecast. Where statsmodels is installed, its figures of the same variances are printed too.

    python examples/structural.py --held-out 16
"""

import math
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
from zoo.data import load
from zoo.infer import Band, draw_band, draw_points, plot_residuals
from zoo.parts.structural import Summary, components, irregular, local_linear_trend, seasonal
from zoo.plots.look import CYCLE, DRAWS, EXACT

LEARNED = ("noise_variance", "trend_variance", "seasonal_variance")


def structural() -> LGSSM:
    """The model with its three variances at the start; a trend whose level has no noise of its own is smooth."""
    return LGSSM(
        components(trend=local_linear_trend, season=seasonal(4), noise=irregular),
        **{name: PyroParam(torch.tensor(1e-3).double(), constraints.positive) for name in LEARNED},
        level_variance=torch.tensor(0.0).double(),
        initial_variance=torch.tensor(math.inf).double(),
    )


def beside_statsmodels(x: Tensor, model: LGSSM, found: Summary) -> None:
    """Prints figures of both at our variances, with the difference."""
    from statsmodels.tsa.api import UnobservedComponents

    theirs = UnobservedComponents(x.flatten().numpy(), "strend", seasonal=4, use_exact_diffuse=True)
    # Their filter stops updating covariances that change little, which on logarithms is too early for the last digits.
    theirs.ssm.tolerance = 0.0
    result = theirs.smooth([getattr(model, name).item() for name in LEARNED], cov_type="none")
    tests, lags = found.residual_tests, found.residual_tests.lags
    correlation = result.test_serial_correlation("ljungbox", lags=lags)
    rows = {
        "log-likelihood": (found.log_likelihood, result.llf),
        "AIC": (found.aic, result.aic),
        "BIC": (found.bic, result.bic),
        f"Ljung-Box, {lags} lags": (tests.ljung_box.statistic, correlation[0, 0, -1]),
        "heteroscedasticity H": (tests.heteroscedasticity.statistic, result.test_heteroskedasticity("breakvar")[0, 0]),
        "Jarque-Bera": (tests.jarque_bera.statistic, result.test_normality("jarquebera")[0, 0]),
    }  # fmt: skip
    print(f"\n{'':24}{'ours':>16}{'statsmodels':>16}{'difference':>12}")
    for name, (ours, other) in rows.items():
        print(f"{name:24}{float(ours):16.8f}{float(other):16.8f}{float(ours) - float(other):12.1e}")


def main(held_out: int = 12, out: Path = Path("runs/structural")) -> None:
    """Fits, prints the report, forecasts the quarters kept back, draws."""
    torch.set_num_threads(1)
    gas = load("uk_gas").train
    values, years = gas.values[0, :, 0].double(), gas.times[0]
    x, future = values[:-held_out].log().reshape(1, -1, 1), values[-held_out:]
    model = structural().maximum_likelihood(x)
    print(model)
    with torch.no_grad():
        mean, variance = (part[0].flatten() for part in model.forecast(x, held_out)[2:])
        parts, residuals = model.components(x), model.residuals(x)
    found = model.summary(x)
    print(f"\n{found}")
    if find_spec("statsmodels"):
        beside_statsmodels(x, model, found)
    # exp keeps quantiles, so that a band of the logarithm is one of the consumption.
    logs = Band.normal(mean, variance.sqrt())
    ahead = Band(*(part.exp() for part in logs[:3]), logs.mass, years[-held_out:])
    inside, error = ahead.covers(future).double().mean(), (future / ahead.centre - 1).abs().mean()
    print(f"\n{held_out} quarters ahead: {100 * inside:.0f} % in their 90 % bands, mean error {100 * error:.1f} %")

    figure = Figure(figsize=(10.5, 6.0), layout="constrained")
    panels = figure.subplots(2, 2)
    for ax, (name, part), colour in zip(panels.flat, parts.items(), CYCLE, strict=False):
        band = Band.normal(part.mean.flatten(), part.variance.clamp(min=0.0).flatten().sqrt())
        draw_band(ax, years[:-held_out], band, colour, name)
        ax.set_ylabel("log of the consumption")
    draw_points(panels[0, 0], years[:-held_out], x.flatten(), markersize=2)
    start = len(values) - 5 * held_out
    draw_points(panels[1, 1], years[start:-held_out], values[start:-held_out])
    draw_points(panels[1, 1], years[-held_out:], future, "held out")
    draw_band(panels[1, 1], years[-held_out:], ahead, EXACT, "forecast")
    panels[1, 0].axhline(0, color=DRAWS, linewidth=0.6)
    panels[1, 1].set_ylabel("million therms a quarter")
    for ax in panels.flat:
        ax.legend(frameon=False, fontsize=8, loc="upper left")
        ax.set_xlabel("year")
    save(figure, out / "structural.png", panels.flat)
    save(plot_residuals(residuals, times=years[:-held_out], time_label="year", lags=16), out / "residuals.png")


if __name__ == "__main__":
    tyro.cli(main)
