"""A split of sequences: music, speech, motion, tracks, or one single series."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

# Fields of several numbers a frame.
WIDE = ("truth", "controls")


@dataclass(frozen=True, eq=False)
class Sequences:
    """N sequences of D numbers a frame, of unequal length: kept end to end, handed out padded; rows are sequences.

    Attributes:
        frames: `(total, D)`, all frames end to end, in any dtype. Missing frames are NaN.
        lengths: int64 `(N,)`, frames of each sequence; their sum is `total`.
        columns: the names of the D coordinates, with their units.
        stamps: float64 `(total,)`, the time of each frame, or None where frames are one step apart.
        time_unit: of the stamps, such as "years" or "seconds since 1970".
        labels: int64 `(N,)`, or None where the source gives none.
        frame_labels: int64 `(total,)`, the label of each frame, or None where the source gives none.
        truth: floats `(total, S)`, the true state behind each frame where a simulator has made them, or None.
        controls: floats `(total, K)`, known inputs of each frame, such as pushes of a ball, or None.
        num_levels: of frames that hold levels 0 .. num_levels - 1, as of a `Split` (2: bits); None where they are
            measurements.
        first: floats `(N, D)`, the frame before each sequence: input of a model that feeds x back, and not scored
            (SRNN's convention). None where sequences begin at their beginning.
        values: `(N, T, D)`, T the greatest length, padded behind with 0 (missing frames stay NaN). Integers are
            float32, and levels in [0, 1]: level / (num_levels - 1), as the `images` of a `Split`.
        mask: bool `(N, T)`, True where a frame is there: neither padding nor missing. Models take it as `mask`.
        u: `(N, T, K)`, the controls, padded with 0; None without controls. Models take it as `u`.
        times: float64 `(N, T)`: the stamps, or 0, 1, ...; padding repeats the last, so that no time passes in it.

    `fit` takes sequences as they are: a batch is `(x, u, mask)` of some rows, floats whatever the frames are, so that
    a large set stays in bytes. The mask is None where every frame of the split is there. See `Buckets` and `Streams`
    for batches of equal length.

    Padded forms are made at the first access and kept. Of a large set take rows first, `sequences[rows].values`.

    Raises:
        ValueError: sizes that do not agree, an empty sequence, or a frame with NaN in some of its coordinates only.
    """

    frames: Tensor = field(repr=False)
    lengths: Tensor = field(repr=False)
    columns: tuple[str, ...]
    stamps: Tensor | None = field(default=None, repr=False)
    time_unit: str = "steps"
    labels: Tensor | None = field(default=None, repr=False)
    num_levels: int | None = None
    first: Tensor | None = field(default=None, repr=False)
    frame_labels: Tensor | None = field(default=None, repr=False)
    truth: Tensor | None = field(default=None, repr=False)
    controls: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        total = int(self.lengths.sum())
        if self.frames.shape != (total, len(self.columns)):
            raise ValueError(f"frames: expected shape {(total, len(self.columns))} by lengths and columns, "
                             f"got {tuple(self.frames.shape)}")  # fmt: skip
        for name, value in self._beside.items():
            if value.shape[: value.ndim - (name in WIDE)] != (total,):
                expected = f"({total}, any)" if name in WIDE else f"({total},)"
                raise ValueError(f"{name}: expected shape {expected}, one for each frame, got {tuple(value.shape)}")
        if (self.lengths < 1).any():
            raise ValueError(f"sequence {int((self.lengths < 1).nonzero()[0])} has no frames")
        if self.first is not None and self.first.shape != (len(self), self.frames.shape[-1]):
            raise ValueError(f"first: expected shape {(len(self), self.frames.shape[-1])}, "
                             f"got {tuple(self.first.shape)}")  # fmt: skip
        # Integers cannot be NaN, and looking for it in a video set would take longer than drawing it.
        if self.frames.is_floating_point():
            # `mask` marks whole frames, so a frame of which some coordinates alone are missing cannot be told in it.
            unknown = self.frames.isnan()
            if (partly := unknown.any(-1) & ~unknown.all(-1)).any():
                raise ValueError(f"frame {int(partly.nonzero()[0])} is NaN in some of its coordinates")

    def __repr__(self) -> str:
        # the columns of a video are a thousand names
        size = f"{len(self)} sequences, {len(self.frames)} frames of {len(self.columns)} numbers"
        return f"Sequences({size}, {self.frames.dtype})"

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: slice | Tensor) -> "Sequences":
        """The sequences of a slice, an index tensor or a bool tensor."""
        if not isinstance(rows, slice | Tensor):
            raise TypeError(f"Sequences are indexed by a slice or a tensor of rows, not {type(rows).__name__}")
        kept = torch.arange(len(self))[rows]
        lengths = self.lengths[kept]
        # the place of each frame among those that are kept, moved to its own: a loop over rows would cost a small
        # model a fifth of its step
        moved = self._starts[kept] - (lengths.cumsum(0) - lengths)
        places = torch.arange(int(lengths.sum())) + moved.repeat_interleave(lengths)
        return replace(
            self,
            frames=self.frames[places],
            lengths=lengths,
            **{name: value[places] for name, value in self._beside.items()},
            labels=None if self.labels is None else self.labels[kept],
            first=None if self.first is None else self.first[kept],
        )

    def cut(self, longest: int) -> "Sequences":
        """The sequences in pieces of at most `longest` frames, each a sequence of its own with the label of its whole.

        If `first` is given, a piece inside a sequence has the frame before it as its `first`.
        """
        if longest < 1:
            raise ValueError(f"longest: expected at least one frame, got {longest}")
        pieces = [[longest] * (n // longest) + [n % longest] * (n % longest > 0) for n in self.lengths.tolist()]
        counts = torch.tensor([len(piece) for piece in pieces], dtype=torch.int64)
        lengths = torch.tensor([n for piece in pieces for n in piece], dtype=torch.int64)
        labels, first = (None if v is None else v.repeat_interleave(counts, 0) for v in (self.labels, self.first))
        if first is not None:
            inner = torch.ones(len(lengths), dtype=torch.bool)
            inner[counts.cumsum(0) - counts] = False
            first[inner] = self.floats((lengths.cumsum(0) - lengths)[inner] - 1).to(first.dtype)
        return replace(self, lengths=lengths, labels=labels, first=first)

    def without_first(self) -> "Sequences":
        """The sequences in SRNN's convention: the first frame of each becomes `first`, and the frames begin after it.

        Raises:
            ValueError: a sequence of one frame, which would have none left.
        """
        if (self.lengths < 2).any():
            raise ValueError(
                f"sequence {int((self.lengths < 2).nonzero()[0])} has one frame only: none is left to score"
            )
        kept = torch.ones(len(self.frames), dtype=torch.bool)
        kept[self._starts] = False
        beside = {name: value[kept] for name, value in self._beside.items()}
        first = self.floats(self._starts)
        return replace(self, frames=self.frames[kept], lengths=self.lengths - 1, first=first, **beside)

    def shuffled(self, seed: int = 0) -> "Sequences":
        """The same sequences in a random order fixed by `seed`: do this before taking a part of an ordered set."""
        return self[torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))]

    def padded(self, beside: Tensor) -> Tensor:
        """A tensor with a row for each frame, such as `truth`, as `(N, T, ...)`, padded behind with 0."""
        padding = self._padding.reshape(*self._padding.shape, *(1 for _ in beside.shape[1:]))
        return beside[self._places].masked_fill(padding, 0)

    def floats(self, places: Tensor) -> Tensor:
        """The frames of some places in `frames` as floats, levels in [0, 1]."""
        # a copy, which may be written to
        chosen = self.frames[places]
        floats = chosen if chosen.is_floating_point() else chosen.float()
        return floats if self.num_levels in (None, 2) else floats.div_(self.num_levels - 1)

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """`(x, u, mask)` of the sequences `index`; nothing is drawn, the generator is not used."""
        rows = self[index]
        return (rows.values, rows.u, None) if self._whole else (rows.filled, rows.u, rows.mask)

    # Kept, since evaluations ask one split for its padded forms many times. Batches leave nothing behind: rows of a
    # split are an object of their own.
    @cached_property
    def values(self) -> Tensor:
        return self.floats(self._places).masked_fill_(self._padding.unsqueeze(-1), 0)

    @cached_property
    def mask(self) -> Tensor:
        return ~(self._padding | self._missing[self._places])

    @property
    def filled(self) -> Tensor:
        """`values` with 0 in place of missing frames."""
        # 0 times NaN is NaN: masking the log-likelihood of a missing frame would leave its gradient NaN
        return self.values.masked_fill(~self.mask.unsqueeze(-1), 0.0)

    @property
    def u(self) -> Tensor | None:
        return None if self.controls is None else self.padded(self.controls)

    @cached_property
    def times(self) -> Tensor:
        if self.stamps is None:
            return (self._places - self._starts[:, None]).double()
        return self.stamps[self._places]

    @property
    def _beside(self) -> dict[str, Any]:
        """The fields with a row for each frame that are given, besides the frames."""
        named = {name: getattr(self, name) for name in ("stamps", "frame_labels", *WIDE)}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def _missing(self) -> Tensor:
        """`(total,)`: the frames that are not there."""
        if not self.frames.is_floating_point():
            return torch.zeros(len(self.frames), dtype=torch.bool)
        return self.frames.isnan().all(-1)

    # Kept, since every batch asks for it.
    @cached_property
    def _whole(self) -> bool:
        """Tells whether the sequences have one length and no frame is missing."""
        return bool((self.lengths == self.lengths[:1]).all()) and not bool(self._missing.any())

    @property
    def _starts(self) -> Tensor:
        return self.lengths.cumsum(0) - self.lengths

    @property
    def _steps(self) -> Tensor:
        return torch.arange(int(self.lengths.max()) if len(self) else 0)

    @property
    def _padding(self) -> Tensor:
        return self._steps >= self.lengths[:, None]

    @property
    def _places(self) -> Tensor:
        """`(N, T)`: the row in `frames` of each padded frame; padding points at the last frame of its sequence."""
        return self._starts[:, None] + self._steps.minimum(self.lengths[:, None] - 1)
