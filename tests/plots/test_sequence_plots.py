"""Pictures of sequences and .wav files: what is in them, read back."""

import math
import wave

import numpy as np
import pytest
import torch

from zoo.infer import plot_piano_rolls, plot_waveforms, write_wav
from zoo.plots.sound import spectrogram


def images(figure):
    return [ax.images[0] for ax in figure.axes if ax.images]


def test_rolls_show_what_sounds_where():
    roll = torch.zeros(6, 88)
    roll[2, 39] = 1.0  # middle C, MIDI 60
    roll[5, 40] = 0.5
    figure = plot_piano_rolls({"data": roll, "forecast": roll}, known={"forecast": 4})
    data, forecast = images(figure)
    pixels = data.get_array()
    assert pixels.shape == (88, 6, 3)
    assert np.flatnonzero((pixels < 0.9).any(-1)).tolist() == [39 * 6 + 2, 40 * 6 + 5]
    left, _, bottom, top = data.get_extent()
    assert (left, bottom, top) == (-0.5, 20.5, 108.5), "row 39 is MIDI 60"
    assert np.array_equal(pixels[39, 2], forecast.get_array()[39, 2]), "given frames look like data"
    assert not np.array_equal(pixels[40, 5], forecast.get_array()[40, 5]), "forecast frames do not"
    assert [ax.get_title() for ax in figure.axes] == ["data", "forecast"]
    low, high = figure.axes[0].get_ylim()
    assert low < 60 < high < 70, "the picture is cut to what sounds"


def test_a_tone_stands_at_its_frequency():
    time = torch.arange(8000) / 8000
    for frequency in (500.0, 1000.0, 3000.0):
        power = spectrogram((2 * math.pi * frequency * time).sin().double())
        peak = power.mean(-1).argmax().item() * 8000 / 256
        assert abs(peak - frequency) <= 8000 / 256 / 2
    assert spectrogram(torch.zeros(256)).max() == -120
    figure = plot_waveforms({"tone": (2 * math.pi * 440 * time).sin().reshape(-1, 200), "silence": 0 * time}, 8000)
    tone, silence = images(figure)
    assert tone.get_clim() == silence.get_clim()
    assert tone.get_extent() == [0, 1, 0, 4]


def test_a_wav_file_is_the_source_again(tmp_path):
    whole = torch.randint(-3000, 3000, (4, 200))
    write_wav(tmp_path / "a.wav", (whole - 5.0) / 700.0, 8000, mean=5.0, sd=700.0)
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 8000)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert samples.tolist() == whole.flatten().tolist()
    write_wav(tmp_path / "b.wav", torch.tensor([0.5, -1.0]), 8000)
    with wave.open(str(tmp_path / "b.wav")) as file:
        loud = np.frombuffer(file.readframes(2), "<i2")
    assert loud.tolist() == [round(0.45 * 32767), round(-0.9 * 32767)]
    write_wav(tmp_path / "c.wav", torch.tensor([9.0, -9.0]), 8000, sd=1e4)
    with wave.open(str(tmp_path / "c.wav")) as file:
        assert np.frombuffer(file.readframes(2), "<i2").tolist() == [32767, -32768], "clipped, not wrapped"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot_piano_rolls({}), "at least one roll"),
        (lambda: plot_piano_rolls({"a": torch.zeros(3, 88), "b": torch.zeros(3, 87)}), "same keys"),
        (lambda: plot_piano_rolls({"a": torch.full((3, 88), 2.0)}), "outside"),
        (lambda: plot_waveforms({}, 8000), "at least one sound"),
        (lambda: plot_waveforms({"a": torch.zeros(100)}, 8000), "a: 100 samples are fewer than a window"),
        (lambda: plot_waveforms({"a": torch.tensor([0.0, math.nan])}, 8000), "a: sample 1 is NaN"),
        (lambda: write_wav("x.wav", torch.zeros(0), 8000), "no samples"),
        (lambda: write_wav("x.wav", torch.tensor([math.inf]), 8000), "sample 0 is NaN or infinite"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
