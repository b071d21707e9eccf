"""Pyro's NUTS as a reference posterior.

References: Hoffman and Gelman 2014 (NUTS).
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import NUTS
from torch import Tensor

from zoo.infer.pair import program
from zoo.infer.reference.checked import MISSED, Failure, NotAReference, check_chains, check_draws, unvisited
from zoo.infer.reference.fingerprint import attributes
from zoo.infer.reference.inference_data import InferenceData, to_inference_data
from zoo.infer.reference.log_joint import LogJoint
from zoo.infer.reference.modes import chain_starts, prior_modes
from zoo.infer.reference.potential import Potential
from zoo.parts.aside import held, seeded

__all__ = ["Failure", "NotAReference", "check_draws", "nuts_reference"]


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
    so that a time budget cuts them at equal length. They start beside the ends of ascents from 64 draws of the prior,
    in every mode of more than 1 % of the Laplace mass as far as they go round; such a mode that no chain visits
    afterwards is an error.

    Args:
        model: any Pyro model without discrete latents.
        x, *args, **kwargs: its arguments.
        num_samples, warmup, chains: draws kept and thrown away, for each of at least four chains.
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
    check_chains(chains, num_samples, warmup, 1)
    start = time.perf_counter()
    over = False
    draws: list[list[dict[str, Tensor]]] = [[] for _ in range(chains)]
    visited: list[Tensor] = []
    with held(model), seeded(seed):
        kernels = [
            NUTS(program(model), jit_compile=False, target_accept_prob=target_accept, max_tree_depth=max_tree_depth)
            for _ in range(chains)
        ]
        density = _density(model, x, args, kwargs)
        modes = prior_modes(density)
        positions = [density.unflatten(u) for u in chain_starts(density, modes, chains, MISSED)]
        for kernel, position in zip(kernels, positions, strict=True):
            kernel.initial_params = position
            kernel.setup(warmup, x, *args, **kwargs)
        done = 0
        for step in range(warmup + num_samples):
            for chain, kernel in enumerate(kernels):
                positions[chain] = kernel.sample(positions[chain])
                if step >= warmup:
                    draws[chain].append({n: kernel.transforms[n].inv(u).detach() for n, u in positions[chain].items()})
                    visited.append(density.flatten(positions[chain]).detach())
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
        missed = unvisited(density, modes, torch.stack(visited)) if visited else None
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
        attrs={"sampler": "NUTS", "seconds": seconds, "warmup": warmup} | attributes(model, x, args, kwargs),
    )
    if over:
        raise NotAReference(
            f"the time budget of {time_budget:.3g} s was over after {kept} of {num_samples} draws of each chain; "
            "they are in .inference_data",
            data,
        )
    advice = "More draws, a longer warm-up or a higher target_accept may help; several modes will not go away."
    check_draws(data, missed, max_rhat=max_rhat, min_ess=min_ess, max_divergences=max_divergences, advice=advice)
    return data


def _density(model: Callable, x: Tensor, args: tuple, kwargs: dict[str, Any]) -> LogJoint | Potential:
    """The posteriors of the data one by one where each has latents of its own, one of everything otherwise."""
    try:
        return LogJoint(model, x, *args, **kwargs)
    except ValueError:
        return Potential(model, x, *args, **kwargs)
