"""Pyro's NUTS as a reference posterior, and the check that any sampler's draws must pass to be called one.

References: Hoffman and Gelman 2014 (NUTS); Vehtari et al. 2021 (R-hat and ESS, and their limits 1.01 and 400).
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro.infer import NUTS
from torch import Tensor

from zoo.infer.chunks import held, seeded
from zoo.infer.inference_data import InferenceData, diagnose, posterior_draws, to_inference_data
from zoo.infer.pair import program

__all__ = ["Failure", "NotAReference", "check_draws", "nuts_reference"]


class Failure(NamedTuple):
    """One statistic that is beyond its limit: its worst site and coordinate, and in how many coordinates it fails."""

    statistic: str
    where: str
    value: float
    limit: float
    failing: int

    def say(self, total: int) -> str:
        if self.statistic == "divergences":
            return f"{self.failing} transitions diverged, most in {self.where} (at most {self.limit:g})"
        sense = "at least" if "ESS" in self.statistic else "at most"
        return (
            f"{self.statistic} of {self.where} is {self.value:.4g} ({sense} {self.limit:.4g}; "
            f"{self.failing} of {total} coordinates fail)"
        )


class NotAReference(RuntimeError):
    """A sampler's draws that must not be used as a reference.

    Attributes:
        failures: the statistics beyond their limits, each with its worst site and coordinate (empty: the time ran out).
        inference_data: what was drawn, in arviz's container; None if the time ran out during the warm-up.
    """

    def __init__(self, message: str, data: InferenceData | None, failures: tuple[Failure, ...] = ()) -> None:
        super().__init__(message)
        self.inference_data = data
        self.failures = failures


def check_draws(data: InferenceData, *, max_rhat: float, min_ess: float, max_divergences: int, advice: str) -> None:
    """Raises `NotAReference` unless every coordinate passes R-hat, bulk and tail ESS, and few transitions diverged.

    In messages an index such as `z[5,3]` reads: datum 5, entry 3.
    """
    draws = posterior_draws(data)
    failures = []
    found = diagnose(draws)
    for statistic, values, limit, sign in (
        ("R-hat", found.rhat, max_rhat, 1.0),
        ("bulk ESS", found.ess_bulk, min_ess, -1.0),
        ("tail ESS", found.ess_tail, min_ess, -1.0),
    ):
        excess = {name: sign * (value - limit) for name, value in values.items()}
        site = max(excess, key=lambda name: excess[name].max().item())
        if excess[site].max() > 0:
            index = torch.unravel_index(excess[site].argmax(), values[site].shape)
            where = f"{site}[{','.join(str(int(i)) for i in index)}]" if index else site
            worst = values[site].flatten()[excess[site].argmax()].item()
            count = sum(int((e > 0).sum()) for e in excess.values())
            failures.append(Failure(statistic, where, worst, limit, count))
    diverging = torch.as_tensor(data["sample_stats"]["diverging"].values)
    if int(diverging.sum()) > max_divergences:
        where = "all sites"
        if diverging.dim() == 3:
            where = f"datum {int(diverging.sum((0, 1)).argmax())}"
        failures.append(Failure("divergences", where, int(diverging.sum()), max_divergences, int(diverging.sum())))
    if failures:
        total = sum(value.numel() for value in found.rhat.values())
        said = "; ".join(f.say(total) for f in failures)
        raise NotAReference(
            f"not a reference: {said}. {advice} The draws are in .inference_data", data, tuple(failures)
        )


def nuts_reference(
    model: Callable,
    x: Tensor,
    *args: Any,
    num_samples: int = 500,
    warmup: int = 300,
    chains: int = 4,
    time_budget: float | None = None,
    seed: int | None = None,
    target_accept: float = 0.8,
    max_tree_depth: int = 10,
    max_rhat: float = 1.01,
    min_ess: float = 400.0,
    max_divergences: int = 0,
    **kwargs: Any,
) -> InferenceData:
    """Draws from p(latents | x) by Pyro's NUTS, with the model's parameters frozen, checked.

    All data points of x are sampled jointly, in one trajectory, so this is for a handful of them (15 ms and more for a
    draw even with a small decoder); `hmc_reference` takes many. The chains take turns in this process, one draw each,
    so that a time budget cuts them at equal length.

    Args:
        model: any Pyro model without discrete latents.
        x, *args, **kwargs: its arguments.
        num_samples, warmup, chains: draws kept and thrown away, for each chain.
        time_budget: wall-clock seconds for everything; None is no limit.
        seed: of a random stream of its own; None uses the caller's.
        target_accept, max_tree_depth: of NUTS.
        max_rhat, min_ess, max_divergences: what it takes to be a reference: rank-normalised R-hat, bulk and tail ESS
            (all chains together) of every coordinate.

    Returns:
        Arviz's container: `posterior` with `(chain, draw, datum, ...)`, `sample_stats["diverging"]`.

    Raises:
        NotAReference: the draws fail the check, or the time is over; what was drawn is in `.inference_data`.
    """
    if num_samples < 4 or chains < 1 or warmup < 1:
        raise ValueError(f"need num_samples >= 4, chains >= 1, warmup >= 1; got {num_samples}, {chains}, {warmup}")
    start = time.perf_counter()
    over = False
    draws: list[list[dict[str, Tensor]]] = [[] for _ in range(chains)]
    with held(model), seeded(x.device, seed):
        kernels = [
            NUTS(program(model), jit_compile=False, target_accept_prob=target_accept, max_tree_depth=max_tree_depth)
            for _ in range(chains)
        ]
        for kernel in kernels:
            kernel.setup(warmup, x, *args, **kwargs)
        positions = [kernel.initial_params for kernel in kernels]
        done = 0
        for step in range(warmup + num_samples):
            for chain, kernel in enumerate(kernels):
                positions[chain] = kernel.sample(positions[chain])
                if step >= warmup:
                    draws[chain].append({n: kernel.transforms[n].inv(u).detach() for n, u in positions[chain].items()})
            done = step + 1
            over = time_budget is not None and time.perf_counter() - start > time_budget and done < warmup + num_samples
            if over:
                break
        kept = done - warmup
        diverging = torch.zeros(chains, max(kept, 0), dtype=torch.bool)
        for chain, kernel in enumerate(kernels):
            if kept > 0:
                diverging[chain, kernel.diagnostics()["divergences"]] = True
            kernel.cleanup()
    if kept < 1:
        raise NotAReference(
            f"the time budget of {time_budget:.3g} s was over after {done} of {warmup} warm-up draws", None
        )
    values = {n: torch.stack([torch.stack([d[n] for d in chain]) for chain in draws]) for n in draws[0][0]}
    seconds = time.perf_counter() - start
    data = to_inference_data(
        values,
        sample_stats={"diverging": diverging},
        per_datum=all(v.dim() > 2 and v.shape[2] == len(x) for v in values.values()),
        attrs={"sampler": "NUTS", "seconds": seconds, "warmup": warmup},
    )
    if over:
        raise NotAReference(
            f"the time budget of {time_budget:.3g} s was over after {kept} of {num_samples} draws of each chain; "
            "they are in .inference_data",
            data,
        )
    advice = "More draws, a longer warm-up or a higher target_accept may help; several modes will not go away."
    check_draws(data, max_rhat=max_rhat, min_ess=min_ess, max_divergences=max_divergences, advice=advice)
    return data
