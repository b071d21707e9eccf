"""Batched Hamiltonian Monte Carlo: the posteriors of many data points, each with several chains, in one tensor.

The latents of different data are independent given the parameters, so a thousand posteriors cost one gradient of one
sum. Step size and mass are each datum's own, shared by its chains.

References: Neal 2011 (HMC); Hoffman and Gelman 2014 (dual averaging); Betancourt 2017 (divergences).
"""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.infer.reference.checked import MISSED, NotAReference, check_chains, check_draws, unvisited
from zoo.infer.reference.fingerprint import attributes
from zoo.infer.reference.inference_data import InferenceData, to_inference_data
from zoo.infer.reference.log_joint import LogJoint
from zoo.infer.reference.modes import chain_starts, prior_modes
from zoo.parts.aside import held, seeded

__all__ = ["hmc_reference"]


def hmc_reference(
    model: Callable,
    x: Tensor,
    *args: Any,
    num_samples: int = 2000,
    warmup: int = 500,
    chains: int = 4,
    path_length: float = math.pi / 2,
    target_accept: float = 0.8,
    max_leapfrog: int = 64,
    time_budget: float | None = None,
    seed: int | None = None,
    max_rhat: float = 1.01,
    min_ess: float = 400.0,
    max_divergences: int = 0,
    **kwargs: Any,
) -> InferenceData:
    """Draws from p(z_n | x_n) for every row of x at once, with the model's parameters frozen, checked.

    Chains start beside the ends of ascents from 64 draws of the prior, in every mode of more than 1 % of the Laplace
    mass as far as they go round; such a mode that no chain visits afterwards is an error.

    The warm-up adapts, for each datum, the step size to `target_accept` by dual averaging and a diagonal mass to the
    posterior variance, in windows of doubling length. Path lengths are jittered, because a fixed one resonates with a
    Gaussian's period. A trajectory takes as long as its longest datum; the others wait.

    Args:
        model: a Pyro model whose latents are continuous, each in the batch plate and in no other.
        x, *args, **kwargs: its arguments.
        num_samples, warmup, chains: draws kept and thrown away, for each of at least four chains.
        path_length: mean length of a trajectory in posterior standard deviations: pi / 2 is a quarter period of a round
            Gaussian, strongly correlated posteriors want more. Jittered by half of it either way.
        target_accept: acceptance probability the step sizes aim at.
        max_leapfrog: most steps of a trajectory.
        time_budget: wall-clock seconds for everything; None is no limit.
        seed: of a random stream of its own; None uses the caller's.
        max_rhat, min_ess, max_divergences: what it takes to be a reference: rank-normalised R-hat, bulk and tail ESS
            (all chains together) of every coordinate.

    Returns:
        Arviz's container: `posterior` with `(chain, draw, datum, ...)`; `sample_stats` with `diverging`,
        `acceptance_rate` and `n_steps`, each `(chain, draw, datum)`.

    Raises:
        NotAReference: the draws fail the check, or the time is over; what was drawn is in `.inference_data`.
        ValueError: a latent is discrete or outside the batch plate, fewer than four chains, no finite log p(x, z).
    """
    check_chains(chains, num_samples, warmup, 20)
    start = time.perf_counter()
    kept: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    over = False
    with held(model), seeded(seed):
        log_joint = LogJoint(model, x, *args, **kwargs)
        modes = prior_modes(log_joint)
        state = _State(log_joint, chain_starts(log_joint, modes, chains, MISSED), path_length, max_leapfrog)
        ends = _windows(warmup)
        adapt = _StepSize(state.reasonable_step(), target_accept)
        variance = _Variance(state.u)
        step = 0
        for step in range(1, warmup + num_samples + 1):
            accept, diverging, n_steps = state.move(adapt.step if step <= warmup else adapt.average)
            if step <= warmup:
                adapt.update(accept.mean(0))
                if ends[0] <= step <= ends[-1]:
                    variance.update(state.u)
                if step in ends[1:]:
                    state.variance = variance.regularised()
                    variance = _Variance(state.u)
                    adapt = _StepSize(state.reasonable_step(adapt.average), target_accept)
            else:
                kept.append((state.u, diverging, accept, n_steps.expand_as(accept)))
            over = time_budget is not None and time.perf_counter() - start > time_budget
            if over:
                break
        if not kept:
            raise NotAReference(
                f"the time budget of {time_budget:.3g} s was over after {step} of {warmup} warm-up draws", None
            )
        u, diverging, accept, n_steps = (torch.stack(part, 1) for part in zip(*kept, strict=True))
        with torch.no_grad():
            values = log_joint.constrain(u)
        missed = unvisited(log_joint, modes, u.flatten(0, 1))
    data = to_inference_data(
        values,
        sample_stats={"diverging": diverging, "acceptance_rate": accept, "n_steps": n_steps},
        attrs={"sampler": "HMC", "seconds": time.perf_counter() - start, "warmup": warmup}
        | attributes(model, x, args, kwargs),
    )
    if len(kept) < num_samples:
        raise NotAReference(
            f"the time budget of {time_budget:.3g} s was over after {len(kept)} of {num_samples} draws of each chain; "
            "they are in .inference_data",
            data,
        )
    advice = "More draws, a longer warm-up or a longer path_length may help; several modes will not go away."
    check_draws(data, missed, max_rhat=max_rhat, min_ess=min_ess, max_divergences=max_divergences, advice=advice)
    return data


