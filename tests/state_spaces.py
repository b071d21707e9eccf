"""The registry of sequence models: name -> model, data, controls. A row makes a model part of `test_trajectory.py`.

Besides the zoo's models there are three small ones that stand for what a `StateSpace` must be able to say: a Markov
model with nets, one whose state is a recurrent network fed by x and z, one that has a deterministic path beside z.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo import DMM, KVAE, LGSSM, SRNN, STORN, VRNN, MixedDynamics
from zoo.parts.conditionals import Bernoulli, MixtureOfNormals, Normal
from zoo.parts.distributions import DiagonalNormal, IndependentBernoulli
from zoo.parts.kalman import Parameters
from zoo.parts.networks import mlp
from zoo.parts.trajectory import StateSpace, shift, side_by_side
from zoo.parts.transitions import LinearTransition

SEQUENCES, FRAMES, DATA, LATENT, CONTROL = 4, 6, 3, 2, 2


def normal(out: Tensor) -> DiagonalNormal:
    loc, scale = out.chunk(2, -1)
    return DiagonalNormal(loc, 0.3 + scale.sigmoid())  # away from 0, where equal densities differ by rounding


def recur(gru: nn.GRU, values: Tensor, h: Tensor) -> Tensor:
    """The hidden vectors after each of the values `(..., T, size)` from h on, `(..., T, hidden)`."""
    lead, T = values.shape[:-2], values.shape[-2]
    if T == 0:
        return values.new_zeros(*lead, 0, gru.hidden_size)
    first = h.expand(*lead, gru.hidden_size).reshape(1, -1, gru.hidden_size).contiguous()
    return gru(values.reshape(-1, *values.shape[-2:]), first)[0].unflatten(0, lead)


class Markov(StateSpace):
    """p(z_t | z_{t-1}, u_t) p(x_t | z_t): s_t = (z_{t-1}, u_t), bits."""

    def __init__(self):
        super().__init__()
        self.data_dim, self.latent_dim, self.state_dim = DATA, LATENT, LATENT + CONTROL
        self.control_dim = CONTROL
        self.z_0 = nn.Parameter(torch.randn(LATENT))
        self.net = mlp(LATENT + CONTROL, (5,), 2 * LATENT, nn.Tanh)
        self.decoder = mlp(LATENT, (5,), DATA, nn.Tanh)

    def inputs(self, x, u=None, carry=None):
        return (u,)

    def start(self, x, u):
        return side_by_side(self.z_0, u)

    def transition(self, s):
        return normal(self.net(s))

    def emission(self, z, s):
        return IndependentBernoulli(self.decoder(z))

    def advance(self, s, z, x, u):
        return side_by_side(z, u)

    def states(self, z, x, u, first=None):
        return side_by_side(shift(z, self.z_0 if first is None else first[..., :LATENT]), u)


class Feedback(StateSpace):
    """p(z_t | h_t) p(x_t | z_t, h_t), h_{t+1} = GRU((f(x_t), z_t), h_t): s_t = h_t (as a VRNN)."""

    def __init__(self):
        super().__init__()
        self.data_dim, self.latent_dim, self.state_dim = DATA, LATENT, 5
        self.h_1 = nn.Parameter(torch.randn(5))
        self.feature = mlp(DATA, (4,), activation=nn.Tanh)
        self.gru = nn.GRU(4 + LATENT, 5, batch_first=True)
        self.prior = nn.Linear(5, 2 * LATENT)
        self.decoder = mlp(LATENT + 5, (4,), 2 * DATA, nn.Tanh)

    def inputs(self, x, u=None, carry=None):
        return (self.feature(shift(x, x.new_zeros(DATA) if carry is None else carry.x)),)  # f(x_{t-1}) enters step t

    def start(self, x, feature):
        return self.h_1

    def transition(self, s):
        return normal(self.prior(s))

    def emission(self, z, s):
        return normal(self.decoder(side_by_side(z, s)))

    def advance(self, s, z, x, feature):
        return recur(self.gru, side_by_side(feature, z).unsqueeze(-2), s).squeeze(-2)

    def states(self, z, x, feature, first=None):
        h_1 = self.h_1 if first is None else first
        later = recur(self.gru, side_by_side(feature[..., 1:, :], z[..., :-1, :]), h_1)
        return torch.cat([h_1.expand(*later.shape[:-2], 5).unsqueeze(-2), later], -2)


class DrivenState(NamedTuple):
    z: Tensor
    d: Tensor


class Driven(StateSpace):
    """p(z_t | z_{t-1}, d_t) p(x_t | z_t, d_t), d_t = GRU(x_{t-1}, d_{t-1}): s_t = (z_{t-1}, d_t) (as an SRNN)."""

    def __init__(self):
        super().__init__()
        self.data_dim, self.latent_dim, self.state_dim = DATA, LATENT, LATENT + 4
        self.z_0, self.d_0 = nn.Parameter(torch.randn(LATENT)), nn.Parameter(torch.randn(4))
        self.gru = nn.GRU(DATA, 4, batch_first=True)
        self.prior = nn.Linear(LATENT + 4, 2 * LATENT)
        self.decoder = nn.Linear(LATENT + 4, 2 * DATA)

    def inputs(self, x, u=None, carry=None):
        x_0, d_0 = (x.new_zeros(DATA), self.d_0) if carry is None else (carry.x, carry.s.d)
        return (recur(self.gru, shift(x, x_0), d_0),)

    def start(self, x, d):
        return DrivenState(self.z_0, d)

    def transition(self, s):
        return normal(self.prior(side_by_side(*s)))

    def emission(self, z, s):
        return normal(self.decoder(side_by_side(z, s.d)))

    def advance(self, s, z, x, d):
        return DrivenState(z, d)

    def states(self, z, x, d, first=None):
        return DrivenState(shift(z, self.z_0 if first is None else first.z), d)


mixture = partial(MixtureOfNormals, num_components=2)
heteroscedastic = partial(Normal, heteroscedastic=True)


def moved(model: Callable[..., StateSpace], **options: Any) -> StateSpace:
    """A model with smooth nets, and no parameter at a start that is special (zeros, the identity)."""
    return nudged(model(DATA, LATENT, activation=nn.Tanh, **options))


def nudged(model: StateSpace) -> StateSpace:
    """The model with every parameter moved a little."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def mixed_dynamics(data_dim: int = DATA, latent_dim: int = LATENT) -> MixedDynamics:
    """Mixed dynamics that take controls and whose weights differ from step to step."""
    variances = {"initial_variance": 1.0, "transition_variance": 0.5, "emission_variance": 0.5}
    dynamics = MixedDynamics(data_dim, latent_dim, CONTROL, recurrent=4, **variances)
    with torch.no_grad():
        # at their start the weights hardly move, and a shift that is wrong would not show
        dynamics.alpha.head.weight.mul_(5.0)
    return dynamics


