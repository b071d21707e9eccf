"""The importance-weighted bound."""

import math

import torch
from torch import Tensor

from zoo.infer.call import Terms
from zoo.infer.objectives.objective import Objective
from zoo.infer.path import doubly


class IWELBO(Objective):
    """E_q[log (1/K) sum_k w_k], the importance-weighted bound of IWAE (Burda et al. 2016).

    Args:
        num_particles: K >= 1; the bound rises to log p(x) with K.
        gradient: "iwae" differentiates the bound. "doubly" reparameterises the score of log q a second time (Tucker et
            al. 2019): the same expectation, and a signal-to-noise ratio of the encoder's gradient that does not fall
            with K. It is right for hierarchical guides too, and it is "iwae" for a guide without parameters of its own
            (an exact posterior) or with sites marked `from_model`. For a guide that shares some parameters with the
            model it is unbiased, but their gradient lacks the score of log q, which would cancel against the model's:
            near the posterior it is noisier than that of "iwae", which is then the better choice.
    """

    def __init__(self, num_particles: int, gradient: str = "iwae") -> None:
        super().__init__(num_particles)
        if gradient not in ("iwae", "doubly"):
            raise ValueError(f'IWELBO: gradient must be "iwae" or "doubly", got {gradient!r}')
        self.gradient = gradient
        self.path = doubly if gradient == "doubly" else None

    def bound(self, terms: Terms) -> Tensor:
        # the weights span hundreds of nats, so that exp of most of them is 0 or inf: logsumexp takes out the largest
        return torch.logsumexp(terms.log_weights, 0) - math.log(self.num_particles)
