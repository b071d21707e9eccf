"""Batched Hamiltonian Monte Carlo: the posteriors of many data points, each with several chains, in one tensor.

The latents of different data are independent given the parameters, so that one gradient of one sum moves a thousand
posteriors. Step size and mass are each datum's own, shared by its chains.

`pyro.infer.HMC` adapts one step size, a float, for one trajectory of everything. Its parts serve tensors as well:
`DualAveraging` adapts a step size `(N,)`, `WelfordCovariance` a mass `(N, d)`, and `WarmupAdapter` makes the schedule.
The search for a reasonable step size and the trajectory are written here, because those of Pyro compare Python numbers.

References: Neal 2011 (HMC); Hoffman and Gelman 2014 (dual averaging); Betancourt 2017 (divergences).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer.mcmc.adaptation import WarmupAdapter
from pyro.ops.dual_averaging import DualAveraging
from pyro.ops.welford import WelfordCovariance
from torch import Tensor

from zoo.infer.reference.checked import MISSED, Sampling, check_chains, unvisited
from zoo.infer.reference.fingerprint import JOINT, attributes
from zoo.infer.reference.inference_data import InferenceData
from zoo.infer.reference.log_joint import LogJoint
from zoo.infer.reference.modes import chain_starts, prior_modes
from zoo.parts.aside import held, seeded
from zoo.parts.checks import check_between, check_counts, check_positive
from zoo.parts.door import entered

__all__ = ["hmc_reference"]

LEAST_WARMUP = 20
# Stan's bound on the growth of the energy, in nats: a trajectory beyond it has left the region where the step holds.
DIVERGED = 1000.0
ADVICE = "More draws, a longer warm-up or a longer path_length may help; several modes will not go away."


def hmc_reference(
    model: Callable,
    x: Any,
    *args: Any,
    num_samples: int = 2000,
    warmup: int = 500,
    chains: int = 4,
    path_length: float = math.pi / 2,
    target_accept: float = 0.8,
    max_leapfrog: int = 64,
    max_samples: int | None = None,
    time_budget: float | None = None,
    seed: int | None = None,
    max_rhat: float = 1.01,
    min_ess: float = 400.0,
    max_divergences: int = 0,
    **kwargs: Any,
) -> InferenceData:
    """Draws from p(z_n | x_n) for every row of x at once, with the model's parameters frozen; the draws are checked.

    Chains start beside the ends of ascents from 96 starts around the prior: one in every mode of more than 1 % of the
    Laplace mass, the heaviest first, while chains last. Such a mode is an error if no chain visits it afterwards.

    The warm-up adapts each datum's step size to `target_accept` by dual averaging, and each datum's diagonal mass to
    the posterior variance, in windows of doubling length. Path lengths are jittered, because a fixed length resonates
    with a Gaussian's period. A trajectory takes as long as its longest datum; the others wait.

    Args:
        model: a Pyro model; discrete latents are summed out. Where a latent stands outside the batch plate, all latents
            of all data have one joint posterior, one trajectory, and draws `(chain, draw, ...)`.
        x, *args, **kwargs: the model's arguments.
        num_samples, warmup, chains: draws at the first look and thrown away before, for each of at least four chains;
            20 or more are thrown away.
        path_length: mean length of a trajectory in posterior standard deviations: pi / 2 is a quarter period of a round
            Gaussian, strongly correlated posteriors want more. Jittered by half of it either way.
        target_accept: acceptance probability that the step sizes aim at.
        max_leapfrog: most steps of a trajectory.
        max_samples: most draws of each chain: chains whose R-hat or ESS fail go on, doubled at each look, until they
            pass or are as long as this. None: eight times `num_samples`; `num_samples`: one look.
        time_budget: wall-clock seconds for everything; None: no limit.
        seed: of a random stream of its own; None: the caller's stream.
        max_rhat, min_ess, max_divergences: limits of the check: rank-normalised R-hat, bulk and tail ESS (all chains
            together) of every coordinate, and diverging transitions.

    Returns:
        Arviz's container: `posterior` with `(chain, draw, datum, ...)`; `sample_stats` with `diverging`,
        `acceptance_rate` and `n_steps`, each `(chain, draw, datum)`.

    Raises:
        NotAReference: the draws fail the check, or the time is over; the draws are in `.inference_data`.
        ValueError: a discrete latent whose values cannot be listed, fewer than four chains, no finite log p(x, z); a
            number that is too small, NaN or none; names the argument.
    """
    check_chains(chains, num_samples, warmup, LEAST_WARMUP, max_samples)
    check_counts(max_leapfrog=max_leapfrog)
    check_positive(path_length=path_length)
    check_between(0, 1, target_accept=target_accept)
    sampling = Sampling(
        "HMC", num_samples, warmup, max_samples, time_budget, max_rhat, min_ess, max_divergences, ADVICE
    )
    x, args, kwargs = entered((model,), x, args, kwargs)
    facts = attributes(model, x, args, kwargs)
    with held(model), seeded(seed):
        log_joint = LogJoint(model, x, *args, **kwargs)
        modes = prior_modes(log_joint)
        walk = _Chains(log_joint, chain_starts(log_joint, modes, chains, MISSED), path_length, max_leapfrog)
        adaptation = _Adaptation(walk, warmup, target_accept)

        def transition(number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            accept, diverging, n_steps = walk.move(adaptation.step if number < warmup else adaptation.average)
            if number < warmup:
                adaptation.update(number, accept.mean(0))
            return walk.u, diverging, accept, n_steps.expand_as(accept)

        def finish(kept: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> InferenceData:
            u, diverging, accept, n_steps = (torch.stack(part, 1) for part in zip(*kept, strict=True))
            with torch.no_grad():
                values = log_joint.constrain(u)
            missed = unvisited(log_joint, modes, u.flatten(0, 1))
            stats = {"diverging": diverging, "acceptance_rate": accept, "n_steps": n_steps}
            if not log_joint.joint:
                return sampling.deliver(values, stats, missed, facts)
            values = {name: value.squeeze(2) for name, value in values.items()}
            stats = {name: value[..., 0] for name, value in stats.items()}
            return sampling.deliver(values, stats, missed, facts | {JOINT: 1}, per_datum=False)

        return sampling.run(transition, finish)


class _Chains:
    """Positions of all chains `(C, N, d)`, their log densities and gradients, and the mass of each datum."""

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
        """A step size for each datum, `(N,)`, at which one leapfrog step is accepted about every other time.

        Args:
            step: first guess; it is doubled or halved until the acceptance probability crosses 1/2. None: 0.1.
        """
        step = self.u.new_full((self.u.shape[1],), 0.1) if step is None else step
        direction = torch.zeros_like(step)
        # 20 doublings change a step size by a factor of a million.
        for _ in range(20):
            p = self._momentum()
            _, q, value, _ = self._leapfrog(self.u, p, self.gradient, step.unsqueeze(-1))
            change = self._energy(self.value, p) - self._energy(value, q)
            accept = change.nan_to_num(nan=-math.inf).clamp(max=0.0).exp().mean(0)
            now = torch.where(accept > 0.5, 1.0, -1.0)
            going = (direction == 0) | (now == direction)
            # 2 is neither up nor down: a datum whose direction has turned never moves again.
            direction = torch.where(going, now, torch.full_like(now, 2.0))
            if not going.any():
                break
            step = torch.where(going, step * 2.0**now, step)
        return step

    def move(self, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Makes one transition of every chain with step sizes `(N,)`.

        Returns:
            Acceptance probability and divergence, `(C, N)`, and leapfrog steps, `(N,)`.
        """
        length = self.path_length * (0.5 + torch.rand(()).item())
        n_steps = (length / step).ceil().clamp(1, self.max_leapfrog)
        # Steps are shortened to end at the length exactly; where `max_leapfrog` cuts, the trajectory is shorter.
        step = torch.minimum(step, length / n_steps)
        p = self._momentum()
        before = self._energy(self.value, p)
        u, value, gradient = self.u, self.value, self.gradient
        for i in range(int(n_steps.max())):
            # A datum that has arrived makes steps of length 0: cheaper than cutting it out of the batch.
            u, p, value, gradient = self._leapfrog(u, p, gradient, (step * (i < n_steps)).unsqueeze(-1))
        change = before - self._energy(value, p)
        # Negated, so that NaN counts as a divergence.
        diverging = ~(change > -DIVERGED)
        accept = change.nan_to_num(nan=-math.inf).clamp(max=0.0).exp()
        take = torch.rand_like(accept) < accept
        self.u = torch.where(take.unsqueeze(-1), u, self.u)
        self.value = torch.where(take, value, self.value)
        self.gradient = torch.where(take.unsqueeze(-1), gradient, self.gradient)
        return accept, diverging, n_steps