class _State:
    """Positions of all chains `(C, N, d)`, their log densities and gradients, and the mass."""

    def __init__(self, log_joint: LogJoint, u: Tensor, path_length: float, max_leapfrog: int) -> None:
        self.log_joint, self.path_length, self.max_leapfrog = log_joint, path_length, max_leapfrog
        self.u = u
        self.value, self.gradient = log_joint.gradient(u)
        self.variance = torch.ones_like(u[0])  # inverse mass of each datum, (N, d)

    def _energy(self, value: Tensor, p: Tensor) -> Tensor:
        return 0.5 * (self.variance * p**2).sum(-1) - value

    def _leapfrog(self, u: Tensor, p: Tensor, gradient: Tensor, step: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        p = p + 0.5 * step * gradient
        u = u + step * self.variance * p
        value, gradient = self.log_joint.gradient(u)
        return u, p + 0.5 * step * gradient, value, gradient

    def _momentum(self) -> Tensor:
        return torch.randn_like(self.u) / self.variance.sqrt()

    def reasonable_step(self, step: Tensor | None = None) -> Tensor:
        """For each datum, doubled or halved until one leapfrog step is accepted about every other time: `(N,)`."""
        step = self.u.new_full((self.u.shape[1],), 0.1) if step is None else step
        direction = torch.zeros_like(step)
        for _ in range(20):
            p = self._momentum()
            _, q, value, _ = self._leapfrog(self.u, p, self.gradient, step.unsqueeze(-1))
            change = self._energy(self.value, p) - self._energy(value, q)
            accept = change.nan_to_num(nan=-math.inf).clamp(max=0.0).exp().mean(0)
            now = torch.where(accept > 0.5, 1.0, -1.0)
            going = (direction == 0) | (now == direction)
            direction = torch.where(going, now, torch.full_like(now, 2.0))  # 2: turned round, done
            if not going.any():
                break
            step = torch.where(going, step * 2.0**now, step)
        return step

    def move(self, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One transition of every chain: acceptance probability and divergence `(C, N)`, leapfrog steps `(N,)`."""
        length = self.path_length * (0.5 + torch.rand(()).item())
        n_steps = (length / step).ceil().clamp(1, self.max_leapfrog)
        step = torch.minimum(step, length / n_steps)
        p = self._momentum()
        before = self._energy(self.value, p)
        u, value, gradient = self.u, self.value, self.gradient
        for i in range(int(n_steps.max())):
            # a datum that has arrived makes steps of length 0
            u, p, value, gradient = self._leapfrog(u, p, gradient, (step * (i < n_steps)).unsqueeze(-1))
        change = before - self._energy(value, p)
        diverging = ~(change > -1000.0)  # NaN included
        accept = change.nan_to_num(nan=-math.inf).clamp(max=0.0).exp()
        take = torch.rand_like(accept) < accept
        self.u = torch.where(take.unsqueeze(-1), u, self.u)
        self.value = torch.where(take, value, self.value)
        self.gradient = torch.where(take.unsqueeze(-1), gradient, self.gradient)
        return accept, diverging, n_steps


class _StepSize:
    """Dual averaging of the log step size of each datum (Hoffman and Gelman 2014, section 3.2)."""

    def __init__(self, step: Tensor, target: float) -> None:
        self.target = target
        self.centre = (10.0 * step).log()
        self.step, self.average = step, step
        self.error = torch.zeros_like(step)
        self.log_average = torch.zeros_like(step)
        self.count = 0

    def update(self, accept: Tensor) -> None:
        self.count += 1
        t = self.count
        self.error += (self.target - accept - self.error) / (t + 10.0)
        log_step = self.centre - math.sqrt(t) / 0.05 * self.error
        self.log_average += t**-0.75 * (log_step - self.log_average)
        self.step, self.average = log_step.exp(), self.log_average.exp()


class _Variance:
    """Running variance of the positions of each datum, over draws and chains (Welford)."""

    def __init__(self, u: Tensor) -> None:
        self.count = 0
        self.mean, self.squares = torch.zeros_like(u[0]), torch.zeros_like(u[0])

    def update(self, u: Tensor) -> None:
        for chain in u:
            self.count += 1
            change = chain - self.mean
            self.mean = self.mean + change / self.count
            self.squares = self.squares + change * (chain - self.mean)

    def regularised(self) -> Tensor:
        """Drawn a little to a small number, as Stan does, so that no direction is frozen by a stuck window."""
        n = self.count
        return (n * self.squares / max(n - 1, 1) + 5.0 * 1e-3) / (n + 5.0)


def _windows(warmup: int) -> list[int]:
    """Ends of the adaptation windows: 15 % for the step size alone, windows of doubling length, some again alone."""
    last = warmup - max(warmup // 10, min(50, warmup // 4))
    ends = [max(warmup * 15 // 100, 5)]
    size = max(warmup // 20, 5)
    while ends[-1] < last:
        end = ends[-1] + size
        ends.append(last if end + 2 * size > last else end)
        size *= 2
    return ends
