"""The linear-Gaussian state-space model as distributions: over the observations, and over the states given them."""

import math

import torch
from pyro.distributions import MultivariateNormal, TorchDistribution, constraints, is_validation_enabled
from torch import Size, Tensor

from zoo.parts.distributions.expanded import expanded
from zoo.parts.kalman import inference as kalman
from zoo.parts.kalman.checks import check_burn, free_mask
from zoo.parts.kalman.diffuse.start import refuse_diffuse
from zoo.parts.kalman.parameters import Parameters, batch_axes, frames, observed


class LinearGaussian(TorchDistribution):
    """p(x_1..x_T) of the linear-Gaussian state-space model, the states summed out: event `(T, data_dim)`.

    Args:
        parameters: `kalman.Parameters`; their batch axes, those of u and of the mask make the batch shape.
        T: number of frames.
        u: controls, `(..., T, control_dim)`.
        mask: True where observed, for frames `(..., T)` or for entries `(..., T, data_dim)`. `log_prob` is then that of
            the observed entries; the value may hold anything, NaN too, where the mask is False. Draws fill all entries.
        burn: the number of each sequence's first observations that are conditioned on, not scored: `log_prob` is
            log p(later observations | first ones). An observation is a frame of which any entry is observed; without a
            mask the first ones are x_1..x_burn. With a diffuse start their density means little. Gaps may hide a part
            of the start for longer, such as a month of a seasonal pattern that is first seen in the second year: then
            log p depends on the start's variance unless burn is larger. statsmodels' `loglikelihood_burn` counts
            missing frames too.

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
        mask = None if mask is None else free_mask(mask, T, parameters.data_dim)
        if burn and mask is not None:
            check_burn(mask, burn)
        # `mask_`, since every TorchDistribution has a method `mask`
        self.parameters, self.u, self.mask_, self.burn = parameters, u, mask, burn
        batch = batch_axes(parameters, *(() if u is None else (u,)), *(() if mask is None else (mask,)))
        super().__init__(batch, Size((T, parameters.data_dim)), validate_args=False)

    def expand(self, batch_shape: Size, _instance: object = None) -> "LinearGaussian":
        return expanded(self, batch_shape)

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
            # as elsewhere in torch, NaN without validation: NUTS, which validates nothing, counts a step to parameters
            # of no model as a divergence. The sum keeps the graph, since its integrator asks for a gradient
            return sum(p.sum() for p in self.parameters if p is not None) * math.nan + value.new_zeros(lead)
        if self.burn:
            # log p(later | start) = log p(all) - log p(start), the start being the shortest prefix of frames with all
            # that is conditioned on
            scored, end = (None, self.burn) if mask is None else _first_observed(mask, self.burn)
            start = [None if a is None else a[..., :end, :] for a in (value, self.u, scored)]
            total = total - kalman.marginal_loglik(frames(self.parameters, slice(end)), *start)
        return total.expand(torch.broadcast_shapes(total.shape, self._batch_shape))

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        return self._draw(sample_shape)[1]

    def _draw(self, sample_shape: Size) -> tuple[Tensor, Tensor]:
        """States and observations; every entry of the batch is a draw of its own."""
        T = self._event_shape[0]
        own = batch_axes(self.parameters, *(() if self.u is None else (self.u,)))
        lead, inner = _split(self._batch_shape, own)
        parameters = self.parameters
        # `expand` has stretched an axis of length 1: a parameter that is expanded too makes the draws differ along it
        if inner != own:
            parameters = parameters._replace(initial_mean=parameters.initial_mean.expand(*inner, -1))
        return kalman.sample(parameters, T, self.u, Size(sample_shape) + lead)

    @property
    def mean(self) -> Tensor:
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        return self._moments()[1].diagonal(dim1=-2, dim2=-1)

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Means and covariances of each frame, as the filter predicts them where nothing is observed."""
        refuse_diffuse(self.parameters, "a moment of the model")
        like = self.parameters.initial_mean
        zeros = like.new_zeros(*batch_axes(self.parameters), *self._event_shape)
        found = kalman.filter(self.parameters, zeros, self.u, torch.zeros_like(zeros, dtype=torch.bool))
        mean, covariance = observed(self.parameters, found.predicted_means, found.predicted_covariances, self.u)
        event = self._event_shape
        return mean.expand(*self._batch_shape, *event), covariance.expand(*self._batch_shape, *event, event[1])


