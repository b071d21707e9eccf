"""Six series of structural models and ARIMA, each as our model and as statsmodels' with the same parameters.

The tests of `summary` compare them, and `tools/structural_figures.py` writes the comparison down.
"""

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import statsmodels.api as sm
import torch
from pyro.distributions import constraints
from pyro.nn import PyroParam
from torch import nn

from zoo import LGSSM
from zoo.data import load
from zoo.parts.stationary import invertible, stationary
from zoo.parts.structural import arima, components, irregular, local_level, local_linear_trend, seasonal


def learned(value, constraint=constraints.positive):
    return PyroParam(torch.tensor(value), constraint)


def positive(**starts):
    return {name: learned(value) for name, value in starts.items()}


def values_of(name, transform=lambda x: x):
    return transform(load(name).train.values.double())


def months():
    """Monthly means of fifteen years of CO2, with months that are missing."""
    weekly = load("co2_weekly").train
    dates = weekly.times[0].numpy().astype("datetime64[D]").astype("datetime64[M]")
    place, seen = torch.tensor((dates - dates[0]).astype(int)), weekly.mask[0]
    sums, counts = torch.bincount(place[seen], weekly.values[0, seen, 0]), torch.bincount(place[seen])
    return (sums / counts)[:180].reshape(1, -1, 1)


def diffuse():
    return {"initial_variance": torch.tensor(math.inf)}


# name -> (data, our model at its start, statsmodels' model, our names in statsmodels' order)
SERIES = {
    "nile": (
        lambda: values_of("nile"),
        lambda: LGSSM(
            components(level=local_level, noise=irregular),
            **positive(level_variance=1e3, noise_variance=1e4),
            **diffuse(),
        ),
        lambda y: sm.tsa.UnobservedComponents(y, "llevel", use_exact_diffuse=True),
        ("noise_variance", "level_variance"),
    ),
    "air_passengers": (
        lambda: values_of("air_passengers", torch.log),
        lambda: LGSSM(
            arima(0, 1, 1, seasonal=(0, 1, 1, 12)),
            burn=13,
            variance=learned(0.001),
            ma=learned([-0.3], invertible),
            seasonal_ma=learned([-0.5], invertible),
        ),
        lambda y: sm.tsa.SARIMAX(y, order=(0, 1, 1), seasonal_order=(0, 1, 1, 12)),
        ("ma", "seasonal_ma", "variance"),
    ),
    "co2": (
        months,
        lambda: LGSSM(
            components(trend=local_linear_trend, season=seasonal(12), noise=irregular),
            **positive(level_variance=0.05, noise_variance=0.03),
            trend_variance=torch.tensor(0.0),
            seasonal_variance=torch.tensor(0.0),
            **diffuse(),
        ),
        lambda y: sm.tsa.UnobservedComponents(
            y, "lldtrend", seasonal=12, stochastic_seasonal=False, use_exact_diffuse=True
        ),
        ("noise_variance", "level_variance"),
    ),
    "uk_gas": (
        lambda: values_of("uk_gas", torch.log),
        lambda: LGSSM(
            components(trend=local_linear_trend, season=seasonal(4), noise=irregular),
            **positive(trend_variance=1e-5, seasonal_variance=1e-3, noise_variance=1e-3),
            level_variance=torch.tensor(0.0),
            **diffuse(),
        ),
        lambda y: sm.tsa.UnobservedComponents(y, "strend", seasonal=4, use_exact_diffuse=True),
        ("noise_variance", "trend_variance", "seasonal_variance"),
    ),
    "lake_huron": (
        lambda: values_of("lake_huron", lambda x: x - 570),
        lambda: LGSSM(
            arima(2),
            variance=learned(0.5),
            ar=learned([0.9, -0.2], stationary),
            intercept=nn.Parameter(torch.tensor(2.0)),
        ),
        lambda y: sm.tsa.SARIMAX(y, order=(2, 0, 0), trend="c"),
        ("intercept", "ar", "variance"),
    ),
    "lynx": (
        lambda: values_of("lynx", torch.log10),
        lambda: LGSSM(
            arima(2, 0, 1),
            variance=learned(0.05),
            ar=learned([1.3, -0.7], stationary),
            ma=learned([-0.2], invertible),
            intercept=nn.Parameter(torch.tensor(1.0)),
        ),
        lambda y: sm.tsa.SARIMAX(y, order=(2, 0, 1), trend="c"),
        ("intercept", "ar", "ma", "variance"),
    ),
}  # fmt: skip


def errors_of(log_likelihood, at, step):
    """Standard errors by second differences of a value, of fourth order, the step relative to each parameter."""
    steps = [(1, 8), (-1, -8), (2, -1), (-2, 1)]
    size = step * np.diag(at)

    def mixed(i, j):
        terms = [a * b * log_likelihood(at + k * size[i] + m * size[j]) for k, a in steps for m, b in steps]
        return sum(terms) / (144 * size[i, i] * size[j, j])

    hessian = np.array([[mixed(i, j) for j in range(len(at))] for i in range(len(at))])
    return np.sqrt(np.diag(np.linalg.inv(-hessian)))


@cache
def fitted(name):
    data, model, _, _ = SERIES[name]
    x = data()
    mask = ~x[..., 0].isnan()
    return x, mask, model().maximum_likelihood(x, mask=mask, restarts=0)


class Beside(NamedTuple):
    """Our summary of a series, and statsmodels' results at the same parameters.

    Attributes:
        ours: our `Summary`.
        theirs: statsmodels' results.
        errors: standard error of each parameter in statsmodels' order: (ours, theirs by differences of their value).
        tests: name of a test of the residuals -> (our statistic and p-value, theirs); empty of a series with gaps.
    """

    ours: Any
    theirs: Any
    errors: tuple[np.ndarray, np.ndarray]
    tests: dict[str, tuple[list[float], np.ndarray]]


@cache
def beside(name):
    """The `Beside` of a series, at our maximum: statsmodels' own search ends within 1e-5 of it."""
    x, mask, model = fitted(name)
    order = SERIES[name][3]
    ours = model.summary(x, mask=mask)
    vector = [v for own in order for v in getattr(model, own).detach().flatten().tolist()]
    other = SERIES[name][2](x[0, :, 0].numpy())
    # their filter stops updating covariances that change by 1e-19, which on logarithms is too early for six digits
    other.ssm.tolerance = 0.0
    theirs = other.smooth(vector, cov_type="approx")
    found = dict(zip(ours.estimates.names, ours.estimates.standard_errors.tolist(), strict=True))
    errors = np.array([error for own in order for known, error in found.items() if known.partition("[")[0] == own])
    # at N(0, 1e6) their value has lost six digits, and second differences need longer steps
    their_errors = errors_of(other.loglike, np.array(vector), 1e-2 if model.burn else 1e-3)
    # in a gap their residuals are 0 and count in the tests; ours do not exist
    return Beside(ours, theirs, (errors, their_errors), tests_of(ours.residual_tests, theirs) if mask.all() else {})


def tests_of(ours, theirs):
    expected = {
        "ljung_box": theirs.test_serial_correlation("ljungbox", lags=ours.lags)[0][:, -1],
        "heteroscedasticity": theirs.test_heteroskedasticity("breakvar")[0],
        "jarque_bera": theirs.test_normality("jarquebera")[0][:2],
    }
    return {name: ([part.item() for part in getattr(ours, name)], numbers) for name, numbers in expected.items()}
