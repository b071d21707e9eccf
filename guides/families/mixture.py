"""A mixture of diagonal Gaussians as a family."""

from typing import Any

from torch import Tensor

from guides.families.family import Family, scatter
from zoo.parts.distributions import MixtureOfNormalsDensity


class Mixture(Family):
    """q(z) = sum_k pi_k N(z; m_k, diag(exp s_k)^2), (log pi, m, s) linear in the context.

    Samples are reparameterised with respect to the weights pi too.

    References: Graves 2016; Figurnov et al. 2018, Implicit Reparameterization Gradients.

    Args:
        features: length of z.
        context: length of the context.
        num_components: number of components; their means start at fixed points about 0.5 from the origin.

    Raises:
        ValueError: fewer than one component.
    """

    start: Tensor

    def __init__(self, features: int, context: int, *, num_components: int = 3) -> None:
        if num_components < 1:
            raise ValueError(f"Mixture: num_components >= 1, got {num_components}")
        locations = slice(num_components, num_components * (1 + features))
        super().__init__(features, context, num_components * (1 + 2 * features), locations=locations)
        self.num_components = num_components
        points = scatter(num_components, features)
        # apart, since equal components have equal gradients and never part; centred, so that q starts around 0
        self.register_buffer("start", 0.5 * (points - points.mean(0)), persistent=False)

    def density(self, parameters: Tensor, prior: Any) -> MixtureOfNormalsDensity:
        logits, rest = parameters.split([self.num_components, 2 * self.num_components * self.features], -1)
        loc, log_scale = (part.unflatten(-1, self.start.shape) for part in rest.chunk(2, -1))
        return MixtureOfNormalsDensity(logits, loc + self.start, log_scale=log_scale)