class _Adaptation:
    """The step size and the mass of each datum during the warm-up.

    Attributes:
        step: step size of the next transition, `(N,)`.
        average: average of the step sizes since the last change of the mass; the step size after the warm-up.
    """

    def __init__(self, walk: _Chains, warmup: int, target_accept: float) -> None:
        self.walk, self.target_accept = walk, target_accept
        self.windows = _windows(warmup)
        self.covariance = WelfordCovariance(diagonal=True)
        self._restart(walk.reasonable_step())

    def _restart(self, step: Tensor) -> None:
        # The centre is ten times the step size, as in Hoffman and Gelman: long steps cost less to try than short ones.
        self.averaging = DualAveraging((10.0 * step).log())
        self.step = self.average = step

    def update(self, number: int, accept: Tensor) -> None:
        """Learns from transition `number` of the warm-up, from 0, with acceptance probabilities `(N,)`."""
        # Log densities of float64 data are float64, and would widen the steps and the coordinates of a float32 model.
        self.averaging.step(self.target_accept - accept.to(self.step.dtype))
        log_step, log_average = self.averaging.get_state()
        self.step, self.average = log_step.exp(), log_average.exp()
        if not self.windows[0][0] <= number <= self.windows[-1][1]:
            return
        for u in self.walk.u:
            self.covariance.update(u)
        if any(number == end for _, end in self.windows):
            # Regularised as in Stan: drawn a little to a small number, so that a stuck window freezes no direction.
            self.walk.variance = self.covariance.get_covariance(regularize=True)
            self.covariance.reset()
            self._restart(self.walk.reasonable_step(self.average))


def _windows(warmup: int) -> list[tuple[int, int]]:
    """First and last transition of each window in which the mass is learnt, by the schedule of `WarmupAdapter`.

    Before the windows and after them the step size alone is adapted. These two stretches and the first window have the
    lengths of Stan at 500 transitions and are proportional elsewhere.
    """
    # The adapter has no public setter for the lengths. Left alone it leaves a tenth to the last stretch below 150
    # transitions, two of 20, in which dual averaging does not come down from ten times the step size: in a
    # linear-Gaussian posterior a fifth of the coordinates never moved afterwards, with these lengths none.
    adapter = WarmupAdapter(adapt_mass_matrix=True)
    adapter._adapt_start_buffer = max(warmup * 15 // 100, 5)
    adapter._adapt_initial_window = max(warmup // 20, 5)
    adapter._adapt_end_buffer = max(warmup // 10, min(50, warmup // 4))
    adapter.configure(warmup, mass_matrix_shape={})
    windows = [(window.start, window.end) for window in adapter.adaptation_schedule[1:-1]]
    # The state in which the first stretch ends counts as the first draw.
    return [(windows[0][0] - 1, windows[0][1]), *windows[1:]]
