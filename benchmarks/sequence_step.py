"""Time and memory of one training step of DMM and SRNN, against PyTorch written by hand and a Pyro site per time step.

    python -m benchmarks.sequence_step             # prints the tables, writes results/speed_sequence_step.json
    python -m benchmarks.sequence_step --quick     # a smoke run, writes nothing
    python -m benchmarks.sequence_step --lengths   # step and scoring over T up to 2000: table and figure
    python -m benchmarks.sequence_step --pyro examples/dmm.py  # of a checkout of Pyro: its classes get a row

Sizes are those of Pyro's dmm.py (z 100, emission 100-100, transition 200, a plain recurrent network and a combiner of
600, batch 20, T 129) and of SRNN's music code (z 100, d 300, nets 500, batch 16, T 100), 88 keys. "By hand" is the
same on the same layers, its log p - log q simplified with pencil and paper; its loss is compared with the zoo's before
anything is timed. Pyro's program has these sizes too, but parts that the pair has not (a start of the guide's own,
masks, weight decay in its optimizer), so its loss is not compared. Rows are processes that take turns
(`benchmarks.turns`); a ratio is the median over rounds of CPU time over the base's.
"""

import argparse
import json
import os
import runpy
import shlex
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import Mock, patch

import pyro
import torch
import torch.nn.functional as F
from pyro.distributions import Bernoulli, Normal
from torch import Tensor, nn

import guides
from benchmarks.turns import Runner, in_turns, processor, train, turns
from zoo import DMM, SRNN
from zoo.infer import ELBO
from zoo.infer.training.settings import versions
from zoo.parts.trajectory import at_steps

ROOT = Path(__file__).parents[1]


class Size(NamedTuple):
    model: str
    batch: int
    frames: int


SIZES = {"dmm": Size("dmm", 20, 129), "srnn": Size("srnn", 16, 100)}
LENGTHS = (125, 250, 500, 1000, 2000)


def pair(size: Size) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    if size.model == "dmm":
        model = DMM(88, 100, hidden=(100, 100), transition_hidden=(200,))
        network = partial(nn.RNN, nonlinearity="relu")
        return model, guides.Smoother(model, hidden=(600,), recurrent=600, recurrence=network)
    model = SRNN(88, 100, recurrent=300, hidden=(500,))
    return model, guides.Smoother(model, family=guides.Residual, hidden=(500,), recurrent=300)


