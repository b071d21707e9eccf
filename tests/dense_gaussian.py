"""The linear-Gaussian state-space model as one big Gaussian: the slow, plain oracle of `zoo.parts.kalman`.

    z_1 = m_1 + e_1;  z_t = A_t z_{t-1} + B_t u_t + b_t + e_t;  x_t = C_t z_t + D_t u_t + d_t + f_t

Stacked over time this is z = S z + c + e with S below the diagonal, so z = (I - S)^{-1} (c + e) and x = C z + o + f.
Every quantity is a condition of the one Gaussian over (z_1..z_T, x_1..x_T); no recursion, no factor is shared with the
code under test. Any object with the fields of `kalman.Parameters` serves; float64; differentiable by autograd.
"""

import math
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor


def over_time(value: Tensor, T: int, event: int) -> Tensor:
    """A parameter with its time axis: `(..., T, *event)`, `event` being the number of the axes behind time."""
    value = value.unsqueeze(0) if value.ndim == event else value
    shape = list(value.shape)
    shape[-event - 1] = T
    return value.expand(shape)


def blocks(values: Tensor, shift: int = 0) -> Tensor:
    """`(..., T, a, b)` to `(..., T a, T b)`, block t standing in block row t and block column t - shift."""
    T = values.shape[-3]
    where = torch.diag_embed(values.new_ones(T - shift), -shift)
    return torch.einsum("...tab,ts->...tasb", values, where).flatten(-4, -3).flatten(-2)


class Joint(NamedTuple):
    """Moments of (z_1..z_T, x_1..x_T) in this order, `(..., T (n + m))`."""

    mean: Tensor
    covariance: Tensor
    T: int
    n: int
    m: int

    def states(self, t: int) -> slice:
        """Where z_{t+1} stands."""
        return slice(t * self.n, (t + 1) * self.n)

    def observations(self, t: int) -> slice:
        """Where x_{t+1} stands."""
        start = self.T * self.n + t * self.m
        return slice(start, start + self.m)

    @property
    def data(self) -> slice:
        """Where all observations stand."""
        return slice(self.T * self.n, None)


def joint(p, T: int, u: Tensor | None = None) -> Joint:
    """The joint Gaussian, leading axes broadcast."""
    m, n = p.emission_matrix.shape[-2:]
    eye = torch.eye(T * n, dtype=torch.float64)

    def drive(matrix, bias, size):
        value = torch.zeros(T, size, dtype=torch.float64)
        if matrix is not None:
            value = value + (over_time(matrix, T, 2) @ u.unsqueeze(-1)).squeeze(-1)
        return value if bias is None else value + over_time(bias, T, 1)

    first = (torch.arange(T) == 0).double().unsqueeze(-1)  # the first entries of A, Q, B, b are not used
    start = first * p.initial_mean.unsqueeze(-2) + (1 - first) * drive(p.transition_input, p.transition_bias, n)
    first = first.unsqueeze(-1)
    noise = first * p.initial_covariance.unsqueeze(-3) + (1 - first) * over_time(p.transition_covariance, T, 2)
    solve = torch.linalg.inv(eye - blocks(over_time(p.transition_matrix, T, 2), shift=1))
    emission = blocks(over_time(p.emission_matrix, T, 2))
    states = (solve @ start.flatten(-2).unsqueeze(-1)).squeeze(-1)
    offsets = drive(p.emission_input, p.emission_bias, m).flatten(-2)
    data = (emission @ states.unsqueeze(-1)).squeeze(-1) + offsets
    zz = solve @ blocks(noise) @ solve.mT
    xz = emission @ zz
    xx = xz @ emission.mT + blocks(over_time(p.emission_covariance, T, 2))
    batch = torch.broadcast_shapes(data.shape[:-1], xx.shape[:-2])
    zz, xz, xx = (c.expand(*batch, *c.shape[-2:]) for c in (zz, xz, xx))
    covariance = torch.cat([torch.cat([zz, xz.mT], -1), torch.cat([xz, xx], -1)], -2)
    mean = torch.cat([states.expand(*batch, -1), data.expand(*batch, -1)], -1)
    return Joint(mean, covariance, T, n, m)


def condition(
    g: Joint, value: Tensor, seen: Tensor, given: slice = slice(None), want: slice = slice(None)
) -> tuple[Tensor, Tensor, Tensor]:
    """Moments of what is in `want`, given those entries of `value` in `given` that are `seen`, and their log density.

    What is not seen is decoupled (unit variance, no covariance, no residual), which adds nothing to any sum.
    """
    seen = seen[..., given]
    one = seen.to(g.mean)
    residual = (torch.where(seen, value[..., given], 0.0) - one * g.mean[..., given]).unsqueeze(-1)
    cross = g.covariance[..., want, given] * one.unsqueeze(-2)
    among = g.covariance[..., given, given] * one.unsqueeze(-2) * one.unsqueeze(-1) + torch.diag_embed(1 - one)
    factor = torch.linalg.cholesky(among)
    gain = torch.cholesky_solve(cross.mT, factor).mT
    mean = g.mean[..., want] + (gain @ residual).squeeze(-1)
    quadratic = (residual.mT @ torch.cholesky_solve(residual, factor)).squeeze(-1).squeeze(-1)
    determinant = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    loglik = -0.5 * (quadratic + determinant + one.sum(-1) * math.log(2 * math.pi))
    return mean, g.covariance[..., want, want] - gain @ cross.mT, loglik


