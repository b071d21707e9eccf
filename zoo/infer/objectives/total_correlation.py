"""The beta-TCVAE's objective: the ELBO with a weight of the total correlation alone."""

import math
from typing import Any, cast

from torch import Tensor
from torch.distributions import Independent, Normal

from zoo.infer.objectives.elbo import ELBO
from zoo.infer.objectives.objective import Objective
from zoo.infer.per_datum import Terms
from zoo.parts.distributions.vector import DiagonalNormal


class TotalCorrelation(Objective):
    """ELBO - (beta - 1) KL(q(z) || prod_j q(z_j)), where q(z) = sum_n q(z | x_n) / N is the aggregate posterior.

    The mean KL of q(z | x) over the data is I(z; x) + KL(q(z) || prod_j q(z_j)) + sum_j KL(q(z_j) || p(z_j)). The
    beta-VAE (`Tempered`) weighs all three; here beta weighs the second, the total correlation, so that the code is free
    to carry information. q(z) is estimated by minibatch-weighted sampling: with a batch of M data, for each z drawn,
    log q(z) = log sum_m q(z | x_m) - log NM, and so for each z_j. The estimate is biased, the less the larger M; N adds
    a constant. A step takes memory of M^2 d for each particle.

    References: Chen, Li, Grosse and Duvenaud 2018.

    Args:
        beta: weight of the total correlation, at least 0; with 1 the bound is the ELBO.
        num_data: number of data N.
        num_particles: K >= 1.
        analytic_kl: as of `ELBO`.

    Raises:
        ValueError: `beta` negative or not finite; at a call: the pair has no single latent site, or q of that site is
            not factorised over a vector `(d,)`; names the site. A batch of more rows than `num_data`.

    Example:
        >>> import torch, guides
        >>> from zoo import VAE
        >>> from zoo.infer import TotalCorrelation
        >>> model = VAE(784, 10)
        >>> loss = TotalCorrelation(6.0, num_data=60_000)(model, guides.Amortized(model))
        >>> loss(torch.zeros(8, 784)).shape
        torch.Size([])
    """

    def __init__(self, beta: float, num_data: int, num_particles: int = 1, analytic_kl: bool = False) -> None:
        if not (math.isfinite(beta) and beta >= 0):
            raise ValueError(f"TotalCorrelation: beta must be finite and >= 0, got {beta}")
        super().__init__(num_particles, num_data=num_data)
        self.beta, self.analytic_kl = beta, analytic_kl

    @property
    def untempered(self) -> Objective:
        return ELBO(self.num_particles, analytic_kl=self.analytic_kl)

    def bound(self, terms: Terms) -> Tensor:
        name, q = _factorised(terms)
        batch = terms.log_likelihood.shape[-1]
        num_data = cast(int, self.num_data)
        if num_data < batch:
            raise ValueError(f"TotalCorrelation: num_data is {num_data}, and the batch has {batch} rows")
        elbo = terms.expectation(terms.log_weights)
        if self.beta == 1:
            return elbo
        # the axis of the draws' data stands left of all: every draw z_n meets every q(. | x_m), log q is (N, K, M, d)
        log_q = q.log_prob(terms.latents[name].transpose(0, 1).unsqueeze(-2))
        log_joint = log_q.sum(-1).logsumexp(-1)
        log_marginals = log_q.logsumexp(-2)
        # log NM is taken once from the joint, and once from each of the d marginals
        constant = (log_q.shape[-1] - 1) * math.log(num_data * batch)
        total_correlation = log_joint - log_marginals.sum(-1) + constant
        return elbo - (self.beta - 1) * total_correlation.mean(-1)


def _factorised(terms: Terms) -> tuple[str, Any]:
    """The latent site, and q of its coordinates as densities of numbers, with batch shape `(M, d)` or `(K, M, d)`.

    Raises:
        ValueError: other than one latent site, or one whose q does not factorise over a vector; names the sites.
    """
    if len(terms.log_ratios) != 1:
        # q(z_2) of a hierarchy is a mean over z_1 besides, and the batch does not give that
        raise ValueError(f"TotalCorrelation: expected one latent site, got {[*terms.log_ratios]}")
    (name,) = terms.log_ratios
    q = terms.guide.get(name)
    if isinstance(q, DiagonalNormal):
        return name, Normal(q.loc, q.scale, validate_args=False)
    # one axis of data: a plate inside theirs would make several codes of a datum
    vectors = terms.latents[name].dim() == 3 and isinstance(q, Independent) and len(q.event_shape) == 1
    if not vectors or q.base_dist.event_shape:
        event = None if q is None else tuple(q.event_shape)
        raise ValueError(
            f"site {name!r}: expected q of independent coordinates, as DiagonalNormal or Normal(...).to_event(1), for "
            f"the total correlation, got {type(q).__name__} with events {event}"
        )
    return name, q.base_dist