class ByHand(nn.Module):
    """Minus the ELBO of the pair, one draw, all frames observed; its layers are the pair's."""

    def __init__(self, model: nn.Module, guide: nn.Module) -> None:
        super().__init__()
        self.model, self.guide = model, guide
        self.driven = isinstance(model, SRNN)

    def prior(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log s.d. of p(z_t | s_t)."""
        if self.driven:
            loc, scale = self.model.prior.network(s).chunk(2, -1)
            return loc, (F.softplus(scale) + 1e-4).log()
        step = self.model.step
        proposal = step.proposal(s)
        loc = torch.lerp(step.linear(s), proposal, step.gate(s).sigmoid())
        return loc, 0.5 * (F.softplus(step.variance(proposal.relu())) + 1e-4).log()

    def read(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The guide's context, and SRNN's d_1..d_T (None in a chain)."""
        d, values = None, x
        if self.driven:
            feature = self.model.feature(x)
            before = torch.cat([self.model.feature(torch.zeros_like(x[:, :1])), feature[:, :-1]], 1)
            d = self.model.gru.fused(before, self.model.d_0.expand(1, len(x), -1).contiguous())[0]
            values = torch.cat([feature, d], -1)
        values = torch.cat([values, values.new_zeros(*x.shape[:2], 1)], -1)
        return self.guide.of_context(self.guide.recurrences[0](values.flip(1))[0].flip(1)), d

    def head(self, context: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log s.d. of q(z_t | s_t, c_t)."""
        loc, log_scale = self.guide.family.head(torch.tanh(context + self.guide.of_state(s))).chunk(2, -1)
        return (loc + self.prior(s)[0] if self.driven else loc), log_scale

    def forward(self, x: Tensor) -> Tensor:
        context, d = self.read(x)
        rows, each = context.unbind(1), None if d is None else d.unbind(1)
        z = self.model.z_0.expand(len(x), -1)
        path, noises, scales = [z], [], []
        # Only the draws wait for each other; the prior is computed for all frames at once below.
        for t in range(x.shape[1]):
            loc, log_scale = self.head(rows[t], z if each is None else torch.cat([z, each[t]], -1))
            noise = torch.randn_like(loc)
            z = torch.addcmul(loc, log_scale.exp(), noise)
            for held, value in ((path, z), (noises, noise), (scales, log_scale)):
                held.append(value)
        # log p - log q of a draw loc + scale * noise: the constants cancel, and log q needs the noise alone.
        whole = torch.stack(path, 1)
        z, before = whole[:, 1:], whole[:, :-1]
        loc, log_scale = self.prior(before if d is None else torch.cat([before, d], -1))
        ratio = 0.5 * (torch.stack(noises, 1).square() - ((z - loc) * (-log_scale).exp()).square())
        log_ratio = (ratio + torch.stack(scales, 1) - log_scale).sum()
        logits = self.model.likelihood.logits(self.model.decoder(z if d is None else torch.cat([z, d], -1)))
        return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") - log_ratio


def per_step(hand: ByHand) -> tuple[Callable, Callable]:
    """(model, guide): the same pair as Pyro's dmm.py writes it, a site for each z_t and each x_t."""

    def model(x: Tensor) -> None:
        pyro.module("model", hand.model)
        _, d = hand.read(x)
        z = hand.model.z_0.expand(len(x), -1)
        with pyro.plate("data", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                s = z if d is None else torch.cat([z, d[:, t]], -1)
                loc, log_scale = hand.prior(s)
                z = pyro.sample(f"z_{t}", Normal(loc, log_scale.exp()).to_event(1))
                logits = hand.model.likelihood.logits(
                    hand.model.decoder(z if d is None else torch.cat([z, d[:, t]], -1))
                )
                pyro.sample(f"x_{t}", Bernoulli(logits=logits).to_event(1), obs=x[:, t])

    def guide(x: Tensor) -> None:
        pyro.module("guide", hand.guide)
        context, d = hand.read(x)
        z = hand.model.z_0.expand(len(x), -1)
        with pyro.plate("data", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                loc, log_scale = hand.head(context[:, t], z if d is None else torch.cat([z, d[:, t]], -1))
                z = pyro.sample(f"z_{t}", Normal(loc, log_scale.exp()).to_event(1))

    return model, guide


def check(size: Size) -> None:
    """Checks that the three rows compute one number: their means over 50 draws agree to 5 standard errors.

    Raises:
        AssertionError: they do not; with the means.
    """
    torch.manual_seed(1)
    small = size._replace(batch=2, frames=5)
    x, (model, guide) = data(small), pair(small)
    hand = ByHand(model, guide)
    sites = per_step(hand)
    rows = [
        lambda: ELBO()(model, guide)(x),
        lambda: hand(x),
        lambda: torch.tensor(pyro.infer.Trace_ELBO().loss(*sites, x)),
    ]
    with torch.no_grad():
        draws = torch.stack([torch.stack([row() for _ in range(50)]) for row in rows])
    gap, error = draws.mean(1) - draws.mean(), (draws.var(1).sum() / 50).sqrt()
    if not (gap.abs() < 5 * error).all():
        raise AssertionError(f"the rows are not one computation: {draws.mean(1).tolist()} +- {error.item():.3f}")


def data(size: Size) -> Tensor:
    return (torch.rand(size.batch, size.frames, 88) < 0.05).float()


def train_sites(size: Size) -> None:
    svi = pyro.infer.SVI(*per_step(ByHand(*pair(size))), pyro.optim.ClippedAdam({"lr": 1e-6}), pyro.infer.Trace_ELBO())
    x = data(size)
    for _ in turns():
        svi.step(x)


def train_program(path: Path, size: Size) -> None:
    """Takes steps of SVI on the classes of Pyro's dmm.py, as its `main` does."""
    # The real module asks for torchvision, to load images.
    util = Mock(get_data_directory=Mock(return_value=path.parent))
    with patch.dict(sys.modules, {"pyro.contrib.examples.util": util}):
        program = runpy.run_path(str(path))["DMM"]()
    settings = {"lr": 3e-4, "betas": (0.96, 0.999), "clip_norm": 10.0, "lrd": 0.99996, "weight_decay": 2.0}
    svi = pyro.infer.SVI(program.model, program.guide, pyro.optim.ClippedAdam(settings), pyro.infer.Trace_ELBO())
    x, lengths = data(size), torch.full((size.batch,), size.frames)
    backward = nn.utils.rnn.pack_padded_sequence(x.flip(1), lengths, batch_first=True)
    for _ in turns():
        svi.step(x, backward, torch.ones(size.batch, size.frames), lengths)


def score(size: Size) -> None:
    """Scores given trajectories: log p(x, z) and log q(z | x)."""
    model, guide = pair(size)
    x = data(size)
    with torch.no_grad():
        z = guide.posterior(x).sample()
        for _ in turns():
            guide.posterior(x).log_prob(z)
            model.observation(z, model.states(z, x, *model.inputs(x))).log_prob(x)


def score_by_step(size: Size) -> None:
    """Scores the same a step at a time: the difference is the gain of `states`."""
    model, guide = pair(size)
    x = data(size)
    with torch.no_grad():
        z = guide.posterior(x).sample().unbind(1)
        for _ in turns():
            q = guide.posterior(x)
            inputs, context = at_steps(q.inputs, size.frames), at_steps(q.context, size.frames)
            s = q.start()
            for t in range(size.frames):
                # The first state is the start; every later one follows from the frame before.
                s = model.advance(s, z[t - 1], x[:, t - 1], *inputs[t]) if t else s
                q.conditional(s, *context[t]).log_prob(z[t])
                model.transition(s).log_prob(z[t])
                model.emission(z[t], s).log_prob(x[:, t])


ROWS: dict[str, Callable[[Size], Any]] = {
    "by hand": lambda size: train(ByHand(*pair(size)), data(size)),
    "zoo": lambda size: train(ELBO()(*pair(size)), data(size)),
    "a site per time step, as Pyro's dmm.py is written": train_sites,
    "scoring": score,
    "scoring, step by step": score_by_step,
}
PROGRAM = "Pyro's own dmm.py"
OVER_TIME = ["by hand", "zoo", "scoring", "scoring, step by step"]


def measure(size: Size, rows: list[str], rounds: int, *options: str) -> dict[str, dict[str, Any]]:
    """Row -> CPU milliseconds of a step, ratio to the first row with quartiles, bytes of the peak."""
    command = [sys.executable, "-m", "benchmarks.sequence_step", *options, "--size", json.dumps(size), "--row"]
    running = {row: Runner([*command, row], {"PYTHONPATH": str(ROOT)}) for row in rows}
    # the first call checks the pair
    return in_turns(running, rounds, steps=1, first=1)


def show(title: str, results: dict[str, dict[str, Any]]) -> None:
    print(f"\n### {title}\n\n| | CPU ms | / by hand | quartiles | peak MB |\n|---|---:|---:|---:|---:|")
    for row, r in results.items():
        low, high = r["quartiles"]
        peak = r["peak_bytes"] / 1e6
        print(f"| {row} | {r['cpu_ms']:.1f} | {r['ratio']:.2f} | {low:.2f} to {high:.2f} | {peak:.1f} |", flush=True)


def figure(lengths: dict[int, dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = drawn.subplots(1, 2)
    for row in OVER_TIME:
        left.plot(list(lengths), [r[row]["cpu_ms"] / 1e3 for r in lengths.values()], "o-", label=row)
        right.plot(list(lengths), [r[row]["peak_bytes"] / 1e6 for r in lengths.values()], "o-", label=row)
    left.set(xlabel="frames T", ylabel="CPU seconds", title="time of a step")
    right.set(xlabel="frames T", ylabel="MB", title="peak memory")
    left.legend(frameon=False)
    drawn.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES))
    parser.add_argument("--quick", action="store_true", help="two rounds of a few frames, nothing written")
    parser.add_argument("--lengths", action="store_true")
    parser.add_argument("--pyro", type=Path, metavar="FILE", help="examples/dmm.py of Pyro: the row of that program")
    parser.add_argument("--out", type=Path, default=ROOT / "results/speed_sequence_step.json")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs/pictures/sequence_speed.png")
    parser.add_argument("--size", help=argparse.SUPPRESS)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        return (ROWS | {PROGRAM: partial(train_program, args.pyro)})[args.row](Size(*json.loads(args.size)))
    began, steps, lengths = time.time(), {}, {}
    few = {"batch": 2, "frames": 6} if args.quick else {}

    def keep() -> None:
        """Writes the measurements made by now: a run of hours that is stopped leaves them."""
        record = {
            "command": shlex.join(["python", "-m", "benchmarks.sequence_step", *sys.argv[1:]]),
            "date": datetime.now(UTC).isoformat(timespec="seconds"), "rounds": args.rounds,
            "seconds": round(time.time() - began), "hardware": f"{processor()}, one thread",
            "load": os.getloadavg()[1], "versions": versions(), "sequence_steps": steps, "lengths": lengths,
            "titles": {name: f"{name.upper()}, batch {SIZES[name].batch}, T {SIZES[name].frames}" for name in steps},
        }  # fmt: skip
        if not args.quick:
            args.out.write_text(json.dumps(record, indent=1) + "\n")

    for name in args.sizes:
        size = SIZES[name]
        # Before anything is timed: a fast row that computes something else is worth nothing.
        check(size)
        rows, options = [row for row in ROWS if not row.startswith("scoring")], []
        if args.pyro and name == "dmm":
            rows, options = [*rows, PROGRAM], ["--pyro", str(args.pyro.resolve())]
        steps[name] = measure(size._replace(**few), rows, 2 if args.quick else args.rounds, *options)
        show(f"{name}: batch {size.batch}, T {size.frames}", steps[name])
        keep()
    for T in LENGTHS if args.lengths and not args.quick else ():
        lengths[T] = measure(Size("dmm", 4, T), OVER_TIME, 3)
        show(f"dmm: batch 4, T {T}", lengths[T])
        keep()
        figure(lengths, args.figure)
    return None


if __name__ == "__main__":
    main()
