"""Pyro's NUTS as a reference posterior.

References: Hoffman and Gelman 2014 (NUTS).
"""

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.infer import NUTS
from pyro.infer.autoguide import init_to_sample
from pyro.infer.mcmc.util import initialize_model
from pyro.ops.integrator import potential_grad
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from zoo.infer.reference.checked import MISSED, Sampling, check_chains, unvisited
from zoo.infer.reference.fingerprint import JOINT, attributes
from zoo.infer.reference.inference_data import InferenceData
from zoo.infer.reference.log_joint import LogJoint
from zoo.infer.reference.modes import chain_starts, prior_modes
from zoo.infer.sites.programs import program
from zoo.parts.aside import held, seeded, streams_kept
from zoo.parts.checks import check_between, check_counts, element
from zoo.parts.distributions.circle import Circle, latent_support
from zoo.parts.door import entered

__all__ = ["nuts_reference"]

ADVICE = "More draws, a longer warm-up or a higher target_accept may help; several modes will not go away."


def nuts_reference(
    model: Callable,
    x: Any,
    *args: Any,
    num_samples: int = 500,
    warmup: int = 300,
    chains: int = 4,
    max_samples: int | None = None,
    time_budget: float | None = None,
    seed: int | None = None,
    target_accept: float = 0.8,
    max_tree_depth: int = 10,
    max_rhat: float = 1.01,
    min_ess: float = 400.0,
    max_divergences: int = 0,
    **kwargs: Any,
) -> InferenceData:
    """Draws from p(latents | x) by Pyro's NUTS, with the model's parameters frozen; the draws are checked.

    All data points of x are sampled jointly, in one trajectory. So this sampler is for a handful of data points (15 ms
    and more for a draw even with a small decoder); `hmc_reference` takes many. The chains take turns in this process,
    one draw each, so that a time budget cuts them at equal length.

    Chains start beside the ends of ascents from 96 starts around the prior: one in every mode of more than 1 % of the
    Laplace mass, the heaviest first, while chains last. Such a mode is an error if no chain visits it afterwards.

    Args:
        model: any Pyro model without discrete latents.
        x, *args, **kwargs: the model's arguments.
        num_samples, warmup, chains: draws at the first look and thrown away before, for each of at least four chains.
        max_samples: most draws of each chain: chains whose R-hat or ESS fail go on, doubled at each look, until they
            pass or are as long as this. None: eight times `num_samples`; `num_samples`: one look.
        time_budget: wall-clock seconds for everything; None: no limit.
        seed: of a random stream of its own; None: the caller's stream.
        target_accept, max_tree_depth: of NUTS.
        max_rhat, min_ess, max_divergences: limits of the check: rank-normalised R-hat, bulk and tail ESS (all chains
            together) of every coordinate, and diverging transitions.

    Returns:
        Arviz's container: `posterior` with `(chain, draw, datum, ...)`, `sample_stats["diverging"]`. Where a latent
        stands outside the batch plate all sites are draws of one joint posterior, `(chain, draw, ...)`.

    Raises:
        NotAReference: the draws fail the check, or the time is over; the draws are in `.inference_data`.
        ValueError: fewer than four chains, no continuous latent, or no finite log p(x, latents); a number that
            is too small, NaN or none; names the argument.
    """
    check_chains(chains, num_samples, warmup, 1, max_samples)
    check_counts(max_tree_depth=max_tree_depth)
    check_between(0, 1, target_accept=target_accept)
    sampling = Sampling(
        "NUTS", num_samples, warmup, max_samples, time_budget, max_rhat, min_ess, max_divergences, ADVICE
    )
    x, args, kwargs = entered((model,), x, args, kwargs)
    facts = attributes(model, x, args, kwargs)
    with held(model), seeded(seed):
        # One kernel for each chain: a kernel holds the step size and the mass of its own chain.
        kernels = [
            NUTS(program(model), jit_compile=False, target_accept_prob=target_accept, max_tree_depth=max_tree_depth)
            for _ in range(chains)
        ]
        density = _density(model, x, args, kwargs)
        _refuse_angles(model, x, args, kwargs)
        modes = prior_modes(density)
        positions = [density.unflatten(u) for u in chain_starts(density, modes, chains, MISSED)]
        for kernel, position in zip(kernels, positions, strict=True):
            kernel.initial_params = position
            kernel.setup(warmup, x, *args, **kwargs)

        def transition(number: int) -> Tensor:
            for chain, kernel in enumerate(kernels):
                positions[chain] = kernel.sample(positions[chain])
            return torch.stack([density.flatten(position).detach() for position in positions])

        def finish(kept: list[Tensor]) -> InferenceData:
            u = torch.stack(kept, 1)  # (chains, draws, N or 1, d)
            diverging = torch.zeros(u.shape[:2], dtype=torch.bool)
            for chain, kernel in enumerate(kernels):
                diverging[chain, kernel.diagnostics()["divergences"]] = True
            with torch.no_grad():
                values = density.constrain(u)
            missed = unvisited(density, modes, u.flatten(0, 1))
            if density.joint:
                # One joint posterior: its batch axis of length 1 belongs to no datum.
                values = {name: value.squeeze(2) for name, value in values.items()}
            per_datum = all(value.dim() > 2 and value.shape[2] == len(x) for value in values.values())
            if density.joint and not (per_datum and isinstance(density, Potential)):
                return sampling.deliver(values, {"diverging": diverging}, missed, facts | {JOINT: 1}, False)
            return sampling.deliver(values, {"diverging": diverging}, missed, facts, per_datum)

        return sampling.run(transition, finish)


