"""The evidence lower bound."""

from torch import Tensor

from zoo.infer.objectives.objective import Objective
from zoo.infer.path import sticking as sticking_the_landing
from zoo.infer.per_datum import Terms


class ELBO(Objective):
    """E_q[log p(x, z) - log q(z | x)], the evidence lower bound, averaged over `num_particles` draws.

    Args:
        num_particles: K >= 1.
        analytic_kl: closed-form KL for each latent site, in place of log q - log p at the sample. Refused, with the
            site's name, where there is no closed form (of a latent, say, that an autoguide maps onto its support), and
            where the guide's order makes it wrong (bottom-up guides).
        sticking: sticking the landing (Roeder et al. 2017). The gradient leaves out the score of log q, whose
            expectation is zero, and its variance vanishes as q comes to the posterior. Parameters that the guide shares
            with the model keep their score, which cancels against the model's. `IWELBO` has no such option: for
            importance-weighted bounds the gradient without the score is biased.
        num_data: number of data N, where batches are smaller than the data and a latent stands outside their plate:
            each datum bears 1/N of its term. None: the batch is all of the data.
    """

    linear = True

    def __init__(
        self,
        num_particles: int = 1,
        analytic_kl: bool = False,
        sticking: bool = False,
        *,
        num_data: int | None = None,
    ) -> None:
        super().__init__(num_particles, num_data=num_data)
        if analytic_kl and sticking:
            raise ValueError(
                "ELBO: `sticking` changes the gradient of log q at the sample, which `analytic_kl` does not use"
            )
        self.analytic_kl, self.sticking = analytic_kl, sticking
        self.path = sticking_the_landing if sticking else None

    def bound(self, terms: Terms) -> Tensor:
        return terms.expectation(terms.log_weights)
