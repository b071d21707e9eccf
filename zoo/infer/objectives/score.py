"""Objectives for latents without a reparameterised sample, such as codes too many to sum: score-function estimators.

The score of a draw z_k, grad log q(z_k), times the bound is an unbiased estimate of the gradient. Its variance falls by
a baseline that does not depend on z_k: here one made of the other draws, which costs nothing.
"""

import torch
from torch import Tensor

from zoo.infer.objectives.objective import Objective
from zoo.infer.per_datum import Terms


class RLOO(Objective):
    """The ELBO with the leave-one-out score estimator: REINFORCE with the other draws as baseline.

    The gradient of log q(z_k) of the sites without a reparameterised sample is weighted by log w_k - mean_{j != k} log
    w_j. Sites with one keep the gradient through their sample. The value is that of `ELBO(num_particles)`.

    References: Kool, van Hoof and Welling 2019.

    Args:
        num_particles: K >= 2.
        num_data: as in `ELBO`.
    """

    score = True
    linear = True

    def __init__(self, num_particles: int, *, num_data: int | None = None) -> None:
        super().__init__(num_particles, num_data=num_data)
        _check_several(self)

    def bound(self, terms: Terms) -> Tensor:
        log_w = terms.log_weights
        # The baseline of a draw must not depend on it, and the probabilities of a summed site may: so it is made of the
        # means over the summed sites.
        mean = terms.over_summed(log_w)
        baseline = (mean.sum(0) - mean) / (self.num_particles - 1)
        gain = (log_w - baseline).detach()
        # a weight of 0 makes the bound -inf, and no gradient of it means anything
        gain = torch.where(gain.isfinite(), gain, 0.0)
        return terms.expectation(log_w + gain * _score(terms))


class VIMCO(Objective):
    """The IWELBO with a leave-one-out score estimator.

    The gradient of log q(z_k) of the sites without a reparameterised sample is weighted by L - L_-k: L the bound, L_-k
    the bound with w_k replaced by the geometric mean of the other weights. The value is that of
    `IWELBO(num_particles)`.

    References: Mnih and Rezende 2016.

    Args:
        num_particles: K >= 2.

    Raises:
        ValueError: of a pair, a site without a reparameterised sample that is drawn for each value of a summed site.
    """

    score = True
    cancels_summed = True

    def __init__(self, num_particles: int) -> None:
        super().__init__(num_particles)
        _check_several(self)

    def bound(self, terms: Terms) -> Tensor:
        log_w, score = terms.log_over_summed(terms.log_weights), _score(terms)
        if score.dim() > log_w.dim():
            raise ValueError(
                f"VIMCO: sites without a reparameterised sample are drawn for each value of {[*terms.summed]}, summed "
                "out: draw them before, or take RLOO"
            )
        K, fixed = self.num_particles, log_w.detach()
        others = (fixed.sum(0) - fixed) / (K - 1)
        # rows k: all log weights, the k-th replaced
        replaced = torch.where(torch.eye(K, dtype=torch.bool, device=log_w.device).unsqueeze(-1), others, fixed)
        gain = fixed.logsumexp(0) - replaced.logsumexp(1)
        return terms.log_expectation(terms.log_weights) + (gain * score).sum(0)


def _check_several(objective: Objective) -> None:
    if objective.num_particles < 2:
        raise ValueError(
            f"{type(objective).__name__}: num_particles must be at least 2, for a baseline made of the other draws; "
            f"got {objective.num_particles}"
        )


def _score(terms: Terms) -> Tensor:
    """Zeros whose gradient is the score, that of log q."""
    assert terms.log_score is not None, "asked for by `Objective.score`"
    return terms.log_score - terms.log_score.detach()
