"""Time and memory of one training step of a model of walks beside PyTorch written by hand, interleaved.

    python -m benchmarks.walk_step              # prints the tables, writes results/speed_walk_step.json
    python -m benchmarks.walk_step --quick      # a smoke run, writes nothing
    python -m benchmarks.walk_step --lengths    # a step over memorised and over predicted frames: the figure

Sizes are the paper's: frames of 8 x 8 in colour, z of 16, s of 2, five neighbours, batch 16, 256 frames memorised and
32 predicted; networks are perceptrons 192-128-16, or convolutions of 64 and 16 channels. Without walls s is the model's
own, a cumulative sum; with walls the guide watches changes of frames, and the gate of a `StoppingStep` learns, in the
two phases of `guides.Watching`. By hand is the same arithmetic in plain modules, with the same networks: all frames are
encoded at once, log q is read off the noises, and gradients that cancel are not computed. Before anything is timed
losses and gradients are compared, from the same weights and noises. Rounds, turns and ratios are those of
`benchmarks.vae_step`.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import guides
from benchmarks.steps import ROOT, main
from benchmarks.turns import peak_of, train
from zoo import GTMSM, LinearStep, StoppingStep
from zoo.infer import ELBO
from zoo.parts.conditionals import Normal
from zoo.parts.networks import ConvolutionalDecoder, ConvolutionalEncoder, Maps, ToPicture, mlp
from zoo.plots.look import CYCLE

PICTURE, LATENT, ACTIONS, STATE, NEIGHBOURS = Maps(8, 8, 3), 16, 5, 2, 5
WIDTH, BATCH, NOISE, DELTA, FLOOR, BYTES = 128, 16, 1e-3, 1e-4, 0.02, 1e-3

FRAMES = (32, 64, 128, 256, 512, 1024, 2048)


class Size(NamedTuple):
    # follow: the first phase, in which the gate alone learns from log p(s) - log q(s); None: no walls
    follow: bool | None
    tau: int = 256
    ahead: int = 32
    # of the convolutions; None: perceptrons
    channels: tuple[int, ...] | None = None
    steps: int = 5


SIZES = {
    "no walls, 256 + 32": Size(None),
    "walls, first phase, 256 + 32": Size(True),
    "walls, second phase, 256 + 32": Size(False),
    "no walls, convolutions, 256 + 32": Size(None, channels=(64, 16), steps=1),
    "no walls, 1,024 + 1,024": Size(None, tau=1024, ahead=1024, steps=1),
}


def networks(size: Size) -> tuple[Any, int, Any, int, Callable[[int, int], nn.Module]]:
    """Encoder and decoder, each with the length of its features, and the last layer of a picture."""
    if size.channels is None:
        return mlp(PICTURE, (WIDTH,)), WIDTH, mlp(LATENT, (WIDTH,)), WIDTH, nn.Linear
    encoder, decoder = (
        ConvolutionalEncoder(PICTURE, size.channels),
        ConvolutionalDecoder(LATENT, PICTURE, size.channels),
    )
    return encoder, encoder.size, decoder, decoder.size, partial(ToPicture, kernel=1)


def pair(size: Size) -> tuple[GTMSM, Any]:
    torch.manual_seed(0)
    encoder, width, decoder, last, layer = networks(size)
    q = nn.Sequential(encoder, Normal(width, LATENT, heteroscedastic=True, scale=0.4))
    p = nn.Sequential(decoder, Normal(last, PICTURE, scale=0.25, floor=FLOOR, layer=layer))
    step = LinearStep(ACTIONS, STATE) if size.follow is None else StoppingStep(ACTIONS, STATE)
    model = GTMSM(step, q, p, PICTURE, LATENT, memorise=size.tau, noise=NOISE)
    return model, guides.Remembering(model) if size.follow is None else guides.Watching(model, follow=size.follow)


def zoo_loss(size: Size) -> nn.Module:
    return ELBO()(*pair(size))


def data(size: Size) -> tuple[Tensor, Tensor]:
    """Frames and actions; the values do not matter for the time."""
    frames = size.tau + size.ahead
    u = F.one_hot(torch.randint(ACTIONS, (BATCH, frames)), ACTIONS).float()
    return torch.rand(BATCH, frames, PICTURE), u


def normal(away: Tensor, log_scale: Tensor | float) -> Tensor:
    """log N(away; 0, exp(log_scale)^2), summed over the last axis; away is in units of the scale."""
    return (-0.5 * away.square() - log_scale - 0.5 * math.log(2 * math.pi)).sum(-1)


class ByHand(nn.Module):
    """Minus the bound, one draw, all frames observed; noises in the zoo's order."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.tau, self.follow = size.tau, size.follow
        encoder, width, decoder, last, layer = networks(size)
        self.code = nn.Sequential(encoder, nn.Linear(width, 2 * LATENT))
        self.picture = nn.Sequential(decoder, layer(last, PICTURE))
        self.log_scale = nn.Parameter(torch.zeros(PICTURE))
        self.move = nn.Linear(ACTIONS, STATE, bias=False)
        if size.follow is not None:
            gate = [nn.Linear(STATE + ACTIONS, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)]
            self.gate = nn.Sequential(*gate)
            self.seen = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
            self.register_buffer("changes", torch.logspace(-3, 0, 31).unsqueeze(-1))

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        s, ratio = self.walk(x, u)
        memory, asked = s[:, : self.tau], s[:, self.tau :]
        loc, log_scale = self.code(x).chunk(2, -1)
        # which entries are the nearest has no gradient
        with torch.no_grad():
            distance = torch.cdist(asked, memory, compute_mode="donot_use_mm_for_euclid_dist")
            index = distance.topk(NEIGHBOURS, largest=False).indices.flatten(1).unsqueeze(-1)
        known = [memory, loc[:, : self.tau], log_scale[:, : self.tau]]
        near, locs, log_scales = (
            v.gather(1, index.expand(-1, -1, v.shape[-1])).unflatten(1, (-1, NEIGHBOURS)) for v in known
        )
        weights = -((near - asked.unsqueeze(2)).square().sum(-1) + DELTA).log()
        loc, log_scale = loc[:, self.tau :], log_scale[:, self.tau :]
        noise = torch.randn_like(loc)
        z = torch.addcmul(loc, log_scale.exp(), noise)
        each = weights.log_softmax(-1) + normal((z.unsqueeze(2) - locs) * (-log_scales).exp(), log_scales)
        ratio = ratio + (each.logsumexp(-1) - normal(noise, log_scale)).sum()
        width = 0.5 * torch.logaddexp(2 * self.log_scale, self.log_scale.new_tensor(2 * math.log(FLOOR)))
        return -ratio - normal((x[:, self.tau :] - self.picture(z)) * (-width).exp(), width).sum()

    def walk(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """s, and log p(s) - log q(s), summed."""
        noise = torch.randn(*u.shape[:-1], STATE, dtype=u.dtype)
        moves = F.pad(self.move(u[:, 1:]), (0, 0, 1, 0))
        if self.follow is None:
            return torch.cumsum(moves + NOISE * noise, 1), torch.zeros(())
        log_share = F.logsigmoid(self.seen(((x[:, 1:] - x[:, :-1]).abs().mean(-1, keepdim=True) + BYTES).log()))
        largest = F.logsigmoid(self.seen((self.changes + BYTES).log())).max()
        share = (log_share - largest).clamp(max=0.0).exp()
        s = torch.cumsum(F.pad(moves[:, 1:] * share, (0, 0, 1, 0)) + NOISE * noise, 1)
        return s, self.transition(s, moves[:, 1:], u[:, 1:]) - normal(noise[:, 1:], math.log(NOISE)).sum()

    def transition(self, s: Tensor, moves: Tensor, u: Tensor) -> Tensor:
        """The sum of log p(s_t | s_{t-1}, u_t), t > 1; that of s_1 is the guide's too."""
        if self.follow:
            s, moves = s.detach(), moves.detach()
        before, after = s[:, :-1], s[:, 1:]
        with torch.no_grad():
            M = self.move.weight
            units = 0.5 * torch.linalg.inv(torch.linalg.cholesky(M @ M.T + 1e-8 * torch.eye(STATE, dtype=M.dtype))).mT
        made = before + moves
        logit = self.gate(torch.cat([made @ units, u], -1)).squeeze(-1)
        moved, stayed = (normal((after - loc) / NOISE, math.log(NOISE)) for loc in (made, before))
        return torch.logaddexp(F.logsigmoid(logit) + moved, F.logsigmoid(-logit) + stayed).sum()

    @torch.no_grad()
    def take(self, model: Any, guide: Any) -> None:
        """Copies the weights of a pair of the zoo."""
        (encoder, head), (decoder, picture) = model.recall.encoder, model.recall.emission_of
        self.code[0].load_state_dict(encoder.state_dict())
        self.code[1].weight.copy_(torch.cat([head.loc.weight, head.scale_weight]))
        self.code[1].bias.copy_(torch.cat([head.loc.bias, head.log_scale]))
        self.picture[0].load_state_dict(decoder.state_dict())
        self.picture[1].load_state_dict(picture.loc.state_dict())
        self.log_scale.copy_(picture.log_scale)
        self.move.load_state_dict(model.step.move.state_dict())
        if self.follow is not None:
            self.gate.load_state_dict(model.step.net.state_dict())
            self.seen.load_state_dict(guide.seen.state_dict())


ROWS: dict[str, Callable[[Size], Any]] = {
    "by hand": lambda size: train(ByHand(size), *data(size)),
    "zoo": lambda size: train(zoo_loss(size), *data(size)),
}


def check(size: Size) -> None:
    """Refuses a hand-written loss that is another one than the zoo's, or has another gradient."""
    size = size._replace(tau=20, ahead=6)
    (x, u), loss, hand = data(size), zoo_loss(size).double(), ByHand(size).double()
    x, u = x.double(), u.double()
    model, guide = loss.model, loss.guide
    hand.take(model, guide)
    loss(x, u)
    theirs = [model.recall.encoder[0], model.recall.emission_of[0], model.step.move]
    mine = [hand.code[0], hand.picture[0], hand.move]
    if size.follow is not None:
        theirs, mine = [*theirs, model.step.net, guide.seen], [*mine, hand.gate, hand.seen]
    found = []
    for each, parts in ((loss, theirs), (hand, mine)):
        torch.manual_seed(0)
        value = each(x, u)
        value.backward()
        found.append([value.detach(), *(p.grad for part in parts for p in part.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


def lengths() -> None:
    """Prints and draws time and peak of a step without walls, over memorised frames and over predicted ones."""
    torch.set_num_threads(1)
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    over = {
        "memorised, 32 predicted": lambda n: Size(None, tau=n),
        "predicted, 256 memorised": lambda n: Size(None, ahead=n),
    }
    for (label, size), colour in zip(over.items(), CYCLE, strict=False):
        for row, make, style in (("zoo", zoo_loss, "o-"), ("by hand", ByHand, ".:")):
            found = [measured(make(size(n)), *data(size(n))) for n in FRAMES]
            milliseconds, peak = zip(*found, strict=True)
            print(
                f"{row}, {label}:",
                ", ".join(f"{n}: {t:.0f} ms, {p:.0f} MB" for n, (t, p) in zip(FRAMES, found, strict=True)),
            )
            left.plot(FRAMES, milliseconds, style, color=colour, label=f"{row}: {label}")
            right.plot(FRAMES, peak, style, color=colour)
    left.set(xlabel="frames", ylabel="CPU ms of a step", xscale="log", yscale="log")
    right.set(xlabel="frames", ylabel="peak MB of a step", xscale="log", yscale="log")
    left.legend(fontsize=7, frameon=False)
    figure.savefig(ROOT / "docs/pictures/walk_speed.png", dpi=150)


def measured(loss: nn.Module, *batch: Tensor) -> tuple[float, float]:
    """CPU milliseconds, the least of a few steps, and peak in MB of forward and backward."""
    times = []
    for _ in range(6):
        begun = time.process_time()
        loss(*batch).backward()
        times.append(time.process_time() - begun)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        loss(*batch).backward()
    return 1e3 * min(times), peak_of(profiler) / 1e6


if __name__ == "__main__":
    main("benchmarks.walk_step", __doc__, SIZES, ROWS, check, key="walk_steps", alone={"lengths": lengths})
