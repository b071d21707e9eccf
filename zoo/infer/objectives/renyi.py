"""The variational Renyi bound."""

import math

import torch
from torch import Tensor

from zoo.infer.objectives.objective import Objective
from zoo.infer.per_datum import Terms


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
        self.linear = self.alpha == 1
        # at alpha = 0 it is the IWELBO; at any other, q(y | ...) of a summed site enters as its power alpha
        self.cancels_summed = alpha == 0

    def bound(self, terms: Terms) -> Tensor:
        log_weights, power = terms.log_weights, 1 - self.alpha
        if power == 0:
            return terms.expectation(log_weights)
        if math.isinf(power):
            for name in terms.summed:
                raise ValueError(
                    f"site {name!r}: summed out, and RenyiELBO with alpha = {self.alpha} takes the extreme weight: "
                    "that of a value which q rules out. Take a finite alpha"
                )
            return log_weights.amax(0) if power > 0 else log_weights.amin(0)
        # about a number, of no influence on value and gradient: the mean, or the largest where a weight of 0, as of a
        # class that the prior rules out, makes the mean infinite
        mean = terms.expectation(log_weights).detach()
        top = log_weights.detach().flatten(0, -2).amax(0)
        mean = torch.where(mean.isinf(), torch.where(top.isinf(), 0.0, top), mean)
        exponents = power * (log_weights - mean)
        far = terms.log_expectation(exponents) / power
        # As alpha nears 1 the exponents near 0, the logarithm of their mean cancels to rounding noise, and the division
        # by the small power blows that up. expm1 and log1p keep the digits; they need exponents of moderate size, and
        # the clamp keeps the branch that is not taken from an infinite gradient.
        near = torch.log1p(terms.expectation(torch.expm1(exponents.clamp(-1, 1)))) / power
        is_far = terms.expectation((exponents.detach().abs() >= 1).to(exponents))
        return mean + torch.where(is_far == 0, near, far)
