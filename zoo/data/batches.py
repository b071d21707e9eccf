"""Batches of sequences as `zoo.infer.fit` takes them: of about equal length, or going on where the last one ended.

Both give `(x, None, mask)`, the arguments of a sequence model: frames `(batch, T, D)` padded behind, no controls, and
which frames are there. They choose the batches of an epoch themselves (`batches`), instead of `fit`'s permutation.
"""

import math

import numpy as np
import torch
from torch import Tensor

from zoo.data.sequences import Sequences, as_floats


class Buckets:
    """Sequences of unequal length in batches of about equal length, so that little padding is computed.

    Each epoch the rows are sorted by length, rows of about one length in a new random order (a jitter of the lengths),
    cut into batches, and the batches shuffled. Lengths are padded up to a multiple, so that few shapes occur: each new
    shape costs `fit` a check of the pair.

    Args:
        sequences: the split, e.g. `load("jsb").train`; `sequences.cut(200)` bounds the length.
        multiple: T of a batch is a multiple of this.
        jitter: spread of the sorting, as a share of a length.

    Raises:
        ValueError: infinite values, or a sequence without any frame that is there.
    """

    def __init__(self, sequences: Sequences, multiple: int = 8, jitter: float = 0.1) -> None:
        if multiple < 1 or not 0 <= jitter < math.inf:
            raise ValueError(f"Buckets: expected multiple >= 1 and jitter >= 0, got {multiple} and {jitter}")
        _refuse(sequences)
        self.sequences, self.multiple, self.jitter = sequences, multiple, jitter

    def __len__(self) -> int:
        return len(self.sequences)

    def batches(self, batch_size: int, seed: int, epoch: int | None) -> list[Tensor]:
        """Row numbers of each batch of an epoch; None: sorted by length, for evaluation."""
        lengths = self.sequences.lengths.double().numpy()
        if epoch is None:
            return list(torch.from_numpy(np.argsort(lengths, kind="stable")).split(batch_size))
        random = np.random.default_rng((seed, epoch))
        spread = lengths * np.exp(self.jitter * random.standard_normal(len(lengths))) + random.random(len(lengths))
        batches = torch.from_numpy(np.argsort(spread, kind="stable")).split(batch_size)
        return [batches[i] for i in random.permutation(len(batches))]

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, None, Tensor]:
        return _padded(self.sequences[index], self.multiple)

    def first(self, index: Tensor) -> Tensor | None:
        """The frames before these sequences, where they are known; zeros for one that is missing."""
        return None if self.sequences.first is None else self.sequences.first[index].nan_to_num()


class Streams:
    """Parallel streams of chunks: row i goes on where row i - num ended, so that `fit` carries the state over.

    That is truncated back-propagation through time as SRNN trains: each batch has the next chunk of every stream, the
    state at its start is that of the last one's end, detached, and an epoch starts anew.

    Args:
        sequences: chunks, their number a multiple of `num`, e.g. `load("jsb_srnn").train`.
        num: streams, which is the batch size to train with.

    Raises:
        ValueError: chunks of unequal length, or of a number that is no multiple of `num`.
    """

    carried = True

    def __init__(self, sequences: Sequences, num: int = 16) -> None:
        if num < 1 or len(sequences) % num or not len(sequences):
            raise ValueError(f"Streams: {len(sequences)} chunks cannot be {num} streams of equally many")
        if len(set(sequences.lengths.tolist())) > 1:
            raise ValueError("Streams: the chunks must have one length; Streams.joined makes them of whole sequences")
        _refuse(sequences)
        self.sequences, self.num = sequences, num

    @classmethod
    def joined(cls, sequences: Sequences, num: int = 16, length: int = 100) -> "Streams":
        """Whole sequences end to end, in `num` streams of chunks of `length`; the rest is left out, as in SRNN's files.

        The first frame of all is `first` of the first chunk and not scored.
        """
        if num < 1 or length < 1:
            raise ValueError(f"Streams: expected at least one stream and one frame, got num = {num}, length = {length}")
        per_stream = (len(sequences.frames) - 1) // (num * length)
        if per_stream < 1:
            raise ValueError(f"Streams: {len(sequences.frames)} frames are too few for {num} chunks of {length}")
        place = torch.arange(num * per_stream).reshape(num, per_stream).T.flatten()  # chunk by chunk of every stream
        start = 1 + place * length
        frames = sequences.frames[(start[:, None] + torch.arange(length)).flatten()]
        first = as_floats(sequences.frames[start - 1])
        lengths = torch.full((len(place),), length)
        chunks = Sequences(frames, lengths, sequences.columns, num_levels=sequences.num_levels, first=first)
        return cls(chunks, num)

    def __len__(self) -> int:
        return len(self.sequences)

    def batches(self, batch_size: int, seed: int, epoch: int | None) -> list[Tensor]:
        """The chunks in their order, whatever seed and epoch.

        Raises:
            ValueError: a batch of another size than the streams: their states could not be carried over.
        """
        if batch_size != self.num:
            raise ValueError(
                f"batch_size {batch_size}: these are {self.num} parallel streams, and the state carried from batch to "
                f"batch needs batches of that size. Give batch_size={self.num}, to all streams of a training"
            )
        return list(torch.arange(len(self)).split(batch_size))

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, None, Tensor]:
        return _padded(self.sequences[index], 1)

    def first(self, index: Tensor) -> Tensor | None:
        """The frames before these chunks, where they are known; zeros for one that is missing."""
        return None if self.sequences.first is None else self.sequences.first[index].nan_to_num()


def _refuse(sequences: Sequences) -> None:
    """Errors that name sequence and frame, before any training."""
    if not len(sequences):
        raise ValueError("there are no sequences")
    bad = sequences.frames.isinf().any(-1)
    if bad.any():
        place = int(bad.nonzero()[0])
        row = int((sequences.lengths.cumsum(0) <= place).sum())
        frame = place - int(sequences.lengths[:row].sum())
        raise ValueError(f"sequence {row}, frame {frame}: infinite values")
    missing = sequences.frames.isnan().all(-1)
    if missing.any():
        owner = torch.repeat_interleave(torch.arange(len(sequences)), sequences.lengths)
        seen = torch.zeros(len(sequences), dtype=torch.int64).index_add_(0, owner, (~missing).long())
        if (seen == 0).any():
            raise ValueError(f"sequence {int((seen == 0).nonzero()[0])}: all of its frames are missing (NaN)")


def _padded(rows: Sequences, multiple: int) -> tuple[Tensor, None, Tensor]:
    x, mask = rows.values, rows.mask
    more = -x.shape[1] % multiple
    x = x.masked_fill(~mask.unsqueeze(-1), 0.0)
    return torch.nn.functional.pad(x, (0, 0, 0, more)), None, torch.nn.functional.pad(mask, (0, more))
