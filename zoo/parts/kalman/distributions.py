"""The linear-Gaussian state space model as distributions: over the observations, and over the states given them."""

import math
from typing import Any

import torch
from pyro.distributions import MultivariateNormal, TorchDistribution, constraints, is_validation_enabled
from torch import Size, Tensor

from zoo.parts.kalman import inference as kalman
from zoo.parts.kalman.inference import Parameters

_TIMED = {name: 1 if name.endswith("bias") else 2 for name in Parameters._fields[2:]}  # axes of the vector or matrix


class LinearGaussian(TorchDistribution):
    """p(x_1..x_T) of the linear-Gaussian state space model, the states summed out: event `(T, data_dim)`.

    Args:
        parameters: `kalman.Parameters`; their batch axes, those of u and of the mask make the batch shape.
        T: number of frames.
        u: controls, `(..., T, control_dim)`.
        mask: True where observed, per frame `(..., T)` or per entry `(..., T, data_dim)`; `log_prob` is then of
            what is observed, and the value may hold anything, NaN too, where the mask is False. Draws are of all.
        burn: the number of each sequence's first observations that are given, not scored: log p(the others | these).
            An observation is a frame of which any entry is observed; without a mask these are x_1..x_burn. With a
            diffuse start their density means little. If gaps hide a part of the start for longer (a month of a
            seasonal pattern that is first seen in the second year), log p depends on its variance unless burn is
            larger. statsmodels' `loglikelihood_burn` counts missing frames too.

    Raises:
        ValueError: as `kalman.marginal_loglik` does; burn outside [0, T), a sequence of fewer observations than burn.
    """

    arg_constraints: dict = {}  # noqa: RUF012
    has_rsample = True
    support = constraints.independent(constraints.real, 2)

    def __init__(
        self,
        parameters: Parameters,
        T: int,
        u: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        burn: int = 0,
    ) -> None:
        if T < 1 or not 0 <= burn < T:
            raise ValueError(f"LinearGaussian: expected T >= 1 and 0 <= burn < T, got T = {T}, burn = {burn}")
        mask = None if mask is None else _entries(mask, T, parameters.data_dim)
        if burn and mask is not None:
            _refuse_few(mask, burn)
        self.parameters, self.u, self.mask_, self.burn = parameters, u, mask, burn
        batch = batch_axes(parameters, *(() if u is None else (u,)), *(() if mask is None else (mask,)))
        super().__init__(batch, Size((T, parameters.data_dim)), validate_args=False)

    def expand(self, batch_shape: Size, _instance: object = None) -> "LinearGaussian":
        return _expanded(self, batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        if value.shape[-2:] != self._event_shape:
            raise ValueError(f"x: expected shape (..., {', '.join(map(str, self._event_shape))}), "
                             f"got {tuple(value.shape)}")  # fmt: skip
        mask = self.mask_
        lead = torch.broadcast_shapes(value.shape[:-2], () if mask is None else mask.shape[:-2])
        value = value.expand(*lead, *self._event_shape)
        mask = None if mask is None else mask.expand(value.shape)
        try:
            total = kalman.marginal_loglik(self.parameters, value, self.u, mask)
        except ValueError:
            if is_validation_enabled():
                raise
            # as elsewhere in torch; a sampler that validates nothing (NUTS) has stepped too far, and counts it so
            return sum(p.sum() for p in self.parameters if p is not None) * math.nan + value.new_zeros(lead)
        if self.burn:
            given, end = (None, self.burn) if mask is None else _first_observed(mask, self.burn)
            first = [None if a is None else a[..., :end, :] for a in (value, self.u, given)]
            total = total - kalman.marginal_loglik(until(self.parameters, end), *first)
        return total.expand(torch.broadcast_shapes(total.shape, self._batch_shape))

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        return self._draw(sample_shape)[1]

    def _draw(self, sample_shape: Size) -> tuple[Tensor, Tensor]:
        """States and observations, every entry of the batch a draw of its own."""
        T = self._event_shape[0]
        own = batch_axes(self.parameters, *(() if self.u is None else (self.u,)))
        lead, inner = _split(self._batch_shape, own)
        parameters = self.parameters
        if inner != own:  # an axis of length 1 that has been expanded needs own draws
            parameters = parameters._replace(initial_mean=parameters.initial_mean.expand(*inner, -1))
        return kalman.sample(parameters, T, self.u, Size(sample_shape) + lead)

    @property
    def mean(self) -> Tensor:
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        return self._moments()[1].diagonal(dim1=-2, dim2=-1)

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Of each frame: what is predicted where nothing has been observed."""
        like = self.parameters.initial_mean
        nothing = like.new_zeros(*batch_axes(self.parameters), *self._event_shape)
        found = kalman.filter(self.parameters, nothing, self.u, torch.zeros_like(nothing, dtype=torch.bool))
        mean, covariance = observed(self.parameters, found.predicted_means, found.predicted_covariances, self.u)
        event = self._event_shape
        return mean.expand(*self._batch_shape, *event), covariance.expand(*self._batch_shape, *event, event[1])


class LinearGaussianPosterior(TorchDistribution):
    """p(z_1..z_T | x) of the linear-Gaussian state space model: event `(T, state_dim)`, Gaussian, by the smoother.

    Args:
        parameters, x, u: as in `kalman.smoother`.
        mask: the same, but for batch axes: these and those of x broadcast, so that one mask serves all particles.

    `log_prob` is log p(z, x) - log p(x), so it needs P_1, Q and R without null directions (ValueError otherwise):
    along such a direction z has no density. Draws and moments need nothing.
    """

    arg_constraints: dict = {}  # noqa: RUF012
    has_rsample = True
    support = constraints.independent(constraints.real, 2)

    def __init__(self, parameters: Parameters, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None) -> None:
        if mask is not None:
            frames = mask.ndim < x.ndim and mask.shape == x.shape[-1 - mask.ndim : -1]
            mask = mask.unsqueeze(-1) if frames else _entries(mask, *x.shape[-2:])
            x, mask = torch.broadcast_tensors(x, mask)
        self.parameters, self.x, self.u, self.mask_ = parameters, x, u, mask
        self._found: dict[str, Any] = {}  # shared by what `expand` makes
        batch = batch_axes(parameters, x, *(() if u is None else (u,)))
        super().__init__(batch, Size((x.shape[-2], parameters.state_dim)), validate_args=False)

    def expand(self, batch_shape: Size, _instance: object = None) -> "LinearGaussianPosterior":
        return _expanded(self, batch_shape)

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        own = batch_axes(self.parameters, self.x, *(() if self.u is None else (self.u,)))
        lead, inner = _split(self._batch_shape, own)
        x, mask = self.x, self.mask_
        if inner != own:
            x = x.expand(*inner, *x.shape[-2:])
            mask = None if mask is None else mask.expand(x.shape)
        return kalman.sample_posterior(self.parameters, x, self.u, mask, Size(sample_shape) + lead)

    def log_prob(self, value: Tensor) -> Tensor:
        if "loglik" not in self._found:
            self._found["loglik"] = kalman.marginal_loglik(self.parameters, self.x, self.u, self.mask_)
        joint = kalman.log_joint(self.parameters, value, self.x, self.u, self.mask_)
        log_prob = joint - self._found["loglik"]
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self._batch_shape))

    @property
    def smoothed(self) -> kalman.Smoothed:
        """All that the smoother gives, cross-covariances of neighbouring states too."""
        if "smoothed" not in self._found:
            self._found["smoothed"] = kalman.smoother(self.parameters, self.x, self.u, self.mask_)
        return self._found["smoothed"]

    @property
    def mean(self) -> Tensor:
        return self.smoothed.smoothed_means.expand(*self._batch_shape, *self._event_shape)

    @property
    def covariances(self) -> Tensor:
        """Cov(z_t | x) for each t, `(..., T, state_dim, state_dim)`."""
        found = self.smoothed.smoothed_covariances
        return found.expand(*self._batch_shape, *self._event_shape, self._event_shape[1])

    @property
    def variance(self) -> Tensor:
        return self.covariances.diagonal(dim1=-2, dim2=-1)


class GaussianFrames(TorchDistribution):
    """prod_t N(x_t; loc_t, L_t L_t') of the entries that the mask lets through: event `(T, data_dim)`.

    An entry that is missing is marginalised out of its frame, so noise that is correlated between entries is treated
    exactly.

    Args:
        loc: `(..., T, data_dim)`.
        scale_tril: L, `(..., T, data_dim, data_dim)`, lower triangular.
        mask: boolean `(..., T, data_dim)`, True where observed. Draws are of all entries.
    """

    arg_constraints: dict = {}  # noqa: RUF012
    has_rsample = True
    support = constraints.independent(constraints.real, 2)

    def __init__(self, loc: Tensor, scale_tril: Tensor, mask: Tensor) -> None:
        self.mask_ = mask
        self.full = MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)
        both = mask.unsqueeze(-1) & mask.unsqueeze(-2)
        # a missing entry is replaced by a value at the mean of a normal whose density there is 1
        own = torch.diag_embed((~mask).to(loc.dtype) / (2 * math.pi))
        scale_tril = torch.linalg.cholesky(torch.where(both, scale_tril @ scale_tril.mT, 0.0) + own)
        self.seen = MultivariateNormal(torch.where(mask, loc, 0.0), scale_tril=scale_tril, validate_args=False)
        super().__init__(self.seen.batch_shape[:-1], loc.shape[-2:], validate_args=False)

    def expand(self, batch_shape: Size, _instance: object = None) -> "GaussianFrames":
        return _expanded(self, batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        log_prob = self.seen.log_prob(torch.where(self.mask_, value, 0.0)).sum(-1)
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self._batch_shape))

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        return self.full.expand(self._batch_shape + self._event_shape[:1]).rsample(Size(sample_shape))


def observed(
    parameters: Parameters, means: Tensor, covariances: Tensor, u: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Moments of x_t = C z_t + D u_t + d + N(0, R) from those of z_t: `(..., T, m)`, `(..., T, m, m)`."""
    p = parameters
    mean = (p.emission_matrix @ means.unsqueeze(-1)).squeeze(-1)
    if p.emission_input is not None:
        mean = mean + (p.emission_input @ u.unsqueeze(-1)).squeeze(-1)
    if p.emission_bias is not None:
        mean = mean + p.emission_bias
    return mean, p.emission_matrix @ covariances @ p.emission_matrix.mT + p.emission_covariance


def until(parameters: Parameters, T: int) -> Parameters:
    """The parameters of the first T frames."""
    cut: dict[str, Tensor] = {}
    for name, axes in _TIMED.items():
        value = getattr(parameters, name)
        if value is not None and value.ndim > axes:
            cut[name] = value[(..., slice(T), *[slice(None)] * axes)]
    return parameters._replace(**cut)


def batch_axes(parameters: Parameters, *sequences: Tensor) -> Size:
    """The batch axes of the parameters and of sequences `(..., T, size)`, broadcast.

    Raises:
        ValueError: two of them do not broadcast.
    """
    shapes = [parameters.initial_mean.shape[:-1], parameters.initial_covariance.shape[:-2]]
    shapes += [v.shape[: -n - 1] for name, n in _TIMED.items() if (v := getattr(parameters, name)) is not None]
    try:
        return torch.broadcast_shapes(*shapes, *(s.shape[:-2] for s in sequences))
    except RuntimeError as error:
        found = {name: tuple(v.shape) for name, v in parameters._asdict().items() if v is not None}
        raise ValueError(
            f"batch axes of {found} and of x, u, mask of shapes {[tuple(s.shape) for s in sequences]} do not broadcast"
        ) from error


def sizes_of(parameters: Parameters) -> tuple[int | None, int | None]:
    """How many sequences and frames the parameters are of; None where they serve any number."""
    batch = batch_axes(parameters).numel()
    timed = [v.shape[-n - 1] for name, n in _TIMED.items()
             if (v := getattr(parameters, name)) is not None and v.dim() > n]  # fmt: skip
    frames = max(timed, default=1)
    return batch if batch > 1 else None, frames if frames > 1 else None


def _entries(mask: Tensor, T: int, size: int) -> Tensor:
    """A mask of entries, `(..., T, size)`, from one of entries or frames."""
    if mask.shape[-2:] == (T, size):
        return mask
    if mask.shape[-1:] != (T,):
        raise ValueError(f"mask: expected shape (..., {T}) or (..., {T}, {size}), got {tuple(mask.shape)}")
    return mask.unsqueeze(-1).expand(*mask.shape, size)


def _first_observed(mask: Tensor, burn: int) -> tuple[Tensor, int]:
    """The mask of each sequence's first `burn` observed frames, and the number of frames that hold all of these."""
    observed = mask.any(-1)
    given = observed & (observed.cumsum(-1) <= burn)
    end = int(given.flatten(0, -2).any(0).nonzero().max()) + 1
    return mask & given.unsqueeze(-1), end


def _refuse_few(mask: Tensor, burn: int) -> None:
    counts = mask.any(-1).sum(-1)
    if (counts < burn).any():
        place = (counts < burn).nonzero()[0].tolist()
        which = f" {place[0] if len(place) == 1 else tuple(place)} (counted from 0)" if place else ""
        raise ValueError(f"burn: expected at least {burn} observed frames, as many as are given; sequence{which} has "
                         f"{int(counts[tuple(place)])}")  # fmt: skip


def _split(batch: Size, own: Size) -> tuple[Size, Size]:
    """The axes that `expand` added in front, and the rest, where it may have filled axes of length 1."""
    added = len(batch) - len(own)
    return batch[:added], batch[added:]


def _expanded(distribution: Any, batch_shape: Size) -> Any:
    batch_shape = torch.broadcast_shapes(Size(batch_shape), distribution._batch_shape)
    if batch_shape == distribution._batch_shape:
        return distribution
    new = object.__new__(type(distribution))
    new.__dict__.update(distribution.__dict__)
    new._batch_shape = batch_shape
    return new
