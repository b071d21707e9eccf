"""The variational Renyi bound."""

import math

import torch
from torch import Tensor

from zoo.infer.call import Terms
from zoo.infer.objectives.objective import Objective


class RenyiELBO(Objective):
    """1/(1 - alpha) log mean_k w_k^(1 - alpha), the variational Renyi bound of Li and Turner 2016.

    alpha = 1 is the ELBO (the limit), alpha = 0 the IWELBO; the value falls as alpha rises. `-math.inf` is VR-max,
    max_k log w_k, and `math.inf` VR-min, min_k log w_k. The expectation is a lower bound on log p(x) for alpha >= 0,
    for alpha < 0 it is not. Estimates are biased at finite K.

    Args:
        alpha: any real number or +-infinity.
        num_particles: K >= 1.
    """

    def __init__(self, alpha: float, num_particles: int) -> None:
        super().__init__(num_particles)
        if math.isnan(alpha):
            raise ValueError("RenyiELBO: alpha is NaN")
        self.alpha = float(alpha)

    def bound(self, terms: Terms) -> Tensor:
        log_weights, power = terms.log_weights, 1 - self.alpha
        if power == 0:
            return log_weights.mean(0)
        if math.isinf(power):
            return log_weights.amax(0) if power > 0 else log_weights.amin(0)
        mean = log_weights.mean(0)
        exponents = power * (log_weights - mean)
        far = (torch.logsumexp(exponents, 0) - math.log(self.num_particles)) / power
        # As alpha nears 1 the exponents near 0, the logarithm of their mean cancels to rounding noise, and the division
        # by the small power blows that up. expm1 and log1p keep the digits; they need exponents of moderate size, and
        # the clamp keeps the branch that is not taken from an infinite gradient.
        near = torch.log1p(torch.expm1(exponents.clamp(-1, 1)).mean(0)) / power
        return mean + torch.where(exponents.abs().amax(0) < 1, near, far)
