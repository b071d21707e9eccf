"""Disentanglement, completeness and informativeness of a code by random forests."""

from dataclasses import dataclass, field

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor

from zoo.infer.factors.tables import checked, printed

__all__ = ["DCI", "dci"]


@dataclass(frozen=True)
class DCI:
    """The three scores of `dci`; `print` shows them with the table.

    Attributes:
        disentanglement: 1 where each code bears on one factor, 0 where each bears on all alike.
        completeness: 1 where each factor is predicted from one code, 0 where all codes bear on it alike.
        informativeness: share of the held-out rows whose factor is predicted rightly, averaged over factors.
        per_factor: that share of each factor, `(f,)`.
        table: importance of each code for each factor, `(d, f)`; each column sums to 1.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    per_factor: np.ndarray
    table: np.ndarray = field(repr=False)

    def __str__(self) -> str:
        scores = f"D {self.disentanglement:.3f}, C {self.completeness:.3f}, I {self.informativeness:.3f}"
        return printed(self.table, {"predicted": self.per_factor}) + "\n" + scores


def dci(codes: Tensor | np.ndarray, factors: Tensor | np.ndarray, *, trees: int = 10, seed: int = 0) -> DCI:
    """Disentanglement, completeness and informativeness, from random forests that predict each factor from all codes.

    Each split of a tree chooses among all codes. Scikit-learn's default, a random part of them, forces splits on codes
    that say nothing, and a perfect code does not score 1 then.

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
        >>> factors = torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(10))
        >>> round(dci(factors, factors).disentanglement, 3)
        1.0
    """
    z, v = checked(codes, factors)
    order = np.random.RandomState(seed).permutation(len(z))
    train, test = order[: len(z) // 2], order[len(z) // 2 :]
    checked(z[train], v[train])
    forests = [
        RandomForestClassifier(trees, max_features=None, random_state=seed).fit(z[train], factor[train])
        for factor in v.T
    ]
    table = np.stack([forest.feature_importances_ for forest in forests], 1)
    predicted = np.array([forest.score(z[test], factor[test]) for forest, factor in zip(forests, v.T, strict=True)])
    # a code that no tree uses has no distribution over factors, and its weight is 0
    of_code = table.sum(1, keepdims=True)
    concentration = _concentration(table / np.where(of_code > 0, of_code, 1.0))
    disentanglement = float((concentration * of_code[:, 0]).sum() / of_code.sum())
    return DCI(disentanglement, float(_concentration(table.T).mean()), float(predicted.mean()), predicted, table)


def _concentration(rows: np.ndarray) -> np.ndarray:
    """1 less the entropy of each row, as a share of the greatest there can be."""
    entropy = -(rows * np.log(np.where(rows > 0, rows, 1.0))).sum(1)
    return 1 - entropy / np.log(rows.shape[1])
