"""p(a, z) with matrices that are mixed anew at each step, by weights that a network makes of the past a."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro.distributions import MultivariateNormal
from torch import Tensor, nn

from zoo.parts import kalman
from zoo.parts.checks import check_counts, check_offers, check_positive
from zoo.parts.kalman import Parameters
from zoo.parts.kalman.distributions import LinearGaussian, LinearGaussianPosterior
from zoo.parts.kalman.parameters import observed, offset_of
from zoo.parts.kalman.steps import Step, steps, with_start
from zoo.parts.mixed_dynamics.marginal import Marginal
from zoo.parts.mixed_dynamics.starts import Velocity
from zoo.parts.networks import GRU
from zoo.parts.once import once
from zoo.parts.recorded import Recorded
from zoo.parts.trajectory import Carry, StateSpace, shift, side_by_side
from zoo.parts.trajectory.masks import entries, filled


class MixingWeights(Recorded, nn.Module):
    """alpha_t = softmax(W h_t + b), h_t = RNN(a_{t-1}, h_{t-1}), h_0 = 0.

    Args:
        data_dim, recurrent, num_components: sizes of a_t, h_t and alpha_t.
        recurrence: as in `MixedDynamics`.
    """

    def __init__(
        self, data_dim: int, recurrent: int, num_components: int, recurrence: Callable[[int, int], nn.Module]
    ) -> None:
        super().__init__()
        self.recurrence: Any = recurrence(data_dim, recurrent)
        check_offers("recurrence", self.recurrence, "step", advice="it is called as zoo.parts.networks.GRU is")
        self.head = nn.Linear(recurrent, num_components)

    def forward(self, h: Tensor) -> Tensor:
        return self.head(h).softmax(-1)


class MixedState(NamedTuple):
    """The state of step t: E[z_t | z_{t-1}, a_{1:t-1}], h_t, and the parameters of the step."""

    mean: Tensor
    h: Tensor
    step: Step


class MixedDynamics(StateSpace):
    """p(a, z) = N(z_1; 0, P_1) prod_{t>1} N(z_t; A_t z_{t-1} + B_t u_t, Q) prod_t N(a_t; C_t z_t, R),
    (A_t, B_t, C_t) = sum_k alpha_t^k (A^k, B^k, C^k), alpha_t = softmax(W h_t + b), h_t = RNN(a_{t-1}, h_{t-1}).

    A linear-Gaussian model whose matrices follow the data: alpha_t depends on a_1..a_{t-1} alone. Given a, the matrices
    are numbers, so log p(a) and p(z | a) are exact (Kalman's filter and smoother). Forecasts are draws, since the
    matrices to come depend on the a to come: `forecast(a, k, guide=guides.Exact(model))`. Methods call the data a, as
    the KVAE does; the program's argument and site are x.

    Missing frames: the matrices after a missing a_t read its expectation given the observed a_1..a_{t-1}, in `forward`,
    `log_prob` and `posterior` alike (`completed`). This is a model for each mask: the models of two masks are no
    marginals of one another.

    References: Fraccaro, Kamronn, Paquet and Winther 2017, whose RNN is an LSTM.

    Args:
        data_dim, latent_dim: sizes of a_t and z_t.
        control_dim: size of u_t; 0: no controls, no B.
        num_components: K; with one the model is an `LGSSM`.
        recurrent: size of h_t.
        start: constructor of the first matrices, `(K, data_dim, latent_dim, control_dim) -> (A^k, B^k, C^k)`, the
            components along the first axis: `Velocity` or `RandomWalk` of this module, or your own.
        transition_variance, emission_variance, initial_variance: Q, R and P_1 are these times I. They are fixed: the
            scale of a would be free otherwise.
        recurrence: constructor `(in_features, hidden) -> Module` of the RNN, with the methods of
            `zoo.parts.networks.GRU`.

    Sites, in `pyro.plate("data", N)`: `z` (T, latent_dim); `x` (T, data_dim), observed: a.

    Raises:
        TypeError: `start` is a class, or does not give three tensors.
        ValueError: a size below 1, a variance that is not positive, matrices of `start` of other sizes or not finite, a
            recurrence without the method `step`.

    Example:
        >>> import torch
        >>> from zoo import MixedDynamics
        >>> model = MixedDynamics(data_dim=2, latent_dim=4)
        >>> model.log_prob(torch.zeros(3, 20, 2)).shape
        torch.Size([3])
    """

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        control_dim: int = 0,
        *,
        num_components: int = 3,
        recurrent: int = 50,
        start: Callable[[int, int, int, int], tuple[Tensor, Tensor, Tensor]] = Velocity(),  # noqa: B008
        transition_variance: float = 0.08,
        emission_variance: float = 0.03,
        initial_variance: float = 20.0,
        recurrence: Callable[[int, int], nn.Module] = GRU,
    ) -> None:
        super().__init__()
        check_counts(data_dim=data_dim, latent_dim=latent_dim, num_components=num_components, recurrent=recurrent)
        check_counts(0, control_dim=control_dim)
        check_positive(
            transition_variance=transition_variance,
            emission_variance=emission_variance,
            initial_variance=initial_variance,
        )
        self.data_dim, self.latent_dim, self.control_dim = data_dim, latent_dim, control_dim
        self.state_dim = latent_dim + recurrent
        sizes = (latent_dim, latent_dim), (latent_dim, control_dim), (data_dim, latent_dim)
        matrices = _started(start, num_components, data_dim, latent_dim, control_dim)
        for name, matrix, size in zip("ABC", matrices, sizes, strict=True):
            if not (matrix.is_floating_point() and matrix.isfinite().all()):
                raise ValueError(
                    f"start: expected {name}^k of finite floats, got {matrix.dtype}: {matrix.flatten()[:5]}"
                )
            if matrix.shape != (num_components, *size):
                raise ValueError(f"start: expected {name}^k of shape {(num_components, *size)}, got "
                                 f"{tuple(matrix.shape)}")  # fmt: skip
        # copies: training writes into them, and a start may give views, or tensors that its owner keeps
        copies = (nn.Parameter(torch.empty(m.shape).copy_(m.detach())) for m in matrices)
        self.transition_matrices, inputs, self.emission_matrices = copies
        self.input_matrices = inputs if control_dim else None
        self.a_0 = nn.Parameter(torch.zeros(data_dim))
        self.alpha = MixingWeights(data_dim, recurrent, num_components, recurrence)
        self.register_buffer("initial_mean", torch.zeros(latent_dim))
        self.register_buffer("initial_covariance", initial_variance * torch.eye(latent_dim))
        self.register_buffer("transition_covariance", transition_variance * torch.eye(latent_dim))
        self.register_buffer("emission_covariance", emission_variance * torch.eye(data_dim))

    # --- the matrices along a ----------------------------------------------------------------------------------------

    def weights(self, a: Tensor, carry: Carry | None = None) -> tuple[Tensor, Tensor]:
        """alpha_1..alpha_T `(..., T, K)` and h_1..h_T: entry t reads a_0..a_{t-1}, of a `(..., T, data_dim)`."""
        a_0, h_0 = (self.a_0, self.h_0) if carry is None else (carry.x, carry.s.h)
        # shifted: with a_t itself log p(a) would be no density
        h = self.alpha.recurrence(shift(a, a_0), h_0)
        return self.alpha(h), h

    @property
    def h_0(self) -> Tensor:
        """h_0 = 0."""
        return self.a_0.new_zeros(self.state_dim - self.latent_dim)

    def mixed(self, alpha: Tensor) -> Parameters:
        """The `kalman.Parameters` of weights `(..., T, K)`: matrices `(..., T, rows, columns)`."""

        def mix(matrices: Tensor) -> Tensor:
            # one product of matrices serves all components, sequences and times
            return (alpha @ matrices.flatten(1)).unflatten(-1, matrices.shape[1:])

        return Parameters(
            self.initial_mean,
            self.initial_covariance,
            mix(self.transition_matrices),
            self.transition_covariance,
            mix(self.emission_matrices),
            self.emission_covariance,
            None if self.input_matrices is None else mix(self.input_matrices),
        )

    def along(self, a: Tensor, u: Tensor | None = None, carry: Carry | None = None) -> tuple[Parameters, Tensor]:
        """The `kalman.Parameters` along a `(..., T, data_dim)`, and h_1..h_T.

        Args:
            u: matters after a carry alone, for the mean of the first z.
            carry: the step before the first frame; None at the start of the sequences.
        """
        alpha, h = self.weights(a, carry)
        p = self.mixed(alpha)
        if carry is None:
            return p, h
        # the first z of a chunk comes from a transition, that of `Parameters` from N(m_1, P_1)
        step = self.step(h[..., 0, :], None if u is None else u[..., 0, :])
        return p._replace(initial_mean=step.transition_mean(carry.z), initial_covariance=self.transition_covariance), h

    def system(self, a: Tensor, u: Tensor | None = None, carry: Carry | None = None) -> Parameters:
        """The `kalman.Parameters` along a; arguments as in `along`."""
        return self.along(a, u, carry)[0]

    # --- step by step, as guides read it -----------------------------------------------------------------------------

    def inputs(self, x: Tensor, u: Tensor | None = None, carry: Carry | None = None) -> tuple[Step, Tensor]:
        p, h = once(self.along)(x, u, carry)
        return steps(p, x.shape[-2], u), h

    def start(self, x: Tensor, step: Step, h: Tensor) -> MixedState:
        return MixedState(step.transition_offset, h, step)

    def transition(self, s: MixedState) -> MultivariateNormal:
        return MultivariateNormal(s.mean, scale_tril=s.step.transition_scale, validate_args=False)

    def emission(self, z: Tensor, s: MixedState) -> MultivariateNormal:
        return MultivariateNormal(s.step.emission_mean(z), scale_tril=s.step.emission_scale, validate_args=False)

    def advance(self, s: MixedState, z: Tensor, x: Tensor, step: Step, h: Tensor) -> MixedState:
        return MixedState(step.transition_mean(z), h, step)

    def states(self, z: Tensor, x: Tensor, *inputs: Any, first: MixedState | None = None) -> MixedState:
        # `first` is in the inputs already: A of their first step is zero, its offset the mean of z_1
        step, h = inputs
        return MixedState(step.transition_mean(shift(z, z.new_zeros(self.latent_dim))), h, step)

    def features(self, s: MixedState) -> Tensor:
        return side_by_side(s.mean, s.h)

    # --- exactly -----------------------------------------------------------------------------------------------------

    def completed(
        self, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None, carry: Carry | None = None
    ) -> Tensor:
        """a, missing frames replaced by E[a_t | observed a_1..a_{t-1}], which the matrices after them read.

        In a chunk the past are z and a of the step before it, as its carry has them, and the observed frames since.

        Args:
            x: a, `(..., T, data_dim)`; it may hold anything where it is missing.
            u, mask, carry: as in `forward`; leading axes of x that they lack are broadcast.
        """
        found = filled(x, mask)
        if mask is None or bool(mask.all()):
            return found
        seen = mask.expand(found.shape[:-1])
        gaps = (~seen).flatten(0, -2).any(0).nonzero().flatten().tolist()
        # up to the first gap the matrices are known; after it those of a frame read the completed frame before it
        known, frames = slice(gaps[0] + 1), [*found.unbind(-2)]
        u_known = None if u is None else u[..., known, :]
        p, h = self.along(found[..., known, :], u_known, carry)
        past = kalman.filter(p, found[..., known, :], u_known, seen[..., known])
        h = h[..., -1:, :]
        for t in range(gaps[0], gaps[-1] + 1):
            mean, covariance = past.predicted_means[..., -1, :], past.predicted_covariances[..., -1, :, :]
            expected, _ = observed(self.mixed(self.alpha(h)), mean.unsqueeze(-2), covariance.unsqueeze(-3))
            frames[t] = torch.where(seen[..., t, None], frames[t], expected.squeeze(-2))
            if t == gaps[-1]:
                break
            # a filter of two frames: this one, and the next for its prediction alone
            h = torch.stack([h[..., -1, :], self.alpha.recurrence.step(frames[t], h[..., -1, :])], -2)
            pair = self.mixed(self.alpha(h))._replace(initial_mean=mean, initial_covariance=covariance)
            now = torch.stack([seen[..., t], torch.zeros_like(seen[..., t])], -1)
            u_pair = None if u is None else u[..., t : t + 2, :]
            past = kalman.filter(pair, torch.stack([frames[t]] * 2, -2), u_pair, now)
            h = h[..., 1:, :]
        return torch.stack(frames, -2)

    def posterior(
        self, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None, carry: Carry | None = None
    ) -> LinearGaussianPosterior:
        """p(z | a), exact, by the smoother: batch `(N,)`, event `(T, latent_dim)`; arguments as in `forward`."""
        # `once`, here and below: the program asks for the same
        once(self.check)(x, u, mask, carry)
        a = x if mask is None else once(self.completed)(x, u, mask, carry)
        p, _ = once(self.along)(a, u, carry)
        return LinearGaussianPosterior(p, a, u, None if mask is None else entries(a, mask))

    def log_prob(
        self, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None, carry: Carry | None = None
    ) -> Tensor:
        """log p(a) of the observed frames, exact, nats, `(N,)`; arguments as in `forward`."""
        self.check(x, u, mask, carry)
        return self.log_marginal(x, u, mask, carry)

    def log_marginal(
        self, a: Tensor, u: Tensor | None = None, mask: Tensor | None = None, carry: Carry | None = None
    ) -> Tensor:
        """`log_prob` without checks, for a `(..., T, data_dim)` of any leading axes, such as particles."""
        a = self.completed(a, u, mask, carry)
        mask = None if mask is None else entries(a, mask)
        return LinearGaussian(self.system(a, u, carry), a.shape[-2], u, mask).log_prob(a)

    def marginal(self, T: int, u: Tensor | None = None, mask: Tensor | None = None) -> Marginal:
        """p(a_1..a_T), z summed out, as a distribution."""
        return Marginal(self, T, u, mask)

    # --- a as a latent, beside z -------------------------------------------------------------------------------------

    def step(self, h: Tensor, u: Tensor | None = None) -> Step:
        """The parameters of transitions whose weights follow from h `(..., recurrent)`, of one step or of all."""
        p = self.mixed(self.alpha(h))
        a, c = p.transition_matrix, p.emission_matrix
        roots = (torch.linalg.cholesky(q) for q in (self.transition_covariance, self.emission_covariance))
        q, r = (root.expand(*h.shape[:-1], *root.shape) for root in roots)
        drift = offset_of(p.transition_input, None, u)
        drift = h.new_zeros(*h.shape[:-1], self.latent_dim) if drift is None else drift.to(h.dtype)
        return Step(a, q, c, r, drift, h.new_zeros(*h.shape[:-1], self.data_dim))

    def first(self) -> MixedState:
        """s_1."""
        h = self.alpha.recurrence.step(self.a_0, self.h_0)
        root = torch.linalg.cholesky(self.initial_covariance)
        return MixedState(self.initial_mean, h, self.step(h)._replace(transition_scale=root))

    def following(self, s: MixedState, z: Tensor, a: Tensor, u: Tensor | None = None) -> MixedState:
        """s_{t+1} from s_t, z_t, a_t and u_{t+1}."""
        h = self.alpha.recurrence.step(a, s.h)
        step = self.step(h, u)
        return MixedState(step.transition_mean(z), h, step)

    def path(self, s: MixedState, z: Tensor, a: Tensor, u: Tensor | None = None) -> MixedState:
        """s_1..s_T along z and a, from s = s_1: `following` step by step, at once."""
        later = self.alpha.recurrence(a[..., :-1, :], s.h)
        h = torch.cat([s.h.expand(*later.shape[:-2], later.shape[-1]).unsqueeze(-2), later], -2)
        step = self.step(h, u)
        step = step._replace(transition_scale=with_start(s.step.transition_scale, step.transition_scale))
        mean = step.transition_mean(shift(z, z.new_zeros(self.latent_dim)))
        return MixedState(with_start(s.mean, mean, 1), h, step)


def _started(start: Callable, *sizes: int) -> tuple[Tensor, ...]:
    """The matrices of a start, which is a caller's own function."""
    if isinstance(start, type):
        raise TypeError(f"start: expected an object such as {start.__name__}(), got the class")
    matrices = start(*sizes)
    kinds = [type(m).__name__ for m in matrices] if isinstance(matrices, tuple) else type(matrices).__name__
    if not (len(kinds) == 3 and all(isinstance(m, Tensor) for m in matrices)):
        raise TypeError(f"start: expected a tuple of three tensors, (A^k, B^k, C^k), got {kinds}")
    return matrices
