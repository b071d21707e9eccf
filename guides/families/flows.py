"""Flows: q(z | context) as the image of N(0, I) under transforms whose parameters come from the context.

The fast direction is sampling, since a guide scores its own samples: `rsample` and then `log_prob` of that very tensor
run each transform once and invert nothing. Any other value costs: IAF and Spline take `features` sequential passes
through each layer's network; Planar and Radial have no inverse and refuse (`scores_foreign_values = False`).

All flows end with z = loc + exp(s) * (.), loc and s from the head. (Rezende and Mohamed, and Kingma, put this map
first; last, it leaves the transforms standardised coordinates however narrow the posterior.) They start near N(0, I).

Pyro's transforms and zuko's take the same time and are equally exact (log q against autograd's Jacobian: 4e-15 in
float64, 2e-6 in float32), so zuko is no dependency. What it has more: couplings, which would score a foreign batch in
10 and 66 ms, and where networks put out large numbers a spline of a digit or two more. Milliseconds of a step (sample,
score, backward), medians, one thread of a busy EPYC, batch 128, 4 layers of 320 units, torch 2.13, Pyro 1.9.2, zuko
1.6.0; `python -m benchmarks.flows` prints these and the rest:

                      D = 32, K = 1   K = 10   D = 64, K = 1   K = 10   a foreign batch, D = 64, K = 1
    guides.IAF                  7.4       33             8.5       48               200
    Pyro affine                 7.3       30             7.4       42               167
    zuko affine                 7.8       34             9.0       47               204
    guides.Spline                44      237              64      433              1679
    Pyro quadratic               38      216              59      402              1372
    zuko quadratic               39      210              61      385              1419
"""

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

    (w, u, b) are linear in the context. No inverse. Pyro's `ConditionedPlanar`; zero parameters give f(x) = x.

    References: Rezende and Mohamed 2015, Variational Inference with Normalizing Flows.

    Args:
        num_flows: flows in a row; one is weak in many dimensions, the paper uses 2 to 80.
    """

    scores_foreign_values = False
    start: Tensor

    def __init__(self, features: int, context: int, *, num_flows: int = 8) -> None:
        num_parameters = 2 * features + num_flows * (2 * features + 1)
        super().__init__(features, context, num_parameters, locations=slice(features))
        self.register_buffer("start", scatter(num_flows, features), persistent=False)

    def density(self, parameters: Tensor, prior: Any) -> Pushforward:
        affine, rest = parameters.split([2 * self.features, self.num_parameters - 2 * self.features], -1)
        rest = rest.unflatten(-1, (len(self.start), -1))
        w, u, bias = rest.split([self.features, self.features, 1], -1)
        w = w + self.start
        u = u + log(e - 1) * w / w.pow(2).sum(-1, keepdim=True)  # w^T u where the constraint's softplus(.) - 1 is 0
        flows = zip(bias.unbind(-2), u.unbind(-2), w.unbind(-2), strict=True)
        return Pushforward(affine, [ConditionedPlanar(flow) for flow in flows], type(self))


class Radial(Family):
    """f(x) = x + beta (x - x_0) / (alpha + |x - x_0|), beta > -alpha: each flow swells or shrinks about a point x_0.

    (x_0, alpha, beta) depend on the context. No inverse. Pyro's `ConditionedRadial`; zero parameters give f(x) = x.

    References: Rezende and Mohamed 2015, Variational Inference with Normalizing Flows.

    Args:
        num_flows: flows in a row.
    """

    scores_foreign_values = False
    start: Tensor

    def __init__(self, features: int, context: int, *, num_flows: int = 8) -> None:
        num_parameters = 2 * features + num_flows * (features + 2)
        super().__init__(features, context, num_parameters, locations=slice(features))
        self.register_buffer("start", scatter(num_flows, features), persistent=False)

    def density(self, parameters: Tensor, prior: Any) -> Pushforward:
        affine, rest = parameters.split([2 * self.features, self.num_parameters - 2 * self.features], -1)
        center, alpha, beta = rest.unflatten(-1, (len(self.start), -1)).split([self.features, 1, 1], -1)
        flows = zip((center + self.start).unbind(-2), alpha.unbind(-2), beta.unbind(-2), strict=True)
        return Pushforward(affine, [ConditionedRadial(flow) for flow in flows], type(self))


def _network(kind: type[ConditionalAutoRegressiveNN], flow: int, *sizes: Any, **kwargs: Any) -> nn.Module:
    """Pyro's masked network for flow number `flow`: every second one takes the features in reversed order."""
    order = torch.arange(sizes[0])
    with catch_warnings():
        simplefilter("ignore")  # one feature: Pyro recommends an affine map, which is what it then is
        network = kind(*sizes, permutation=order.flip(0) if flow % 2 else order, **kwargs)
    start_small(*network.layers[-1].parameters())  # near the identity, as Kingma et al.'s code does
    return network


