"""Speech as raw waveforms in frames of 200 samples."""

import io
import re
import wave
import zipfile
from pathlib import Path

import numpy as np
import torch

from zoo.data import manifest
from zoo.data.dataset import Dataset
from zoo.data.loaders.readers import cannot_be_built, read_npz
from zoo.data.sequences import Sequences
from zoo.data.sources import Root, Source, fetch

# A frame, as in VRNN and SRNN.
SAMPLES = 200


def _read_wave(content: bytes) -> np.ndarray:
    with wave.open(io.BytesIO(content)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.int16)


def _pack_clips(downloaded: list[Path], target: Path) -> None:
    """Builds free_spoken_digits.npz from an archive of recordings/{digit}_{speaker}_{index}.wav."""
    clips = []
    with zipfile.ZipFile(downloaded[0]) as archive:
        for name in archive.namelist():
            if found := re.search(r"recordings/(\d)_(\w+)_(\d+)\.wav$", name):
                clips.append((found[2], int(found[1]), int(found[3]), _read_wave(archive.read(name))))
    # By speaker, digit and index as a number: by name, recording 10 would stand before recording 2.
    clips.sort(key=lambda clip: clip[:3])
    speaker, digit, index, audio = zip(*clips, strict=True)
    np.savez_compressed(
        target,
        audio=np.concatenate(audio),
        length=np.array([len(samples) for samples in audio], np.int32),
        digit=np.array(digit, np.uint8),
        speaker=np.unique(speaker, return_inverse=True)[1].astype(np.uint8),
        index=np.array(index, np.uint8),
        test=np.array(index) < 5,
        sample_rate=np.array(8000, np.int32),
    )


FREE_SPOKEN_DIGITS = manifest.file("free_spoken_digits.npz", read_npz, _pack_clips)


def spoken_digits(root: Root = None) -> Dataset[Sequences]:
    """3,000 spoken digits of six speakers at 8 kHz, frames of 200 samples (25 ms); `labels` are the digits.

    Test is the official one (recordings 0-4 of each speaker and digit, 300); of the others, recordings 5-9 are
    validation (300) and 10-49 training (2,400), which is our choice. Values are z-scored with the training set's mean
    and s.d. over all samples, as SRNN does; levels differ much between speakers. Samples that do not fill a last frame
    are left out.
    """
    parts = fetch(FREE_SPOKEN_DIGITS, root)
    part = np.where(parts["test"], 2, np.where(parts["index"] < 10, 1, 0))
    return _speech("spoken_digits", parts, part, parts["digit"], FREE_SPOKEN_DIGITS)


# The public recordings are at 22 kHz, and the samples of another resampling differ: the file itself is needed.
LJSPEECH_32 = manifest.file("ljspeech_32.npz", read_npz, cannot_be_built)


def ljspeech_32(root: Root = None) -> Dataset[Sequences]:
    """32 sentences read by one speaker at 16 kHz, frames of 200 samples (12.5 ms), z-scored with training statistics.

    24/4/4 in reading order, our split; 222 seconds in all. The file cannot be downloaded.
    """
    parts = fetch(LJSPEECH_32, root)
    return _speech("ljspeech_32", parts, parts["split"], None, LJSPEECH_32)


def _speech(
    name: str, parts: dict[str, np.ndarray], part: np.ndarray, labels: np.ndarray | None, source: Source
) -> Dataset[Sequences]:
    """The z-scored data set of the clips in `parts["audio"]`; `part` is 0, 1, 2 for a clip of train, valid, test."""
    clips = np.split(parts["audio"], parts["length"].cumsum()[:-1])
    # In float64: machines sum ten million samples in different orders, and must agree on mean and s.d. to more digits
    # than the float32 values have.
    train = np.concatenate([clip for clip, number in zip(clips, part, strict=True) if number == 0]).astype(np.float64)
    mean, sd = float(train.mean()), float(train.std())

    def chosen(number: int) -> Sequences:
        rows = np.flatnonzero(part == number)
        whole = [clips[row][: len(clips[row]) // SAMPLES * SAMPLES].reshape(-1, SAMPLES) for row in rows]
        return Sequences(
            torch.tensor((np.concatenate(whole) - mean) / sd, dtype=torch.float32),
            torch.tensor([len(clip) for clip in whole]),
            tuple(f"sample {n}" for n in range(SAMPLES)),
            labels=None if labels is None else torch.tensor(labels[rows], dtype=torch.int64),
        )

    return manifest.dataset(
        name,
        (chosen(0), chosen(1), chosen(2)),
        (SAMPLES,),
        source.digests(),
        mean=mean,
        sd=sd,
        sample_rate=int(parts["sample_rate"]),
    )
