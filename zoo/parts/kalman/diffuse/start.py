"""Starts of which nothing is known: states of infinite variance, taken to their limit exactly.

An infinite entry on the diagonal of P_1 marks a diffuse state. With z_1 = m_1 + S delta + e, e ~ N(0, P), S the columns
of the identity that belong to diffuse states, and delta ~ N(0, kappa I) for kappa to infinity, the likelihood is

    lim log p(x) + q / 2 log kappa,    q the number of diffuse states,

that of Durbin & Koopman (2012, section 7.2) and of statsmodels' `use_exact_diffuse`. The first d frames, as many as
determine delta, are solved at once as the regression that they are, x_{1:d} = X delta + noise (generalised least
squares: de Jong 1991). They leave p(z_{d+1} | x_{1:d}), a proper start, from which the recursions of either engine run
as ever. So the two need no second set of formulas for infinite variances, and gradients come from both parts.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from zoo.parts.kalman.checks import check, check_finite, coordinate_mask
from zoo.parts.kalman.given import distinct
from zoo.parts.kalman.parameters import EVENTS, Parameters, doubled, frames, offset_of, times

# relative size of a singular value of X, its columns of length 1, below which the frames do not determine delta
_LEAST = 1e-7


class Later(NamedTuple):
    """The frames after the first d, as arguments of every function of `kalman`."""

    parameters: Parameters
    x: Tensor
    u: Tensor | None
    mask: Tensor | None


class Begun(NamedTuple):
    """The first d frames, solved; all in float64.

    Attributes:
        steps: d.
        log_density: the limit of log p(x_{1:d}) + q / 2 log kappa, `(...)`.
        mean, covariance: of the states in one vector given x_{1:d}: z_1..z_{d+1} if they were asked for, else z_{d+1}
            alone. Where x has no frame d + 1, z_{d+1} is z_d.
        ahead: Cov(z_{d+1} | x_{1:d}), zero in the directions that are certain.
        later: the frames after them, started at p(z_{d+1} | x_{1:d}); None where there are none.
    """

    steps: int
    log_density: Tensor
    mean: Tensor
    covariance: Tensor
    ahead: Tensor
    later: Later | None


def diffuse_states(parameters: Parameters) -> Tensor | None:
    """True for each state that starts diffuse, `(n,)`; None if none does.

    Raises:
        ValueError: the sequences differ in it.
    """
    infinite = parameters.initial_covariance.diagonal(dim1=-2, dim2=-1).isinf()
    if not infinite.any():
        return None
    each = infinite.flatten(0, -2) if infinite.ndim > 1 else infinite.unsqueeze(0)
    if not (each == each[0]).all():
        raise ValueError("initial_covariance: expected the same infinite variances in all sequences")
    return each[0]


def finite_start(parameters: Parameters) -> Parameters:
    """The parameters with a finite variance, on the scale of the noise, in place of each infinite one."""
    # added to kappa it changes nothing in the limit, and where x is exact (R = 0) it keeps the covariance of the first
    # frames regular. On the scale of the noise it costs no digits
    start = parameters.initial_covariance
    infinite = start.diagonal(dim1=-2, dim2=-1).isinf()
    proper = torch.where(infinite.unsqueeze(-1) | infinite.unsqueeze(-2), 0.0, start)
    noises = proper, parameters.transition_covariance, parameters.emission_covariance
    scale = torch.stack([a.detach().diagonal(dim1=-2, dim2=-1).max() for a in noises]).max()
    finite = proper + torch.diag_embed(torch.where(infinite, torch.where(scale > 0, scale, 1.0), 0.0).to(start))
    return parameters._replace(initial_covariance=finite)


def refuse_diffuse(parameters: Parameters, who: str) -> None:
    """Refuses an infinite variance of the start, for a computation (`who`) that needs a density of z_1.

    Raises:
        ValueError: a state starts diffuse.
    """
    if diffuse_states(parameters) is not None:
        raise ValueError(f"initial_covariance: infinite, and {who} needs a proper start; give it a finite variance")


def begin(
    parameters: Parameters, x: Tensor, u: Tensor | None, mask: Tensor | None, *, whole: bool = False
) -> Begun | None:
    """The first frames of a model with a diffuse start, solved; None where no state starts diffuse.

    Args:
        parameters, x, u, mask: as in `kalman.marginal_loglik`.
        whole: True finds the states of all of these frames, False those of the next frame alone.

    Raises:
        ValueError: as `kalman.marginal_loglik`; the observed frames do not determine the diffuse states.
    """
    which = diffuse_states(parameters)
    if which is None:
        return None
    check(parameters, u, x=x)
    seen = torch.ones_like(x, dtype=torch.bool) if mask is None else coordinate_mask(mask, x)
    check_finite(x.masked_fill(~seen, 0.0), mask is not None)
    p = doubled(parameters)
    u = None if u is None else u.double()
    offset = offset_of(p.emission_input, p.emission_bias, u)
    y = (x.double() if offset is None else x.double() - offset).masked_fill(~seen, 0.0)
    # a mask that sequences share needs no covariances of its own for each of them
    seen = distinct(seen)
    steps = _determined_after(p, which, seen)
    solved = _solve(p, which, y, None if mask is None else seen.double(), u, steps, whole)
    if steps == x.shape[-2]:
        return solved
    n, rest = p.state_dim, slice(steps, None)
    cut = [None if a is None else a[..., rest, :] for a in (u, None if mask is None else seen.expand(x.shape))]
    start = frames(p, rest)._replace(initial_mean=solved.mean[..., -n:], initial_covariance=solved.ahead)
    return solved._replace(later=Later(start, x.double()[..., rest, :], *cut))


@torch.no_grad()
def _determined_after(p: Parameters, which: Tensor, seen: Tensor) -> int:
    """The least number of frames that determine the diffuse states of every sequence."""
    loading = torch.eye(p.state_dim).to(p.initial_mean)[:, which]
    q, rows = loading.shape[-1], seen.new_zeros(0, loading.shape[-1], dtype=torch.float64)
    missing = torch.ones((), dtype=torch.bool)
    for t in range(seen.shape[-2]):
        if t:
            loading = _at("transition_matrix", p.transition_matrix, t) @ loading
        if not seen[..., t, :].any():
            continue
        new = seen[..., t, :, None] * (_at("emission_matrix", p.emission_matrix, t) @ loading)
        rows = _stacked([rows, new])
        if rows.shape[-2] < q:
            continue
        length = rows.norm(dim=-2, keepdim=True)
        missing = torch.linalg.svdvals(rows / torch.where(length > 0, length, 1.0))[..., -1] < _LEAST * q
        if not missing.any():
            return t + 1
    lacking = missing.nonzero()[0].tolist() if missing.ndim else []
    where = f" of sequence {lacking[0] if len(lacking) == 1 else tuple(lacking)} (counted from 0)" if lacking else ""
    raise ValueError(f"x: the observed frames{where} do not determine the {q} states that start diffuse; "
                     "give these a finite variance, or more data")  # fmt: skip


def _solve(
    p: Parameters, which: Tensor, y: Tensor, seen: Tensor | None, u: Tensor | None, steps: int, whole: bool
) -> Begun:
    """The regression of the first `steps` frames on delta. y: x - D u - d; seen: one where observed."""
    n, count = p.state_dim, steps * p.data_dim
    path, noise, offsets = _path(p, y.shape[-2], u, steps)
    emission = [_at("emission_matrix", p.emission_matrix, t) for t in range(steps)]
    own = torch.stack(torch.broadcast_tensors(*(_at("emission_covariance", p.emission_covariance, t)
                                                for t in range(steps))), -3)  # fmt: skip
    if seen is not None:
        # as in `given.canonical`: a missing coordinate has no row in C, unit noise of its own, and y = 0
        here = seen[..., :steps, :]
        emission = [here[..., t, :, None] * c for t, c in enumerate(emission)]
        own = own * here.unsqueeze(-1) * here.unsqueeze(-2) + torch.diag_embed(1 - here)
    # x_{1:d} and the states wanted, as maps of (z_1, noise of z_2, ..., noise of z_{d+1})
    maps = _stacked([*(c @ z for c, z in zip(emission, path, strict=False)), *(path if whole else path[-1:])])
    spread = torch.einsum("...rkn,...knl->...rkl", maps.unflatten(-1, (-1, n)), noise).flatten(-2) @ maps.mT
    means = times(maps, offsets)
    blocks = torch.einsum("...kij,kl->...kilj", own, torch.eye(steps).to(own)).flatten(-4, -3).flatten(-2)
    root, info = torch.linalg.cholesky_ex(spread[..., :count, :count] + blocks)
    if info.any():
        raise ValueError("emission_covariance: one of the first frames of x is certain given the others, so x has no "
                         "density; expected noise in every observed direction")  # fmt: skip
    whiten = lambda a: torch.linalg.solve_triangular(root, a, upper=False)  # noqa: E731
    design, target = maps[..., :n][..., which], y[..., :steps, :].flatten(-2) - means[..., :count]
    scaled, error, shared = (
        whiten(design[..., :count, :]), whiten(target.unsqueeze(-1)), whiten(spread[..., :count, count:])
    )  # fmt: skip
    # by QR and not by the normal equations, which would square the condition number of X
    basis, triangle = torch.linalg.qr(scaled)
    explained = basis.mT @ error
    log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1) + triangle.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
    observed = count if seen is None else seen[..., :steps, :].sum((-2, -1))
    squares = error.square().sum((-2, -1)) - explained.square().sum((-2, -1))
    log_density = -0.5 * (observed * math.log(2 * math.pi) + squares) - log_det
    # each state as it follows from x at a known delta, and its share of what x leaves open about delta
    open_ = torch.linalg.solve_triangular(triangle, design[..., count:, :] - shared.mT @ scaled, upper=True, left=False)
    mean = means[..., count:] + (shared.mT @ error + open_ @ explained).squeeze(-1)
    before, after = spread[..., count:, count:], open_ @ open_.mT
    covariance = before - shared.mT @ shared + after
    ahead = _covariance(*(a[..., -n:, -n:] for a in (covariance, before + after)))
    return Begun(steps, log_density, mean, covariance, ahead, None)


def _covariance(difference: Tensor, terms: Tensor) -> Tensor:
    """A covariance that was computed as a difference of `terms`, without its negative eigenvalues."""
    # exact observations leave states without variance, of which rounding makes plus or minus 1e-16 of the terms; the
    # recursions would refuse it as no covariance. The derivative is that of the difference
    value = ((difference + difference.mT) / 2).detach()
    size = terms.detach().diagonal(dim1=-2, dim2=-1).sqrt()
    size = torch.where(size > 0, size, 1.0)
    values, vectors = torch.linalg.eigh(value / (size.unsqueeze(-1) * size.unsqueeze(-2)))
    root = size.unsqueeze(-1) * vectors * torch.where(values > 1e-13, values, 0.0).sqrt().unsqueeze(-2)
    # a certain state, whose own variance is rounding too
    root = torch.where((root.square().sum(-1) > 1e-13 * size.square()).unsqueeze(-1), root, 0.0)
    symmetric = (difference + difference.mT) / 2
    return symmetric + (root @ root.mT - symmetric).detach()


def _path(p: Parameters, T: int, u: Tensor | None, steps: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """z_1..z_{d+1} as maps of (z_1, noise of z_2, ...), the covariances `(..., d + 1, n, n)` and means of these."""
    n, q = p.state_dim, p.transition_covariance
    identity = torch.eye(n).to(p.initial_mean)
    moved = offset_of(p.transition_input, p.transition_bias, u)
    start = finite_start(p).initial_covariance
    maps, noise, means = [pad(identity, (0, steps * n))], [start], [p.initial_mean]
    for t in range(1, steps + 1):
        own = pad(identity, (t * n, (steps - t) * n))
        # after the last frame z stays where it is
        last = t == T
        maps.append((maps[-1] if last else _at("transition_matrix", p.transition_matrix, t) @ maps[-1]) + own)
        noise.append(torch.zeros_like(identity) if last else _at("transition_covariance", q, t))
        shift = None if moved is None or last else _at("transition_bias", moved, t)
        means.append(identity.new_zeros(n) if shift is None else shift)
    return maps, torch.stack(torch.broadcast_tensors(*noise), -3), torch.cat(torch.broadcast_tensors(*means), -1)


def _at(name: str, value: Tensor, t: int) -> Tensor:
    """A field's value at frame t, counted from 0."""
    axes = len(EVENTS[name])
    return value if value.ndim == axes else value.select(-axes - 1, t if value.shape[-axes - 1] > 1 else 0)


def _stacked(matrices: list[Tensor]) -> Tensor:
    """The rows of all, below one another."""
    lead = torch.broadcast_shapes(*(a.shape[:-2] for a in matrices))
    return torch.cat([a.expand(*lead, *a.shape[-2:]) for a in matrices], -2)
