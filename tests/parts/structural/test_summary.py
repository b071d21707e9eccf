"""Standard errors, criteria and diagnostics against statsmodels on six data sets, and against a dense Hessian."""

import math

import numpy as np
import pytest
import torch
from pyro.distributions import Gamma, constraints
from pyro.nn import PyroParam
from structural_series import SERIES, beside, diffuse, fitted, positive
from tiers import needs_files
from torch import nn

from zoo import LGSSM
from zoo.parts.kalman import Parameters
from zoo.parts.structural import components, irregular, local_level
from zoo.parts.structural.diagnostics import examine

pytestmark = pytest.mark.usefixtures("double_precision")

# series that do not come with a package, so that whoever has just cloned the repository lacks them
FROM_FILES = ("uk_gas", "lake_huron", "lynx")


def tiered(name):
    """A series as the value of a parameter, with its marks."""
    marks = [needs_files] if name in FROM_FILES else []
    return pytest.param(name, marks=[*marks, *([] if name in ("nile", "lake_huron") else [pytest.mark.thorough])])


@pytest.mark.parametrize("name", [tiered(name) for name in SERIES])
def test_a_summary_has_the_figures_of_statsmodels(name):
    x, mask, model = fitted(name)
    found, theirs, (ours, by_differences), tests = beside(name)
    assert found.log_likelihood == pytest.approx(theirs.llf, abs=1e-6)
    assert (found.aic, found.bic) == pytest.approx((theirs.aic, theirs.bic), abs=1e-6)
    assert found.num_frames == theirs.nobs_effective
    np.testing.assert_allclose(ours, theirs.bse, rtol=1e-3)  # of steps as large as a small variance
    np.testing.assert_allclose(ours, by_differences, rtol=1e-4 if model.burn else 1e-5)
    assert len(tests) == 3 * bool(mask.all())
    for test, (numbers, expected) in tests.items():
        np.testing.assert_allclose(numbers, expected, rtol=1e-6, atol=1e-9, err_msg=test)
    if tests:
        shape = [found.residual_tests.skew.item(), found.residual_tests.kurtosis.item()]
        np.testing.assert_allclose(shape, theirs.test_normality("jarquebera")[0][2:], rtol=1e-6)
    residuals = model.residuals(x, mask=mask)[0, :, 0].detach().numpy()
    scored = ~np.isnan(residuals)
    start = max(theirs.loglikelihood_burn, theirs.nobs_diffuse)
    assert scored.nonzero()[0][0] == start
    expected = np.where(mask[0].numpy(), theirs.standardized_forecasts_error[0], np.nan)
    np.testing.assert_allclose(residuals[start:], expected[start:], rtol=1e-6, atol=1e-7)
    ahead, expected = model.forecast(x, 8, mask=mask), theirs.get_forecast(8)
    np.testing.assert_allclose(ahead.observation_means[0, :, 0].detach(), expected.predicted_mean, rtol=1e-6)
    np.testing.assert_allclose(ahead.observation_covariances[0, :, 0, 0].detach(), expected.var_pred_mean, rtol=1e-6)


def test_errors_of_the_nile_are_those_of_a_dense_gaussian():
    """Minus the inverse of autograd's Hessian of the dense log-density of the data, its first year given."""
    x, _, model = fitted("nile")
    y = x[0, 1:, 0]

    def log_p(values):
        level, noise = values
        # given x_1 the level of year 2 is N(x_1, noise + level)
        steps = torch.arange(1.0, 100.0)
        covariance = level * torch.minimum(steps.unsqueeze(-1), steps) + noise * (1 + torch.eye(99))
        return torch.distributions.MultivariateNormal(x[0, 0, 0].expand(99), covariance).log_prob(y)

    at = torch.stack([model.level_variance, model.noise_variance]).detach()
    covariance = torch.linalg.inv(-torch.autograd.functional.hessian(log_p, at))
    torch.testing.assert_close(model.summary(x).estimates.covariance, covariance, rtol=1e-6, atol=0.0)


