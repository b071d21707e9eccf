"""p(a), z summed out: a distribution whose matrices depend on its own value."""

from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor

from zoo.parts.checks import check_controls, check_counts, check_tensor
from zoo.parts.distributions.expanded import expanded


class Marginal(TorchDistribution):
    """p(a_1..a_T) of a `MixedDynamics`, z summed out: event `(T, data_dim)`.

    `LinearGaussian` holds matrices; these follow, step by step, from the very value that is scored or drawn, so this
    distribution holds the function a -> `kalman.Parameters`.

    Args:
        dynamics: p(a, z), a `MixedDynamics`.
        T: number of frames.
        u: controls, `(..., T, control_dim)`.
        mask: True where a is observed, `(..., T)`: `log_prob` is that of the observed frames (`MixedDynamics`).
            Draws are of all frames.

    Raises:
        ValueError: T below 1; u that is missing, unasked for, not finite, or of another size; a mask of another size
            or type. Of `log_prob`: a value of another size.
    """

    arg_constraints: dict = {}  # noqa: RUF012
    has_rsample = True
    support = constraints.independent(constraints.real, 2)

    def __init__(self, dynamics: Any, T: int, u: Tensor | None = None, mask: Tensor | None = None) -> None:
        check_counts(T=T)
        for name, value in (("u", u), ("mask", mask)):
            if value is not None:
                check_tensor(value, name)
        check_controls(u, dynamics.control_dim, type(dynamics).__name__)
        if u is not None and u.shape[-2:-1] != (T,):
            raise ValueError(f"u: expected the controls of {T} frames, (..., {T}, {dynamics.control_dim}), got "
                             f"{tuple(u.shape)}")  # fmt: skip
        if mask is not None and (mask.dtype != torch.bool or mask.shape[-1:] != (T,)):
            raise ValueError(f"mask: expected torch.bool of shape (..., {T}), got {mask.dtype} of shape "
                             f"{tuple(mask.shape)}")  # fmt: skip
        self.dynamics, self.u, self.mask_ = dynamics, u, mask
        lead = (Size() if u is None else u.shape[:-2]), (Size() if mask is None else mask.shape[:-1])
        super().__init__(torch.broadcast_shapes(*lead), Size((T, dynamics.data_dim)), validate_args=False)

    def expand(self, batch_shape: Size, _instance: object = None) -> "Marginal":
        return expanded(self, batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        # any number of frames has a density, but not this one
        if value.shape[-2:] != self._event_shape:
            raise ValueError(f"a: expected shape (..., {', '.join(map(str, self._event_shape))}), got "
                             f"{tuple(value.shape)}")  # fmt: skip
        if self.mask_ is not None:
            # one value for several masks: a mask of frames has an axis less than what it masks
            value = value.expand(*torch.broadcast_shapes(value.shape[:-2], self.mask_.shape[:-1]), *self._event_shape)
        total = self.dynamics.log_marginal(value, self.u, self.mask_)
        return total.expand(torch.broadcast_shapes(total.shape, self._batch_shape))

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        d, lead, T = self.dynamics, Size(sample_shape) + self._batch_shape, self._event_shape[0]
        s, path = d.first(), list[Tensor]()
        for t in range(1, T + 1):
            z = d.transition(s).expand(lead).rsample()
            path.append(d.emission(z, s).rsample())
            if t < T:
                s = d.following(s, z, path[-1], None if self.u is None else self.u[..., t, :])
        return torch.stack(path, -2)