class GatedNetwork(ConditionalAutoRegressiveNN):
    """(1 - g) m and log g, the gate g = sigmoid(s + 2) divided by its value at s = 0; zeros give f(x) = x."""

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        # unlike an unbounded scale, a gate cannot blow the values up from layer to layer
        mean, logit = super().forward(x, context)
        return mean * torch.sigmoid(-logit - 2), F.logsigmoid(logit + 2) + log1p(exp(-2))


class IAF(Family):
    """f(x)_i = g_i x_i + (1 - g_i) m_i, (m_i, g_i) = network(x_1..x_{i-1}; h), h linear in the context.

    Inverse autoregressive flow: Pyro's `ConditionalAffineAutoregressive` over its masked network (MADE), gated as in
    the paper's eq. 14. (Pyro's own gate, `stable=True`, does not start at the identity and is a reference cycle.)

    References: Kingma et al. 2016, Improving Variational Inference with Inverse Autoregressive Flow.

    Args:
        num_flows: layers; the order of the features is reversed between them.
        hidden: widths of each layer's network, none below `features`.
        embedding: length of h.
    """

    flows: Any  # nn.ModuleList of conditional transforms

    def __init__(
        self, features: int, context: int, *, num_flows: int = 4, hidden: Sequence[int] = (320,), embedding: int = 64
    ) -> None:
        super().__init__(features, context, 2 * features + embedding, locations=slice(features))
        sizes = features, embedding, list(widths(hidden))
        networks = (_network(GatedNetwork, k, *sizes) for k in range(num_flows))
        self.flows = nn.ModuleList(ConditionalAffineAutoregressive(network) for network in networks)

    def density(self, parameters: Tensor, prior: Any) -> Pushforward:
        affine, h = parameters.split([2 * self.features, self.num_parameters - 2 * self.features], -1)
        return Pushforward(affine, [flow.condition(h) for flow in self.flows], type(self))


class SplineNetwork(ConditionalAutoRegressiveNN):
    """Bin widths, heights and slopes before their softmax and softplus, held within +-2; zeros give f(x) = x."""

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        # unbounded, bins narrow until float32 cannot invert them, and Pyro's inverse raises an AssertionError
        widths, heights, slopes = (2 * torch.tanh(part / 2) for part in super().forward(x, context))
        return widths, heights, slopes + log(expm1(0.999))  # Pyro adds its least slope, 0.001


class Spline(Family):
    """f(x)_i = monotone rational-quadratic spline of x_i, knots = network(x_1..x_{i-1}; h), h linear in the context.

    Pyro's `SplineAutoregressive` of quadratic order; the identity outside [-bound, bound], so f maps R^D onto R^D.

    References: Durkan et al. 2019, Neural Spline Flows.

    Args:
        num_flows: layers; the order of the features is reversed between them.
        hidden: widths of each layer's network, none below `features`.
        embedding: length of h.
        num_bins, bound: pieces of each spline, and the box, in standard deviations, that they share.
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
        sizes = features, embedding, list(widths(hidden))
        made = partial(_network, SplineNetwork, param_dims=[num_bins, num_bins, num_bins - 1])
        self.flows = nn.ModuleList(made(k, *sizes) for k in range(num_flows))
        self.num_bins, self.bound = num_bins, bound

    def density(self, parameters: Tensor, prior: Any) -> Pushforward:
        affine, h = parameters.split([2 * self.features, self.num_parameters - 2 * self.features], -1)
        spline = partial(SplineAutoregressive, count_bins=self.num_bins, bound=self.bound, order="quadratic")
        splines = [spline(self.features, partial(network, context=h)) for network in self.flows]
        return Pushforward(affine, splines, type(self))
