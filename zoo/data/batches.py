"""Batches of sequences for `zoo.infer.fit`: of about equal length, or going on where the last batch ended.

A batch is `(x, u, mask)`, the arguments of a sequence model: frames `(batch, T, D)` padded behind, controls if any, and
True where a frame is there. Both classes choose the batches of an epoch (`batches`), in place of `fit`'s permutation.
"""

import math

import numpy as np
import torch
from torch import Tensor

from zoo.data.sequences import WIDE, Sequences


class Buckets:
    """Sequences of unequal length in batches of about equal length, so that little padding is computed.

    Each epoch sorts the rows by a jittered length, cuts them into batches and shuffles the batches: a batch has other
    rows in every epoch. T of a batch is padded up to a multiple, so that few shapes occur: each new shape costs `fit` a
    check of the pair.

    Args:
        sequences: the split, e.g. `load("jsb").train`; `sequences.cut(200)` bounds the length.
        multiple: T of a batch is a multiple of this.
        jitter: standard deviation of the logarithm of a length's random factor; 0: only rows of equal length
            change places.

    Raises:
        ValueError: `multiple` or `jitter` out of range; no sequences; infinite values; a sequence with no frame there.
    """

    def __init__(self, sequences: Sequences, multiple: int = 8, jitter: float = 0.1) -> None:
        if multiple < 1 or not 0 <= jitter < math.inf:
            raise ValueError(f"Buckets: expected multiple >= 1 and jitter >= 0, got {multiple} and {jitter}")
        _refuse(sequences)
        self.sequences, self.multiple, self.jitter = sequences, multiple, jitter

    def __len__(self) -> int:
        return len(self.sequences)

    def batches(self, batch_size: int, seed: int, epoch: int | None) -> list[Tensor]:
        """The row numbers of each batch of an epoch; `epoch=None`: sorted by length, for evaluation."""
        lengths = self.sequences.lengths.double().numpy()
        if epoch is None:
            return list(torch.from_numpy(np.argsort(lengths, kind="stable")).split(batch_size))
        # A stream of each epoch's own: a resumed training draws the epochs that are left as the first run would have.
        random = np.random.default_rng((seed, epoch))
        # The uniform part breaks ties: most sets have many sequences of one length.
        spread = lengths * np.exp(self.jitter * random.standard_normal(len(lengths))) + random.random(len(lengths))
        batches = torch.from_numpy(np.argsort(spread, kind="stable")).split(batch_size)
        return [batches[i] for i in random.permutation(len(batches))]

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None, Tensor]:
        """`(x, u, mask)` of the rows `index`; nothing is drawn, the generator is not used."""
        return _padded(self.sequences[index], self.multiple)

    def first(self, index: Tensor) -> Tensor | None:
        """The frames before the sequences `index`, zeros for a missing one; None where the split knows none."""
        return _first(self.sequences, index)


class Streams:
    """Parallel streams of chunks: row i goes on where row i - num ended, so that `fit` carries the state over.

    That is truncated back-propagation through time as SRNN trains: each batch has the next chunk of every stream and
    starts from the state, detached, in which the batch before ended. An epoch starts from the model's own start.

    Args:
        sequences: chunks, their number a multiple of `num`, e.g. `load("jsb_srnn").train`.
        num: the number of streams, and the batch size to train with.

    Raises:
        ValueError: chunks of unequal length, or of a number that is no multiple of `num`; values as in `Buckets`.
    """

    # `fit` reads this: the state is carried from batch to batch.
    carried = True

    def __init__(self, sequences: Sequences, num: int = 16) -> None:
        if num < 1 or len(sequences) % num or not len(sequences):
            raise ValueError(f"Streams: {len(sequences)} chunks cannot be {num} streams of equal length")
        if len(set(sequences.lengths.tolist())) > 1:
            raise ValueError("Streams: the chunks must have one length; Streams.joined cuts whole sequences into such")
        _refuse(sequences)
        self.sequences, self.num = sequences, num

    @classmethod
    def joined(cls, sequences: Sequences, num: int = 16, length: int = 100) -> "Streams":
        """Streams of whole sequences, laid end to end in `num` streams of chunks of `length` frames.

        Frames that do not fill a chunk of every stream are left out, as in SRNN's files. The very first frame is not
        scored: it is `first` of the first chunk. Controls, truth and labels of frames go along; times are steps.

        Raises:
            ValueError: `num` or `length` below 1, or too few frames for one chunk of every stream.
        """
        if num < 1 or length < 1:
            raise ValueError(f"Streams: expected at least one stream and one frame, got num = {num}, length = {length}")
        per_stream = (len(sequences.frames) - 1) // (num * length)
        if per_stream < 1:
            raise ValueError(f"Streams: {len(sequences.frames)} frames are too few for {num} chunks of {length}")
        # Chunk i of the result continues chunk i - num: the first chunks of all streams, then the second ones, ...
        place = torch.arange(num * per_stream).reshape(num, per_stream).T.flatten()
        start = 1 + place * length
        kept = (start[:, None] + torch.arange(length)).flatten()
        given = {name: getattr(sequences, name) for name in ("frame_labels", *WIDE)}
        chunks = Sequences(
            sequences.frames[kept],
            torch.full((len(place),), length),
            sequences.columns,
            num_levels=sequences.num_levels,
            first=sequences.floats(start - 1),
            **{name: value[kept] for name, value in given.items() if value is not None},
        )
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

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None, Tensor]:
        """`(x, u, mask)` of the chunks `index`; nothing is drawn, the generator is not used."""
        return _padded(self.sequences[index], 1)

    def first(self, index: Tensor) -> Tensor | None:
        """The frames before the chunks `index`, zeros for a missing one; None where the split knows none."""
        return _first(self.sequences, index)


def _refuse(sequences: Sequences) -> None:
    """Refuses sequences that cannot be trained on; the error names sequence and frame."""
    # Once, before any training: the likelihood of an infinite value is NaN hours later, in a batch that says less.
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


def _first(sequences: Sequences, index: Tensor) -> Tensor | None:
    return None if sequences.first is None else sequences.first[index].nan_to_num()


def _padded(rows: Sequences, multiple: int) -> tuple[Tensor, Tensor | None, Tensor]:
    more = -rows.values.shape[1] % multiple
    x, u = torch.nn.functional.pad(rows.filled, (0, 0, 0, more)), rows.u
    u = None if u is None else torch.nn.functional.pad(u, (0, 0, 0, more))
    return x, u, torch.nn.functional.pad(rows.mask, (0, more))
