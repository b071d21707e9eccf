"""The hidden Markov chain that the recursions read: three tensors of logarithms."""

from typing import NamedTuple

import torch
from torch import Tensor


class Chain(NamedTuple):
    """p(z_1) prod_{t>1} p(z_t | z_{t-1}) prod_t p(x_t | z_t) as a function of z, in logarithms; x is observed.

    An entry of -inf is a probability of zero. Gradients stay finite there.

    Attributes:
        log_initial: log p(z_1 = k), `(K,)`.
        log_transition: log p(z_t = k | z_{t-1} = j), `(K, K)`, row j and column k.
        log_emission: log p(x_t | z_t = k), `(..., T, K)`; 0 in a frame that is missing.
    """

    log_initial: Tensor
    log_transition: Tensor
    log_emission: Tensor

    def double(self) -> "Chain":
        """The same chain in float64."""
        return Chain(*(value.double() for value in self))


def path_log_joint(chain: Chain, z: Tensor) -> Tensor:
    """log p(z, x), nats, of paths z `(..., T)` whose leading axes broadcast with those of the chain."""
    z = z.long()
    lead = torch.broadcast_shapes(z.shape[:-1], chain.log_emission.shape[:-2])
    # not expanded beforehand: one x serves all paths of many particles
    emission = chain.log_emission.expand(*lead, *chain.log_emission.shape[-2:])
    scored = emission.gather(-1, z.expand(*lead, z.shape[-1]).unsqueeze(-1)).squeeze(-1).sum(-1)
    return chain.log_initial[z[..., 0]] + chain.log_transition[z[..., :-1], z[..., 1:]].sum(-1) + scored
