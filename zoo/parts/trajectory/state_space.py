"""The model of sequences: five methods that a model states, and all that follows from them.

A `pyro.sample` for each time step costs two to three times as much as hand-written PyTorch, one site for all of them
hardly more than that (docs/speed.md), and NUTS, masks and plots become simpler.
"""

from abc import abstractmethod
from itertools import chain
from typing import Any

import pyro
from pyro.distributions import TorchDistribution
from pyro.infer.autoguide import AutoGuide
from pyro.nn import PyroModule
from torch import Tensor

from zoo.parts.checks import (
    check_built_for,
    check_controls,
    check_frames,
    check_sequences,
    check_support,
    whole_frames_only,
)
from zoo.parts.once import once
from zoo.parts.store_keys import RootModule
from zoo.parts.trajectory import carry as chunks
from zoo.parts.trajectory.carry import Carry
from zoo.parts.trajectory.density import Trajectory
from zoo.parts.trajectory.forecasts import Forecasts
from zoo.parts.trajectory.masks import filled
from zoo.parts.trajectory.time import side_by_side


class StateSpace(Forecasts, RootModule):
    """p(x, z) = prod_t p(z_t | s_t) p(x_t | z_t, s_t), s_{t+1} = f(s_t, z_t, x_t): a model of sequences (abstract).

    The state s_t is all that step t needs to know of the steps before it: z_{t-1} in a Markov model, the hidden vector
    of a recurrent network otherwise; a tensor, or a NamedTuple of tensors. A model states `start`, `transition`,
    `emission` and `advance`, one step at a time, and the same once more for all steps at once, `states`, for scores.

    Seven further methods have a default, which a model may replace: `inputs` (nothing enters besides z), `completed`
    (zero where x is missing), `encoding` (x itself) with its `encoding_dim`, `features` (the parts of s side by side),
    `observed_entries` (refused), `program` (the two sites below), `scored` (every observed frame). No other method is
    for a subclass to replace. A model whose posterior has a closed form states the methods of `tractable.Tractable`
    besides; forecasts then need no guide.

    Computations that do not depend on z belong in `inputs`, outside every loop over time. Step t of the model may use
    entries that depend on x_1..x_{t-1} and all of u, and on nothing later; entries that `encoding` alone reads may
    depend on x_t (VRNN, SRNN: f(x_t)).

    Chunks: a `Carry` is the step before the first frame, (s_0, z_0, x_0), and s_1 = f(s_0, z_0, x_0) in place of
    `start`. `carry_on` makes the next chunk's carry from this chunk's, detached: truncated back-propagation.

    Masks: True where x is observed, `(N, T)` for whole frames; models that state `observed_entries` take
    `(N, T, data_dim)` for single entries too. x may hold anything, NaN too, where the mask is False: the model sees
    zero there, and its emission must be able to score zero, though the score is not used. The mask speaks of x alone:
    z_t is a latent variable at every t. A frame of padding still has its p(z_t | s_t), which after the last observed
    frame of a sequence is also the exact posterior; a guide's `Trajectory` that is given the mask draws z_t from it
    there, and log p - log q of padding is zero. A model that feeds x back is fed zeros where x is missing: its log p
    with holes is that of the observed frames given these zeros, not the marginal one.

    Attributes:
        data_dim, latent_dim: sizes of x_t and z_t.
        state_dim: size of `features(s)`.
        control_dim: size of u; 0 of a model without controls. Guides read u too.
        carries: True if a sequence may be taken in chunks. False: `inputs` takes no carry, and does not depend on x.
        support: the bounded constraint that each x_t must satisfy, where it is known before a network runs; None, the
            default: x_t is compared with the support of its emission once the program has run.
        sizes: the numbers of sequences and frames that the parameters are for; None, the default: any number. A routine
            that shuffles or cuts rows must know them.

    Sites, in `pyro.plate("data", N)`: `z` `(T, latent_dim)`; `x` `(T, data_dim)`, observed.
    """

    data_dim: int
    latent_dim: int
    state_dim: int
    control_dim: int = 0
    carries: bool = True
    support: Any = None
    sizes: tuple[int | None, int | None] = (None, None)
    # read by `zoo.parts.door`: x is (N, T, data_dim), and (T, data_dim) is one series
    of_sequences = True

    def __init__(self) -> None:
        super().__init__("model")
        # PyroModule's metaclass is not that of abstract classes, which would refuse by itself
        names = ("advance", "emission", "start", "states", "transition")
        left = [name for name in names if getattr(getattr(type(self), name), "__isabstractmethod__", False)]
        if left:
            raise TypeError(f"StateSpace: abstract; {type(self).__name__} states neither {' nor '.join(left)}")

    # --- stated by every model ---------------------------------------------------------------------------------------

    @abstractmethod
    def start(self, x: Tensor, *inputs: Any) -> Any:
        """s_1; `inputs` are those of step 1. Axes of batch and particles may be left to broadcasting."""

    @abstractmethod
    def transition(self, s: Any) -> TorchDistribution:
        """p(z_t | s_t), event `(latent_dim,)`; of one step, or of all with a time axis left of the event."""

    @abstractmethod
    def emission(self, z: Tensor, s: Any) -> TorchDistribution:
        """p(x_t | z_t, s_t), event `(data_dim,)`; of one step or of all, as `transition`."""

    @abstractmethod
    def advance(self, s: Any, z: Tensor, x: Tensor, *inputs: Any) -> Any:
        """s_{t+1} from s_t, z_t, x_t; `inputs` are those of step t + 1."""

    @abstractmethod
    def states(self, z: Tensor, x: Tensor, *inputs: Any, first: Any | None = None) -> Any:
        """s_1..s_T with a time axis, from the whole z `(..., T, latent_dim)`: equal to `advance` step by step.

        `first`: s_1; None means that of `start`.
        """

    # --- stated where the default does not serve ---------------------------------------------------------------------

    @property
    def encoding_dim(self) -> int:
        """Size of `encoding(x, ...)`."""
        return self.data_dim

    def inputs(self, x: Tensor, u: Tensor | None = None, carry: Carry | None = None) -> tuple[Any, ...]:
        """All that enters the steps besides z, for all t at once: handed on, step by step, as further arguments.

        Args:
            x: `(..., T, data_dim)`, zero where it is not observed.
            u: controls, `(..., T, control_dim)`.
            carry: the step before the first frame; None at the start of the sequences.

        Returns:
            Any number of entries; each is a tensor `(..., T, size)`, or has an `unbind(-2)` that gives its T steps.
        """
        check_controls(u, 0, type(self).__name__)
        return ()

    def completed(
        self, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None, carry: Carry | None = None
    ) -> Tensor:
        """x as the steps read it, with a value in place of what is missing; arguments as in `forward`."""
        return filled(x, mask)

    def encoding(self, x: Tensor, *inputs: Any) -> Tensor:
        """Features of the frames that a guide's networks read, `(..., T, encoding_dim)`."""
        return x

    def features(self, s: Any) -> Tensor:
        """The state as one vector `(..., state_dim)`, for the networks of guides."""
        return s if isinstance(s, Tensor) else side_by_side(*s)

    def observed_entries(self, z: Tensor, s: Any, mask: Tensor) -> TorchDistribution:
        """p(the observed entries of x | z), event `(T, data_dim)`, for a mask of single entries."""
        raise whole_frames_only(mask, type(self).__name__)

    def scored(self, mask: Tensor) -> Tensor:
        """The frames of a mask `(N, T)` that log p is of, over which averages per frame divide: all observed ones."""
        return mask

    def program(self, x: Tensor, u: Tensor | None, mask: Tensor | None, carry: Carry | None) -> Tensor:
        """The sites of the generative program; the arguments are checked."""
        return self.sites(Trajectory(self, self.transition, x, u, mask, carry=carry), mask)

    # --- the same for every model ------------------------------------------------------------------------------------

    def forward(
        self, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None, carry: Carry | None = None
    ) -> Tensor:
        """Runs the generative program: checks the arguments, samples z and x, returns x. u: `(N, T, control_dim)`."""
        # a guide has asked for the same check, which takes a pass over x
        once(self.check)(x, u, mask, carry)
        # SVI trains the parameters that are looked at during this call, and z is scored after it
        if self._pyro_context.active:
            for part in (m for m in self.modules() if isinstance(m, PyroModule)):
                for name in (*part._parameters, *part._pyro_params, *part._modules):
                    getattr(part, name)
        return self.program(x, u, mask, carry)

    def sites(self, prior: Trajectory, mask: Tensor | None) -> Tensor:
        """z from the prior and x from z, in one plate; returns x."""
        with pyro.plate("data", len(prior.x)):
            z = pyro.sample("z", prior)
            return pyro.sample("x", self.observation(z, prior.states(z), mask), obs=prior.x)

    def observation(self, z: Tensor, s: Any, mask: Tensor | None = None) -> TorchDistribution:
        """p(x | z) of all frames, event `(T, data_dim)`; with a mask, of the observed frames or entries alone."""
        if mask is not None and mask.ndim > 2:
            return self.observed_entries(z, s, mask)
        p = self.emission(z, s)
        return (p if mask is None else p.mask(mask)).to_event(1)

    def check(self, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None, carry: Carry | None = None) -> None:
        """Refuses arguments that do not fit, and values that x cannot have where it is observed."""
        check_sequences(x, self.data_dim, next(chain(self.parameters(), self.buffers()), None), u, mask)
        check_controls(u, self.control_dim, type(self).__name__)
        if mask is not None and mask.ndim > 2 and type(self).observed_entries is StateSpace.observed_entries:
            raise whole_frames_only(mask, type(self).__name__)
        if self.support is None:
            check_frames(x, mask)
        else:
            # it looks for NaN and infinity besides, in one pass over x where the support is bits or levels
            check_support(x, self.support, mask)
        if carry is not None:
            chunks.check_carry(self, x, carry)

    def check_guide(self, guide: Any) -> None:
        """Refuses a guide that was built for a state space of other sizes."""
        # any callable is a guide, the caller's own or one of Pyro's, which fits whatever model it was made of and loses
        # that model when it is copied
        other = None if isinstance(guide, AutoGuide) else getattr(guide, "model", None)
        if not isinstance(other, StateSpace):
            return
        check_built_for(guide, other, self, "data_dim", "latent_dim", "state_dim", "encoding_dim", "control_dim")

    def carry_on(
        self, z: Tensor, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None, carry: Carry | None = None
    ) -> Carry:
        """The carry after a chunk, detached, from the carry before the chunk (None: the sequences start here).

        Args:
            z: the chunk's trajectories, `(..., N, T, latent_dim)`, a guide's draws.
            x, u, mask, carry: as in `forward`.
        """
        return chunks.carry_on(self, z, x, u, mask, carry)

    def given(self, x: Tensor, u: Tensor | None = None) -> Carry:
        """The carry of sequences whose first frame x `(N, data_dim)` is given and not scored, as SRNN's data have it.

        The sequences start as others do. The carry's z is `z_0` of a model that has one (DMM, SRNN), else zeros; u are
        the controls of that frame, `(N, control_dim)`, zeros where they are not given.
        """
        return chunks.given(self, x, u)
