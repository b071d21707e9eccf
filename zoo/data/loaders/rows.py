"""Rows of images: arrays as a `Split`, and splits by class."""

import numpy as np
import torch

from zoo.data.dataset import Split


def split(levels: np.ndarray, labels: np.ndarray | None, num_levels: int) -> Split:
    """Images `(N, ...)` as a `Split`, each flattened row by row; the channels of a pixel stand together."""
    levels = levels.reshape(len(levels), -1)
    # torch.tensor copies: a view of a checked file's bytes would be read-only.
    return Split(torch.tensor(levels), None if labels is None else torch.tensor(labels, dtype=torch.int64), num_levels)


def by_class(labels: np.ndarray, every: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows of training, validation and test, in file order: of each class, 1 in `every` to test and to validation.

    Rows are shuffled with seed 0 first. The shares of a class are exact to within one row.
    """
    # RandomState keeps its stream over numpy's versions; default_rng does not promise to.
    shuffled = np.random.RandomState(0).permutation(len(labels))
    rows = shuffled[np.argsort(labels[shuffled], kind="stable")]
    turn = np.arange(len(rows)) % every
    train, valid, test = (np.sort(rows[chosen]) for chosen in (turn > 1, turn == 1, turn == 0))
    return train, valid, test