def _refuse_angles(model: Callable, x: Tensor, args: tuple, kwargs: dict[str, Any]) -> None:
    with torch.no_grad(), streams_kept():
        nodes = poutine.trace(program(model)).get_trace(x, *args, **kwargs).nodes
    for name, site in nodes.items():
        latent = site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)
        if latent and isinstance(element(latent_support(site["fn"])), Circle):
            raise ValueError(
                f"nuts_reference: site {name!r}: an angle, which Pyro's NUTS takes for a real number, so that draws "
                "wander from turn to turn; take hmc_reference or grid_reference"
            )


class Potential:
    """log p(x, latents) in unconstrained coordinates, positions `(K, 1, d)`: all latents of all data as one vector.

    A `modes.Density` for models that `LogJoint` refuses, or that do not run with an axis of chains. It is Pyro's
    potential function with the other sign. That function takes one position, so positions are evaluated in turn.

    Args:
        model: a Pyro model without discrete latents.
        x, *args, **kwargs: the model's arguments.
    """

    joint = True

    def __init__(self, model: Callable, x: Tensor, *args: Any, **kwargs: Any) -> None:
        self._trace = lambda: poutine.trace(program(model)).get_trace(x, *args, **kwargs)
        # The start gives names and shapes alone. A draw from the prior, unlike Pyro's default, uniform in [-2, 2] in
        # unconstrained coordinates, lies where the model has mass, so that the check of the start passes.
        found, self._potential, self._transforms, _ = initialize_model(
            program(model), (x, *args), kwargs, init_strategy=init_to_sample
        )
        if not found:
            raise ValueError("the model has no continuous latent site: there is no posterior density to sample")
        self._shapes = {name: value.shape for name, value in found.items()}
        self.dim = sum(shape.numel() for shape in self._shapes.values())

    def unflatten(self, u: Tensor) -> dict[str, Tensor]:
        """One position `(1, d)` as Pyro's parameters: site -> unconstrained tensor."""
        parts = u[0].split([shape.numel() for shape in self._shapes.values()])
        # Cloned: Pyro's integrator switches gradients on in place.
        return {
            name: part.reshape(shape).clone() for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }

    def flatten(self, parameters: dict[str, Tensor]) -> Tensor:
        """Pyro's parameters as one position `(1, d)`, the inverse of `unflatten`."""
        return torch.cat([parameters[name].reshape(1, -1) for name in self._shapes], -1)

    def constrain(self, u: Tensor) -> dict[str, Tensor]:
        """Positions `(..., 1, d)` -> site values `(..., 1, *shape)`."""
        rows = [self.unflatten(row) for row in u.reshape(-1, 1, self.dim)]
        values = {n: torch.stack([self._transforms[n].inv(row[n]) for row in rows]) for n in self._shapes}
        return {name: value.reshape(*u.shape[:-1], *value.shape[1:]) for name, value in values.items()}

    @torch.no_grad()
    def prior(self, chains: int) -> Tensor:
        """Draws from the prior, in coordinates: `(chains, 1, d)`."""
        draws = []
        for _ in range(chains):
            nodes = self._trace().nodes
            draws.append(self.flatten({n: self._transforms[n](nodes[n]["value"]) for n in self._shapes}))
        return torch.stack(draws)

    def gradient(self, u: Tensor, max_bytes: int | None = None) -> tuple[Tensor, Tensor]:
        """Value `(K, 1)` and gradient `(K, 1, d)` at positions `(K, 1, d)`; `max_bytes` is not needed."""
        values, gradients = [], []
        for row in u:
            with torch.enable_grad():
                gradient, potential = potential_grad(self._potential, self.unflatten(row))
            values.append(-potential)
            gradients.append(-self.flatten(gradient))
        return torch.stack(values).unsqueeze(1), torch.stack(gradients)

    @torch.no_grad()
    def evaluate(self, u: Tensor, max_bytes: int | None = None) -> Tensor:
        """Value `(K, 1)` at positions `(K, 1, d)`; `max_bytes` is not needed."""
        return torch.stack([-self._potential(self.unflatten(row)) for row in u]).unsqueeze(1)


def _density(model: Callable, x: Tensor, args: tuple, kwargs: dict[str, Any]) -> LogJoint | Potential:
    """The posterior of each datum where each datum has latents of its own, otherwise one joint posterior."""
    # `LogJoint` alone knows whether the latents fit it. Its refusal is no error here: `Potential` takes other models.
    try:
        found = LogJoint(model, x, *args, **kwargs)
        if found.joint:
            # a model that is written for one value of its global latents fails here, in whatever way
            with streams_kept():
                found.evaluate(found.prior(2))
        return found
    except (ValueError, RuntimeError, IndexError):
        return Potential(model, x, *args, **kwargs)