def entries(g: Joint, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """x and its mask (none, per frame or per coordinate) as entries of the joint; frames behind x are not seen."""
    if mask is None:
        mask = torch.ones_like(x, dtype=torch.bool)
    elif mask.ndim < x.ndim:
        mask = mask.unsqueeze(-1)
    batch = torch.broadcast_shapes(g.mean.shape[:-1], x.shape[:-2], mask.shape[:-2])
    seen = torch.zeros(*batch, g.mean.shape[-1], dtype=torch.bool)
    value = torch.zeros(*batch, g.mean.shape[-1], dtype=torch.float64)
    frames = slice(g.T * g.n, g.T * g.n + x.shape[-2] * g.m)
    seen[..., frames] = mask.expand(*batch, *x.shape[-2:]).flatten(-2)
    value[..., frames] = torch.where(seen[..., frames], x.expand(*batch, *x.shape[-2:]).flatten(-2), 0.0)
    return value, seen


def marginal_loglik(p, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """log p(observed entries of x), `(...)`."""
    g = joint(p, x.shape[-2], u)
    return condition(g, *entries(g, x, mask), given=g.data)[2]


def log_joint(p, z: Tensor, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """log p(z, observed entries of x), `(...)`."""
    g = joint(p, x.shape[-2], u)
    value, seen = entries(g, x, mask)
    value, seen = value.expand(*z.shape[:-2], -1).clone(), seen.clone()
    value[..., : g.T * g.n], seen[..., : g.T * g.n] = z.flatten(-2), True
    return condition(g, value, seen)[2]


def filter(p, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None) -> SimpleNamespace:
    """What `kalman.filter` returns: each moment by a condition of its own, on x_1..x_{t-1} or on x_1..x_t."""
    g = joint(p, x.shape[-2], u)
    value, seen = entries(g, x, mask)
    found = []
    for t in range(g.T):
        before, now = (slice(g.T * g.n, g.observations(s).start) for s in (t, t + 1))
        predicted, filtered = (condition(g, value, seen, given, g.states(t)) for given in (before, now))
        found.append([filtered[2] - predicted[2], *predicted[:2], *filtered[:2]])
    steps, means, covariances, filtered_means, filtered_covariances = zip(*found, strict=True)
    loglik = torch.stack(steps, -1)
    return SimpleNamespace(
        marginal_loglik=loglik.sum(-1),
        loglik_per_step=loglik,
        predicted_means=torch.stack(means, -2),
        predicted_covariances=torch.stack(covariances, -3),
        filtered_means=torch.stack(filtered_means, -2),
        filtered_covariances=torch.stack(filtered_covariances, -3),
    )


def smoother(p, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None) -> SimpleNamespace:
    """What `kalman.smoother` returns, and `joint_covariance` of all z, `(..., T n, T n)`."""
    g = joint(p, x.shape[-2], u)
    mean, cov, loglik = condition(g, *entries(g, x, mask), given=g.data)
    filtered = filter(p, x, u, mask)
    cross = [cov[..., g.states(t + 1), g.states(t)] for t in range(g.T - 1)]
    return SimpleNamespace(
        marginal_loglik=loglik,
        filtered_means=filtered.filtered_means,
        filtered_covariances=filtered.filtered_covariances,
        smoothed_means=torch.stack([mean[..., g.states(t)] for t in range(g.T)], -2),
        smoothed_covariances=torch.stack([cov[..., g.states(t), g.states(t)] for t in range(g.T)], -3),
        smoothed_cross_covariances=torch.stack(cross, -3) if cross else cov.new_zeros(*cov.shape[:-2], 0, g.n, g.n),
        joint_covariance=cov[..., : g.T * g.n, : g.T * g.n],
    )


def forecast(p, x: Tensor, k: int, u: Tensor | None = None, mask: Tensor | None = None) -> SimpleNamespace:
    """What `kalman.forecast` returns: the k states and observations behind the T frames of x."""
    T = x.shape[-2]
    g = joint(p, T + k, u)
    mean, cov, _ = condition(g, *entries(g, x, mask), given=g.data)
    states, data = ([place(t) for t in range(T, T + k)] for place in (g.states, g.observations))
    return SimpleNamespace(
        predicted_means=torch.stack([mean[..., t] for t in states], -2),
        predicted_covariances=torch.stack([cov[..., t, t] for t in states], -3),
        observation_means=torch.stack([mean[..., t] for t in data], -2),
        observation_covariances=torch.stack([cov[..., t, t] for t in data], -3),
    )
