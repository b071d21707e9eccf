"""A ball in a room, seen as pixels alone: a Kalman VAE finds its place, fills gaps, and predicts how it bounces.

Each frame has a code a_t in the plane, and codes move by linear dynamics whose matrices are mixed anew for each step,
by weights alpha_t that read the codes before. The weights learn where the walls are. With a single set of matrices,
trained on the same codes, the ball turns where no wall is, and comes to rest in the middle of the room.

    python examples/kvae.py --room polygon --steps 1000
"""

from functools import partial
from pathlib import Path
from typing import Literal

import torch
import tyro
from matplotlib.figure import Figure, SubFigure
from report import save
from torch import Tensor, optim

import guides
from zoo import KVAE, MixedDynamics, start_at_components
from zoo.data import load
from zoo.data.simulated.balls import ROOMS, SIZE
from zoo.data.simulated.tracking import distance, linear_r2, planning_mask, positions, straight_line
from zoo.infer import ELBO, Tempered, fit
from zoo.parts.conditionals import Bernoulli
from zoo.parts.networks import Maps, mlp
from zoo.plots.look import EXACT, GUIDE, plain

SEEN, MISSING, AHEAD = 4, 12, 60
Set = Literal["box", "box_gravity", "pong", "polygon"]


def strips(figure: SubFigure, title: str, rows: dict[str, Tensor], unseen: tuple[int, ...], every: int = 1) -> None:
    """Rows of frames side by side; red lines stand at the ends of the frames that were not seen."""
    figure.suptitle(title, fontsize=9)
    for ax, (name, frames) in zip(figure.subplots(len(rows), 1), rows.items(), strict=True):
        shown = torch.cat([*frames[::every].unflatten(-1, (SIZE, SIZE))], 1)
        ax.imshow(shown.numpy(), cmap="gray", vmin=0, vmax=1)
        for frame in unseen:
            ax.axvline(SIZE * -(-frame // every) - 0.5, color=GUIDE, linewidth=1)
        ax.set(xticks=[], yticks=[])
        ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)


def main(
    room: Set = "box", width: int = 256, steps: int = 1000, num: int = 200, seed: int = 0, out: Path = Path("runs/kvae")
) -> None:
    """Trains the model and a linear one, measures both on gaps of some test videos, and draws what they predict."""
    if num < 2:
        raise SystemExit(f"--num: expected 2 or more test videos, since R^2 is fitted to half of them, got {num}")
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    data, picture, place = load(room), Maps(SIZE, SIZE), partial(positions, room=ROOMS[room])
    train, test = data.train, data.test[:num]
    x, true = test.values, test.padded(test.truth)[..., :2].float()
    num, T = x.shape[:2]

    likelihood = Bernoulli(width, picture, mean=train.frames[::10].float().mean(0))
    model = KVAE(MixedDynamics(2, 4), mlp(2, (width, width)), likelihood, picture)
    encoder = mlp(picture, (width, width))
    guide = guides.KalmanSmoother(model, encoder=encoder, context=width, family=guides.BoundedDiagonal)
    # A code that is twisted early stays so. Started at components, and under a KL weight above 1, it is not.
    start_at_components(model, guide, train.frames, seed=seed)
    objective = Tempered(ELBO(), kl_weight=lambda step: max(1.0, 2.0 - step / (0.6 * steps)))
    training = {"batch_size": 32, "optimizer": partial(optim.Adam, lr=4e-3), "seed": seed, "progress": False}
    cosine = partial(optim.lr_scheduler.CosineAnnealingLR, T_max=steps)
    fit(objective(model, guide), train, steps=steps, schedule=cosine, clip=500.0, **training)

    # One set of matrices, trained on the very codes that the mixture has.
    linear = MixedDynamics(2, 4, num_components=1)
    with torch.no_grad():
        codes, code = guide.codes(train[:1000].values).mean, guide.codes(x).mean
        alpha = model.dynamics.weights(code)[0]
        print(f"ELBO {-ELBO()(model, guide)(x) / (num * T):.2f} nats a frame")
    fit(ELBO()(linear, guides.Exact(linear)), codes, steps=max(1, steps // 5), **training)
    models = {"K = 3": model, "K = 1": KVAE(linear, model.decoder, likelihood, picture)}

    print(f"R^2 of the place in the code {linear_r2(code, true):.3f}")
    mask = planning_mask(num, MISSING, T, SEEN)
    filled = {name: one.reconstruct(x, guide, mask=mask) for name, one in models.items()}
    print(f"{MISSING} of {T} frames missing, error of the ball's place there in pixels:")
    for name, found in filled.items():
        errors = [distance(place(frames), true, mask) for frames in (found.smoothed, found.filtered)]
        print("{}, smoothed {:.2f}, filtered {:.2f}".format(name, *errors))
    print(f"a straight line {distance(straight_line(place(x), mask), true, mask):.2f}")

    # After the last frame that is seen the filter's means are a prediction without noise.
    long, seen = torch.zeros(num, SEEN + AHEAD, picture), torch.arange(SEEN + AHEAD).expand(num, -1) < SEEN
    long[seen] = x[:, :SEEN].flatten(0, 1)
    ahead = {name: one.reconstruct(long, guide, mask=seen).filtered for name, one in models.items()}

    figure = Figure(figsize=(11, 9), layout="constrained")
    upper, middle, lower = figure.subfigures(3, 1, height_ratios=[3.4, 1.9, 1.9])
    left, centre, right = upper.subplots(1, 3)
    left.scatter(*code.flatten(0, 1).T, c=true[..., 0].flatten(), s=3, alpha=0.4, cmap="viridis")
    left.plot(*code[:4].permute(2, 1, 0), ".-", color="black", linewidth=0.8, markersize=3)
    left.set_title("codes $a_t$, coloured by the ball's true column; four paths", fontsize=9)
    # The weights of the step to frame t, at the place where the step begins.
    centre.scatter(*true[:, :-1].flatten(0, 1).T, c=alpha[:, 1:].flatten(0, 1).clamp(0, 1), s=4)
    centre.set_title(r"weights $\alpha_t$ as red, green, blue, where the ball is", fontsize=9)
    for (name, frames), colour in zip(ahead.items(), (EXACT, GUIDE), strict=True):
        right.plot(*place(frames[0, :T]).T, ".-", color=colour, label=f"predicted, {name}")
    right.plot(*true[0].T, "k:", label="true")
    right.set_title(f"{T - SEEN} frames predicted from {SEEN}", fontsize=9)
    for ax in (centre, right):
        ax.imshow(ROOMS[room].walls, cmap="Greys", alpha=0.3)
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=3, frameon=False, fontsize=7)
    for ax in (left, centre, right):
        plain(ax)
    three, one = ({"smoothed": found.smoothed[0], "filtered": found.filtered[0]} for found in filled.values())
    rows = {"true": x[0], **three, "smoothed, K = 1": one["smoothed"]}
    strips(middle, f"{MISSING} frames missing", rows, (SEEN, SEEN + MISSING))
    rows = {f"video {n}": ahead["K = 3"][n] for n in range(min(num, 3))} | {"video 0, K = 1": ahead["K = 1"][0]}
    strips(lower, f"{AHEAD} frames predicted from {SEEN}, every third shown", rows, (SEEN,), 3)
    save(figure, out / "kvae.png")


if __name__ == "__main__":
    tyro.cli(main)
