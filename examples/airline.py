"""Airline passengers by ARIMA(0, 1, 1)(0, 1, 1)12 on logarithms, the model that Box and Jenkins made for them.

    (1 - L)(1 - L^12) log x_t = (1 + ma L)(1 + seasonal_ma L^12) e_t,   e_t ~ N(0, variance)

L shifts by a month. Thirteen states that sum the differences up start at N(0, 1e6), and the first thirteen months are
given and not scored, as in statsmodels' SARIMAX. Bands of passengers are those of their logarithms, through exp.

    python examples/airline.py --held-out 24
"""

from importlib.util import find_spec
from pathlib import Path

import torch
import tyro
from matplotlib.figure import Figure
from pyro.distributions import constraints
from pyro.nn import PyroParam
from report import save

from zoo import LGSSM
from zoo.data import load
from zoo.infer import Band, draw_band, draw_points
from zoo.parts import kalman
from zoo.parts.stationary import invertible
from zoo.parts.structural import arima
from zoo.plots.look import EXACT

AHEAD = "#5aa5dc"


def model() -> LGSSM:
    """The model with its three parameters at the start; both moving averages are kept invertible."""
    return LGSSM(
        arima(0, 1, 1, seasonal=(0, 1, 1, 12)),
        # A difference of a month and one of a year: thirteen months make the first scored one known.
        burn=13,
        variance=PyroParam(torch.tensor(0.01).double(), constraints.positive),
        ma=PyroParam(torch.zeros(1).double(), invertible),
        seasonal_ma=PyroParam(torch.zeros(1).double(), invertible),
    )


def main(held_out: int = 12, out: Path = Path("runs/airline")) -> None:
    """Fits the model, forecasts the months kept back, checks the errors of one month ahead, draws."""
    torch.set_num_threads(1)
    air = load("air_passengers").train
    values, years = air.values[0, :, 0], air.times[0]
    x, future = values[:-held_out].log().reshape(1, -1, 1), values[-held_out:]
    fitted = model().maximum_likelihood(x)
    with torch.no_grad():
        rows = {"ours": [fitted.ma, fitted.seasonal_ma, fitted.variance, fitted.log_prob(x)]}
        mean, variance = (part[0].flatten() for part in fitted.forecast(x, held_out)[2:])
        p = fitted.system()
        steps = kalman.filter(p, x[0])
    means = {"ours": mean}
    # The same likelihood by another hand, where it is installed.
    if find_spec("statsmodels"):
        from statsmodels.tsa.api import SARIMAX

        theirs = SARIMAX(x.flatten().numpy(), order=(0, 1, 1), seasonal_order=(0, 1, 1, 12))
        result = theirs.fit(disp=0)
        rows["statsmodels"] = [*result.params, result.llf]
        means["statsmodels"] = torch.tensor(result.forecast(held_out))
    print(f"{len(values)} months, {held_out} kept back")
    print(f"{'':14}{'ma':>12}{'seasonal ma':>14}{'variance':>14}{'log-likelihood':>16}   next months, thousands")
    for name, row in rows.items():
        numbers = "{:12.6f}{:14.6f}{:14.4e}{:16.6f}".format(*map(float, row))
        print(f"{name:14}{numbers}   {', '.join(f'{m:.2f}' for m in means[name][:3].exp())}")
    # exp keeps quantiles, so that the band of passengers is exact; it would not keep a mean.
    logs = Band.normal(mean, variance.sqrt())
    ahead = Band(*(part.exp() for part in logs[:3]), logs.mass, years[-held_out:])
    inside, error = ahead.covers(future).double().mean(), (future / ahead.centre - 1).abs().mean()
    print(f"{held_out} months ahead: {100 * inside:.0f} % in their 90 % bands, mean absolute error {100 * error:.1f} %")
    # One month ahead, through all the months that were scored: standard normal, if the model is right. These
    # errors are independent, those of several months ahead are not.
    expected = steps.predicted_means @ p.emission_matrix.mT
    spread = p.emission_matrix @ steps.predicted_covariances @ p.emission_matrix.mT
    errors = ((x[0] - expected) / spread.flatten(1).sqrt())[13:, 0]
    share = 100 * (errors.abs() < 1.645).double().mean()
    print(
        f"one month ahead: {share:.0f} % of {len(errors)} in their 90 % bands, mean square {errors.square().mean():.3f}"
    )

    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    within = Band.normal(expected.flatten(), spread.flatten().sqrt())
    within = Band(*(part[13:].exp() for part in within[:3]), within.mass)
    draw_band(left, years[13:-held_out], within, EXACT, "one month ahead")
    draw_band(left, years[-held_out:], ahead, AHEAD, f"{held_out} months ahead", "--")
    draw_points(left, years[:-held_out], values[:-held_out])
    draw_points(left, years[-held_out:], future, "held out")
    left.set(xlabel="year", ylabel=air.columns[0])
    right.axhspan(-1.645, 1.645, color=EXACT, alpha=0.2, linewidth=0, label="90 % band")
    draw_points(right, years[13:-held_out], errors, label="observed", markersize=3)
    right.set(xlabel="year", ylabel="error one month ahead, in its standard deviations", ylim=(-4.5, 4.5))
    for ax in (left, right):
        ax.legend(frameon=False, fontsize=8, loc="upper left")
    save(figure, out / "airline.png", (left, right))


if __name__ == "__main__":
    tyro.cli(main)
