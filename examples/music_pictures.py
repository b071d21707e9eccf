"""The picture of examples/music.py: a sequence, its reconstruction, a sample, a forecast; of speech the sound too."""

from pathlib import Path

import torch

from zoo.infer import plot_piano_rolls, plot_waveforms, write_wav


@torch.no_grad()
def pictures(folder: Path, data, model, guide, longest: int) -> None:
    """Draws one test sequence, its reconstruction, a new sample and a forecast of its second half, to `folder`."""
    one = data.test[:1].cut(longest)[:1]
    x = one.values if one.first is None else torch.cat([one.first.unsqueeze(1), one.values], 1)
    half = max(1, x.shape[1] // 2)
    # Dropout of the guide's recurrence off.
    guide.eval()
    q = guide.posterior(x)
    z = q.sample()
    sample = model.generate(1, x.shape[1])[1][0]
    forecast = torch.cat([x[0, :half], model.sample_forecast(x[:, :half], x.shape[1] - half, 1, guide).x[0, 0]])
    shown = {"data": x[0], "reconstruction": model.emission(z, q.states(z)).mean[0], "sample": sample}
    if data.num_levels == 2:
        figure = plot_piano_rolls(shown | {"forecast": forecast}, known={"forecast": half})
    else:
        figure = plot_waveforms(shown | {"forecast": forecast}, data.sample_rate, unit="sd")
        for name, sound in {"data": x[0], "sample": sample, "forecast": forecast}.items():
            write_wav(folder / f"{name}.wav", sound, data.sample_rate, mean=data.mean, sd=data.sd)
    figure.savefig(folder / "sequences.png", dpi=150)
