"""An agent walks over an image and sees a small crop of it: what it has memorised tells what it will see.

It knows its actions, and neither where it is nor that there is a wall around the image, which stops it. Its frames
alone teach it both: how far an action moves it, and where it stops. Then hundreds of frames follow from actions.
The bound on its own does not find the walls. In a first phase the transition follows the guide, which watches how
frames change; a plain bound trains both in a second.

    python examples/walk.py --images digits
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
from zoo.data.simulated.walks import ACTIONS, walks
from zoo.infer import ELBO, Scheduled, fit
from zoo.parts.conditionals import Normal
from zoo.parts.networks import WithHead
from zoo.plots.look import CYCLE, EXACT, GUIDE, HIDDEN, plain

TAU, AHEAD = 128, 32
Images = Literal["cifar10_first4000", "olivetti_faces", "photos", "digits"]


def atlas(frames: Tensor, places: Tensor, shape: tuple[int, ...], stride: int) -> Tensor:
    """Frames `(any, data_dim)` laid down at their places (row, column), mean where they overlap: a picture."""
    high, wide = (int(n) for n in places.amax(0) * stride + torch.tensor(shape[:2]))
    total, count = torch.zeros(high, wide, *shape[2:]), torch.zeros(high, wide, *shape[2:])
    for frame, (row, column) in zip(frames, (places * stride).tolist(), strict=True):
        here = slice(row, row + shape[0]), slice(column, column + shape[1])
        total[here] += frame.unflatten(-1, shape)
        count[here] += 1
    return (total / count.clamp(min=1)).clamp(0, 1)


def show(ax: Axes, picture: Tensor, title: str) -> None:
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
    ax.set_title(title, fontsize=9)
    ax.set(xticks=[], yticks=[])


def main(
    images: Images = "cifar10_first4000", width: int = 128, steps: int = 1500, tau: int = 256, ahead: int = 256,
    num: int = 50, seed: int = 0, out: Path = Path("runs/walk"),
) -> None:  # fmt: skip
    """Trains on fresh walks, predicts those over held-out images by actions alone, and draws what is remembered."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    data = load(images)
    side, levels = data.shape[0], 255 // (data.num_levels - 1)
    crop, stride = max(4, side // 4), max(1, 3 * side // 32)
    pictures = {
        name: (split.levels * levels).unflatten(-1, data.shape) for name, split in vars(data).items() if name in ("train", "test")
    }
    walk = partial(walks, walls=True, crop=crop, stride=stride)
    shape = (crop, crop, *data.shape[2:])
    pixels = math.prod(shape)

    encoder = WithHead((pixels,), 16, partial(Normal, heteroscedastic=True, scale=0.4), hidden=(width,))
    emission = WithHead((16,), pixels, partial(Normal, scale=0.25, floor=0.02), hidden=(width,))
    nn.init.constant_(emission.head.loc.bias, 0.45)
    step = StoppingStep(len(ACTIONS), 2)
    model = GTMSM(step, encoder, emission, pixels, 16, memorise=TAU, noise=0.01)
    guide = guides.Watching(model, follow=True)

    rows = Fresh(partial(walk, pictures["train"], T=TAU + AHEAD), num=16 * steps)
    settings = {"batch_size": 16, "clip": 10.0 * AHEAD, "progress": False}
    rates = {"model.step.move.*": 2e-3, "guide.seen.*": 1e-2, "model.step.net.*": 5e-3}
    slowing = lambda i: 0.5 + 0.5 * math.cos(math.pi * max(0.0, i / steps - 0.7) / 0.3)  # noqa: E731
    fit(
        ELBO()(model, guide), rows, steps=steps, optimizer=partial(optim.Adam, lr=1e-3),
        groups={name: {"lr": lr} for name, lr in rates.items()},
        schedule=partial(optim.lr_scheduler.LambdaLR, lr_lambda=slowing), seed=seed, **settings,
    )  # fmt: skip
    guide.follow, last = False, max(1, steps // 3)
    narrowing = Scheduled(ELBO(), model.noise, lambda i: 0.01 * 0.3 ** min(1.0, i / (0.6 * last)))
    fit(
        narrowing(model, guide), rows, steps=last, optimizer=partial(optim.Adam, lr=3e-4),
        groups={name: {"lr": 0.3 * lr} for name, lr in rates.items()},
        schedule=partial(optim.lr_scheduler.CosineAnnealingLR, T_max=last), seed=seed + 1, **settings,
    )  # fmt: skip
