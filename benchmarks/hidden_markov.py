"""Likelihood, gradient step, E-step and Viterbi's path of a hidden Markov model beside hmmlearn and Pyro, interleaved.

    python -m benchmarks.hidden_markov               # prints the tables, writes results/speed_hidden_markov.json
    python -m benchmarks.hidden_markov --quick       # a smoke run, writes nothing

All programs have the same parameters in float64, and their numbers are compared before anything is timed. They take
turns in one process, in an order that changes from round to round; ratios are those of single rounds. hmmlearn is
numpy and C++, scores and fits, and has no gradient. `TraceEnum_ELBO` runs one site for each frame: it is left out where
the frames are many. A round takes each program long enough for the clock, about a fiftieth of a second.
"""

import argparse
import json
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pyro
import torch
from hmmlearn.hmm import GaussianHMM
from pyro.distributions import DiscreteHMM
from pyro.infer import TraceEnum_ELBO
from torch import Tensor

from benchmarks.turns import processor
from zoo import HMM, DiagonalCovariance
from zoo.infer.training.settings import versions
from zoo.parts.conditionals import NormalEmission

ROOT = Path(__file__).parents[1]
OURS = "zoo"


class Size(NamedTuple):
    states: int
    frames: int
    sequences: int
    data: int

    @property
    def title(self) -> str:
        return f"{self.states} states, {self.data}-d, T {self.frames:,}, batch {self.sequences}"


SIZES = (Size(3, 100, 1, 1), Size(5, 100, 64, 4), Size(4, 10_000, 1, 2))
ENUMERATED = 200  # the most frames for which every frame is a site


def without_numba(call: Callable[[], Any]) -> Callable[[], Any]:
    """The same call with the recursions in PyTorch, as on a device other than the CPU."""

    def patched() -> Any:
        with patch("zoo.parts.recursions.engine.has_numba", lambda: False):
            return call()

    return patched


def enumerated(model: HMM, x: Tensor) -> None:
    """The program with a site for each state, as Pyro's tutorial on hidden Markov models writes it."""
    with pyro.plate("data", len(x), dim=-1):
        z = None
        for t in pyro.markov(range(x.shape[1])):
            p = model.initial() if z is None else model.transition(z)
            z = pyro.sample(f"z_{t}", p, infer={"enumerate": "parallel"})
            pyro.sample(f"x_{t}", model.emission(z), obs=x[:, t])


def hmmlearn_of(model: HMM) -> GaussianHMM:
    """hmmlearn's model of the same parameters, without priors; a fit is one step."""
    peer = GaussianHMM(model.num_states, "diag", init_params="", n_iter=1, tol=-1.0, implementation="log",
                       covars_prior=0.0, covars_weight=0.0, min_covar=0.0)  # fmt: skip
    with torch.no_grad():
        peer.startprob_, peer.transmat_ = model.log_initial.exp().numpy(), model.log_transition.exp().numpy()
        peer.means_, peer.covars_ = model.emission.means.numpy().copy(), (model.emission.scale**2).numpy()
    return peer


