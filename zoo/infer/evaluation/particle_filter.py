"""log p(x) of sequences by a particle filter that draws from a guide: importance sampling that resamples on its way.

At step t each of K particles draws z_t from the guide's conditional, and its weight is multiplied by

    p(z_t | s_t) p(x_t | z_t, s_t) / q(z_t | s_t, x).

At some steps K new particles are drawn among them in proportion to their weights, and the mean weight becomes a factor
of the estimate. The estimate has the expectation p(x), as that of plain importance sampling, so its logarithm is a
lower bound on log p(x) in expectation. But the weights of long sequences do not degenerate: a hundred particles reach
here an accuracy for which plain importance sampling may need millions.

When to resample depends on the guide. With q(z_t | s_t, x_t) the weights tell good particles from bad ones, and one
resamples as soon as few particles carry the weight of all. A guide that looks ahead has seen x_{t+1:T} when it draws
z_t. With the exact smoother the weights up to step t are p(x) / p(x_{t+1:T} | s_{t+1}), equal again at the end alone:
particles are light because their future is bright, and to resample by such weights throws the best away. (Measured, it
made the estimate noisier than plain importance sampling, whose error is zero there.) No rule on the weights up to t can
tell the two cases apart, but a pilot run that knows the weights to the end can: `_by_pilot`.

Pyro's `SMCFilter` did not serve: it wants a model with a step method, gives a whole batch one weight, resamples by
effective sample size alone, and returns no estimate of log p(x).

References: Doucet and Johansen 2009; with learned proposals Maddison et al. 2017, Le et al. 2018, Naesseth et al. 2018.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from zoo.infer.carry import after_first_frame, keyword
from zoo.infer.evaluation.sequences import checked, in_batches, refuse_nan_weights, sequences
from zoo.infer.pair import look_at
from zoo.parts.aside import held, seeded
from zoo.parts.checks import refuse_entries
from zoo.parts.trajectory import Trajectory, at_steps

__all__ = ["smc_log_likelihood"]

# particles of a pilot, least and most: 32 give a variance to within a quarter, 100 well enough
PILOT = 32, 100

# variance, nats^2, that a stretch between two resamplings may add to log p(x): a pilot cannot tell larger ones
TRUSTED = 2.0

# most steps that a plan chooses from: the plan's cost grows with their square, and more would cost more than the run
MOST = 1000

# (t, log weights `(K, N)` after step t) -> bool `(N,)`, True for the sequences to resample
Rule = Callable[[int, Tensor], Tensor]


def smc_log_likelihood(
    model: Callable,
    guide: Any,
    x: Any,
    u: Any = None,
    mask: Any = None,
    *,
    first: Any = None,
    num_particles: int = 100,
    resample_below: float | None = None,
    batch_size: int = 32,
    seed: int | None = None,
) -> Tensor:
    """log of an unbiased estimate of p(x_i), nats, float64, `(N,)`: sequential Monte Carlo with the guide as proposal.

    The pair is run in evaluation mode. A run with a second seed shows the Monte Carlo error.

    Args:
        model, guide: a `StateSpace`, and a guide of it whose `posterior` is a `Trajectory`: `MeanField`, `Filter`,
            `Smoother`, your own.
        x, u, mask, first, batch_size, seed: as in `sequence_log_likelihood`; masks are of whole frames, `(N, T)`.
        num_particles: K, all of them in memory at once for a batch.
        resample_below: the rule by which particles are drawn anew. None: after the steps that are best for each
            sequence, by a pilot run of 32 to 100 particles; with guides that look ahead there may be none. A share:
            where the effective sample size 1 / sum_k w_k^2 of the normalised weights is below this share of K, which
            misleads with smoothers; 0: never, which is plain importance sampling; 1: at every step.

    Raises:
        ValueError: a guide of another kind or of another model, masks of single entries; as `sequence_log_likelihood`.
        TypeError: as `sequence_log_likelihood`.
    """
    if num_particles < 1 or batch_size < 1:
        raise ValueError(f"expected at least one particle and sequence, got {num_particles=}, {batch_size=}")
    if resample_below is not None and not 0 <= resample_below <= 1:
        raise ValueError(f"resample_below: expected a share of the particles, 0 to 1, got {resample_below}")
    x, u, mask, first = sequences(model, guide, x, u, mask, first, on_file=True)
    observed = checked(x, u, mask, first)
    refuse_entries(mask, "a particle filter")
    found = torch.zeros(len(x), dtype=torch.double, device=x.device)
    with torch.no_grad(), held(model, guide), seeded(seed):
        for rows, T in in_batches(model, guide, observed, batch_size):
            args = tuple(None if v is None else v[rows, :T] for v in (x, u, None if mask is None else observed))
            carry = None if first is None else after_first_frame(model, first[rows])
            look_at(model, guide, args, keyword(carry), rows)
            q = _proposal(model, guide, args, carry)
            found[rows] = particle_filter(q, num_particles, resample_below)
    refuse_nan_weights(found.isnan())
    return found


def _proposal(model: Any, guide: Any, args: tuple, carry: Any) -> Trajectory:
    posterior = getattr(guide, "posterior", None)
    q = None if posterior is None else posterior(*args, **keyword(carry))
    if not isinstance(q, Trajectory):
        raise ValueError(f"guide: expected one that draws step by step (MeanField, Filter, Smoother), got "
                         f"{type(guide).__name__}")  # fmt: skip
    if q.model is not model:
        raise ValueError(f"guide: {type(guide).__name__} is that of another {type(q.model).__name__}")
    return q


def particle_filter(q: Any, num_particles: int, resample_below: float | None) -> Tensor:
    """log of the estimate for each sequence, float64, `(N,)`, nats.

    Args:
        q: a guide's `Trajectory`, batch `(N,)`. After the last observed frame it is the prior, and weights stay equal.
        num_particles: K.
        resample_below: see `smc_log_likelihood`.
    """
    rule = _by_pilot(q, num_particles) if resample_below is None else _by_size(resample_below)
    return _filter(q, num_particles, rule)


def _by_size(share: float) -> Rule:
    """The rule that resamples where the effective sample size is below a share of the particles."""
    # a little above the share: equal weights have the size K up to rounding, and a share of 1 means every step
    return lambda t, weights: 1 / weights.softmax(0).square().sum(0) < share * len(weights) * (1 + 1e-9)


def _by_pilot(q: Any, num_particles: int) -> Rule:
    """The rule that follows the best plan for the weights of a pilot, a run without resampling.

    The pilot is independent of the run that follows, so the estimate stays unbiased. Where the guide is so bad that
    some stretch of the plan costs more than `TRUSTED`, the pilot has gone astray, and its weights tell nothing of those
    that resampled particles have: there the rule goes by effective sample size.
    """
    logs: list[Tensor] = []

    def never(t: int, weights: Tensor) -> Tensor:
        logs.append(weights)
        return torch.zeros_like(weights[0], dtype=torch.bool)

    _filter(q, min(max(num_particles, PILOT[0]), PILOT[1]), never)
    plan, worst = resampling_plan(torch.stack(logs), num_particles)
    by_size = _by_size(0.5)
    return lambda t, weights: torch.where(worst < TRUSTED, plan[t], by_size(t, weights))


def _filter(q: Any, K: int, resamples: Rule) -> Tensor:
    """log of the estimate by K particles, resampled by the rule, `(N,)`."""
    model, N, T = q.model, q.batch_shape[0], q.event_shape[0]
    x, inputs, context = q.x.unbind(-2), at_steps(q.inputs, T), at_steps(q.context, T)
    s, moving = q.start(), None
    # logarithms, and in float64: hundreds of steps add up
    weights = torch.zeros(K, N, dtype=torch.double, device=q.x.device)
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
        anew = resamples(t, weights)
        if t + 1 == T:
            break
        before, s = s, model.advance(s, z, x[t], *inputs[t + 1])
        # a run of one particle alone tells which tensors of a state differ between particles (not SRNN's d): they lack
        # an axis there; first at s_2, since all particles share the start
        if moving is None:
            alone = tree_flatten(model.advance(before, z[0], x[t], *inputs[t + 1]))[0]
            both = zip(tree_flatten(s)[0], alone, strict=True)
            moving = [v is not None and v.dim() > w.dim() for v, w in both]
        if anew.any():
            parents = torch.where(anew, _systematic(weights.softmax(0)), torch.arange(K, device=z.device).unsqueeze(-1))
            leaves, form = tree_flatten(s)
            s = tree_unflatten([_take(v, parents) if move else v for v, move in zip(leaves, moving, strict=True)], form)
            total = torch.where(anew, total + weights.logsumexp(0) - math.log(K), total)
            weights = torch.where(anew, 0.0, weights)
    return total + weights.logsumexp(0) - math.log(K)


def resampling_plan(log_weights: Tensor, num_particles: int) -> tuple[Tensor, Tensor]:
    """The steps after which to resample each sequence so that the estimate is least noisy.

    Between two resamplings, after steps a and b, the estimate gains as a factor the mean of K weights. If these weights
    have Gaussian logarithms of variance v, the logarithm of their mean has about the variance
    log(1 + (exp(v) - 1) / K). v is estimated from the L_b - L_a above their mean, since bad guides have many weights
    far too small, which a mean of weights does not feel. Dynamic programming finds the steps with the least sum.

    Args:
        log_weights: L_1, ..., L_T of a run without resampling, `(T, particles, N)`.
        num_particles: K.

    Returns:
        The plan, bool `(T, N)`; the largest variance that a stretch of it adds to the estimated log p(x), `(N,)`.
    """
    T, _, N = log_weights.shape
    # made finite, so that the sums below are finite; the run itself will show a NaN
    L = torch.nan_to_num(log_weights, nan=0.0, neginf=-1e6)
    L = torch.nn.functional.pad((L - L.mean(1, keepdim=True)).permute(2, 0, 1), (0, 0, 1, 0))
    # a long sequence offers every second or third step and so on, and always the last
    steps = torch.arange(T, 0, -max(1, -(-T // MOST)), device=L.device).flip(0)
    L = L[:, torch.nn.functional.pad(steps, (1, 0))].float()  # (N, 1 + len(steps), particles)
    # for the best plan up to each step: the variance of all its stretches, the largest of one, the start of the last
    least, worst = log_weights.new_zeros(2, *L.shape[:2])
    last = torch.zeros(L.shape[:2], dtype=torch.long, device=L.device)
    others = least.new_tensor(num_particles - 1.0).log()
    for b in range(1, L.shape[1]):
        v = 2 * (L[:, b, None] - L[:, :b]).relu().square().mean(-1).double()
        # log((exp(v) + K - 1) / K), and a little for each stretch: of equal plans the one with fewer steps
        noise = torch.logaddexp(v, others) - math.log(num_particles) + 1e-9
        least[:, b], last[:, b] = (least[:, :b] + noise).min(-1)
        worst[:, b] = torch.maximum(noise, worst[:, :b]).gather(1, last[:, b, None]).squeeze(-1)
    plan = torch.zeros(N, T + 1, dtype=torch.bool, device=L.device)
    begin = last[:, -1]
    while bool(begin.any()):
        plan.scatter_(1, torch.where(begin > 0, steps[begin - 1], 0).unsqueeze(-1), True)
        # the start of step 0 is 0, so that a sequence whose plan is complete marks no more steps
        begin = last.gather(1, begin.unsqueeze(-1)).squeeze(-1)
    return plan[:, 1:].T, worst[:, -1]


def _take(v: Tensor, parents: Tensor) -> Tensor:
    """The entries of v `(K, N, ...)` that belong to the surviving particles `parents`, `(K, N)`."""
    index = parents.reshape(*parents.shape, *[1] * (v.dim() - 2))
    return v.gather(0, index.expand_as(v))


def _systematic(weights: Tensor) -> Tensor:
    """K indices for each sequence, in proportion to its weights `(K, N)`: one uniform number places all K."""
    # unbiased, as each place is uniform within its K-th part of [0, 1], and with less noise than K independent draws
    K, N = weights.shape
    places = (torch.arange(K, device=weights.device) + torch.rand(N, 1, dtype=weights.dtype, device=weights.device)) / K
    return torch.searchsorted(weights.T.cumsum(-1).contiguous(), places).clamp(max=K - 1).T
