"""Figures of sound, waveforms with their spectrograms; and sound as a .wav file."""

import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from zoo.plots.look import DRAWS

__all__ = ["plot_waveforms", "spectrogram", "write_wav"]

# Ends of 16-bit samples. The lower end has no positive counterpart, so that full scale is the upper one.
LEAST, MOST = -32768, 32767


def plot_waveforms(
    sounds: Mapping[str, Tensor],
    sample_rate: int,
    *,
    unit: str = "full scale = 1",
    window: int = 256,
    floor: float = 80.0,
    title: str | None = None,
) -> Figure:
    """The waveform of each sound above its spectrogram, one column for each sound, on common scales.

    Args:
        sounds: name -> samples, `(n,)` or frames `(T, samples)`, which are laid end to end.
        sample_rate: samples a second.
        unit: of the samples, on their axis, such as "sd" of z-scored ones.
        window: samples of a spectrum (Hann window, three quarters overlap).
        floor: decibels between the loudest power of all sounds and the darkest colour.
        title: above the sounds.

    Raises:
        ValueError: no sounds, one shorter than a window, or values that are not finite; names the sound.
    """
    if not sounds:
        raise ValueError("plot_waveforms: there must be at least one sound")
    found = {name: _samples(name, sound) for name, sound in sounds.items()}
    short = [name for name, sound in found.items() if len(sound) < window]
    if short:
        raise ValueError(
            f"plot_waveforms: {short[0]}: {len(found[short[0]])} samples are fewer than a window, {window}"
        )
    spectra = {name: spectrogram(sound, window) for name, sound in found.items()}
    # Common limits: with limits of its own, a silent reconstruction would look as loud as its datum.
    loudest = max(s.amax().item() for s in spectra.values())
    height = max(sound.abs().amax().item() for sound in found.values()) or 1.0
    figure = Figure(figsize=(min(3.6 * len(found), 16.0), 4.2), layout="constrained")
    axes = figure.subplots(2, len(found), sharex="col", squeeze=False, height_ratios=(1, 1.6))
    picture: Any = None
    for column, (name, sound) in enumerate(found.items()):
        seconds = len(sound) / sample_rate
        upper, lower = axes[:, column]
        upper.plot(np.arange(len(sound)) / sample_rate, sound.numpy(), color=DRAWS, linewidth=0.5)
        upper.set_ylim(-1.05 * height, 1.05 * height)
        upper.set_title(name, fontsize=10)
        picture = lower.imshow(
            spectra[name].numpy(), origin="lower", aspect="auto", cmap="magma", vmin=loudest - floor, vmax=loudest,
            extent=(0, seconds, 0, sample_rate / 2000),
        )  # fmt: skip
        lower.set_xlabel("time, s", fontsize=9)
        for ax in (upper, lower):
            ax.tick_params(labelsize=8)
    axes[0, 0].set_ylabel(f"amplitude, {unit}", fontsize=9)
    axes[1, 0].set_ylabel("frequency, kHz", fontsize=9)
    figure.colorbar(picture, ax=list(axes.flat), label="power, dB")
    if title is not None:
        figure.suptitle(title, fontsize=10)
    return figure


def spectrogram(sound: Tensor, window: int = 256) -> Tensor:
    """Power of samples `(n,)` in decibels, `(window // 2 + 1, time)`; silence is -120 dB."""
    # Divided by the window's energy, so that the power of noise does not depend on the length of the window.
    hann = torch.hann_window(window, dtype=sound.dtype)
    spectra = torch.stft(sound, window, max(1, window // 4), window=hann, center=False, return_complex=True)
    power = spectra.abs().square() / hann.square().sum()
    return 10 * power.clamp(min=1e-12).log10()


def write_wav(path: str | Path, sound: Tensor, sample_rate: int, *, mean: float = 0.0, sd: float | None = None) -> None:
    """Writes a sound as 16-bit mono.

    Args:
        path: of the file.
        sound: samples `(n,)`, or frames `(T, samples)`, which are laid end to end.
        sample_rate: samples a second.
        mean, sd: `Dataset.mean` and `Dataset.sd` of z-scored samples, in 16-bit units; the z-scoring is undone, and
            samples that are too loud are clipped. With sd=None the loudest sample becomes 0.9 of full scale.

    Raises:
        ValueError: no samples, or values that are not finite.
    """
    samples = _samples("sound", sound)
    if not len(samples):
        raise ValueError("write_wav: there are no samples")
    if sd is None:
        samples = samples * (0.9 * MOST / max(samples.abs().amax().item(), 1e-12))
    else:
        samples = samples * sd + mean
    whole = samples.round().clamp(LEAST, MOST).to(torch.int16).numpy()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(int(sample_rate))
        # A .wav file is little-endian on every machine.
        file.writeframes(whole.astype("<i2").tobytes())


def _samples(name: str, sound: Tensor) -> Tensor:
    """The samples `(n,)` in double, frames end to end; raises ValueError with the name where one is not finite."""
    samples = sound.detach().cpu().double().flatten()
    if not samples.isfinite().all():
        bad = int((~samples.isfinite()).nonzero()[0])
        raise ValueError(f"{name}: sample {bad} is NaN or infinite")
    return samples
