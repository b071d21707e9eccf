"""Piano rolls: 88 keys as bits."""

import numpy as np
import torch

from zoo.data.sequences import Sequences

NOTES = ("C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B")
KEYS = tuple(f"{NOTES[midi % 12]}{midi // 12 - 1}" for midi in range(21, 109))


def piano_roll(bits: np.ndarray, lengths: np.ndarray, first: np.ndarray | None = None) -> Sequences:
    """Songs as `Sequences` of 88 columns, A0 to C8.

    Args:
        bits: packed bits `(frames, 11)`, the songs end to end.
        lengths: frames of each song.
        first: packed bits `(songs, 11)`, the frame before each song; None where songs begin at their beginning.
    """
    frames = torch.from_numpy(np.unpackbits(bits, axis=-1, count=88))
    before = None if first is None else torch.from_numpy(np.unpackbits(first, axis=-1, count=88)).float()
    return Sequences(frames, torch.tensor(lengths, dtype=torch.int64), KEYS, num_levels=2, first=before)
