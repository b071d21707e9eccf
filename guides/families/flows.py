"""Flows: q(z | context) as the image of N(0, I) under transforms whose parameters come from the context.

The fast direction is sampling, since a guide scores its own samples: `rsample`, then `log_prob` of that very tensor,
run each transform once and invert nothing. IAF and Spline also score any other value, by `features` sequential passes
through each layer's network; Planar and Radial have no inverse and refuse (`scores_foreign_values = False`).

Every flow ends with z = loc + exp(s) * (.), loc and s from the head.
"""

# Pyro's transforms and zuko's take the same time and are equally exact (`python -m benchmarks.flows`), so zuko is no
# dependency. zuko has couplings besides, which score another batch's values twenty times as fast as IAF.

from collections.abc import Sequence
from functools import partial
from math import e, exp, expm1, log, log1p
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
import torch.nn.functional as F
from pyro.distributions.transforms import ConditionalAffineAutoregressive, SplineAutoregressive
from pyro.distributions.transforms.planar import ConditionedPlanar
from pyro.distributions.transforms.radial import ConditionedRadial
from pyro.nn import ConditionalAutoRegressiveNN
from torch import Tensor, nn

from guides.families.family import Family, scatter
from guides.families.pushforward import Pushforward
from zoo.parts.checks import widths
from zoo.parts.networks import start_small


class Planar(Family):
    """f(x) = x + u tanh(w^T x + b), w^T u > -1: each flow pushes along u, across the plane w^T x + b = 0.

    (w, u, b) are linear in the context. There is no inverse.

    References: Rezende and Mohamed 2015, Variational Inference with Normalizing Flows.

    Args:
        features: length of z.
        context: length of the context.
        num_flows: flows in a row; one is weak in many dimensions, the paper uses 2 to 80.
    """

    scores_foreign_values = False
    start: Tensor

    def __init__(self, features: int, context: int, *, num_flows: int = 8) -> None:
        num_parameters = 2 * features + num_flows * (2 * features + 1)
        super().__init__(features, context, num_parameters, locations=slice(features))
        # the normals w start apart: flows that start alike would have equal gradients and stay alike
        self.register_buffer("start", scatter(num_flows, features), persistent=False)

    def density(self, parameters: Tensor, prior: Any) -> Pushforward:
        affine, rest = parameters.split([2 * self.features, self.num_parameters - 2 * self.features], -1)
        rest = rest.unflatten(-1, (len(self.start), -1))
        w, u, bias = rest.split([self.features, self.features, 1], -1)
        w = w + self.start
        # Pyro maps w^T u to softplus(w^T u) - 1, which keeps f invertible. At zero parameters this shift makes that 0,
        # hence f(x) = x
        u = u + log(e - 1) * w / w.pow(2).sum(-1, keepdim=True)
        flows = zip(bias.unbind(-2), u.unbind(-2), w.unbind(-2), strict=True)
        return Pushforward(affine, [ConditionedPlanar(flow) for flow in flows], type(self))


class Radial(Family):
    """f(x) = x + beta (x - x_0) / (alpha + |x - x_0|), beta > -alpha: each flow swells or shrinks about a point x_0.

    (x_0, alpha, beta) depend on the context. There is no inverse.

    References: Rezende and Mohamed 2015, Variational Inference with Normalizing Flows.

    Args:
        features: length of z.
        context: length of the context.
        num_flows: flows in a row.
    """

    scores_foreign_values = False
    start: Tensor

    def __init__(self, features: int, context: int, *, num_flows: int = 8) -> None:
        num_parameters = 2 * features + num_flows * (features + 2)
        super().__init__(features, context, num_parameters, locations=slice(features))
        # the points x_0 start apart, for the same reason as the normals of Planar
        self.register_buffer("start", scatter(num_flows, features), persistent=False)

    def density(self, parameters: Tensor, prior: Any) -> Pushforward:
        affine, rest = parameters.split([2 * self.features, self.num_parameters - 2 * self.features], -1)
        center, alpha, beta = rest.unflatten(-1, (len(self.start), -1)).split([self.features, 1, 1], -1)
        flows = zip((center + self.start).unbind(-2), alpha.unbind(-2), beta.unbind(-2), strict=True)
        return Pushforward(affine, [ConditionedRadial(flow) for flow in flows], type(self))


def _network(
    kind: type[ConditionalAutoRegressiveNN],
    layer: int,
    features: int,
    embedding: int,
    hidden: Sequence[int],
    param_dims: Sequence[int] = (1, 1),
) -> nn.Module:
    """The masked network of one layer: the parameters of feature i depend on the features before i, and on h."""
    # every second layer takes the features in reversed order: in one order alone, z_1 would never see the others
    order = torch.arange(features)
    order = order.flip(0) if layer % 2 else order
    with catch_warnings():
        # Pyro warns that for one feature an affine map would do; a family must serve every latent size
        simplefilter("ignore")
        network = kind(features, embedding, list(widths(hidden)), param_dims=list(param_dims), permutation=order)
    # near the identity, as Kingma et al.'s code starts
    start_small(*network.layers[-1].parameters())
    return network


