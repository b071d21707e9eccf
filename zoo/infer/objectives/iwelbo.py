"""The importance-weighted bound."""

from torch import Tensor

from zoo.infer.objectives.objective import Objective
from zoo.infer.path import doubly
from zoo.infer.per_datum import Terms


class IWELBO(Objective):
    """E_q[log (1/K) sum_k w_k], the importance-weighted bound of IWAE (Burda et al. 2016).

    A summed site y stands inside the logarithm, log (1/K) sum_k sum_y q(y | ...) w_ky, where q(y | ...) cancels: the
    bound lies above the ELBO at K = 1 already, and q(y | ...) gets no gradient. Training a guide with parameters for
    q(y | ...) is therefore refused, but inside `SemiSupervised`, where labels train them.

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
        self.cancels_summed = True
        self.path = doubly if gradient == "doubly" else None

    def bound(self, terms: Terms) -> Tensor:
        return terms.log_expectation(terms.log_weights)
