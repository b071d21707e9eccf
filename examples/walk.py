"""An agent walks over an image and sees a small crop of it: what it has memorised tells what it will see.

Frames alone teach it how far an action leads, and where a wall stops it: in a first phase the transition follows the
guide, which watches how frames change; a plain bound trains both in a second. Then frames follow from actions.

    python examples/walk.py --images olivetti_faces
"""

import math
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from report import save
from torch import Tensor, nn, optim

import guides
from zoo import GTMSM, StoppingStep
from zoo.data import Fresh, load
from zoo.data.simulated.recollection import mean_seen, nearest_seen, squared_errors
from zoo.data.simulated.tracking import linear_r2
from zoo.data.simulated.walks import ACTIONS, laid_out, walks
from zoo.infer import ELBO, Scheduled, fit
from zoo.parts.conditionals import Normal
from zoo.parts.networks import WithHead
from zoo.plots.look import CYCLE, EXACT, GUIDE, plain

TAU, AHEAD = 128, 32  # of a training walk
Images = Literal["cifar10_first4000", "olivetti_faces", "photos", "digits"]


def show(ax: Axes, picture: Tensor, title: str = "", *paths: Tensor) -> None:
    ax.imshow(picture.clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[], title=title)
    for path, colour in zip(paths, (EXACT, GUIDE), strict=False):
        # a little apart: of a path to and fro on one line nothing would be seen
        ax.plot(*(path + 0.4 * torch.randn(path.shape)).flip(-1).T, color=colour, linewidth=0.9)


def main(
    images: Images = "cifar10_first4000", width: int = 128, steps: int = 1500, tau: int = 256, ahead: int = 256,
    num: int = 50, few: int = 30, seed: int = 0, out: Path = Path("runs/walk"),
) -> None:  # fmt: skip
    """Trains on fresh walks, predicts those over held-out images by actions alone, and draws what is remembered."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    data = load(images)
    train, test = ((255 * split.images).byte().unflatten(-1, data.shape) for split in (data.train, data.test))
    crop, stride = max(4, data.shape[0] // 4), max(1, 3 * data.shape[0] // 32)
    walk, pixels = partial(walks, walls=True, crop=crop, stride=stride), crop * crop * math.prod(data.shape[2:])
    encoder = WithHead((pixels,), 16, partial(Normal, heteroscedastic=True, scale=0.4), hidden=(width,))
    emission = WithHead((16,), pixels, partial(Normal, scale=0.25, floor=0.02), hidden=(width,))
    nn.init.constant_(emission.head.loc.bias, 0.45)
    model = GTMSM(StoppingStep(len(ACTIONS), 2), encoder, emission, pixels, 16, memorise=TAU)
    guide = guides.Watching(model)
    made = Fresh(partial(walk, train, T=TAU + AHEAD), num=800)
    rates = {"model.step.move.*": 2.0, "guide.seen.*": 10.0, "model.step.net.*": 5.0}
    # of each phase the rate, the share of steps until it falls, and r at its end
    for follow, lr, length, flat, end in ((True, 1e-3, steps, 0.7, 0.01), (False, 3e-4, -(-steps // 3), 0.0, 0.003)):
        guide.follow = follow
        narrowing = lambda i: 0.01 * (end / 0.01) ** min(1.0, i / (0.6 * length))  # noqa: B023, E731
        slowing = lambda i: 0.5 + 0.5 * math.cos(math.pi * max(0.0, i / length - flat) / (1 - flat))  # noqa: B023, E731
        fit(
            Scheduled(ELBO(), model.noise, narrowing)(model, guide), made, steps=length, batch_size=16,
            optimizer=partial(optim.Adam, lr=lr), groups={name: {"lr": lr * times} for name, times in rates.items()},
            schedule=partial(optim.lr_scheduler.LambdaLR, lr_lambda=slowing), clip=10.0 * AHEAD, seed=seed + follow,
            progress=False,
        )  # fmt: skip

    fresh = walk(test, num=num, T=tau + ahead, seed=1)
    x, u, place = fresh.values, fresh.u, fresh.padded(fresh.truth).float()
    place = place - place.amin((0, 1))
    seen, later, future = x[:, :tau], x[:, tau:], model.predict(x[:, :tau], u, guide=guide)
    own = model.recall.emission_of(model.recall.encode(later).mean).mean.detach()
    answers = {"predicted": future.mean, "its own reconstruction": own}
    answers |= {"nearest frame in memory": nearest_seen(x, place, tau), "mean frame": mean_seen(x, tau)}
    errors = {name: squared_errors(frames, later).mean(0) for name, frames in answers.items()}
    print(f"R^2 of the true place in s, {ahead} steps by actions alone: {linear_r2(future.s, place[:, tau:]):.4f}")
    for name, error in errors.items():
        print(f"squared error of {name}: first {AHEAD} steps {error[:AHEAD].mean():.4f}, all {error.mean():.4f}")

    # An agent that has seen little is asked for every place; the unit of s is its own, so s of a place is fitted.
    grid = torch.cartesian_prod(*(torch.arange(int(last) + 1.0) for last in place.amax((0, 1))))
    ones = partial(nn.functional.pad, pad=(0, 1), value=1.0)
    to_s = torch.linalg.lstsq(ones(place[:, tau:].flatten(0, 1)), future.s.flatten(0, 1)).solution
    n, drawn, recall = int(x.std((1, 2)).argmax()), {}, model.recall  # the image of most contrast
    with torch.no_grad():
        for known in (tau, min(few, tau - 1)):
            c = recall.context(future.memorised[n, None, :known], seen[n, None, :known], (ones(grid) @ to_s)[None])
            drawn[known] = torch.stack([recall.emission(recall.prior(c).sample(), c).mean[0] for _ in range(50)])

    figure, path = Figure(figsize=(11, 9.5), layout="constrained"), place[n] * stride + (crop - 1) / 2
    upper, middle, lower = figure.subfigures(3, 1, height_ratios=[3.2, 1.6, 3])
    image, chart, curves = upper.subplots(1, 3)
    show(image, test[fresh.labels[n]] / 255, "memorised (blue), predicted (red)", path[:tau], path[tau:])
    chart.scatter(*future.s.flatten(0, 1).T, c=place[:, tau:].flatten(0, 1) @ torch.tensor([1.0, 0.3]), s=3, alpha=0.3)
    chart.set(title="$s_t$, coloured by the true place")
    for (name, error), colour in zip(errors.items(), CYCLE, strict=False):
        curves.plot(range(1, ahead + 1), error, color=colour, label=name, linewidth=1)
    curves.set(yscale="log", xlabel="steps after the last frame seen", title="squared error of a pixel")
    curves.legend(fontsize=7, frameon=False)
    plain(chart), plain(curves)
    every = max(1, ahead // 16)
    middle.suptitle(f"true frames and predicted ones, every {every}th after the last one seen")
    for frames, line in zip((later, future.mean), middle.subplots(2, len(later[n, ::every])), strict=True):
        for frame, ax in zip(frames[n, ::every], line, strict=True):
            show(ax, frame.unflatten(-1, (crop, crop, -1)))
    *whole, uncertain = lower.subplots(1, 3)
    for (known, frames), ax in zip(drawn.items(), whole, strict=True):
        show(ax, laid_out(frames.mean(0), grid, crop, stride), f"every place from {known} frames", path[:known])
    show(uncertain, laid_out(4 * frames.std(0), grid, crop, stride), "4 x standard deviation", path[:known])
    save(figure, out / "walk.png")


if __name__ == "__main__":
    tyro.cli(main)
