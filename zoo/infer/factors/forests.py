"""Disentanglement, completeness and informativeness of a code by random forests."""

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from zoo.infer.factors.tables import codes_and_factors, table_text
from zoo.parts.checks import check_counts

__all__ = ["DCI", "dci"]


@dataclass(frozen=True)
class DCI:
    """The three scores of `dci`; `print` shows them with the table.

    Attributes:
        disentanglement: 1 where each code bears on one factor, 0 where each bears on all alike.
        completeness: 1 where each factor is predicted from one code, 0 where all codes bear on it alike.
        informativeness: share of the held-out rows whose factor is predicted rightly, averaged over factors.
        per_factor: that share of each factor, `(f,)`.
        table: importance of each code for each factor, `(d, f)`; each column sums to 1, or is 0
            where no code says anything.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    per_factor: np.ndarray
    table: np.ndarray = field(repr=False)

    def __str__(self) -> str:
        scores = f"D {self.disentanglement:.3f}, C {self.completeness:.3f}, I {self.informativeness:.3f}"
        return table_text(self.table, {"predicted": self.per_factor}) + "\n" + scores


def dci(codes: Tensor | np.ndarray, factors: Tensor | np.ndarray, *, trees: int = 10, seed: int = 0) -> DCI:
    """Disentanglement, completeness and informativeness, from random forests that predict each factor from all codes.

    Each split of a tree chooses among all codes. Scikit-learn's default, a random part of them, forces splits on codes
    that say nothing, and a perfect code does not score 1 then. A perfect code scores 1 where each value of a factor has
    some twenty rows; among fewer, another code may tell two values apart as well by chance.

    Args:
        codes: `(N, d)`, d >= 2.
        factors: `(N, f)`, f >= 2.
        trees: of each forest. Half the rows, chosen at random, train them; the others are predicted.
        seed: of the halves and the trees.

    Raises:
        ValueError: as of `mig`, the factors of the training half included.

    References: Eastwood and Williams 2018.

    Example:
        >>> import torch
        >>> from zoo.infer import dci
        >>> factors = torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(5), torch.arange(10))[:, :3]
        >>> round(dci(factors, factors).disentanglement, 3)
        1.0
    """
    # scikit-learn takes a second to load
    from sklearn.ensemble import RandomForestClassifier

    check_counts(trees=trees)
    z, v = codes_and_factors(codes, factors)
    order = np.random.RandomState(seed).permutation(len(z))
    train, test = order[: len(z) // 2], order[len(z) // 2 :]
    codes_and_factors(z[train], v[train])
    forests = [
        RandomForestClassifier(trees, max_features=None, random_state=seed).fit(z[train], factor[train])
        for factor in v.T
    ]
    table = np.stack([forest.feature_importances_ for forest in forests], 1)
    predicted = np.array([forest.score(z[test], factor[test]) for forest, factor in zip(forests, v.T, strict=True)])
    # codes that bear on no factor have no weight; where all are such, each has the same
    of_code = table.sum(1)
    disentanglement = np.average(_concentration(table), weights=of_code if of_code.any() else None)
    completeness = _concentration(table.T).mean()
    return DCI(float(disentanglement), float(completeness), float(predicted.mean()), predicted, table)


def _concentration(table: np.ndarray) -> np.ndarray:
    """1 less the entropy of each row's shares, as a part of the greatest there can be; 0 of a row of zeros."""
    total = table.sum(1, keepdims=True)
    shares = table / np.where(total > 0, total, 1.0)
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(1)
    return np.where(total[:, 0] > 0, 1 - entropy / np.log(table.shape[1]), 0.0)
