"""Conditionals: modules whose call returns a distribution, event shape `(d,)`, for any leading axes.

Likelihoods are built as `Likelihood(in_features, data_dim, ...)` and called with features; a model takes the
constructor, with settings by `functools.partial`, since only the model knows the width of its last hidden layer.
Priors are built by the user, called with nothing, and handed to the model as they are.
"""

import math

import torch
import torch.nn.functional as F
from pyro.distributions import (
    Categorical as _Categorical,
)
from pyro.distributions import (
    MixtureSameFamily,
    TorchDistribution,
    TransformedDistribution,
)
from pyro.distributions.transforms import AffineCoupling, Permute
from pyro.nn import DenseNN
from torch import Tensor, nn
from torch.distributions import Transform

from zoo.parts.checks import widths
from zoo.parts.distributions import (
    DiagonalNormal,
    IndependentBernoulli,
    IndependentDiscretizedLogistic,
    MixtureOfNormalsDensity,
    UnitNormal,
)
from zoo.parts.distributions.vector import no_closed_form
from zoo.parts.networks import start_small


class Bernoulli(nn.Module):
    """p(x | h) = prod_i Bernoulli(x_i; sigmoid(W h + b)_i), x in {0, 1}^data_dim.

    Args:
        in_features, data_dim: sizes of h and x.
        mean: data mean `(data_dim,)` in [0, 1]; starts b at its logit, as IWAE's code does.
    """

    def __init__(self, in_features: int, data_dim: int, *, mean: Tensor | None = None) -> None:
        super().__init__()
        self.logits = nn.Linear(in_features, data_dim)
        if mean is not None:
            with torch.no_grad():
                self.logits.bias.copy_(torch.logit(mean.clamp(0.001, 0.999)))

    def forward(self, h: Tensor) -> IndependentBernoulli:
        return IndependentBernoulli(self.logits(h))


class Normal(nn.Module):
    """p(x | h) = N(x; W h + b, diag(s)^2), the standard deviation s learned: one for each coordinate.

    Args:
        in_features, data_dim: sizes of h and x.
        scale: initial standard deviation.
        heteroscedastic: log s is a linear function of h as well.
        floor: added to the variance, squared: no standard deviation is below it. Without it the likelihood is unbounded
            where a coordinate is met exactly. 1e-3 is two or three levels of the 16 bits that our z-scored speech was.
    """

    def __init__(
        self,
        in_features: int,
        data_dim: int,
        *,
        scale: float = 1.0,
        heteroscedastic: bool = False,
        floor: float = 0.0,
    ) -> None:
        super().__init__()
        if not (0 < scale < math.inf and 0 <= floor < math.inf):
            raise ValueError(f"Normal: expected scale > 0 and floor >= 0, got {scale} and {floor}")
        self.floor = floor
        self.loc = nn.Linear(in_features, data_dim)
        self.log_scale = nn.Parameter(torch.full((data_dim,), float(scale)).log())
        self.scale_weight = nn.Parameter(torch.zeros(data_dim, in_features)) if heteroscedastic else None

    def forward(self, h: Tensor) -> DiagonalNormal:
        log_scale: Tensor = self.log_scale
        if self.scale_weight is not None:
            log_scale = log_scale + h @ self.scale_weight.T
        if self.floor:
            log_scale = 0.5 * torch.logaddexp(2 * log_scale, log_scale.new_tensor(2 * math.log(self.floor)))
        return DiagonalNormal(self.loc(h), log_scale=log_scale)


class MixtureOfNormals(nn.Module):
    """p(x | h) = sum_k pi_k(h) N(x; m_k(h), diag(s_k(h))^2): whole frames choose their component; for speech.

    Weights and means are linear in h; s = softplus(linear) + 1e-4, as in VRNN's code, so that the density is bounded.

    References: Chung et al. 2015 (VRNN-GMM; 20 components); Bishop 1994.

    Args:
        in_features, data_dim: sizes of h and x.
        num_components: K.
    """

    def __init__(self, in_features: int, data_dim: int, *, num_components: int = 20) -> None:
        super().__init__()
        if num_components < 1:
            raise ValueError(f"MixtureOfNormals: num_components >= 1, got {num_components}")
        self.num_components, self.data_dim = num_components, data_dim
        self.parameters_of = nn.Linear(in_features, num_components * (1 + 2 * data_dim))

    def forward(self, h: Tensor) -> MixtureOfNormalsDensity:
        K = self.num_components
        logits, rest = self.parameters_of(h).split([K, 2 * K * self.data_dim], -1)
        loc, scale = rest.unflatten(-1, (K, 2 * self.data_dim)).chunk(2, -1)
        return MixtureOfNormalsDensity(logits, loc, F.softplus(scale) + 1e-4)


