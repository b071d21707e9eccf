"""The log joint at a point."""

from torch import Tensor

from zoo.infer.objectives.objective import Objective
from zoo.infer.per_datum import Terms


class MAP(Objective):
    """log p(x, z) at the guide's point z, the log joint: maximum a posteriori for the latents. No bound on log p(x).

    The guide draws every continuous latent from a Delta: `pyro.infer.autoguide.AutoDelta`, or an encoder's output. The
    maximum depends on the coordinates in which z is written. `log_likelihood` and the bounds refuse such a guide.

    Args:
        num_data: as in `ELBO`.
    """

    point_mass = True
    linear = True
    quantity = "log joint"

    def __init__(self, *, num_data: int | None = None) -> None:
        # every draw of a point is the same
        super().__init__(1, num_data=num_data)

    def bound(self, terms: Terms) -> Tensor:
        return terms.expectation(terms.log_weights)
