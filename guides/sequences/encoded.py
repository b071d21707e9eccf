"""The density of `KalmanSmoother` over whole trajectories of (z_t, a_t)."""

import torch
from pyro.distributions import MultivariateNormal, TorchDistribution, constraints
from torch import Size, Tensor

from zoo.parts.distributions.expanded import expanded
from zoo.parts.kalman import Parameters
from zoo.parts.kalman.distributions import LinearGaussian, LinearGaussianPosterior
from zoo.parts.kalman.parameters import times
from zoo.parts.trajectory import Carry, Trajectory, side_by_side
from zoo.parts.trajectory.masks import entries, until_last
from zoo.parts.trajectory.padding import padded


class Encoded(TorchDistribution):
    """q(z, a | x) = p'(z, a) prod_observed q(a_t | x_t) / p'(a_observed): event `(T, latent_dim)`, (z_t, a_t).

    p' is p(z, a) with the matrices along `completed`: the model's own, where no frame is missing. So z is drawn from
    p'(z | a_observed), the observed a_t from the encoder, the missing ones from N(C_t z_t, R). After the last observed
    frame the model's transition takes the place of p', as in every guide of sequences.

    Args:
        codes: q(a_t | x_t), batch `(N, T)`, event `(code_dim,)`.
        prior: p(z, a), the trajectory of a `KVAE` with site z.
        u, mask: as in `KVAE`.
    """

    arg_constraints: dict = {}  # noqa: RUF012
    has_rsample = True
    support = constraints.independent(constraints.real, 2)

    def __init__(
        self, codes: TorchDistribution, prior: Trajectory, u: Tensor | None = None, mask: Tensor | None = None
    ) -> None:
        self.codes, self.prior, self.u, self.mask_ = codes, prior, u, mask
        self.model, self.followed = prior.model, None if mask is None else until_last(prior.x, mask)
        self.carry = prior.carry
        if prior.carry is not None:
            # the dynamics' own data are a
            self.carry = Carry(prior.carry.s, *self.model.parts(prior.carry.z))
        super().__init__(prior.batch_shape, prior.event_shape, validate_args=False)

    def expand(self, batch_shape: Size, _instance: object = None) -> "Encoded":
        return expanded(self, batch_shape)

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        lead = Size(sample_shape) + self._batch_shape
        # a missing frame has a draw too, of which nothing is kept: one call serves all frames
        a = self.codes.expand(lead + self._event_shape[:1]).rsample()
        a, p = self._given(a)
        z = LinearGaussianPosterior(p, a, self.u, self._entries(a)).rsample()
        if self.mask_ is None:
            return side_by_side(z, a)
        shown = MultivariateNormal(times(p.emission_matrix, z), p.emission_covariance, validate_args=False)
        value = side_by_side(z, torch.where(self.mask_.unsqueeze(-1), a, shown.rsample()))
        if self.followed is None:
            return value
        return torch.where(self.followed.unsqueeze(-1), value, padded(self.prior, value, self.followed))

    def log_prob(self, value: Tensor) -> Tensor:
        z, drawn = self.model.parts(value)
        a, p = self._given(drawn)
        code = self.codes.log_prob(drawn)
        evidence = LinearGaussian(p, a.shape[-2], self.u, self._entries(a)).log_prob(a)
        if self.mask_ is None:
            # p' = p: the model's own score of z and a, which cancels in log p - log q to the last bit
            return self.prior.log_prob(value) + code.sum(-1) - evidence
        dynamics = self.model.dynamics
        inputs = dynamics.inputs(a, self.u, self.carry)
        joint = self.model.transition(dynamics.states(z, a, *inputs)).log_prob(value)
        if self.followed is not None:
            joint = torch.where(self.followed, joint, self.prior.along(value).log_prob(value))
        return (joint + torch.where(self.mask_, code, 0.0)).sum(-1) - evidence

    def _given(self, a: Tensor) -> tuple[Tensor, Parameters]:
        """a with its missing frames completed, and p' as `kalman.Parameters`."""
        a = self.model.dynamics.completed(a, self.u, self.mask_, self.carry)
        return a, self.model.dynamics.system(a, self.u, self.carry)

    def _entries(self, a: Tensor) -> Tensor | None:
        return None if self.mask_ is None else entries(a, self.mask_)