class Categorical(nn.Module):
    """p(x | h) = prod_i Categorical(x_i; softmax(W_i h + b_i)), x in {0, ..., levels - 1}^data_dim."""

    def __init__(self, in_features: int, data_dim: int, *, levels: int = 256) -> None:
        super().__init__()
        if levels < 2:
            raise ValueError(f"Categorical: expected at least 2 levels, got {levels}")
        self.levels = levels
        self.logits = nn.Linear(in_features, data_dim * levels)

    def forward(self, h: Tensor) -> TorchDistribution:
        return _Categorical(logits=self.logits(h).unflatten(-1, (-1, self.levels))).to_event(1)


class DiscretizedLogistic(nn.Module):
    """p(x | h) = prod_i of a logistic density integrated over the bin of the level x_i in {0, ..., levels - 1}.

    The location is linear in h, from the middle of the scale on; the log scale is learned, one for each coordinate.
    """

    def __init__(self, in_features: int, data_dim: int, *, levels: int = 256) -> None:
        super().__init__()
        if levels < 2:
            raise ValueError(f"DiscretizedLogistic: expected at least 2 levels, got {levels}")
        self.levels = levels
        self.loc = nn.Linear(in_features, data_dim)
        self.log_scale = nn.Parameter(torch.full((data_dim,), levels / 16.0).log())

    def forward(self, h: Tensor) -> IndependentDiscretizedLogistic:
        loc = (self.loc(h) + 0.5) * (self.levels - 1)
        return IndependentDiscretizedLogistic(loc, self.log_scale, self.levels)


class StandardNormal(nn.Module):
    """p(z) = N(0, I)."""

    like: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def forward(self) -> UnitNormal:
        return UnitNormal(self.latent_dim, self.like)


class MixturePrior(nn.Module):
    """p(z) = sum_k pi_k N(z; mu_k, diag(s_k)^2), everything learned."""

    def __init__(self, latent_dim: int, *, components: int = 10) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(components, latent_dim))

    def forward(self) -> MixtureSameFamily:
        # Normal(...).to_event(1), not the light density: the mixture's own bookkeeping validates its components
        components = DiagonalNormal(self.loc, log_scale=self.log_scale)
        return MixtureSameFamily(_Categorical(logits=self.logits), components)


class FlowDensity(TransformedDistribution):
    """The density that a `FlowPrior` gives; of its moments it knows none."""

    @property
    def mean(self) -> Tensor:
        no_closed_form("FlowPrior", "mean")

    @property
    def variance(self) -> Tensor:
        no_closed_form("FlowPrior", "variance")

    def entropy(self) -> Tensor:
        no_closed_form("FlowPrior", "entropy")


class FlowPrior(nn.Module):
    """p(z) = N(f^{-1}(z); 0, I) |det df^{-1}/dz|, f a stack of affine couplings (Dinh et al. 2017).

    Couplings, not an autoregressive flow: a prior is sampled in generation *and* scored at the guide's values in
    training, and a coupling does both in one pass. The last layers of its networks start at a tenth of torch's, so that
    p(z) starts near N(0, I): in full, some eight couplings map a tail of N(0, I) to where no density is left.
    """

    like: Tensor

    def __init__(self, latent_dim: int, *, num_flows: int = 4, hidden: tuple[int, ...] = (64,)) -> None:
        super().__init__()
        if latent_dim < 2:
            raise ValueError(f"FlowPrior: a coupling needs latent_dim >= 2, got {latent_dim}")
        self.latent_dim = latent_dim
        self.split = latent_dim // 2
        shape = (self.split, list(widths(hidden)), [latent_dim - self.split] * 2)
        self.networks = nn.ModuleList(DenseNN(*shape) for _ in range(num_flows))
        for coupling in self.networks.children():
            start_small(*list(coupling.parameters())[-2:])
        self.register_buffer("like", torch.zeros(()), persistent=False)
        self.register_buffer("order", torch.arange(latent_dim).flip(0), persistent=False)

    def forward(self) -> FlowDensity:
        flip = Permute(self.order)
        transforms: list[Transform] = []  # made afresh: a coupling remembers the last value it saw
        for network in self.networks:
            transforms += [AffineCoupling(self.split, network, log_scale_min_clip=-3.0), flip]
        return FlowDensity(UnitNormal(self.latent_dim, self.like), transforms)