class GatedNetwork(ConditionalAutoRegressiveNN):
    """(1 - g) m and log(g / g_0), the gate g = sigmoid(s + 2), g_0 its value at s = 0; zeros give f(x) = x."""

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        # g / g_0 is at most 1.14: an unbounded scale would let the values blow up from layer to layer
        mean, logit = super().forward(x, context)
        return mean * torch.sigmoid(-logit - 2), F.logsigmoid(logit + 2) + log1p(exp(-2))


class IAF(Family):
    """Flow f(x)_i = (g_i / g_0) x_i + (1 - g_i) m_i, (m_i, g_i) = network(x_1..x_{i-1}; h), h linear in the context.

    The inverse autoregressive flow, gated as in the paper's equation 14, over a masked network (MADE). There g_0 is 1;
    here it is the gate at the start, 0.88, so that zero parameters give f(x) = x.

    References: Kingma et al. 2016, Improving Variational Inference with Inverse Autoregressive Flow.

    Args:
        features: length of z.
        context: length of the context.
        num_flows: layers; the order of the features is reversed between them.
        hidden: widths of each layer's network, none below `features`.
        embedding: length of h.

    Raises:
        ValueError: a width of `hidden` is below `features` or below 1.
    """

    flows: Any  # nn.ModuleList of conditional transforms

    def __init__(
        self, features: int, context: int, *, num_flows: int = 4, hidden: Sequence[int] = (320,), embedding: int = 64
    ) -> None:
        super().__init__(features, context, 2 * features + embedding, locations=slice(features))
        networks = (_network(GatedNetwork, layer, features, embedding, hidden) for layer in range(num_flows))
        # Pyro's own gate, `stable=True`, does not start at the identity and ties a reference cycle
        self.flows = nn.ModuleList(ConditionalAffineAutoregressive(network) for network in networks)

    def density(self, parameters: Tensor, prior: Any) -> Pushforward:
        affine, h = parameters.split([2 * self.features, self.num_parameters - 2 * self.features], -1)
        return Pushforward(affine, [flow.condition(h) for flow in self.flows], type(self))


class SplineNetwork(ConditionalAutoRegressiveNN):
    """Bin widths, heights and slopes before their softmax and softplus, held within +-2; zeros give f(x) = x."""

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        # unbounded, bins narrow until float32 cannot invert them, and Pyro's inverse raises an AssertionError
        bins, heights, slopes = (2 * torch.tanh(part / 2) for part in super().forward(x, context))
        # slopes of 1 at zeros: Pyro takes softplus of these and adds its least slope, 0.001
        return bins, heights, slopes + log(expm1(0.999))


class Spline(Family):
    """f(x)_i = monotone rational-quadratic spline of x_i, knots = network(x_1..x_{i-1}; h), h linear in the context.

    Outside [-bound, bound] every f is the identity, so that it maps R^D onto R^D.

    References: Durkan et al. 2019, Neural Spline Flows.

    Args:
        features: length of z.
        context: length of the context.
        num_flows: layers; the order of the features is reversed between them.
        hidden: widths of each layer's network, none below `features`.
        embedding: length of h.
        num_bins: pieces of each spline.
        bound: end of the interval that the pieces share, in standard deviations.

    Raises:
        ValueError: a width of `hidden` is below `features` or below 1.
    """

    def __init__(
        self,
        features: int,
        context: int,
        *,
        num_flows: int = 2,
        hidden: Sequence[int] = (128,),
        embedding: int = 64,
        num_bins: int = 8,
        bound: float = 5.0,
    ) -> None:
        super().__init__(features, context, 2 * features + embedding, locations=slice(features))
        sizes = features, embedding, hidden, (num_bins, num_bins, num_bins - 1)
        networks = (_network(SplineNetwork, layer, *sizes) for layer in range(num_flows))
        self.flows = nn.ModuleList(networks)
        self.num_bins, self.bound = num_bins, bound

    def density(self, parameters: Tensor, prior: Any) -> Pushforward:
        affine, h = parameters.split([2 * self.features, self.num_parameters - 2 * self.features], -1)
        # made afresh from the networks: a transform remembers its latest value
        spline = partial(SplineAutoregressive, count_bins=self.num_bins, bound=self.bound, order="quadratic")
        splines = [spline(self.features, partial(network, context=h)) for network in self.flows]
        return Pushforward(affine, splines, type(self))