def kvae(**options: Any) -> KVAE:
    """A KVAE on bits whose (z_t, a_t) has two entries."""
    return KVAE(mixed_dynamics(1, 1), mlp(1, (5,), activation=nn.Tanh), Bernoulli(5, DATA), DATA, **options)


def positive(*shape: int) -> Tensor:
    """A well-conditioned covariance, or many."""
    root = torch.randn(*shape, shape[-1])
    return root @ root.mT / shape[-1] + 0.3 * torch.eye(shape[-1])


def linear_gaussian(
    learn: Callable[[Tensor], Tensor] = nn.Parameter, lead: tuple[int, ...] = (), **options: Any
) -> LGSSM:
    """An LGSSM with every field; `lead`: leading axes, batch and time, of all that may have them."""
    n, m, k = LATENT, DATA, CONTROL
    batch = lead[:-1]
    values = {
        "initial_mean": torch.randn(*batch, n),
        "initial_covariance": positive(*batch, n),
        "transition_matrix": 0.5 * torch.randn(*lead, n, n),
        "transition_covariance": positive(*lead, n),
        "emission_matrix": torch.randn(*lead, m, n),
        "emission_covariance": positive(*lead, m),
        "transition_input": torch.randn(*lead, n, k),
        "transition_bias": torch.randn(*lead, n),
        "emission_input": torch.randn(*lead, m, k),
        "emission_bias": torch.randn(*lead, m),
    }
    return LGSSM(Parameters, **({"marginal": False} | options), **{name: learn(v) for name, v in values.items()})


def bits() -> Tensor:
    return (torch.rand(SEQUENCES, FRAMES, DATA) < 0.5).to(torch.get_default_dtype())


def reals() -> Tensor:
    return torch.randn(SEQUENCES, FRAMES, DATA)


class Row(NamedTuple):
    """A model of sequences, its data, and whether it takes controls."""

    model: Callable[[], StateSpace]
    data: Callable[[], Tensor] = reals
    controlled: bool = False

    def build(self, seed: int = 0) -> tuple[StateSpace, Tensor, Tensor | None]:
        torch.manual_seed(seed)
        model, x = self.model(), self.data()
        return model, x, torch.randn(*x.shape[:2], CONTROL) if self.controlled else None


STATE_SPACES: Mapping[str, Row] = {
    "lgssm": Row(linear_gaussian, controlled=True),
    "lgssm-in-time": Row(partial(linear_gaussian, lead=(FRAMES,)), controlled=True),
    "lgssm-per-sequence": Row(partial(linear_gaussian, lead=(SEQUENCES, 1)), controlled=True),
    "lgssm-both": Row(partial(linear_gaussian, lead=(SEQUENCES, FRAMES)), controlled=True),
    "mixed-dynamics": Row(lambda: nudged(mixed_dynamics()), controlled=True),
    "kvae": Row(lambda: nudged(kvae(marginal=False)), bits, controlled=True),
    "markov": Row(Markov, bits, controlled=True),
    "feedback": Row(Feedback),
    "driven": Row(Driven),
    "dmm": Row(partial(moved, DMM, transition_hidden=(5,), hidden=(5,)), bits),
    "dmm-mixture": Row(partial(moved, DMM, transition_hidden=(5, 4), hidden=(), likelihood=mixture)),
    "dmm-linear": Row(partial(moved, DMM, transition=LinearTransition, hidden=(), likelihood=Normal)),
    "storn": Row(partial(moved, STORN, recurrent=4, hidden=(5,)), bits),
    "storn-normal": Row(partial(moved, STORN, recurrent=4, hidden=(), likelihood=Normal)),
    "vrnn": Row(partial(moved, VRNN, recurrent=4, hidden=(5, 4)), bits),
    "vrnn-mixture": Row(partial(moved, VRNN, recurrent=4, hidden=(), likelihood=mixture)),
    "srnn": Row(partial(moved, SRNN, recurrent=4, hidden=(5,)), bits),
    "srnn-normal": Row(partial(moved, SRNN, recurrent=4, hidden=(), likelihood=heteroscedastic)),
    "srnn-controlled": Row(partial(moved, SRNN, recurrent=4, hidden=(6,), control_dim=CONTROL), bits, controlled=True),
}
