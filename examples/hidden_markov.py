"""Hidden Markov models of two real series: years of many and of few earthquakes, exercises of a person.

The yearly numbers of the world's major earthquakes, 1900 to 2006, are Poisson with a rate that depends on a hidden
state. EM climbs from random starts for each number of states, and AIC and BIC choose among them; Viterbi's path dates
the changes, and the exact forecast returns to the long-run mean. In `mocap6` every frame of six recordings has been
labelled by hand with one of twelve exercises. A model with full covariances, which sees no label, is held against them:
each state stands for the exercise that most of its frames have.

    python examples/hidden_markov.py --restarts 5
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
import tyro
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from report import save
from torch import Tensor, nn

from zoo import HMM, FullCovariance
from zoo.data import load
from zoo.data.loaders.motion import EXERCISES
from zoo.infer import Band, draw_band, em
from zoo.parts.conditionals import NormalEmission, PoissonEmission
from zoo.plots.look import CYCLE, DRAWS, EXACT, GUIDE

# Magnitude 7 and more. From plot_poisson_hmm.py of hmmlearn 0.3.3 (BSD-3-Clause), which names as its sources the US
# Geological Survey and the book of Zucchini and MacDonald.
EARTHQUAKES = (
    13, 14, 8, 10, 16, 26, 32, 27, 18, 32, 36, 24, 22, 23, 22, 18, 25, 21, 21, 14, 8, 11, 14, 23, 18, 17, 19, 20, 22,
    19, 13, 26, 13, 14, 22, 24, 21, 22, 26, 21, 23, 24, 27, 41, 31, 27, 35, 26, 28, 36, 39, 21, 17, 22, 17, 19, 15, 34,
    10, 15, 22, 18, 15, 20, 15, 22, 19, 16, 30, 27, 29, 23, 20, 16, 21, 21, 25, 16, 18, 15, 18, 14, 10, 15, 8, 15, 6,
    11, 8, 7, 18, 16, 13, 12, 13, 20, 15, 16, 12, 18, 15, 16, 13, 15, 16, 11, 11,
)  # fmt: skip


def fitted(emission: Callable[[int, int], nn.Module], sizes: tuple[int, ...], x: Tensor, mask: Tensor, restarts: int,
           tolerance: float = 1e-3) -> dict[int, HMM]:  # fmt: skip
    """A model for each number of states, at the best end of `restarts` runs of EM."""
    models = {K: HMM(K, emission(K, x.shape[-1])) for K in sizes}
    for model in models.values():
        em(model, x, mask=mask, restarts=restarts, tolerance=tolerance)
    return models


def criteria(models: dict[int, HMM], x: Tensor, mask: Tensor, per_state: int) -> dict[int, tuple[float, float, float]]:
    """log L, AIC and BIC; parameters are K - 1 of the start, K (K - 1) of the steps, `per_state` of an emission."""
    found = {}
    for K, model in models.items():
        log_p, free = model.log_prob(x, mask=mask).sum().item(), K * K - 1 + K * per_state
        found[K] = (log_p, 2 * free - 2 * log_p, free * math.log(int(mask.sum())) - 2 * log_p)
        kind = type(model.emission).__name__
        print("{:15} {:3d} states  log L {:11.2f}  AIC {:11.2f}  BIC {:11.2f}".format(kind, K, *found[K]))
    return found


def draw_criteria(ax: Axes, found: dict[int, tuple[float, float, float]]) -> None:
    for column, name, colour in ((1, "AIC", DRAWS), (2, "BIC", EXACT)):
        values = [row[column] for row in found.values()]
        ax.plot(list(found), values, "o-", color=colour, label=name, markersize=4)
        ax.plot(list(found)[values.index(min(values))], min(values), "o", color=GUIDE, markersize=9, fillstyle="none")
    ax.set(xlabel="states", xticks=list(found))
    ax.legend(frameon=False, fontsize=8)


@torch.no_grad()
def main(restarts: int = 5, ahead: int = 10, exercises: tuple[int, ...] = (8, 12, 16, 20, 24, 30), seed: int = 0,
         out: Path = Path("runs/hidden_markov")) -> None:  # fmt: skip
    """Fits both series, prints criteria and agreement with the labels, draws paths beside data and labels."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(seed)
    figure = Figure(figsize=(11.0, 6.4), layout="constrained")
    (left, right), (below, last) = figure.subplots(2, 2, width_ratios=(5, 2))

    x, years = torch.tensor(EARTHQUAKES).double().reshape(1, -1, 1), range(1900, 1900 + len(EARTHQUAKES))
    seen = torch.ones(1, len(EARTHQUAKES), dtype=torch.bool)
    models = fitted(PoissonEmission, (1, 2, 3, 4, 5), x, seen, restarts, 1e-6)
    found = criteria(models, x, seen, 1)
    best = models[min(found, key=lambda K: found[K][2])]  # by BIC
    rates = best.emission.log_rate.exp().flatten()
    print(f"rates of the {best.num_states} states: {', '.join(f'{rate:.2f}' for rate in rates.sort().values)}")
    left.plot(years, EARTHQUAKES, "o-", color=DRAWS, markersize=3, linewidth=0.6)
    left.step(years, rates[best.viterbi(x).path[0]], where="mid", color=GUIDE, label="rate on the most probable path")
    left.plot(years, best.posterior(x).smoothed[0] @ rates, color=EXACT, label="E[rate | all years]")
    forecast = best.sample_forecast(x, ahead, 2000)
    draw_band(left, torch.arange(ahead) + years.stop, Band.of_draws(forecast.x[:, 0, :, 0]), CYCLE[2], "forecast")
    left.set(xlabel="year", ylabel="major earthquakes")
    draw_criteria(right, found)

    trials = load("mocap6").train
    x, mask, labels = trials.values.double(), trials.mask, trials.frame_labels
    models = fitted(lambda K, D: NormalEmission(K, D, covariance=FullCovariance(floor=1e-2)), exercises, x, mask, 2)
    found = criteria(models, x, mask, x.shape[-1] * (x.shape[-1] + 3) // 2)
    best = models[min(found, key=lambda K: found[K][2])]
    path = best.viterbi(x, mask=mask).path[mask]
    table = nn.functional.one_hot(path, best.num_states).T @ nn.functional.one_hot(labels, len(EXERCISES))
    meant = table.argmax(1)[path]
    print(f"{best.num_states} states stand for the exercise of {(meant == labels).double().mean():.1%} of the frames")
    shown, colours = slice(0, int(trials.lengths[0])), colormaps["tab20"]
    strips = ((path, "prism", best.num_states), (meant, "tab20", 20), (labels, "tab20", 20))
    for row, (strip, palette, most) in enumerate(strips):
        place = (0, shown.stop / 10, -row - 0.95, -row)
        below.imshow(strip[None, shown].numpy(), aspect="auto", cmap=palette, vmin=0, vmax=most, extent=place)
    for k in labels[shown].unique():
        below.plot([], [], "s", color=colours(int(k) / 20), label=EXERCISES[k])
    below.set(xlabel="seconds of the first trial", ylim=(-3, 0), yticks=(-0.5, -1.5, -2.5),
              yticklabels=("states", "their exercise", "labels"))  # fmt: skip
    draw_criteria(last, found)
    for ax in (left, below):
        ax.legend(frameon=False, fontsize=7, loc="upper center", ncols=6, bbox_to_anchor=(0.5, 1.15))
    save(figure, out / "hidden_markov.png", (left, right, below, last))


if __name__ == "__main__":
    tyro.cli(main)
