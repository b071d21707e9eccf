"""Expectation maximisation of the linear-Gaussian model: the expected statistics, and the closed-form maximisers.

The expected log-likelihood falls into three regressions, each of a vector on a vector with Gaussian noise:

    z_1 on 1, noise P_1;    z_t on (z_{t-1}, u_t, 1), noise Q_t;    x_t on (z_t, u_t, 1), noise R_t,

with coefficients m_1, (A, B, b) and (C, D, d). Statistics are moments of the *residual* e at the current parameters and
of the regressors w, so the maximiser is a correction of the coefficients. Fixed coefficients may therefore change in
time or between sequences; only learned ones are shared. And in float32 nothing cancels, as it would in moments of z.

Missing entries of a frame that is seen in part are completed by their mean and covariance given the rest and z. Frames
that are missing altogether need no completion. States after the last observed frame are left out of the sums: they
follow the current parameters exactly, so they would only slow the climb.

References: Shumway & Stoffer 1982; Ghahramani & Hinton 1996.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from zoo.parts.kalman.checks import coordinate_mask
from zoo.parts.kalman.inference import smoother
from zoo.parts.kalman.parameters import EVENTS, Parameters, times


class Regression(NamedTuple):
    """Moments of residual e and regressors w, summed over frames; kept for each frame where the noise varies."""

    squares: Tensor  # E[e e'], (..., p, p)
    cross: Tensor  # E[e w'], (..., p, q)
    design: Tensor  # E[w w'], (..., q, q)
    number: Tensor  # of frames, ()


class Statistics(NamedTuple):
    """The statistics of the three regressions, sufficient for the M-step."""

    initial: Regression
    transition: Regression
    emission: Regression


#: regression -> its coefficients, side by side in the order of the regressors, and its noise
FIELDS = {
    "initial": (("initial_mean",), "initial_covariance"),
    "transition": (("transition_matrix", "transition_input", "transition_bias"), "transition_covariance"),
    "emission": (("emission_matrix", "emission_input", "emission_bias"), "emission_covariance"),
}


def expect(p: Parameters, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None) -> tuple[Statistics, Tensor]:
    """The statistics at the parameters p, and log p(x_n), nats, `(N,)`.

    Args:
        x, u: `(N, T, m)`, `(N, T, k)`.
        mask: `(N, T)` or `(N, T, m)`, True where observed; elsewhere x may hold anything.
    """
    found = smoother(p, x, u, mask)
    mean, covariance = found.smoothed_means, found.smoothed_covariances
    mask = None if mask is None else coordinate_mask(mask, x)
    observed = torch.ones_like(mean[..., 0]) if mask is None else mask.any(-1).to(x)
    counted = (observed.flip(-1).cumsum(-1).flip(-1) > 0).to(x)  # up to the last observed frame

    # z_1 on the constant 1, which has no covariance with anything
    one = torch.ones_like(mean[:, :1, :1])
    residual = (mean[:, 0] - p.initial_mean).unsqueeze(1)
    none = one.new_zeros(1, p.state_dim)
    covariances = covariance[:, :1], none.mT, none[:, :1]
    initial = _moments((residual, one), covariances, counted[:, :1], _noise(p, "initial"))

    matrix = _cut(_coefficients(p, "transition"))
    regressors = _regressors(mean[:, :-1], None if u is None else u[:, 1:], p.transition_input, p.transition_bias)
    parts = covariance[:, :-1], found.smoothed_cross_covariances, covariance[:, 1:]
    transition = _moments(
        (mean[:, 1:] - times(matrix, regressors), regressors),
        _of_residual(matrix[..., : p.state_dim], *parts, weight=counted[:, 1:], apart=_noise(p, "transition").ndim > 2),
        counted[:, 1:],
        _noise(p, "transition"),
    )

    matrix, noise = _coefficients(p, "emission"), p.emission_covariance
    regressors = _regressors(mean, u, p.emission_input, p.emission_bias)
    residual = (x if mask is None else x.masked_fill(~mask, 0.0)) - times(matrix, regressors)
    loading, unseen = matrix[..., : p.state_dim], None
    # a completed residual is a linear map of the observed one, with the conditional covariance of the missing entries
    # added; frames seen in full or not at all need neither
    if mask is not None and bool((mask.any(-1) != mask.all(-1)).any()):
        gain = completion(noise, mask)
        residual = times(gain, residual)
        loading, unseen = gain @ loading, noise - gain @ noise
    emission = _moments(
        (residual, regressors),
        _of_residual(loading, covariance, own=unseen, weight=observed, apart=noise.ndim > 2),
        observed,
        noise,
    )
    return Statistics(initial, transition, emission), found.marginal_loglik


def maximise(p: Parameters, statistics: Statistics, learned: set[str]) -> dict[str, Tensor]:
    """The values of the `learned` fields that maximise the expected log-likelihood, the others being fixed.

    Raises:
        ValueError: a learned field has batch or time axes; a fixed noise that varies is singular. Names the field.
    """
    new: dict[str, Tensor] = {}
    for name, moments in statistics._asdict().items():
        coefficients, noise_name = FIELDS[name]
        present = [field for field in coefficients if getattr(p, field) is not None]
        if not learned.intersection([*present, noise_name]) or moments.number == 0:
            continue
        for field in learned.intersection([*present, noise_name]):
            # a maximiser per sequence or time would need its own sums; with time axes there is one datum for each
            value, axes = getattr(p, field), len(EVENTS[field])
            if value.ndim > axes:
                raise ValueError(
                    f"{field}: the closed form is for one value, shared by all sequences and times: expected shape "
                    f"{tuple(value.shape[-axes:])}, got {tuple(value.shape)}"
                )
        widths = [1 if _is_vector(field) else getattr(p, field).shape[-1] for field in present]
        own = torch.cat([torch.full((w,), f in learned) for f, w in zip(present, widths, strict=True)])
        cross, design = moments.cross[..., own], moments.design[..., own, :][..., own]
        step = _regress(cross, design, _noise(p, name), noise_name)
        full = step.new_zeros(len(step), len(own))
        full[:, own] = step
        for field, part in zip(present, full.split(widths, -1), strict=True):
            if field in learned:
                # step is a correction, since the residual is taken at the current coefficients
                new[field] = getattr(p, field) + (part.squeeze(-1) if _is_vector(field) else part)
        if noise_name in learned:
            squares = moments.squares - step @ cross.mT - cross @ step.mT + step @ design @ step.mT
            new[noise_name] = (squares + squares.mT) / (2 * moments.number)
    return new


def _regress(cross: Tensor, design: Tensor, noise: Tensor, name: str) -> Tensor:
    """The maximiser of -1/2 sum tr N^-1 (step design step' - 2 step cross'), the smallest if there are many."""
    if cross.shape[-1] == 0:
        return cross.new_zeros(cross.shape[-2:])
    # one noise for all frames drops out of the normal equations. A pseudo-inverse: a state that nothing excites leaves
    # the design singular, and the smallest correction then leaves its coefficients where they are
    if cross.ndim == 2:
        return cross @ torch.linalg.pinv(design, hermitian=True)
    # a noise that varies weighs the frames: the normal equations couple all entries of the step
    precision, wrong = torch.linalg.inv_ex(noise)
    if bool(wrong.any()):
        raise ValueError(f"{name}: expected positive definite matrices where the noise varies, got a singular one")
    weights = precision.expand(*cross.shape[:2], *precision.shape[-2:])
    normal = torch.einsum("ntab,ntij->aibj", weights, design)
    weighted = (precision @ cross).sum((0, 1))
    inverse = torch.linalg.pinv(normal.reshape(weighted.numel(), -1), hermitian=True)
    return (inverse @ weighted.flatten()).reshape(weighted.shape)


def _moments(
    means: tuple[Tensor, Tensor], covariances: tuple[Tensor, Tensor, Tensor], weight: Tensor, noise: Tensor
) -> Regression:
    """Moments, summed over frames unless the noise varies. means: of e, w; covariances: (e, e), (e, z), (z, z)."""
    e, w = means
    apart = noise.ndim > 2
    names = "nt,nti,ntj->ntij" if apart else "nt,nti,ntj->ij"
    found = []
    for (a, b), covariance in zip(((e, e), (e, w), (w, w)), covariances, strict=True):
        moment = torch.einsum(names, weight, a, b)
        if covariance.ndim > 2:
            covariance = covariance * weight[..., None, None] if apart else _total(covariance, weight)
        moment[..., : covariance.shape[-2], : covariance.shape[-1]] += covariance
        found.append(moment)
    return Regression(found[0], found[1], found[2], weight.sum())


def _of_residual(
    matrix: Tensor,
    z: Tensor,
    cross: Tensor | None = None,
    own: Tensor | None = None,
    *,
    weight: Tensor,
    apart: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Covariances (e, e), (e, z), (z, z) of e = y - matrix z, from z = Cov(z), cross = Cov(y, z), own = Cov(y)."""
    # sums over frames first where nothing varies: then one product of matrices serves all frames
    if not apart and matrix.ndim == 2:
        z = _total(z, weight)
        cross, own = (None if c is None else _total(c, weight) for c in (cross, own))
    across = -(matrix @ z) if cross is None else cross - matrix @ z
    squares = -across @ matrix.mT
    if cross is not None:
        squares = squares - matrix @ cross.mT
    return squares if own is None else squares + own, across, z


