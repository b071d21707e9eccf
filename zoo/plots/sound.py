"""Figures of sequences beside each other: piano rolls, waveforms with their spectrograms; and sound as a .wav file."""

import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from zoo.plots.overlay import DRAWS, GUIDE

__all__ = ["plot_piano_rolls", "plot_waveforms", "write_wav"]

LOWEST = 21  # MIDI number of A0, the first of 88 keys


def plot_piano_rolls(
    rolls: Mapping[str, Tensor],
    *,
    known: Mapping[str, int] | None = None,
    lowest: int = LOWEST,
    title: str | None = None,
) -> Figure:
    """Rolls side by side, keys up and frames across: data, reconstruction, sample, forecast.

    Args:
        rolls: name -> `(T, keys)`, bits or probabilities (grey).
        known: name -> the frames at the start that were given; what follows (a forecast) has the other colour.
        lowest: MIDI number of the first key.

    Raises:
        ValueError: no rolls, shapes that differ in keys, or values outside [0, 1].
    """
    if not rolls:
        raise ValueError("plot_piano_rolls: there must be at least one roll")
    found = {name: roll.detach().cpu().float() for name, roll in rolls.items()}
    keys = {roll.shape[-1] for roll in found.values() if roll.dim() == 2}
    if len(keys) != 1 or any(roll.dim() != 2 for roll in found.values()):
        shapes = {name: tuple(roll.shape) for name, roll in found.items()}
        raise ValueError(f"plot_piano_rolls: expected (T, keys) with the same keys, got {shapes}")
    for name, roll in found.items():
        if not ((roll >= 0) & (roll <= 1)).all():
            raise ValueError(f"plot_piano_rolls: {name}: expected bits or probabilities, got values outside [0, 1]")
    sounding = torch.cat(list(found.values())).amax(0) > 0.5
    ends = sounding.nonzero().flatten().tolist() or [0, keys.pop() - 1]
    low, high = max(ends[0] - 2, 0), ends[-1] + 2
    figure = Figure(figsize=(min(3.4 * len(found), 16.0), 3.4), layout="constrained")
    axes = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for ax, (name, roll) in zip(axes, found.items(), strict=True):
        start = (known or {}).get(name, len(roll))
        ax.imshow(_coloured(roll, start), origin="lower", aspect="auto", interpolation="nearest",
                  extent=(-0.5, len(roll) - 0.5, lowest - 0.5, lowest + roll.shape[-1] - 0.5))  # fmt: skip
        if 0 < start < len(roll):
            ax.axvline(start - 0.5, color=GUIDE, linewidth=1.0, linestyle="dashed")
        ax.set_ylim(lowest + low - 0.5, lowest + high + 0.5)
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("frame", fontsize=9)
        ax.tick_params(labelsize=8)
    octaves = [midi for midi in range(12, 128, 12) if lowest + low <= midi <= lowest + high]
    axes[0].set_yticks(octaves, [f"C{midi // 12 - 1}" for midi in octaves])
    axes[0].set_ylabel("key", fontsize=9)
    if title is not None:
        figure.suptitle(title, fontsize=10)
    return figure


def plot_waveforms(
    sounds: Mapping[str, Tensor], sample_rate: int, *, window: int = 256, floor: float = 80.0, title: str | None = None
) -> Figure:
    """Each sound as waveform above and spectrogram below, one column a sound, on common scales.

    Args:
        sounds: name -> samples, `(n,)` or frames `(T, samples)`, which are laid end to end.
        sample_rate: samples a second.
        window: samples of a spectrum (Hann window, three quarters overlap).
        floor: decibels below the loudest of all that are still told apart.

    Raises:
        ValueError: no sounds, one shorter than a window, or values that are not finite; names it.
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
    axes[0, 0].set_ylabel("sample", fontsize=9)
    axes[1, 0].set_ylabel("frequency, kHz", fontsize=9)
    figure.colorbar(picture, ax=list(axes.flat), label="power, dB")
    if title is not None:
        figure.suptitle(title, fontsize=10)
    return figure


def spectrogram(sound: Tensor, window: int = 256) -> Tensor:
    """Power in decibels, `(window // 2 + 1, time)`, of samples `(n,)`; silence is -120 dB."""
    hann = torch.hann_window(window, dtype=sound.dtype)
    pieces = sound.unfold(0, window, max(1, window // 4)) * hann
    power = torch.fft.rfft(pieces).abs().square() / hann.square().sum()
    return 10 * power.clamp(min=1e-12).log10().mT


def write_wav(path: str | Path, sound: Tensor, sample_rate: int, *, mean: float = 0.0, sd: float | None = None) -> None:
    """16-bit mono sound, by the standard library.

    Args:
        sound: samples `(n,)`, or frames `(T, samples)`, which are laid end to end.
        mean, sd: of the z-scoring that is undone, `Dataset.mean` and `Dataset.sd`, in 16-bit units; what is too loud
            is clipped. Without sd the sound is scaled so that its loudest sample is 0.9 of full scale.

    Raises:
        ValueError: no samples, or values that are not finite.
    """
    samples = _samples("sound", sound)
    if not len(samples):
        raise ValueError("write_wav: there are no samples")
    if sd is None:
        samples = samples * (0.9 * 32767 / max(samples.abs().amax().item(), 1e-12))
    else:
        samples = samples * sd + mean
    whole = samples.round().clamp(-32768, 32767).to(torch.int16).numpy()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(int(sample_rate))
        file.writeframes(whole.astype("<i2").tobytes())


def _samples(name: str, sound: Tensor) -> Tensor:
    samples = sound.detach().cpu().double().flatten()
    if not samples.isfinite().all():
        bad = int((~samples.isfinite()).nonzero()[0])
        raise ValueError(f"{name}: sample {bad} is NaN or infinite")
    return samples


def _coloured(roll: Tensor, start: int) -> np.ndarray:
    """`(keys, T, 3)`: given frames in dark grey on white, what follows in the colour of guides."""
    ink = torch.tensor([[0.15, 0.15, 0.15], [_channel(GUIDE, i) for i in range(3)]])
    colour = ink[(torch.arange(len(roll)) >= start).long()]
    shade = roll.T.unsqueeze(-1)
    return (1 - shade * (1 - colour)).numpy()


def _channel(colour: str, place: int) -> float:
    return int(colour[1 + 2 * place : 3 + 2 * place], 16) / 255
