"""A ball in a room, seen as pixels alone: a Kalman VAE finds its place, fills gaps, and predicts how it bounces.

Each frame has a code a_t in the plane, and the codes move by linear dynamics whose matrices are mixed anew for each
step, by weights alpha_t that read the codes before. The weights learn where the walls are. With one set of matrices,
trained on the same codes, the ball flies straight on, out of the room.

    python examples/kvae.py --room polygon --steps 1500
"""

from pathlib import Path

import torch
import tyro
from matplotlib.figure import Figure, SubFigure
from report import save
from torch import Tensor

import guides
from zoo import KVAE, MixedDynamics, start_at_components
from zoo.data import load
from zoo.data.simulated.balls import ROOMS
from zoo.data.simulated.tracking import distance, linear_r2, planning_mask, positions, straight_line
from zoo.infer import ELBO, Tempered, fit
from zoo.parts.conditionals import Bernoulli
from zoo.parts.networks import Maps, mlp
from zoo.plots.look import DRAWS, EXACT, GUIDE, plain

SEEN, MISSING, AHEAD = 4, 12, 60


def strips(figure: SubFigure, title: str, rows: dict[str, Tensor], every: int = 1) -> None:
    """Rows of frames side by side; red lines stand around the frames that were not seen."""
    axes = figure.subplots(len(rows), 1)
    figure.suptitle(title, fontsize=9)
    for ax, (name, frames) in zip(axes, rows.items(), strict=True):
        shown = frames[::every].reshape(-1, 32, 32)
        ax.imshow(torch.cat([*shown], 1), cmap="gray", vmin=0, vmax=1, aspect="equal")
        for frame in (SEEN / every, (SEEN + MISSING) / every):
            if frame < len(shown):
                ax.axvline(32 * frame - 0.5, color=GUIDE, linewidth=1)
        ax.set(xticks=[], yticks=[])
        ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)


def main(
    *, room: str = "box", width: int = 256, steps: int = 1500, num: int = 200, seed: int = 0, out: Path = Path("runs/kvae")
) -> None:
    """Trains the model and a linear one, measures both on gaps, and draws what they predict."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    data, picture = load(room), Maps(32, 32)
    train, test = data.train, data.test[:num]
    x, true = test.values, test.truth[:, :2].unflatten(0, (num, -1)).float()

    likelihood = Bernoulli(width, picture, mean=train.frames[::10].float().mean(0))
    model = KVAE(MixedDynamics(2, 4), mlp(2, (width, width)), likelihood, picture)
    encoder = mlp(picture, (width, width))
    guide = guides.KalmanSmoother(model, encoder=encoder, context=width, family=guides.BoundedDiagonal)
    # A code that is twisted at the start stays so; a KL weight above 1 keeps it untwisted until the walls are learned.
    start_at_components(model, guide, train.frames, seed=seed)
    loss = Tempered(ELBO(), kl_weight=lambda step: max(1.0, 2.0 - step / (0.6 * steps)))(model, guide)
    training = {"batch_size": 32, "seed": seed, "progress": False}
    fit(
        loss, train, steps=steps, clip=500.0, **training,
        optimizer=lambda parameters: torch.optim.Adam(parameters, 4e-3, fused=True),
        schedule=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
    )  # fmt: skip

    # One set of matrices, at its best on the very codes that the mixture has.
    linear = MixedDynamics(2, 4, num_components=1)
    with torch.no_grad():
        codes, code = guide.codes(train[:1000].values).mean, guide.codes(x).mean
    fit(ELBO()(linear, guides.Exact(linear)), codes, steps=max(1, steps // 5), **training,
        optimizer=lambda parameters: torch.optim.Adam(parameters, 4e-3))  # fmt: skip
    models = {"K = 3": model, "K = 1": KVAE(linear, model.decoder, model.likelihood, picture)}

    elbo = -ELBO()(model, guide)(x).item() / x[..., 0].numel()
    print(f"{elbo:.2f} nats a frame; R^2 of the place in the code {linear_r2(code, true):.3f}")
    mask, ball = planning_mask(num, MISSING, x.shape[1], SEEN), positions(x, ROOMS[room])
    filled = {name: one.reconstruct(x, guide, mask=mask) for name, one in models.items()}
    print(f"{MISSING} of {x.shape[1]} frames missing, distance of the ball from its place in pixels:")
    for name, frames in filled.items():
        for way, pictures in frames._asdict().items():
            if way != "encoded":
                print(f"  {name}, {way:9} {distance(positions(pictures, ROOMS[room]), true, mask):5.2f}")
    print(f"  a straight line   {distance(straight_line(ball, mask), true, mask):5.2f}")

    # After the last frame that is seen, the filter's means are a prediction without noise.
    first, seen = torch.zeros(num, SEEN + AHEAD, picture), torch.arange(SEEN + AHEAD).expand(num, -1) < SEEN
    first[:, :SEEN] = x[:, :SEEN]
    ahead = {name: one.reconstruct(first, guide, mask=seen).filtered for name, one in models.items()}

    figure = Figure(figsize=(11, 9), layout="constrained")
    upper, middle, lower = figure.subfigures(3, 1, height_ratios=[3.4, 1.9, 1.9])
    left, centre, right = upper.subplots(1, 3)
    for path in code[:40]:
        left.plot(*path.T, linewidth=0.7, color=DRAWS, alpha=0.5)
    left.scatter(*code.flatten(0, 1).T, c=true[..., 0].flatten(), s=4, cmap="viridis")
    left.set(title="codes $a_t$, coloured by the true x; some paths", xlabel="$a_1$", ylabel="$a_2$")
    with torch.no_grad():
        alpha = model.dynamics.weights(code)[0]
    # The weights of the step to frame t, at the place from which it is taken.
    centre.scatter(*true[:, :-1].flatten(0, 1).T, c=alpha[:, 1:].flatten(0, 1).clamp(0, 1), s=5)
    centre.set(title=r"weights $\alpha$ (red, green, blue) over the room", xlim=(0, 31), ylim=(31, 0), aspect="equal")
    right.imshow(torch.from_numpy(ROOMS[room].walls).float(), cmap="Greys", alpha=0.4)
    for (name, pictures), colour in zip(ahead.items(), (EXACT, GUIDE), strict=True):
        right.plot(*positions(pictures[0, : x.shape[1]], ROOMS[room]).T, ".-", color=colour, label=f"predicted, {name}")
    right.plot(*true[0].T, "k:", label="true")
    right.legend(frameon=False, fontsize=8)
    right.set(title=f"prediction from {SEEN} frames", xlim=(0, 31), ylim=(31, 0), aspect="equal")
    for ax in (left, centre, right):
        plain(ax)
        ax.title.set_size(9)
    three, one = filled.values()
    rows = {"true": x[0], "smoothed": three.smoothed[0], "filtered": three.filtered[0], "smoothed, K = 1": one.smoothed[0]}
    strips(middle, f"{MISSING} frames missing", rows)
    rows = {f"video {n}": ahead["K = 3"][n] for n in range(3)} | {"video 0, K = 1": ahead["K = 1"][0]}
    strips(lower, f"{AHEAD} frames predicted from {SEEN}, every third shown", rows, 3)
    save(figure, out / "kvae.png")


if __name__ == "__main__":
    tyro.cli(main)
