"""Residuals of a linear-Gaussian model, and the three tests of them: independence, one variance, normality.

Definitions and figures are those of statsmodels' `test_serial_correlation`, `test_heteroskedasticity` and
`test_normality`. statsmodels is a dependency of the tests alone, and scipy has the third test and the distributions.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.parts import kalman
from zoo.parts.kalman.parameters import Parameters, observed


class Tested(NamedTuple):
    """A test of each series: statistics and p-values, `(N, data_dim)`, NaN where the test asks for more data."""

    statistic: Tensor
    p_value: Tensor


class ResidualTests(NamedTuple):
    """Tests of the standardised residuals, independent N(0, 1) under the model.

    Those of a series with gaps count the observed frames, and Ljung and Box's is NaN; statsmodels counts a residual of
    0 in each gap.

    Attributes:
        ljung_box: of no correlation at the first `lags` lags.
        heteroscedasticity: H, the sum of squares in the last third over that in the first; two-sided, by F.
        jarque_bera: of normality.
        skew, kurtosis: of the residuals, `(N, data_dim)`; 0 and 3 for a normal distribution.
        lags: of `ljung_box`.

    References: Ljung & Box 1978; Durbin & Koopman 2012, section 2.12; Jarque & Bera 1987.
    """

    ljung_box: Tested
    heteroscedasticity: Tested
    jarque_bera: Tested
    skew: Tensor
    kurtosis: Tensor
    lags: int


def standardised_residuals(p: Parameters, x: Tensor, u: Tensor | None, seen: Tensor, scored: Tensor) -> Tensor:
    """The residuals of one step ahead in their standard deviations, `(N, T, m)`, NaN where nothing is scored.

    Those of one frame are made independent by the Cholesky factor of their covariance.

    Args:
        p, x, u: as in `kalman.filter`.
        seen: `(N, T, m)`, True where observed.
        scored: `(N, T)`, True in frames that log p(x) counts.
    """
    found = kalman.filter(p, x, u, seen)
    mean, covariance = observed(p, found.predicted_means, found.predicted_covariances, u)
    # no prediction exists before a diffuse start is determined
    seen = seen & scored.unsqueeze(-1) & ~mean.isnan()
    both = seen.unsqueeze(-1) & seen.unsqueeze(-2)
    # a missing entry has no part in the others: unit variance and error 0
    covariance = torch.where(both, covariance, 0.0) + torch.diag_embed((~seen).to(covariance))
    error = torch.where(seen, x - mean, 0.0).unsqueeze(-1)
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), error, upper=False).squeeze(-1)
    return torch.where(seen, whitened, torch.nan)


def examine(residuals: Tensor, first: Tensor, lags: int | None = None) -> ResidualTests:
    """The three tests of residuals `(N, T, m)`, NaN where there is none.

    Args:
        first: number of frames of each sequence before the first that could be scored, `(N,)`.
        lags: of Ljung and Box's test; None: 10, or a fifth of the frames if that is less.
    """
    T = residuals.shape[1]
    # here, since its import changes the caller's filters of warnings
    from scipy import stats

    lags = max(1, min(10, int(T - first.max()) // 5)) if lags is None else lags
    found = []
    for series, start in zip(residuals.double().cpu().numpy(), first.tolist(), strict=True):
        for column in series[start:].T:
            found.append(
                [*_ljung_box(column, lags, stats), *_heteroscedasticity(column, stats), *_jarque_bera(column, stats)]
            )
    numbers = torch.tensor(np.array(found)).reshape(len(residuals), residuals.shape[-1], 8).unbind(-1)
    return ResidualTests(
        Tested(*numbers[:2]), Tested(*numbers[2:4]), Tested(*numbers[4:6]), numbers[6], numbers[7], lags
    )


def _ljung_box(r: np.ndarray, lags: int, stats: Any) -> tuple[float, float]:
    if np.isnan(r).any() or len(r) <= lags:
        return np.nan, np.nan
    n, centred = len(r), r - r.mean()
    correlation = np.array([centred[k:] @ centred[:-k] for k in range(1, lags + 1)]) / (centred @ centred)
    statistic = n * (n + 2) * (correlation**2 / (n - np.arange(1, lags + 1))).sum()
    return statistic, stats.chi2.sf(statistic, lags)


def _heteroscedasticity(r: np.ndarray, stats: Any) -> tuple[float, float]:
    third = round(len(r) / 3)
    early, late = (part[~np.isnan(part)] for part in (r[:third], r[len(r) - third :]))
    if min(len(early), len(late)) < 2:
        return np.nan, np.nan
    ratio = np.square(late).sum() / np.square(early).sum()
    law = stats.f(len(late), len(early))
    return ratio, 2 * min(law.cdf(ratio), law.sf(ratio))


def _jarque_bera(r: np.ndarray, stats: Any) -> tuple[float, float, float, float]:
    r = r[~np.isnan(r)]
    if len(r) < 2:
        return (np.nan,) * 4
    test = stats.jarque_bera(r)
    return test.statistic, test.pvalue, stats.skew(r), stats.kurtosis(r, fisher=False)
