"""log p(x) of sequences by a particle filter that draws from a guide: importance sampling that resamples on its way.

At step t each of K particles draws z_t from the guide's conditional, and its weight is multiplied by

    p(z_t | s_t) p(x_t | z_t, s_t) / q(z_t | s_t, x).

Where few particles carry the weight of all, K new ones are drawn among them in proportion to their weights, and the
mean weight becomes a factor of the estimate. The estimate has the expectation p(x), as that of plain importance
sampling, so its logarithm is a lower bound on log p(x) in expectation; but the weights of long sequences do not
degenerate: what a hundred particles reach here may take millions there.

References: Doucet and Johansen 2009; with learned proposals Maddison et al. 2017, Le et al. 2018, Naesseth et al. 2018.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from zoo.parts.rollout import at_steps


def particle_filter(q: Any, num_particles: int, resample_below: float) -> Tensor:
    """log of the estimate for each sequence, float64, `(N,)`, nats.

    Args:
        q: a guide's `Trajectory`, batch `(N,)`. After the last observed frame it is the prior, and nothing changes.
        num_particles: K.
        resample_below: see `zoo.infer.smc_log_likelihood`.
    """
    model, N, T, K = q.model, q.batch_shape[0], q.event_shape[0], num_particles
    x, inputs, context = q.x.unbind(-2), at_steps(q.inputs, T), at_steps(q.context, T)
    s, moving = q.start(), None
    weights = torch.zeros(K, N, dtype=torch.double, device=q.x.device)  # logarithms
    total = weights.new_zeros(N)
    for t in range(T):
        step = q.conditional(None if q.independent else s, *context[t]).expand((K, N))
        z = step.rsample()
        ratio = model.transition(s).log_prob(z) - getattr(step, "log_prob_of_draw", step.log_prob)(z)
        frame = model.emission(z, s).log_prob(x[t])
        if q.observed is not None:
            frame = torch.where(q.observed[:, t], frame, 0.0)
        if q.followed is not None:
            ratio = torch.where(q.followed[:, t], ratio, 0.0)
        weights = weights + ratio + frame
        if t + 1 == T:
            break
        before, s = s, model.advance(s, z, x[t], *inputs[t + 1])
        if moving is None:  # of s_2 on: which tensors of a state differ between particles
            alone = tree_flatten(model.advance(before, z[0], x[t], *inputs[t + 1]))[0]
            both = zip(tree_flatten(s)[0], alone, strict=True)
            moving = [v is not None and v.dim() > w.dim() for v, w in both]
        normalised = weights.softmax(0)
        anew = 1 / normalised.square().sum(0) < resample_below * K * (1 + 1e-9)
        if anew.any():
            parents = torch.where(anew, _systematic(normalised), torch.arange(K, device=z.device).unsqueeze(-1))
            leaves, form = tree_flatten(s)
            s = tree_unflatten([_take(v, parents) if move else v for v, move in zip(leaves, moving, strict=True)], form)
            total = torch.where(anew, total + weights.logsumexp(0) - math.log(K), total)
            weights = torch.where(anew, 0.0, weights)
    return total + weights.logsumexp(0) - math.log(K)


def _take(v: Tensor, parents: Tensor) -> Tensor:
    """Of each sequence the particles that survive; v `(K, N, ...)`."""
    index = parents.reshape(*parents.shape, *[1] * (v.dim() - 2))
    return v.gather(0, index.expand_as(v))


def _systematic(weights: Tensor) -> Tensor:
    """K indices for each sequence, in proportion to its weights `(K, N)`: one uniform number places all K."""
    K, N = weights.shape
    places = (torch.arange(K, device=weights.device) + torch.rand(N, 1, dtype=weights.dtype, device=weights.device)) / K
    return torch.searchsorted(weights.T.cumsum(-1).contiguous(), places).clamp(max=K - 1).T
