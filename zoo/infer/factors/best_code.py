"""Scores that compare the best code of each factor with the second best: MIG and SAP."""

import numpy as np
from torch import Tensor

from zoo.infer.factors.tables import FactorScores, codes_and_factors, gap_between_best
from zoo.parts.checks import check_counts

__all__ = ["mig", "sap"]


def mig(codes: Tensor | np.ndarray, factors: Tensor | np.ndarray, *, bins: int = 20) -> FactorScores:
    """The mutual information gap: (I(best code; v) - I(second best; v)) / H(v), averaged over factors v.

    Codes are cut into bins of equal width between their least and their greatest value. The information is that of the
    empirical joint, which is above 0 for noise, by about (bins - 1)(values - 1) / 2N nats.

    Args:
        codes: `(N, d)`, such as the means of q(z | x), d >= 2.
        factors: `(N, f)`, the true factors, f >= 2; equal numbers are equal values.
        bins: of each code, 2 or more.

    Returns:
        `FactorScores`; its table is I(code; factor) / H(factor).

    Raises:
        ValueError: fewer than two codes, factors or bins; a factor of one value, or with a value of its own in each
            row; entries that are not finite.

    References: Chen et al. 2018, "Isolating sources of disentanglement"; Locatello et al. 2019 for the bins.

    Example:
        >>> import torch
        >>> from zoo.infer import mig
        >>> factors = torch.cartesian_prod(torch.arange(3), torch.arange(4))
        >>> round(mig(factors, factors).score, 3)
        1.0
    """
    # scikit-learn takes a second to load
    from sklearn.metrics import mutual_info_score

    check_counts(2, bins=bins)
    z, v = codes_and_factors(codes, factors)
    cut = np.stack([np.digitize(column, np.histogram_bin_edges(column, bins)[1:-1]) for column in z.T], 1)
    information = np.array([[mutual_info_score(code, factor) for factor in v.T] for code in cut.T])
    # the information of a variable about itself is its entropy
    table = information / np.array([mutual_info_score(factor, factor) for factor in v.T])
    gap = gap_between_best(table)
    return FactorScores(float(gap.mean()), gap, table)


def sap(codes: Tensor | np.ndarray, factors: Tensor | np.ndarray) -> FactorScores:
    """The separated attribute predictability: R^2 of the best code less that of the second best, averaged over factors.

    R^2 is that of the linear regression of a factor's rank among its values on one code. Kumar et al. take the accuracy
    of a linear classifier for factors without an order; here those are ranked as they are numbered.

    Args:
        codes: `(N, d)`, d >= 2. A code that is constant has R^2 = 0.
        factors: `(N, f)`, f >= 2.

    Returns:
        `FactorScores`; its table is R^2.

    Raises:
        ValueError: as of `mig`.

    References: Kumar, Sattigeri and Balakrishnan 2018.

    Example:
        >>> import torch
        >>> from zoo.infer import sap
        >>> factors = torch.cartesian_prod(torch.arange(3), torch.arange(4))
        >>> round(sap(-factors, factors).score, 3)
        1.0
    """
    z, v = codes_and_factors(codes, factors)
    # by the range: the rounding of a mean leaves a constant code a standard deviation above 0
    moves = np.ptp(z, 0) > 0
    z, v = z - z.mean(0), v - v.mean(0)
    unit = np.where(moves, z / np.where(moves, np.linalg.norm(z, axis=0), 1.0), 0.0)
    table = (unit.T @ (v / np.linalg.norm(v, axis=0))) ** 2
    gap = gap_between_best(table)
    return FactorScores(float(gap.mean()), gap, table)
