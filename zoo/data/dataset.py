"""The value of `load`: a `Dataset` has three splits, of images or of sequences, with their terms and citation."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Generic, TypeVar

import torch
from torch import Tensor

from zoo.data.sequences import Sequences


@dataclass(frozen=True, eq=False)
class Split:
    """Images in two forms and their labels; rows are images, flattened row by row.

    Attributes:
        levels: the raw pixels, uint8 `(N, data_dim)`, 0 .. num_levels - 1. Likelihoods over integer pixels
            (Categorical, discretised logistic) take `levels.float()` or `levels.long()`. Of colour images the three
            numbers of a pixel stand together: red, green, blue.
        labels: int64 `(N,)`, or None where the source gives none.
        num_levels: 2 (bits), 17 (digits) or 256 (grey and colour).
        factors: int64 `(N, f)`, the factors from which a picture was drawn (`shapes`), or None.
        images: float32 `(N, data_dim)` in [0, 1], `levels / (num_levels - 1)`; made at the first access and kept.
            Of two levels these are the bits. Grey `images` are *not* data for a Bernoulli likelihood: see `Binarized`.
    """

    levels: Tensor = field(repr=False)
    labels: Tensor | None = field(repr=False)
    num_levels: int
    factors: Tensor | None = field(default=None, repr=False)

    # Made when asked for: as floats a set takes four times its memory, and `Binarized` never needs them.
    @cached_property
    def images(self) -> Tensor:
        return self.levels.float().div_(self.num_levels - 1)

    def __len__(self) -> int:
        return len(self.levels)

    def __getitem__(self, rows: slice | Tensor) -> "Split":
        """The rows of a slice, an index tensor or a bool tensor, as a `Split`."""
        # A number would give one image without its batch axis, which every model would read as a batch of pixels.
        if not isinstance(rows, slice | Tensor):
            raise TypeError(f"a Split is indexed by a slice or a tensor of rows, not {type(rows).__name__}")
        labels = None if self.labels is None else self.labels[rows]
        factors = None if self.factors is None else self.factors[rows]
        return replace(self, levels=self.levels[rows], labels=labels, factors=factors)

    def shuffled(self, seed: int = 0) -> "Split":
        """The same rows in a random order fixed by `seed`: do this before taking a part of an ordered set."""
        return self[torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))]


Part = TypeVar("Part", Split, Sequences)


@dataclass(frozen=True, eq=False)
class Dataset(Generic[Part]):
    """A data set with the splits of the literature, its licence and its source.

    Attributes:
        name: the word given to `load`.
        train, valid, test: a `Split` each, or `Sequences`. Test sets may be ordered: a part of one is
            `test.shuffled()[:n]`. A set without a split of its own, such as a single series, is all in `train`.
        shape: of one image, (28, 28) or in colour (32, 32, 3), or of one frame of a sequence, (88,).
        licence: the terms that the data's source states, or that the source states none.
        source: the publication to cite, and the place that the file comes from.
        sha256: `file/part` -> sha256 of that part's content, as checked by `load`.
        note: a warning to read before printing a number next to a published one.
        mean, sd: of the training data in the source's units; values are (source - mean) / sd. 0 and 1: unchanged.
        sample_rate: of sound, in samples a second.
    """

    name: str
    train: Part
    valid: Part
    test: Part
    shape: tuple[int, ...]
    licence: str
    source: str
    sha256: Mapping[str, str] = field(repr=False)
    note: str = ""
    mean: float = 0.0
    sd: float = 1.0
    sample_rate: int | None = None

    @property
    def data_dim(self) -> int:
        """Numbers in an image or a frame: the last axis of `images`, `levels`, `frames` and `values`."""
        return math.prod(self.shape)

    @property
    def num_levels(self) -> int | None:
        """2, 17 or 256 values per pixel; None for measurements."""
        return self.train.num_levels