def _noise(p: Parameters, name: str) -> Tensor:
    """The noise covariance of a regression; one that varies has an axis for the frames of the regression."""
    noise = getattr(p, FIELDS[name][1])
    if name == "initial" and noise.ndim > 2:
        return noise.unsqueeze(-3)
    return _cut(noise) if name == "transition" else noise


def _is_vector(field: str) -> bool:
    return len(EVENTS[field]) == 1


def _total(covariance: Tensor, weight: Tensor) -> Tensor:
    covariance = covariance.expand(*weight.shape, *covariance.shape[-2:])
    return torch.einsum("nt,ntij->ij", weight, covariance)


def completion(noise: Tensor, mask: Tensor) -> Tensor:
    """The matrix that completes a frame's residual from its observed entries: R_{.o} R_oo^-1 at the columns o."""
    seen = torch.where(mask.unsqueeze(-1) & mask.unsqueeze(-2), noise, 0.0)
    # one batched call serves all patterns of missing entries: the pseudo-inverse of R, zero in the missing rows, has
    # R_oo^-1 in its place. An inverse would fail where R is singular (an entry without noise).
    return noise @ torch.linalg.pinv(seen, hermitian=True)


def _coefficients(p: Parameters, name: str) -> Tensor:
    """Those of A, B, b (or C, D, d) that the model has, side by side."""
    parts = [getattr(p, field) for field in FIELDS[name][0]]
    parts = [c.unsqueeze(-1) if field.endswith("bias") else c
             for field, c in zip(FIELDS[name][0], parts, strict=True) if c is not None]  # fmt: skip
    lead = torch.broadcast_shapes(*(c.shape[:-2] for c in parts))
    return torch.cat([c.expand(*lead, *c.shape[-2:]) for c in parts], -1)


def _regressors(z: Tensor, u: Tensor | None, matrix: Tensor | None, bias: Tensor | None) -> Tensor:
    parts = [z] + ([] if matrix is None else [u.expand(*z.shape[:-1], -1)])
    return torch.cat(parts + ([] if bias is None else [torch.ones_like(z[..., :1])]), -1)


def _cut(matrix: Tensor) -> Tensor:
    """A transition's matrix without its first entry, which is not used."""
    return matrix if matrix.ndim == 2 or matrix.shape[-3] == 1 else matrix[..., 1:, :, :]