def test_a_matrix_and_a_plain_parameter_have_errors_by_their_own_coordinates():
    """A symmetric matrix without a constraint counts n (n + 1) / 2, and its errors are those under a constraint."""
    torch.manual_seed(0)
    x = torch.randn(40, 3, 2) @ torch.tensor([[1.0, 0.4], [0.0, 0.7]])
    fields = {
        "initial_mean": torch.zeros(1), "initial_covariance": torch.zeros(1, 1), "transition_matrix": torch.zeros(1, 1),
        "transition_covariance": torch.zeros(1, 1), "emission_matrix": torch.zeros(2, 1),
    }  # fmt: skip
    start = torch.eye(2)
    found = [
        LGSSM(Parameters, emission_covariance=covariance, **fields).maximum_likelihood(x, restarts=0).summary(x)
        for covariance in (nn.Parameter(start.clone()), PyroParam(start.clone(), constraints.positive_definite))
    ]
    n, scatter = x[..., 0].numel(), x.flatten(0, 1).mT @ x.flatten(0, 1) / x[..., 0].numel()
    # Wishart: Var S_ij = (S_ii S_jj + S_ij^2) / n
    spread = ((scatter.diagonal().unsqueeze(-1) * scatter.diagonal() + scatter**2) / n).sqrt().flatten()
    for summary in found:
        assert summary.estimates.free == 3
        assert summary.estimates.names[1] == "emission_covariance[0, 1]"
        torch.testing.assert_close(summary.estimates.values, scatter.flatten(), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(summary.estimates.standard_errors, spread, rtol=1e-5, atol=1e-7)
        assert summary.residual_tests.jarque_bera.p_value.shape == (40, 2)
    assert "and 76 more" in str(found[0])


@pytest.mark.thorough
def test_a_variance_at_its_bound_has_no_error_and_the_others_keep_theirs():
    torch.manual_seed(0)
    noise = torch.randn(1, 81, 1)
    x = 3 + noise[:, 1:] - 0.5 * noise[:, :-1]  # neighbours differ more than white noise does: the level stands still
    parts = components(level=local_level, noise=irregular)
    with_level = LGSSM(parts, **positive(level_variance=0.1, noise_variance=1.0), **diffuse()).maximum_likelihood(x)
    white = LGSSM(parts, level_variance=torch.tensor(0.0), **positive(noise_variance=1.0), **diffuse())
    white.maximum_likelihood(x)
    found, expected = with_level.summary(x), white.summary(x)
    assert found.estimates.standard_errors[0].isnan()
    torch.testing.assert_close(
        found.estimates.standard_errors[1], expected.estimates.standard_errors[0], rtol=1e-4, atol=0.0
    )
    # of a variance of n numbers with a mean of their own
    sd = white.noise_variance.detach() * math.sqrt(2 / 79)
    torch.testing.assert_close(expected.estimates.standard_errors[0], sd, rtol=1e-6, atol=0.0)


def test_the_table_is_printed_and_the_model_is_left_as_it_is():
    x, _, model = fitted("nile")
    before = [p.clone() for p in model.parameters()]
    words = str(model.summary(x, lags=5))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    for word in ("x = level (local_level) + noise (irregular)", "log-likelihood -633.465, AIC 1272.929, BIC 1280.745",
                 "100 frames, 2 learned, 1 diffuse states", "Ljung-Box, 5 lags"):  # fmt: skip
        assert word in words
    row = next(line for line in words.splitlines() if line.startswith("noise_variance"))
    assert row.split() == ["noise_variance", "15099", "3146", "4.80", "0.000", "8933", "2.126e+04"]


def test_what_has_no_error_is_named():
    x, _, model = fitted("nile")
    away = SERIES["nile"][1]()
    with pytest.raises(ValueError, match=r"level_variance: .* expected a model at a maximum"):
        away.summary(x)
    twice = LGSSM(
        lambda a, b, noise: local_level(a + b, noise, initial_variance=math.inf),
        **positive(a=700.0, b=769.2, noise=15098.5),
    ).maximum_likelihood(x, restarts=0)
    with pytest.raises(ValueError, match=r"(a|b): log p\(x\) does not tell it from the others"):
        twice.summary(x)
    with pytest.raises(ValueError, match="nothing is learned"):
        LGSSM(local_level, level_variance=torch.tensor(1.0)).summary(x)
    with pytest.raises(ValueError, match=r"x: expected shape \(N, T, 1\)"):
        model.summary(x[None])
    drawn = LGSSM(local_level, priors={"level_variance": Gamma(2.0, 1.0)})
    with pytest.raises(ValueError, match="level_variance: has a prior and no value"):
        drawn.summary(x)
    with pytest.raises(ValueError, match="mass: expected a number between 0 and 1, got 95"):
        model.summary(x).interval(95)


def test_too_few_residuals_give_no_test():
    few = examine(torch.tensor([[[0.3], [-0.2], [math.nan]], [[math.nan]] * 3]), torch.tensor([0, 3]))
    assert few.ljung_box.statistic.isnan().all()
    assert few.heteroscedasticity.statistic.isnan().all()
    assert few.jarque_bera.statistic.isnan().tolist() == [[False], [True]]


def test_residuals_of_frames_with_missing_entries_are_white():
    """The entries of a frame are made independent, one that is missing taking no part."""
    torch.manual_seed(1)
    root = torch.tensor([[1.0, 0.0], [0.8, 0.3]])
    p = Parameters(torch.zeros(1), torch.eye(1), 0.9 * torch.eye(1), torch.eye(1), torch.ones(2, 1), root @ root.mT)
    model = LGSSM(Parameters, **{name: v for name, v in p._asdict().items() if v is not None})
    _, x = model.generate(400, 8)
    mask = torch.rand(x.shape) > 0.3
    found = model.residuals(x.masked_fill(~mask, math.nan), mask=mask)
    assert torch.equal(found.isnan(), ~mask)
    values = found[mask]
    # 4,480 independent N(0, 1): a mean beyond 5 / sqrt(n), or a variance beyond 5 sqrt(2 / n), once in a million seeds
    assert abs(values.mean()) < 5 / math.sqrt(len(values))
    assert abs(values.var() - 1) < 5 * math.sqrt(2 / len(values))
