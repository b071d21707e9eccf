"""p(x, z) = prod_t p(z_t | z_{t-1}) p(x_t | z_t), both conditionals networks: the deep Markov model."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from zoo.parts.conditionals import Bernoulli
from zoo.parts.networks import mlp
from zoo.parts.trajectory import StateSpace, shift
from zoo.parts.transitions import GatedTransition


class DMM(StateSpace):
    """p(x, z) = prod_t p(z_t | z_{t-1}) p(x_t | z_t): a Markov chain of latent vectors, both conditionals networks.

    The state s_t is z_{t-1}, and z_0 is a parameter that starts at 0. With `LinearTransition`, `hidden=()` and a
    `Normal` likelihood the model is an `LGSSM`.

    References: Krishnan, Shalit and Sontag 2017. The paper's sizes: z 100, both nets 200, in two layers; Pyro's
    example: 100 (two layers) and 200.

    Args:
        data_dim, latent_dim: sizes of x_t and z_t.
        likelihood: constructor `(in_features, data_dim) -> Module` whose call gives p(x_t | h): `Bernoulli`, `Normal`,
            `MixtureOfNormals` of `zoo.parts.conditionals`, or your own.
        hidden: widths of the emission's hidden layers.
        transition: constructor `(latent_dim, hidden) -> Module` whose call with z_{t-1} gives p(z_t | z_{t-1}):
            `GatedTransition`, `LinearTransition` of `zoo.parts.transitions`, or your own.
        transition_hidden: the `hidden` that `transition` is called with.
        activation: constructor of the emission's nonlinearity.

    Sites, in `pyro.plate("data", N)`: `z` (T, latent_dim); `x` (T, data_dim), observed.

    Example:
        >>> import torch
        >>> from zoo import DMM
        >>> DMM(88, 16).generate(3, 20)[1].shape
        torch.Size([3, 20, 88])
    """

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        *,
        likelihood: Callable[[int, int], nn.Module] = Bernoulli,
        hidden: Sequence[int] = (100,),
        transition: Callable[[int, Sequence[int]], nn.Module] = GatedTransition,
        transition_hidden: Sequence[int] = (200,),
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.data_dim, self.latent_dim, self.state_dim = data_dim, latent_dim, latent_dim
        self.z_0 = nn.Parameter(torch.zeros(latent_dim))
        self.step = transition(latent_dim, transition_hidden)
        self.decoder = mlp(latent_dim, hidden, activation=activation)
        self.likelihood = likelihood(hidden[-1] if hidden else latent_dim, data_dim)

    def start(self, x: Tensor, *inputs: Any) -> Tensor:
        return self.z_0

    def transition(self, s: Tensor) -> TorchDistribution:
        return self.step(s)

    def emission(self, z: Tensor, s: Tensor) -> TorchDistribution:
        return self.likelihood(self.decoder(z))

    def advance(self, s: Tensor, z: Tensor, x: Tensor, *inputs: Any) -> Tensor:
        return z

    def states(self, z: Tensor, x: Tensor, *inputs: Any, first: Tensor | None = None) -> Tensor:
        return shift(z, self.z_0 if first is None else first)
