"""The KL divergence of two trajectories, registered with torch's `kl_divergence`."""

from torch import Tensor
from torch.distributions import kl_divergence, register_kl

from zoo.parts.trajectory.density import Trajectory


@register_kl(Trajectory, Trajectory)
def _kl_along_the_draw(q: Trajectory, p: Trajectory) -> Tensor:
    """sum_t KL(q(. | s_t) || p(. | s_t)) at q's latest draw: its mean over draws is KL(q || p)."""
    # the chain rule of the KL leaves an expectation over z_{1:t-1}, and the draw that the objective has already made
    # estimates it without a second one
    z = q.rsample() if q._latest is None else q._latest.value
    kl = kl_divergence(q.along(z), p.along(z))
    return q.full((kl if q.followed is None else kl * q.followed).sum(-1), z)
