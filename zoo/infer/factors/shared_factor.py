"""The score of the beta-VAE's paper: a linear classifier tells which factor pairs of data share."""

import numpy as np
from torch import Tensor

from zoo.infer.factors.tables import FactorScores, codes_and_factors
from zoo.parts.checks import check_counts

__all__ = ["beta_vae_score"]


def beta_vae_score(
    codes: Tensor | np.ndarray, factors: Tensor | np.ndarray, *, pairs: int = 64, points: int = 1000, seed: int = 0
) -> FactorScores:
    """Accuracy of a linear classifier that tells, from mean |z - z'| over pairs, which factor the pairs share.

    Chance is 1/f. A rotated code may score high: the classifier may combine codes. Each code is divided by its standard
    deviation, so that its scale does not count; a constant code is 0.

    Args:
        codes: `(N, d)`, d >= 2.
        factors: `(N, f)`, f >= 2.
        pairs: over which |z - z'| is averaged, for one point of the classifier.
        points: of each factor; half train the classifier, half test it. 2 or more.
        seed: of the draws of pairs.

    Returns:
        `FactorScores`: the accuracy for points of each factor; the table is mean |z - z'|.

    Raises:
        ValueError: as of `mig`; `pairs` below 1 or `points` below 2.

    References: Higgins et al. 2017.

    Example:
        >>> import torch
        >>> from zoo.infer import beta_vae_score
        >>> factors = torch.cartesian_prod(torch.arange(3), torch.arange(4))
        >>> beta_vae_score(factors, factors, points=100).score
        1.0
    """
    # scikit-learn takes a second to load
    from sklearn.linear_model import LogisticRegression

    check_counts(pairs=pairs)
    check_counts(2, points=points)
    z, v = codes_and_factors(codes, factors)
    z = np.where(np.ptp(z, 0) > 0, z / np.where(np.ptp(z, 0) > 0, z.std(0), 1.0), 0.0)
    random = np.random.RandomState(seed)
    found = np.stack([_differences(z, factor, pairs, points, random) for factor in v.T])
    which = np.arange(len(found))
    train, test = found[:, ::2], found[:, 1::2]
    # without a penalty to speak of: Higgins's classifier has none
    classifier = LogisticRegression(C=1e4, max_iter=1000)
    classifier.fit(train.reshape(-1, z.shape[1]), which.repeat(train.shape[1]))
    right = np.array([classifier.score(points, np.full(len(points), k)) for k, points in enumerate(test)])
    return FactorScores(float(right.mean()), right, found.mean(1).T)


def _differences(
    z: np.ndarray, factor: np.ndarray, pairs: int, points: int, random: np.random.RandomState
) -> np.ndarray:
    """Mean |z - z'| over pairs of rows with one value of the factor, `(points, d)`."""
    order, counts = factor.argsort(kind="stable"), np.bincount(factor)
    starts = counts.cumsum() - counts
    drawn = np.empty((points, z.shape[1]))
    for point in range(points):
        value = random.randint(len(counts), size=(pairs, 1))
        rows = order[starts[value] + (random.uniform(size=(pairs, 2)) * counts[value]).astype(int)]
        drawn[point] = np.abs(z[rows[:, 0]] - z[rows[:, 1]]).mean(0)
    return drawn
