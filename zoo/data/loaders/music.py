"""Polyphonic music as piano rolls: two versions of four sets, one in full songs and one in the chunks of SRNN."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data import manifest
from zoo.data.dataset import Dataset
from zoo.data.loaders.readers import read_npz
from zoo.data.piano_roll import piano_roll
from zoo.data.sequences import Sequences
from zoo.data.sources import Root, fetch

PARTS = ("train", "valid", "test")
# Name of a set -> its key in the packed files, in the order of the files that are packed.
SETS = {"jsb": "jsb", "nottingham": "nottingham", "piano_midi": "piano", "muse_data": "muse"}


def _pack_songs(downloaded: list[Path], target: Path) -> None:
    """Builds polyphonic_music.npz from four .mat files of songs `(T, 88)`: packed bits, end to end, and lengths."""
    from scipy.io import loadmat

    arrays: dict[str, Any] = {}
    for key, path in zip(SETS.values(), downloaded, strict=True):
        songs = loadmat(path)
        for part in PARTS:
            each = list(songs[f"{part}data"][0])
            arrays[f"{key}_{part}_bits"] = np.packbits(np.concatenate(each).astype(np.uint8), axis=-1)
            arrays[f"{key}_{part}_len"] = np.array([len(song) for song in each], np.int32)
    np.savez_compressed(target, **arrays)


POLYPHONIC_MUSIC = manifest.file("polyphonic_music.npz", read_npz, _pack_songs)


def music(name: str, root: Root = None) -> Dataset[Sequences]:
    """Songs in full, 88 keys (A0 to C8) as bits, the split of Boulanger-Lewandowski et al. 2012.

    Their frames are those of the DMM, TSBN, STORN, RNN-RBM and RNN-NADE tables. `<name>_srnn` is other data.
    """
    parts, key = fetch(POLYPHONIC_MUSIC, root), SETS[name]
    train, valid, test = (piano_roll(parts[f"{key}_{part}_bits"], parts[f"{key}_{part}_len"]) for part in PARTS)
    digests = POLYPHONIC_MUSIC.digests(part for part in parts if part.startswith(f"{key}_"))
    return manifest.dataset(name, (train, valid, test), (88,), digests)


def _pack_streams(downloaded: list[Path], target: Path) -> None:
    """Builds polyphonic_music_srnn.npz from SRNN's four files of frames x and the frames before them, u."""
    arrays: dict[str, Any] = {}
    for key, path in zip(SETS.values(), downloaded, strict=True):
        whole = read_npz(path)
        for part in PARTS:
            x, u = (whole[f"{letter}_{part}"].astype(np.uint8) for letter in "xu")
            if part == "test":
                lengths = whole["mask_test"].sum(1).astype(np.int32)
                arrays[f"{key}_test_len"] = lengths
                x = np.concatenate([song[:length] for song, length in zip(x, lengths, strict=True)])
            arrays[f"{key}_{part}_bits"] = np.packbits(x, axis=-1)
            # Within a chunk u is x one frame earlier: the first frame of u is all that x does not know.
            arrays[f"{key}_{part}_first_bits"] = np.packbits(u[:, 0], axis=-1)
    np.savez_compressed(target, **arrays)


POLYPHONIC_MUSIC_SRNN = manifest.file("polyphonic_music_srnn.npz", read_npz, _pack_streams)


def music_srnn(name: str, root: Root = None) -> Dataset[Sequences]:
    """A set of `music` from SRNN's own files: other sampling in time, not transposed, first frames never scored.

    `train` and `valid` are the songs end to end in 16 parallel streams, cut into chunks of 100 frames: chunk i goes on
    where chunk i - 16 ended (`Streams` carries the state over); song boundaries are not marked. `test` has whole songs
    without their first frame. `first` holds the frame before each chunk or song.
    """
    parts, key = fetch(POLYPHONIC_MUSIC_SRNN, root), SETS[name.removesuffix("_srnn")]

    def rolls(part: str) -> Sequences:
        bits = parts[f"{key}_{part}_bits"]
        lengths = parts[f"{key}_test_len"] if part == "test" else np.full(len(bits), bits.shape[1])
        return piano_roll(bits.reshape(-1, bits.shape[-1]), lengths, parts[f"{key}_{part}_first_bits"])

    digests = POLYPHONIC_MUSIC_SRNN.digests(part for part in parts if part.startswith(f"{key}_"))
    return manifest.dataset(name, (rolls("train"), rolls("valid"), rolls("test")), (88,), digests)


MUSIC_SETS: dict[str, Callable[[Root], Dataset[Sequences]]] = {
    **{name: partial(music, name) for name in SETS},
    **{f"{name}_srnn": partial(music_srnn, f"{name}_srnn") for name in SETS},
}
