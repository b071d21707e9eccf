"""A whole latent trajectory as one site: what a sequence model states, and the density over all of its states at once.

A `pyro.sample` for each time step costs two to three times what hand-written PyTorch does, one site for all of them
hardly more than that (docs/speed.md), and NUTS, masks and plots become simpler.
"""

from abc import abstractmethod
from collections.abc import Callable
from itertools import chain
from typing import Any, ClassVar

import pyro
import torch
from pyro.distributions import TorchDistribution, is_validation_enabled
from torch import Tensor

from zoo.parts.checks import check_frames, check_sequences
from zoo.parts.store_keys import RootModule
from zoo.parts.trajectory import rollout
from zoo.parts.trajectory.density import Trajectory, last, shift, side_by_side
from zoo.parts.trajectory.rollout import Carry, Draws, at_steps, each

__all__ = ["Carry", "Draws", "StateSpace", "Trajectory", "at_steps", "check_sequences", "shift", "side_by_side"]


class StateSpace(RootModule):
    """p(x, z) = prod_t p(z_t | s_t) p(x_t | z_t, s_t), s_{t+1} = f(s_t, z_t, x_t): a model of sequences (abstract).

    The state s_t is all that step t needs to know of what came before: z_{t-1} in a Markov model, the hidden vector of
    a recurrent network otherwise; a tensor, or a NamedTuple of tensors. A model says how it starts and advances, one
    step at a time, and the same once more for all steps at once (`states`), which is what scoring uses.

    What does not depend on z belongs in `inputs`: it is computed once, outside every loop over time. What step t of the
    model uses of it may depend on x_1..x_{t-1} and all of u, and on nothing later; entries that `encoding` alone reads
    may depend on x_t (VRNN, SRNN: f(x_t)).

    Chunks: a `Carry` is the step before the first frame, (s_0, z_0, x_0), and s_1 = f(s_0, z_0, x_0) in place of
    `start`. `carry_on` makes the next chunk's from this one's, detached: truncated back-propagation.

    Masks: True where x is observed, `(N, T)` for whole frames; models that override `observation` for it, as `LGSSM`
    does, take `(N, T, data_dim)` for single entries too. x may hold anything, NaN too, where it is False: to the model
    it is zero there, which its emission must be able to score, though the score is not used. The mask speaks of x
    alone: z_t is a latent variable at every t, since what came before and what comes after tell about it. So a frame of
    padding still has its p(z_t | s_t); after the last observed frame of a sequence that is also the exact posterior, a
    `Trajectory` that is given the mask draws z_t from it, and log p - log q of padding is zero. A model that feeds x
    back is fed zeros where x is missing: its log p with holes is that of the observed frames given these zeros, not the
    marginal one.

    Attributes:
        data_dim, latent_dim: sizes of x_t and z_t.
        state_dim: size of `features(s)`.
        encoding_dim: size of `encoding(x, ...)`, data_dim unless the model says otherwise.
        control_dim: size of u, where the model takes controls: guides read them too.
        carries: whether a sequence may be taken in chunks. False: `inputs` takes no carry, and does not depend on x.
        sizes: how many sequences and frames the parameters are of; None where they serve any number, as they do unless
            the model says otherwise. What shuffles or cuts rows must know.

    Sites, in `pyro.plate("data", N)`: `z` `(T, latent_dim)`; `x` `(T, data_dim)`, observed.
    """

    data_dim: int
    latent_dim: int
    state_dim: int
    carries: ClassVar[bool] = True
    sizes: tuple[int | None, int | None] = (None, None)

    def __init__(self) -> None:
        super().__init__("model")
        left = [name for name in ("advance", "emission", "start", "states", "transition") if _is_abstract(self, name)]
        if left:
            raise TypeError(f"StateSpace: abstract; {type(self).__name__} states neither {' nor '.join(left)}")

    @property
    def encoding_dim(self) -> int:
        return self.data_dim

    def inputs(self, x: Tensor, u: Tensor | None = None, carry: Carry | None = None) -> tuple[Any, ...]:
        """What enters the steps besides z, for all t at once: handed on, step by step, as further arguments.

        Args:
            x: `(..., T, data_dim)`, zero where it is not observed.
            u: controls, `(..., T, control_dim)`.
            carry: the step before the first frame; None at the start of the sequences.

        Returns:
            Any number of entries; each is a tensor `(..., T, size)`, or has an `unbind(-2)` that gives its T steps.
        """
        if u is not None:
            raise ValueError(f"u: {type(self).__name__} takes no controls")
        return ()

    @abstractmethod
    def start(self, x: Tensor, *inputs: Any) -> Any:
        """s_1; `inputs` are those of step 1. Axes of batch and particles may be left to broadcasting."""

    @abstractmethod
    def transition(self, s: Any) -> TorchDistribution:
        """p(z_t | s_t), event `(latent_dim,)`; of one step, or of all with a time axis left of the event."""

    @abstractmethod
    def emission(self, z: Tensor, s: Any) -> TorchDistribution:
        """p(x_t | z_t, s_t), event `(data_dim,)`; as above."""

    @abstractmethod
    def advance(self, s: Any, z: Tensor, x: Tensor, *inputs: Any) -> Any:
        """s_{t+1} from s_t, z_t, x_t; `inputs` are those of step t + 1."""

    @abstractmethod
    def states(self, z: Tensor, x: Tensor, *inputs: Any, first: Any | None = None) -> Any:
        """s_1..s_T with a time axis, from the whole z `(..., T, latent_dim)`: what `advance` gives step by step.

        `first`: s_1; None means that of `start`.
        """

    def encoding(self, x: Tensor, *inputs: Any) -> Tensor:
        """What a guide's networks read of the frames, `(..., T, encoding_dim)`: x, or what the model makes of it."""
        return x

    def features(self, s: Any) -> Tensor:
        """The state as one vector `(..., state_dim)`, for the networks of guides."""
        return s if isinstance(s, Tensor) else side_by_side(*s)

    def observation(self, z: Tensor, s: Any, mask: Tensor | None = None) -> TorchDistribution:
        """p(x | z) of all frames, event `(T, data_dim)`; with a mask, of the observed frames alone."""
        p = self.emission(z, s)
        if mask is not None and mask.ndim > 2:
            name = type(self).__name__
            raise ValueError(f"mask: {name} takes whole frames, shape (N, T), got {tuple(mask.shape)}")
        return (p if mask is None else p.mask(mask)).to_event(1)

    def check(
        self, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None, carry: Carry | None = None
    ) -> None:
        """Refuses arguments that do not fit, and values that are not finite where x is observed."""
        check_sequences(x, self.data_dim, self._like(x), u, mask)
        check_frames(x, mask)
        if carry is not None:
            self._check_carry(x, carry)

    def check_guide(self, guide: Any) -> None:
        """Refuses a sequence guide that was built for a model of other sizes."""
        if not hasattr(guide, "conditional"):
            return
        other = getattr(guide, "model", self)
        for name in ("data_dim", "latent_dim", "state_dim", "encoding_dim"):
            theirs, ours = getattr(other, name, getattr(self, name)), getattr(self, name)
            if theirs != ours:
                raise ValueError(f"guide: {type(guide).__name__} was built for a {type(other).__name__} of {name} = "
                                 f"{theirs}; this {type(self).__name__} has {ours}")  # fmt: skip

    def _like(self, other: Tensor | None = None) -> Tensor:
        """A tensor of the model, for dtype and device; without any, the other, or one of torch's default."""
        return next(chain(self.parameters(), self.buffers()), torch.empty(0) if other is None else other)

    def _check_carry(self, x: Tensor, carry: Carry) -> None:
        if not isinstance(carry, Carry):
            raise TypeError(f"carry: expected a Carry, as of carry_on or given, got {type(carry).__name__}")
        if not self.carries:
            raise ValueError(f"carry: {type(self).__name__} takes whole sequences, not chunks")
        for name, value, size in (("z", carry.z, self.latent_dim), ("x", carry.x, self.data_dim)):
            if value.shape[-2:] != (x.shape[-3], size):
                raise ValueError(f"carry.{name}: expected shape ({x.shape[-3]}, {size}) for {x.shape[-3]} sequences, "
                                 f"got {tuple(value.shape)}")  # fmt: skip
            if is_validation_enabled() and not torch.isfinite(value).all():
                bad = int((~torch.isfinite(value)).flatten(0, -2).any(-1).nonzero()[0])
                raise ValueError(f"carry.{name}: NaN or infinite, first for sequence {bad}, counted from 0")
        try:
            shape = tuple(self.features(carry.s).shape)
        except (AttributeError, TypeError, RuntimeError) as error:
            raise ValueError(f"carry.s: {type(carry.s).__name__} is no state of a {type(self).__name__}") from error
        if shape[-1] != self.state_dim or shape[-2:-1] not in ((), (1,), (x.shape[-3],)):
            raise ValueError(f"carry.s: expected the states of {x.shape[-3]} sequences, of size {self.state_dim}, got "
                             f"shape {shape}")  # fmt: skip

    def forward(
        self, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None, carry: Carry | None = None
    ) -> Tensor:
        self.check(x, u, mask, carry)
        if self._pyro_context.active:  # SVI trains what is looked at during this call, and z is scored after it
            for name in (*self._parameters, *self._pyro_params, *self._modules):
                getattr(self, name)
        return self.program(Trajectory(self, self.transition, x, u, mask, carry=carry), mask)

    def program(self, prior: "Trajectory", mask: Tensor | None) -> Tensor:
        """The generative program: z from the prior, x from z."""
        with pyro.plate("data", len(prior.x)):
            z = pyro.sample("z", prior)
            return pyro.sample("x", self.observation(z, prior.states(z), mask), obs=prior.x)

    @torch.no_grad()
    def carry_on(
        self, z: Tensor, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None, carry: Carry | None = None
    ) -> Carry:
        """The carry after a chunk, detached, from that before it (None: the sequences start here).

        Args:
            z: the chunk's trajectories, `(..., N, T, latent_dim)`, a guide's draws.
            x, u, mask, carry: as in `forward`.
        """
        if z.shape[-3:] != (*x.shape[-3:-1], self.latent_dim):
            raise ValueError(f"z: expected shape (..., {x.shape[-3]}, {x.shape[-2]}, {self.latent_dim}) as x has it, "
                             f"got {tuple(z.shape)}")  # fmt: skip
        if mask is not None and mask.shape[:2] != x.shape[-3:-1]:
            raise ValueError(f"mask: expected {tuple(x.shape[-3:-1])} as x has it, got {tuple(mask.shape)}")
        if carry is not None:
            self._check_carry(x, carry)
        chunk = Trajectory(self, self.transition, x, u, mask, carry=carry)
        return Carry(each(chunk.states(z), last), last(z), last(chunk.x)).detach()

    def given(self, x: Tensor) -> Carry:
        """The carry of sequences whose first frame x `(N, data_dim)` is given and not scored, as SRNN's data have it.

        They start as others do, z being that before all frames: the learned one of a Markov chain, zeros elsewhere.
        """
        frame = x.unsqueeze(-2)
        start = self.start(frame, *at_steps(self.inputs(frame), 1)[0])
        z = getattr(self, "z_0", x.new_zeros(self.latent_dim)).expand(*x.shape[:-1], self.latent_dim)
        return Carry(start, z, x)

    def extend(self, z: Tensor, x: Tensor, k: int, u: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """k more frames of each sequence, drawn step by step with the drawn x fed back.

        Args:
            z, x: the sequences so far, `(N, T, latent_dim)` (a guide's draws, say) and `(N, T, data_dim)`; T may be 0.
            u: controls of all T + k frames.

        Returns:
            z `(N, k, latent_dim)` and x `(N, k, data_dim)`.
        """
        if k < 1:
            raise ValueError(f"k: expected at least one frame, got {k}")
        if x.shape[-2]:
            self.check(x, None if u is None else u[..., : x.shape[-2], :])
        if z.shape != (*x.shape[:-1], self.latent_dim):
            raise ValueError(f"z: expected shape {(*x.shape[:-1], self.latent_dim)} as x has it, got {tuple(z.shape)}")
        T = x.shape[-2]
        if u is not None and u.shape[:-1] != (*x.shape[:-2], T + k):
            raise ValueError(f"u: expected the controls of {tuple(x.shape[:-2])} sequences and {T} + {k} frames, got "
                             f"{tuple(u.shape)}")  # fmt: skip
        known = torch.arange(T + k, device=x.device) < T
        z, x = (torch.nn.functional.pad(v, (0, 0, 0, k)) for v in (z, x))
        z, x = rollout.roll(self, z, x, known, known, u)
        return z[..., T:, :], x[..., T:, :]

    def generate(self, num: int, T: int, u: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`num` new sequences of T frames: z `(num, T, latent_dim)` and x `(num, T, data_dim)`."""
        if num < 1 or T < 1:
            raise ValueError(f"expected at least one sequence and one frame, got num = {num}, T = {T}")
        like = self._like()
        return self.extend(like.new_zeros(num, 0, self.latent_dim), like.new_zeros(num, 0, self.data_dim), T, u)

    def forecast(
        self,
        x: Tensor,
        horizon: int,
        num: int,
        guide: Callable,
        u: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Draws:
        """`num` continuations of each sequence: z from the guide, then the model's own draws fed back.

        Sequences start at `start`. Of data with a given first frame, put that in front of x: it is then an ordinary
        frame, with a z of its own, which it has not in SRNN's convention.

        Args:
            x: `(N, T, data_dim)`; with a mask `(N, T)` each sequence is continued after its last observed frame.
            horizon: frames to draw.
            guide: any guide of this model.
            u: controls of all T + horizon frames.

        Returns:
            Draws of `horizon` frames.
        """
        return rollout.forecast(self, x, horizon, num, guide, u, mask)

    def impute(self, x: Tensor, mask: Tensor, guide: Callable, num: int = 1, u: Tensor | None = None) -> Draws:
        """`num` draws of each sequence with its missing frames filled in: z from the guide, drawn frames fed back.

        Observed frames are as they are in x. A guide knows of later frames as far as it looks at them; in a model that
        feeds x back a filled frame follows z and the past, and is not weighted by the later frames that depend on it.
        """
        return rollout.impute(self, x, mask, guide, num, u)


def _is_abstract(model: StateSpace, name: str) -> bool:
    """PyroModule's metaclass is not that of abstract classes."""
    return getattr(getattr(type(model), name), "__isabstractmethod__", False)
