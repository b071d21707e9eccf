"""The classic series under the examples' models: parameters, likelihood and forecasts are statsmodels' to 1e-6."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pyro.distributions import constraints
from pyro.nn import PyroParam
from statsmodels.tsa.api import SARIMAX, UnobservedComponents

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import airline
import co2
import nile

from zoo import LGSSM
from zoo.data import load
from zoo.parts.structural import local_level


def assert_maximum_of(theirs, parameters: np.ndarray) -> None:
    """One Newton step of statsmodels' likelihood from `parameters` moves none of them by 1e-6 of its size.

    So there is its maximum. Its own optimisers stop before that: they scale nothing, and variances here lie four orders
    of magnitude apart. Steps are of log|parameter|; derivatives are central differences, of fourth and second order.
    """
    size, sign, h = np.log(np.abs(parameters)), np.sign(parameters), 3e-3
    steps = h * np.eye(len(parameters))

    def at(step: np.ndarray) -> float:
        return theirs.loglike(sign * np.exp(size + step))

    gradient = [(8 * (at(a) - at(-a)) - at(2 * a) + at(-2 * a)) / (12 * h) for a in steps]
    hessian = [[(at(a + b) - at(a - b) - at(b - a) + at(-a - b)) / (4 * h**2) for b in steps] for a in steps]
    assert (np.linalg.eigvalsh(hessian) < 0).all()
    np.testing.assert_array_less(np.abs(np.linalg.solve(hessian, gradient)), 1e-6)


def assert_forecasts_agree(model: LGSSM, theirs, parameters: np.ndarray, x, mask=None, k: int = 24) -> None:
    assert model.burn == theirs.loglikelihood_burn
    if mask is not None:  # ours counts observed frames
        theirs.loglikelihood_burn = int((mask[0].cumsum(0) == model.burn).nonzero()[0]) + 1
    with torch.no_grad():
        np.testing.assert_allclose(model.log_prob(x, mask=mask).item(), theirs.loglike(parameters), rtol=1e-6)
        found = model.forecast(x, k, mask=mask)
    expected = theirs.smooth(parameters).get_forecast(k)
    np.testing.assert_allclose(found.observation_means[0, :, 0], expected.predicted_mean, rtol=1e-6)
    np.testing.assert_allclose(found.observation_covariances[0, :, 0, 0], expected.var_pred_mean, rtol=1e-6)


def learned(start: float) -> PyroParam:
    return PyroParam(torch.tensor(start, dtype=torch.float64), constraints.positive)


@pytest.mark.parametrize(("diffuse", "expected"), [(nile.DIFFUSE, (15098.5, 1469.2, -632.55)), (1e6, None)])
def test_nile(diffuse, expected):
    """Durbin and Koopman's numbers with a start of variance 1e12; statsmodels' own 1e6 moves them a little."""
    x = load("nile").train.values
    model = LGSSM(
        lambda irregular, level: local_level(level, irregular, initial_variance=diffuse),
        burn=1,
        irregular=learned(1e4),
        level=learned(1e3),
    )
    model.maximum_likelihood(x)
    parameters = np.array([model.irregular.item(), model.level.item()])
    theirs = UnobservedComponents(x[0, :, 0].numpy(), "llevel")
    theirs.ssm.initialize_approximate_diffuse(diffuse)
    assert_maximum_of(theirs, parameters)
    assert_forecasts_agree(model, theirs, parameters, x)
    if expected:
        assert (*parameters.round(1), round(model.log_prob(x).item(), 2)) == expected


@pytest.mark.thorough
def test_co2():
    values, years = co2.monthly(load("co2_weekly").train)
    assert len(values) == 526
    gaps = [1958 + 5.5 / 12, 1958 + 9.5 / 12, *(1964 + (month - 0.5) / 12 for month in (2, 3, 4))]
    assert torch.allclose(years[values.isnan()], torch.tensor(gaps, dtype=torch.float64))
    x = values.reshape(1, -1, 1)
    mask = ~x[..., 0].isnan()
    model = LGSSM(co2.components, burn=13, **{name: learned(0.01) for name in co2.VARIANCES})
    model.maximum_likelihood(x, mask=mask)
    assert mask[0, :13].sum() == 11
    parameters = np.array([getattr(model, name).item() for name in co2.VARIANCES])
    assert_forecasts_agree(model, UnobservedComponents(values.numpy(), "lltrend", seasonal=12), parameters, x, mask)
    # A variance of 1e6 is not endless: of the exact diffuse likelihood the maximum is where ours is for 1e10. That
    # likelihood leaves out as many observations as the start needs: the two months that 13 of them repeat are scored.
    model.build, model.burn = partial(co2.components, diffuse=1e10), 0
    model.maximum_likelihood(x, mask=mask)
    parameters = np.array([getattr(model, name).item() for name in co2.VARIANCES])
    exact = UnobservedComponents(values.numpy(), "lltrend", seasonal=12, use_exact_diffuse=True)
    assert_maximum_of(exact, parameters)


@pytest.mark.thorough
def test_airline():
    x = load("air_passengers").train.values.log()
    model = airline.model().maximum_likelihood(x)
    parameters = np.array([value.item() for value in (model.ma, model.seasonal_ma, model.variance)])
    orders = {"order": (0, 1, 1), "seasonal_order": (0, 1, 1, 12)}
    assert_forecasts_agree(model, SARIMAX(x[0, :, 0].numpy(), **orders), parameters, x)
    assert_maximum_of(SARIMAX(x[0, :, 0].numpy(), **orders, use_exact_diffuse=True), parameters)
