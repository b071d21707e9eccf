"""Pyro's potential function as the log density of one posterior of everything that is latent."""

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide import init_to_sample
from pyro.infer.mcmc.util import initialize_model
from pyro.ops.integrator import potential_grad
from torch import Tensor

from zoo.infer.pair import program

__all__ = ["Potential"]


class Potential:
    """log p(x, latents) in unconstrained coordinates, positions `(K, 1, d)`: all latents of all data are one vector.

    For models with latents outside the batch plate. Positions are taken one after the other.
    """

    def __init__(self, model: Callable, x: Tensor, *args: Any, **kwargs: Any) -> None:
        self._trace = lambda: poutine.trace(program(model)).get_trace(x, *args, **kwargs)
        found, self._potential, self._transforms, _ = initialize_model(
            program(model), (x, *args), kwargs, init_strategy=init_to_sample
        )
        self._shapes = {name: value.shape for name, value in found.items()}
        self.dim = sum(shape.numel() for shape in self._shapes.values())

    def unflatten(self, u: Tensor) -> dict[str, Tensor]:
        """One position `(1, d)` as Pyro's parameters: site -> unconstrained tensor."""
        parts = u[0].split([shape.numel() for shape in self._shapes.values()])
        return {
            name: part.reshape(shape).clone() for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }

    def flatten(self, parameters: dict[str, Tensor]) -> Tensor:
        """The inverse of `unflatten`."""
        return torch.cat([parameters[name].reshape(1, -1) for name in self._shapes], -1)

    def constrain(self, u: Tensor) -> dict[str, Tensor]:
        """Positions `(K, 1, d)` -> site values `(K, 1, *shape)`."""
        rows = [self.unflatten(row) for row in u.reshape(-1, 1, self.dim)]
        values = {n: torch.stack([self._transforms[n].inv(row[n]) for row in rows]) for n in self._shapes}
        return {name: value.reshape(*u.shape[:-1], *value.shape[1:]) for name, value in values.items()}

    @torch.no_grad()
    def prior(self, chains: int) -> Tensor:
        draws = []
        for _ in range(chains):
            nodes = self._trace().nodes
            draws.append(self.flatten({n: self._transforms[n](nodes[n]["value"]) for n in self._shapes}))
        return torch.stack(draws)

    def gradient(self, u: Tensor, max_bytes: int | None = None) -> tuple[Tensor, Tensor]:
        values, gradients = [], []
        for row in u:
            with torch.enable_grad():
                gradient, potential = potential_grad(self._potential, self.unflatten(row))
            values.append(-potential)
            gradients.append(-self.flatten(gradient))
        return torch.stack(values).unsqueeze(1), torch.stack(gradients)

    @torch.no_grad()
    def evaluate(self, u: Tensor, max_bytes: int | None = None) -> Tensor:
        return torch.stack([-self._potential(self.unflatten(row)) for row in u]).unsqueeze(1)