def programs(size: Size) -> dict[str, dict[str, Callable[[], Any]]]:
    """Task -> program -> a call that does it once; calls of one task return the same numbers."""
    K = size.states
    before, A = torch.rand(K).softmax(0), (3 * torch.eye(K) + torch.rand(K, K)).softmax(-1)
    # Pyro makes a transition before the first frame
    model = HMM(K, NormalEmission(K, size.data, covariance=DiagonalCovariance(floor=0.0)), initial=before @ A,
                transition=A)  # fmt: skip
    x = model.generate(size.sequences, size.frames)[1]
    flat, lengths, peer = x.flatten(0, 1).numpy(), [size.frames] * size.sequences, hmmlearn_of(model)
    kept = {name: value.clone() for name, value in model.state_dict().items()}

    def discrete_hmm() -> Tensor:
        emission = model.emission(torch.arange(K))
        return DiscreteHMM(before.log(), model.log_transition, emission, duration=size.frames).log_prob(x).sum()

    def enumeration() -> Tensor:
        bound = TraceEnum_ELBO(max_plate_nesting=1)
        # it refuses a loss without a graph
        loss = bound.differentiable_loss if torch.is_grad_enabled() else bound.loss
        return -torch.as_tensor(loss(lambda x: enumerated(model, x), lambda x: None, x))

    def step(log_p: Callable[[], Tensor]) -> Callable[[], float]:
        def run() -> float:
            model.zero_grad(set_to_none=True)
            value = log_p()
            value.backward()
            return value.item()

        return run

    def quiet(log_p: Callable[[], Tensor]) -> Callable[[], float]:
        return torch.no_grad()(lambda: log_p().item())

    def em_step() -> float:
        # from the same parameters each time, as the peer's own fit would otherwise go on from its last
        model.load_state_dict(kept)
        statistics_, log_p = model.e_step(x)
        model.m_step(statistics_)
        model.load_state_dict(kept)
        return log_p.sum().item()

    def peer_em_step() -> float:
        return hmmlearn_of(model).fit(flat, lengths).monitor_.history[0]

    def ours() -> Tensor:
        return model.log_prob(x).sum()

    few = size.frames <= ENUMERATED
    pyros = {"Pyro's DiscreteHMM": discrete_hmm} | ({"Pyro's TraceEnum_ELBO": enumeration} if few else {})
    plain = f"{OURS}, without numba"
    path = lambda: model.viterbi(x).log_joint.sum().item()  # noqa: E731
    return {
        "log p(x)": {OURS: quiet(ours), plain: without_numba(quiet(ours)),
                     "hmmlearn": lambda: peer.score(flat, lengths)}
        | {name: quiet(call) for name, call in pyros.items()},
        "log p(x) and its gradient": {OURS: step(ours), plain: without_numba(step(ours))}
        | {name: step(call) for name, call in pyros.items()},
        "a step of EM": {OURS: em_step, plain: without_numba(em_step), "hmmlearn": peer_em_step},
        "the most probable path": {OURS: path, plain: without_numba(path),
                                   "hmmlearn": lambda: peer.decode(flat, lengths)[0]},
    }  # fmt: skip


def timed(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, Any]]:
    """Median CPU time of each call, ms, and the median of the rounds' ratios to ours."""
    values = {name: call() for name, call in calls.items()}
    wrong = {name: value for name, value in values.items() if abs(value - values[OURS]) > 1e-8 * abs(values[OURS])}
    if wrong:
        raise ValueError(f"other numbers than ours, {values[OURS]}: {wrong}")
    repeats = {}
    for name, call in calls.items():
        begun = time.process_time()
        call()
        repeats[name] = max(1, round(0.02 / max(time.process_time() - begun, 1e-6)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    for _ in range(rounds):
        for name in order:
            begun = time.process_time()
            for _ in range(repeats[name]):
                calls[name]()
            times[name].append((time.process_time() - begun) / repeats[name] * 1e3)
        order = order[1:] + order[:1]
    found = {}
    for name, cpu in times.items():
        ratios = [mine / base for mine, base in zip(cpu, times[OURS], strict=True)]
        quartiles = statistics.quantiles(ratios, n=4) if rounds > 1 else ratios * 3
        found[name] = {"cpu_ms": statistics.median(cpu), "ratio": statistics.median(ratios),
                       "quartiles": [quartiles[0], quartiles[2]]}  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="two rounds of the smallest size, nothing written")
    parser.add_argument("--out", type=Path, default=ROOT / "results/speed_hidden_markov.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    begun, tables = time.perf_counter(), {}
    for size in SIZES[:1] if args.quick else SIZES:
        tables[size.title] = {}
        for task, calls in programs(size).items():
            rows = tables[size.title][task] = timed(calls, 2 if args.quick else args.rounds)
            print(f"{size.title}: {task}")
            for name, row in rows.items():
                print("    {:24} {cpu_ms:10.3f} ms  {ratio:8.2f} x".format(name, **row), flush=True)
    if not args.quick:
        args.out.write_text(json.dumps({
            "command": shlex.join(["python", "-m", "benchmarks.hidden_markov", *sys.argv[1:]]),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "rounds": args.rounds,
            "seconds": round(time.perf_counter() - begun),
            "hardware": f"{processor()}, one thread",
            "load": os.getloadavg()[1],
            "versions": versions() | {"hmmlearn": __import__("hmmlearn").__version__},
            "hidden_markov": tables,
        }, indent=1) + "\n")  # fmt: skip


if __name__ == "__main__":
    main()