class LinearGaussianPosterior(TorchDistribution):
    """p(z_1..z_T | x) of the linear-Gaussian state-space model: event `(T, state_dim)`, Gaussian, by the smoother.

    Args:
        parameters, x, u: as in `kalman.smoother`.
        mask: as in `kalman.smoother`; its batch axes and those of x broadcast, so that one mask serves all particles.

    `log_prob` is log p(z, x) - log p(x). It refuses a singular P_1, Q or R with a ValueError: z then has no density.
    Draws and moments take any model.
    """

    arg_constraints: dict = {}  # noqa: RUF012
    has_rsample = True
    support = constraints.independent(constraints.real, 2)

    def __init__(self, parameters: Parameters, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None) -> None:
        if mask is not None:
            # where N = T = m a mask of frames, (N, T), has the shape of one of entries, (T, m): x decides
            of_frames = mask.ndim < x.ndim and mask.shape == x.shape[-1 - mask.ndim : -1]
            mask = mask.unsqueeze(-1) if of_frames else free_mask(mask, *x.shape[-2:])
            x, mask = torch.broadcast_tensors(x, mask)
        self.parameters, self.x, self.u, self.mask_ = parameters, x, u, mask
        # the smoother's result, shared with the distributions that `expand` makes: mean, variance and covariances
        # would run the smoother once each. It belongs to this value of x and of the parameters and ends with them
        self._smoothed: list[kalman.Smoothed] = []
        batch = batch_axes(parameters, x, *(() if u is None else (u,)))
        super().__init__(batch, Size((x.shape[-2], parameters.state_dim)), validate_args=False)

    def expand(self, batch_shape: Size, _instance: object = None) -> "LinearGaussianPosterior":
        return expanded(self, batch_shape)

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        own = batch_axes(self.parameters, self.x, *(() if self.u is None else (self.u,)))
        lead, inner = _split(self._batch_shape, own)
        x, mask = self.x, self.mask_
        if inner != own:
            x = x.expand(*inner, *x.shape[-2:])
            mask = None if mask is None else mask.expand(x.shape)
        return kalman.sample_posterior(self.parameters, x, self.u, mask, Size(sample_shape) + lead)

    def log_prob(self, value: Tensor) -> Tensor:
        joint = kalman.log_joint(self.parameters, value, self.x, self.u, self.mask_)
        log_prob = joint - kalman.marginal_loglik(self.parameters, self.x, self.u, self.mask_)
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self._batch_shape))

    @property
    def smoothed(self) -> kalman.Smoothed:
        """The result of `kalman.smoother`, cross-covariances of neighbouring states too."""
        if not self._smoothed:
            self._smoothed.append(kalman.smoother(self.parameters, self.x, self.u, self.mask_))
        return self._smoothed[0]

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
    """prod_t N(x_t; loc_t, L_t L_t') of the observed entries: event `(T, data_dim)`.

    A missing entry is marginalised out of its frame, so noise that is correlated between entries is treated exactly.

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
        # in place of a missing entry stands an independent one with variance 1 / (2 pi), at its mean: its density is 1
        own = torch.diag_embed((~mask).to(loc.dtype) / (2 * math.pi))
        scale_tril = torch.linalg.cholesky(torch.where(both, scale_tril @ scale_tril.mT, 0.0) + own)
        self.seen = MultivariateNormal(torch.where(mask, loc, 0.0), scale_tril=scale_tril, validate_args=False)
        super().__init__(self.seen.batch_shape[:-1], loc.shape[-2:], validate_args=False)

    def expand(self, batch_shape: Size, _instance: object = None) -> "GaussianFrames":
        return expanded(self, batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        log_prob = self.seen.log_prob(torch.where(self.mask_, value, 0.0)).sum(-1)
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self._batch_shape))

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        return self.full.expand(self._batch_shape + self._event_shape[:1]).rsample(Size(sample_shape))


def _first_observed(mask: Tensor, burn: int) -> tuple[Tensor, int]:
    """The mask of each sequence's first `burn` observed frames, and the number of frames up to the last of these."""
    seen = mask.any(-1)
    among = seen & (seen.cumsum(-1) <= burn)
    end = int(among.flatten(0, -2).any(0).nonzero().max()) + 1
    return mask & among.unsqueeze(-1), end


def _split(batch: Size, own: Size) -> tuple[Size, Size]:
    """The axes that `expand` added in front, and the rest, of which `expand` may have stretched some."""
    added = len(batch) - len(own)
    return batch[:added], batch[added:]
