"""p(x, a, z) = prod_t p(x_t | a_t) N(a_t; C_t z_t, R) N(z_t; A_t z_{t-1} + B_t u_t, Q): the Kalman VAE."""

from typing import Any, NamedTuple

import pyro
import torch
from pyro.distributions import MultivariateNormal, TorchDistribution
from torch import Tensor, nn

from zoo.parts import kalman
from zoo.parts.aside import evaluating
from zoo.parts.checks import check_counts, check_density, check_module, check_offers, mean_of
from zoo.parts.kalman.parameters import observed, times
from zoo.parts.mixed_dynamics.dynamics import MixedDynamics, MixedState
from zoo.parts.trajectory import Carry, StateSpace, side_by_side
from zoo.parts.trajectory.masks import filled


class Frames(NamedTuple):
    """The means of p(x_t | a_t), `(N, T, data_dim)`, at three values of a.

    Attributes:
        encoded: a_t is the mean of q(a_t | x_t). The encoder reads zeros where a frame is missing.
        filtered: a_t is E[a_t | a_s observed, s <= t].
        smoothed: a_t is E[a_t | all observed a].
    """

    encoded: Tensor
    filtered: Tensor
    smoothed: Tensor


class KVAE(StateSpace):
    """p(x, a, z) = prod_t p(x_t | a_t) N(a_t; C_t z_t, R) N(z_t; A_t z_{t-1} + B_t u_t, Q),
    (A_t, B_t, C_t) = sum_k alpha_t^k (A^k, B^k, C^k), alpha_t = softmax(W h_t + b), h_t = RNN(a_{t-1}, h_{t-1}):
    exact dynamics (`MixedDynamics`) inside a deep model.

    Two forms with the same parameters and the same log p(x). The marginal one sums z out, which is exact given a; with
    `guides.KalmanSmoother` its bound is that of the other form, draw by draw, at half the cost, so it serves to train.
    In the other one, step t of the trajectory is (z_t, a_t) side by side, and s_t = (E[z_t | z_{t-1}], C_t, h_t): it
    takes every guide of sequences, missing frames, and chunks. The state dict of either loads into the other.

    Missing frames have two meanings. The program is that of the joint trajectory: a_t is latent at every t, the mask
    speaks of x alone, and draws, scores, `forecast` and `impute` are those of this one model. `reconstruct` is the
    paper's plug-in: means, in which a missing a_t is replaced by its expectation, a closed form for each mask.

    References: Fraccaro, Kamronn, Paquet and Winther 2017. Videos of 32 x 32: a 2, z 4, K 3.

    Args:
        dynamics: p(a, z).
        decoder: network a_t -> features; it maps the last axis and broadcasts the others.
        likelihood: module whose call with the features gives p(x_t | a_t), event `(data_dim,)`, such as
            `Bernoulli(features, data_dim)` of `zoo.parts.conditionals`.
        data_dim: size of x_t; of a picture, all pixels side by side.
        marginal: True sums z out.

    Raises:
        TypeError: dynamics is no `MixedDynamics`; decoder or likelihood is no module, such as a constructor.
        ValueError: data_dim below 1.

    Sites, in `pyro.plate("data", N)`: `a` (T, code_dim), or, if not marginal, `z` (T, latent_dim), which holds
    (z_t, a_t); `x` (T, data_dim), observed.

    Example:
        >>> import torch
        >>> from zoo import KVAE, MixedDynamics
        >>> from zoo.parts.conditionals import Bernoulli
        >>> from zoo.parts.networks import mlp
        >>> model = KVAE(MixedDynamics(2, 4), mlp(2, (128,)), Bernoulli(128, 1024), 1024)
        >>> model.generate(3, 20)[1].shape
        torch.Size([3, 20, 1024])
    """

    def __init__(
        self,
        dynamics: MixedDynamics,
        decoder: nn.Module,
        likelihood: nn.Module,
        data_dim: int,
        *,
        marginal: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(dynamics, MixedDynamics):
            raise TypeError(f"dynamics: expected a MixedDynamics, got {dynamics!r}")
        check_counts(data_dim=data_dim)
        # other models take a constructor, since they know the width of their last layer
        check_module("likelihood", likelihood, "Bernoulli(features, data_dim)")
        check_module("decoder", decoder, f"mlp({dynamics.data_dim}, (128,))")
        self.dynamics, self.decoder, self.likelihood, self.marginal = dynamics, decoder, likelihood, marginal
        self.data_dim, self.code_dim, self.control_dim = data_dim, dynamics.data_dim, dynamics.control_dim
        self.latent_dim, self.state_dim = dynamics.latent_dim + self.code_dim, dynamics.state_dim
        # bits and levels: real x is checked as everywhere
        self.support = getattr(likelihood, "support", None)
        # a chunk of the marginal form would have to know p(z | the a before it)
        self.carries = not marginal

    def parts(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z_t and a_t, of the trajectory that holds them side by side."""
        return z[..., : self.dynamics.latent_dim], z[..., self.dynamics.latent_dim :]

    def decode(self, a: Tensor) -> TorchDistribution:
        """p(x_t | a_t), event `(data_dim,)`."""
        p = self.likelihood(self.decoder(a))
        check_density("decoder, likelihood", p, a.shape[:-1], (self.data_dim,))
        return p

    # --- step by step, as guides read it -----------------------------------------------------------------------------

    def inputs(self, x: Tensor, u: Tensor | None = None, carry: Carry | None = None) -> tuple[Tensor, ...]:
        return () if u is None else (u,)

    def start(self, x: Tensor, *u: Tensor) -> MixedState:
        return self.dynamics.first()

    def transition(self, s: MixedState) -> MultivariateNormal:
        # (z_t, a_t) = (m + L_Q e, C (m + L_Q e) + L_R e')
        step, C = s.step, s.step.emission_matrix
        lower = side_by_side(C @ step.transition_scale, step.emission_scale)
        upper = nn.functional.pad(step.transition_scale, (0, self.code_dim)).expand(*lower.shape[:-2], -1, -1)
        mean = side_by_side(s.mean, times(C, s.mean))
        return MultivariateNormal(mean, scale_tril=torch.cat([upper, lower], -2), validate_args=False)

    def emission(self, z: Tensor, s: MixedState) -> TorchDistribution:
        return self.decode(self.parts(z)[1])

    def advance(self, s: MixedState, z: Tensor, x: Tensor, *u: Tensor) -> MixedState:
        return self.dynamics.following(s, *self.parts(z), *u)

    def states(self, z: Tensor, x: Tensor, *u: Tensor, first: MixedState | None = None) -> MixedState:
        return self.dynamics.path(self.dynamics.first() if first is None else first, *self.parts(z), *u)

    def features(self, s: MixedState) -> Tensor:
        return self.dynamics.features(s)

    def program(self, x: Tensor, u: Tensor | None, mask: Tensor | None, carry: Carry | None) -> Tensor:
        if not self.marginal:
            return super().program(x, u, mask, carry)
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", self.dynamics.marginal(x.shape[1], u))
            p = self.decode(a)
            return pyro.sample("x", (p if mask is None else p.mask(mask)).to_event(1), obs=filled(x, mask))

    # --- by the plug-in ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def reconstruct(self, x: Tensor, guide: Any, u: Tensor | None = None, mask: Tensor | None = None) -> Frames:
        """Each frame's mean from the encoder, from the past and from all frames, with a at its expectations.

        A missing frame is imputed by `filtered` from the frames before it, and by `smoothed` from all.

        Args:
            x, u, mask: as in `forward`.
            guide: a `guides.KalmanSmoother` of this model.

        Raises:
            ValueError: as `check`; a guide of another kind, of a model of other sizes, or of a family without a mean in
                closed form; a sequence without an observed frame.
        """
        self.check(x, u, mask)
        check_offers("guide", guide, "codes", advice="reconstruct takes a guides.KalmanSmoother")
        self.check_guide(guide)
        with evaluating(self, guide):
            encoded = mean_of("guide", guide.codes(x, u, mask))
            a = self.dynamics.completed(encoded, u, mask)
            p = self.dynamics.system(a, u)
            found = kalman.smoother(p, a, u, mask)
            filtered, _ = observed(p, found.filtered_means, found.filtered_covariances, u)
            smoothed, _ = observed(p, found.smoothed_means, found.smoothed_covariances, u)
            return Frames(*(self.decode(code).mean for code in (encoded, filtered, smoothed)))
