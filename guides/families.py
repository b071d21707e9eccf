"""Families: the density q(z | context) of a guide, whatever the guide conditions on.

A family is a head, context -> parameters, and a density, parameters -> distribution; flows are in `guides.flows`.
Densities broadcast: parameters `(batch, num_parameters)` serve samples `(particles, batch, features)`, by `expand` (a
plate) or by `rsample((particles,))`. All are reparameterised, start near N(0, I) (within a nat a feature where contexts
are of order one; `Residual` around the prior's mean, `PrecisionWeighted` times the prior), and are fresh objects at
each call: a family holds weights and no cache, so that deepcopy, pickle and reuse at several sites are always safe.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from pyro.distributions import MultivariateNormal, TorchDistribution
from torch import Tensor, nn

from guides.normal_mixture import NormalMixture
from zoo.parts.distributions import DiagonalNormal
from zoo.parts.networks import start_small


class Family(nn.Module, ABC):
    """q(z | prior, context) (abstract): `family(prior, *context)` is a distribution over vectors of length `features`.

    Args:
        features: length of z.
        context: length of the context, all parts together; 0 means that the context handed in *is* the parameters
            (guides with parameters of their own for each data point).
        num_parameters: length of what `density` takes.
        locations: which of these move q about, if any are known to.

    The head starts near zero: every bias at zero, a tenth of torch's weights, but the locations' own in full, so that
    different data have different z from the first step on.

    To write a family, call this constructor and define `density`; all-zero parameters must be near N(0, I).
    """

    #: whether `log_prob` of a value that is not the density's own latest sample is possible. Estimators that score a
    #: sample under frozen parameters ("doubly", "sticking"), grids and contour plots need it.
    scores_foreign_values: ClassVar[bool] = True

    #: whether `density` looks at the prior, so that the guide has to build it.
    uses_prior: ClassVar[bool] = False

    def __init__(
        self,
        features: int,
        context: int,
        num_parameters: int,
        *,
        locations: slice = slice(0),
    ) -> None:
        super().__init__()
        if features < 1 or context < 0:
            raise ValueError(f"{type(self).__name__}: features >= 1, context >= 0; got {features}, {context}")
        self.features, self.num_parameters, self.locations = features, num_parameters, locations
        self.head: nn.Module = nn.Linear(context, num_parameters) if context else nn.Identity()
        if isinstance(self.head, nn.Linear):
            # measured by `benchmarks.starts`: with small locations a VAE spends its first epoch on telling data apart,
            # with log scales in full it begins with noise; off-diagonals and flow parameters add up by the hundred
            nn.init.zeros_(self.head.bias)
            start_small(self.head.weight, but=locations)

    def forward(self, prior: Any, *context: Tensor) -> TorchDistribution:
        if len(context) > 1:  # torch.cat does not broadcast: a part may lack the particle axis
            leading = torch.broadcast_shapes(*(part.shape[:-1] for part in context))
            context = (torch.cat([part.expand(*leading, part.shape[-1]) for part in context], -1),)
        parameters = self.head(context[0])
        if parameters.shape[-1] != self.num_parameters:
            raise ValueError(
                f"{type(self).__name__} over {self.features} features takes {self.num_parameters} parameters, "
                f"got {parameters.shape[-1]}"
            )
        return self.density(parameters, prior)

    @abstractmethod
    def density(self, parameters: Tensor, prior: Any) -> TorchDistribution:
        """`(..., num_parameters)` -> batch shape `(...)`, event shape `(features,)`. `prior` may be None or ignored."""


def scatter(num: int, features: int) -> Tensor:
    """`(num, features)`: fixed, distinct points about 1 from the origin: no two components or flows start alike."""
    generator = torch.Generator("cpu").manual_seed(0)
    points = torch.randn(num, features, generator=generator, dtype=torch.float64, device="cpu") / features**0.5
    return points.to(torch.get_default_device(), torch.get_default_dtype())


class Diagonal(Family):
    """q(z) = prod_i N(z_i; m_i, exp(s_i)^2), (m, s) linear in the context.

    References: Kingma and Welling 2014; the exponential is the parameterisation of Burda et al.'s code (2015).
    """

    def __init__(self, features: int, context: int) -> None:
        super().__init__(features, context, 2 * features, locations=slice(features))

    def density(self, parameters: Tensor, prior: Any) -> DiagonalNormal:
        loc, log_scale = parameters.chunk(2, -1)
        return DiagonalNormal(loc, log_scale=log_scale)


class Residual(Family):
    """q(z) = prod_i N(z_i; mu_i + m_i, exp(s_i)^2), mu the prior's mean, (m, s) linear in the context.

    The network says how far the data move z from where the prior expects it, which is easier to learn.

    References: Fraccaro et al. 2016 (SRNN's Res_q: the mean, not the variance, is residual).
    """

    uses_prior = True

    def __init__(self, features: int, context: int) -> None:
        super().__init__(features, context, 2 * features, locations=slice(features))

    def density(self, parameters: Tensor, prior: Any) -> DiagonalNormal:
        change, log_scale = parameters.chunk(2, -1)
        return DiagonalNormal(prior.mean + change, log_scale=log_scale)


class PrecisionWeighted(Family):
    """q(z) proportional to prod_i N(z_i; mu_i, sigma_i^2) N(z_i; m_i, exp(s_i)^2), (m, s) linear in the context.

    The prior, by its means mu and standard deviations sigma, times a Gaussian likelihood of z that the network makes of
    the data: precisions add up, the mean is weighted by them, and q is never wider than the prior.

    References: Sonderby et al. 2016, Ladder Variational Autoencoders.
    """

    uses_prior = True

    def __init__(self, features: int, context: int) -> None:
        super().__init__(features, context, 2 * features, locations=slice(features))

    def density(self, parameters: Tensor, prior: Any) -> DiagonalNormal:
        loc, log_scale = parameters.chunk(2, -1)
        own, given = -2 * log_scale, -prior.variance.log()  # log precisions
        mean = torch.lerp(*torch.broadcast_tensors(prior.mean, loc, torch.sigmoid(own - given)))
        return DiagonalNormal(mean, log_scale=-0.5 * torch.logaddexp(own, given))


class FullRank(Family):
    """q(z) = N(z; m, L L^T), L lower triangular with exp(.) on its diagonal.

    A torch `MultivariateNormal`, so that its KL to a Normal prior is analytic; `log_prob` solves with L (D^2 a sample).

    References: Kucukelbir et al. 2017 (ADVI).
    """

    def __init__(self, features: int, context: int) -> None:
        num_parameters = features + features * (features + 1) // 2
        super().__init__(features, context, num_parameters, locations=slice(features))

    def density(self, parameters: Tensor, prior: Any) -> MultivariateNormal:
        d = self.features
        loc, log_scale, below = parameters.split([d, d, self.num_parameters - 2 * d], -1)
        row, column = torch.tril_indices(d, d, offset=-1, device=parameters.device)
        scale_tril = log_scale.exp().diag_embed()
        scale_tril[..., row, column] = below
        return MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)


class Mixture(Family):
    """q(z) = sum_k pi_k N(z; m_k, diag(exp s_k)^2), reparameterised with respect to the weights pi too.

    References: Graves 2016; Figurnov et al. 2018, Implicit Reparameterization Gradients.

    Args:
        num_components: components; their means start at fixed points about 0.5 from the origin.
    """

    start: Tensor

    def __init__(self, features: int, context: int, *, num_components: int = 3) -> None:
        if num_components < 1:
            raise ValueError(f"Mixture: num_components >= 1, got {num_components}")
        locations = slice(num_components, num_components * (1 + features))
        super().__init__(features, context, num_components * (1 + 2 * features), locations=locations)
        self.num_components = num_components
        points = scatter(num_components, features)
        # equal components would have equal gradients, and never part
        self.register_buffer("start", 0.5 * (points - points.mean(0)), persistent=False)

    def density(self, parameters: Tensor, prior: Any) -> NormalMixture:
        logits, rest = parameters.split([self.num_components, 2 * self.num_components * self.features], -1)
        loc, log_scale = (part.unflatten(-1, self.start.shape) for part in rest.chunk(2, -1))
        return NormalMixture(loc + self.start, log_scale, logits)
