"""Speech as raw waveforms in frames of 200 samples, and motion capture."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from zoo.data.dataset import Dataset
from zoo.data.sequence_files import FREE_SPOKEN_DIGITS, LJSPEECH_32, MOCAP_CMU35, PARTS
from zoo.data.sequences import Sequences
from zoo.data.sources import Root, Source, fetch

SAMPLES = 200  # of a frame, as in VRNN and SRNN


def spoken_digits(root: Root = None) -> Dataset[Sequences]:
    """3,000 spoken digits of six speakers at 8 kHz, frames of 200 samples (25 ms); `labels` are the digits.

    Test is the official one (recordings 0-4 of each speaker and digit, 300); of the others, recordings 5-9 are
    validation (300) and 10-49 training (2,400), which is our choice. Values are z-scored with the training set's mean
    and s.d. over all samples, as SRNN does; levels differ much between speakers. Samples that do not fill a last frame
    are left out.
    """
    parts = fetch(FREE_SPOKEN_DIGITS, root)
    split = np.where(parts["test"], 2, np.where(parts["index"] < 10, 1, 0))
    return _speech(
        "spoken_digits",
        parts,
        split,
        parts["digit"],
        FREE_SPOKEN_DIGITS,
        "CC BY-SA 4.0",
        "Z. Jackson et al., Free Spoken Digit Dataset, github.com/Jakobovski/free-spoken-digit-dataset",
        "not TIMIT; densities of z-scored samples, log-likelihoods per sequence compare within this set only",
    )


def ljspeech_32(root: Root = None) -> Dataset[Sequences]:
    """32 sentences read by one speaker at 16 kHz, frames of 200 samples (12.5 ms), z-scored with training statistics.

    24/4/4 in reading order, our split; 222 seconds in all. The file is needed: the source is at 22 kHz, and the samples
    of another resampling would differ.
    """
    parts = fetch(LJSPEECH_32, root)
    return _speech(
        "ljspeech_32",
        parts,
        parts["split"],
        None,
        LJSPEECH_32,
        "public domain",
        "K. Ito & L. Johnson, The LJ Speech Dataset, keithito.com/LJ-Speech-Dataset; from github.com/coqui-ai/TTS",
        "not Blizzard, and small; densities of z-scored samples compare within this set only",
    )


def mocap_cmu35(root: Root = None) -> Dataset[Sequences]:
    """16/3/4 walks of CMU's subject 35, 300 frames of 50 joint angles without their mean, as ODE2VAE prepared them."""
    parts = fetch(MOCAP_CMU35, root)
    columns = tuple(f"joint angle {number}, mean removed" for number in range(1, 51))
    splits: dict[str, Any] = {
        part: Sequences(torch.tensor(parts[part]).flatten(0, 1), torch.full((len(parts[part]),), 300), columns)
        for part in PARTS
    }
    return Dataset(
        name="mocap_cmu35",
        **splits,
        shape=(50,),
        licence="free to use (mocap.cs.cmu.edu); Apache 2.0 on the repository of the file",
        source="CMU Graphics Lab Motion Capture Database; Ç. Yıldız, M. Heinonen & H. Lähdesmäki, ODE2VAE, NeurIPS "
        "2019; from github.com/uncbiag/neuro_shooting",
        sha256=_sha256(MOCAP_CMU35),
        note="a step is 0.1 in ODE2VAE's unit of time",
    )


RECORDINGS: dict[str, Callable[[Root], Dataset[Sequences]]] = {
    "spoken_digits": spoken_digits,
    "ljspeech_32": ljspeech_32,
    "mocap_cmu35": mocap_cmu35,
}


def _speech(
    name: str,
    parts: dict[str, np.ndarray],
    split: np.ndarray,
    labels: np.ndarray | None,
    source: Source,
    licence: str,
    cite: str,
    note: str,
) -> Dataset[Sequences]:
    clips = np.split(parts["audio"], parts["length"].cumsum()[:-1])
    train = np.concatenate([clip for clip, part in zip(clips, split, strict=True) if part == 0]).astype(np.float64)
    mean, sd = float(train.mean()), float(train.std())
    splits: dict[str, Any] = {}
    for number, part in enumerate(PARTS):
        rows = np.flatnonzero(split == number)
        whole = [clips[row][: len(clips[row]) // SAMPLES * SAMPLES].reshape(-1, SAMPLES) for row in rows]
        frames = torch.tensor((np.concatenate(whole) - mean) / sd, dtype=torch.float32)
        lengths = torch.tensor([len(clip) for clip in whole])
        digits = None if labels is None else torch.tensor(labels[rows], dtype=torch.int64)
        splits[part] = Sequences(frames, lengths, tuple(f"sample {n}" for n in range(SAMPLES)), labels=digits)
    return Dataset(
        name=name,
        **splits,
        shape=(SAMPLES,),
        licence=licence,
        source=cite,
        sha256=_sha256(source),
        note=note,
        mean=mean,
        sd=sd,
        sample_rate=int(parts["sample_rate"]),
    )


def _sha256(source: Source) -> dict[str, str]:
    return {f"{source.file}/{part}": value for part, value in source.sha256.items()}
