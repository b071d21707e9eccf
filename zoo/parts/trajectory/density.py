"""The density over a whole latent trajectory."""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from zoo.parts.distributions import DiagonalNormal
from zoo.parts.distributions.vector import version_of
from zoo.parts.once import once
from zoo.parts.trajectory.masks import until_last
from zoo.parts.trajectory.padding import beyond, everywhere, padded
from zoo.parts.trajectory.time import at_steps

if TYPE_CHECKING:
    from zoo.parts.trajectory.carry import Carry


class Latest(NamedTuple):
    """A trajectory's latest draw: its value, how often that had been written to, and each step's (conditional, z_t)."""

    value: Tensor
    version: int
    steps: list[tuple[Any, Tensor]]


class Trajectory(TorchDistribution):
    """prod_t c(z_t | s_t): a density over whole trajectories z, event `(T, latent_dim)`.

    Model and guide build the same object with different conditionals c. The model's is `model.transition`; a guide's
    also reads features of the data: `lambda s, c: family(model.transition(s), model.features(s), c)` with
    `context=(c,)`. A draw runs over time with `model.advance`, unless the steps are independent; a score takes all
    steps at once with `model.states`. The object is for one evaluation, with one set of parameters.

    `kl_divergence(q, p)` of two trajectories sums the closed-form KL of each step along q's latest draw; its mean over
    draws is the KL divergence.

    Args:
        model: a `StateSpace`.
        conditional: `(s, *context) -> Distribution` over z_t, event `(latent_dim,)`; called for one step and for all.
            With `independent` s is None.
        x: `(..., T, data_dim)`; its leading axes are the batch shape. Values under the mask do not matter.
        u: controls.
        mask: as in `StateSpace`. After the last observed frame of a sequence `model.transition` takes the place of
            the conditional.
        context: tensors `(..., T, size)`, handed to the conditional step by step.
        inputs: the result of `model.inputs(x, u, carry)`, where it has been computed before.
        carry: the step before the first frame; None at the start of the sequences.
        independent: the conditional reads the context alone, not s_t: all steps are then drawn in one call.
    """

    arg_constraints: dict = {}  # noqa: RUF012
    has_rsample = True
    support = constraints.independent(constraints.real, 2)

    def __init__(
        self,
        model: Any,
        conditional: Callable[..., TorchDistribution],
        x: Tensor,
        u: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        context: tuple[Tensor, ...] = (),
        inputs: tuple[Any, ...] | None = None,
        carry: "Carry | None" = None,
        independent: bool = False,
    ) -> None:
        self.model, self.conditional, self.context = model, conditional, context
        self.observed, self.carry, self.independent = mask, carry, independent
        # the model's calls are marked `once`: the guide's trajectory makes them with the same tensors, and so do this
        # one's emission and score. Measured on SRNN: a step without costs 1.29 to 1.36 times as much
        self.x = x if mask is None else once(model.completed)(x, u, mask, carry)
        self._u = u
        # computed here, not on demand: a first use under no_grad would leave later gradients inputs without a graph
        self._inputs: Any = inputs_of(model, self.x, u, carry) if inputs is None else inputs
        self.own = conditional == model.transition
        # the prior follows the transition in every frame anyway
        self.followed: Any = None if mask is None or self.own else until_last(x, mask)
        # the one memory of the object: without it a guide's networks run twice for each draw (an SRNN step costs 1.10
        # times as much), and a flow without an inverse could not be scored at all
        self._latest: Latest | None = None
        carried = () if carry is None else (carry.z.shape[:-1],)
        batch = torch.broadcast_shapes(x.shape[:-2], *(c.shape[:-2] for c in context), *carried)
        super().__init__(batch, torch.Size((x.shape[-2], model.latent_dim)), validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "Trajectory":
        batch_shape = torch.Size(batch_shape)
        if batch_shape == self._batch_shape:
            return self
        new = object.__new__(Trajectory)
        new.__dict__.update(self.__dict__)
        new._batch_shape = torch.broadcast_shapes(batch_shape, self._batch_shape)
        return new

    def __deepcopy__(self, memo: dict) -> "Trajectory":
        """A copy without the inputs and the latest draw, which it computes anew."""
        # Pyro's autoguides copy the sites that they have traced, and torch refuses to copy tensors with a graph
        new = memo[id(self)] = object.__new__(Trajectory)
        kept = {name: v for name, v in self.__dict__.items() if name not in ("_inputs", "_latest")}
        new.__dict__.update({name: copy.deepcopy(v, memo) for name, v in kept.items()}, _inputs=None, _latest=None)
        return new

    @property
    def inputs(self) -> tuple[Any, ...]:
        """The result of `model.inputs`."""
        # after a copy; within `__deepcopy__` the model may not be complete yet
        if self._inputs is None:
            self._inputs = inputs_of(self.model, self.x, self._u, self.carry)
        return self._inputs

    def start(self) -> Any:
        """s_1: the model's start, or the state that follows the carry."""
        return once(_start)(self.model, self.x, self.carry, *self.inputs)

    def states(self, z: Tensor) -> Any:
        """s_1..s_T along z."""
        self._check(z)
        first = {} if self.carry is None else {"first": self.start()}
        return once(self.model.states)(z, self.x, *self.inputs, **first)

    def along(self, z: Tensor) -> TorchDistribution:
        """The conditionals of all steps along z; where z is the latest draw, those that drew it."""
        if self._is_latest(z) and (z.requires_grad or not torch.is_grad_enabled()):
            drawn = self._drawn()
            if drawn is not None:
                return drawn
        return self._conditionals(z)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Reparameterised draws; in padding, on which no observed frame depends, they carry no gradient."""
        shape = torch.Size(sample_shape) + self._batch_shape
        value, steps = self._draw_at_once(shape) if self.independent else self._draw_in_turn(shape)
        self._latest = Latest(value, version_of(value), steps)
        return value

    def _draw_in_turn(self, shape: torch.Size) -> tuple[Tensor, list[tuple[Any, Tensor]]]:
        T = self._event_shape[0]
        x, inputs, context = self.x.unbind(-2), at_steps(self.inputs, T), at_steps(self.context, T)
        holds = None if self.followed is None else everywhere(self.followed)
        s = self.start()
        steps, path = [], []
        for t in range(T):
            step = self.conditional(s, *context[t]).expand(shape)
            z = step.rsample()
            steps.append((step, z))
            if holds is not None and not holds[t]:
                z = beyond(self.model, z, s, self.followed[..., t])
            path.append(z)
            if t + 1 < T:
                s = self.model.advance(s, z, x[t], *inputs[t + 1])
        return torch.stack(path, -2), steps

    def _draw_at_once(self, shape: torch.Size) -> tuple[Tensor, list[tuple[Any, Tensor]]]:
        every = self.conditional(None, *self.context).expand((*shape, self._event_shape[0]))
        z = value = every.rsample()
        if self.followed is not None:
            value = torch.where(self.followed.unsqueeze(-1), z, padded(self, z, self.followed))
        return value, [(every, z)]

    def log_prob(self, value: Tensor) -> Tensor:
        latest = self._is_latest(value)
        # no gradient is wanted, so no network has to run again for a path through it
        if latest and not torch.is_grad_enabled():
            return self.log_prob_of_draw(value)
        self._check(value)
        try:
            scores = self._conditionals(value).log_prob(value)
        except NotImplementedError:
            # a flow without an inverse scores its own draws and nothing else
            if not latest:
                raise
            return self.log_prob_of_draw(value)
        return self._sum(scores, value)

    def log_prob_of_draw(self, value: Tensor) -> Tensor:
        """`log_prob`, of the latest draw by the conditionals that drew it: no network runs again."""
        # a detached draw has lost the path on which those conditionals depend on it
        if not self._is_latest(value) or (torch.is_grad_enabled() and not value.requires_grad):
            return self.log_prob(value)
        steps = self._latest.steps
        stacked = None if self.independent else self._drawn()
        if stacked is not None:
            return self._sum(stacked.log_prob_at(torch.stack([c.noise_of_draw for c, _ in steps], -2)), value)
        scores = [getattr(c, "log_prob_of_draw", c.log_prob)(z) for c, z in steps]
        return self._sum(scores[0] if self.independent else torch.stack(scores, -1), value)

    def _is_latest(self, value: Tensor) -> bool:
        # a draw that somebody has written to since is another value
        return self._latest is not None and value is self._latest.value and version_of(value) == self._latest.version

    def _drawn(self) -> TorchDistribution | None:
        """The conditionals behind the latest draw as one, with a time axis; None where they cannot be."""
        conditionals = [c for c, _ in self._latest.steps]
        if self.independent:
            return conditionals[0]
        if not all(type(c) is DiagonalNormal for c in conditionals):
            return None
        loc = torch.stack([c.loc for c in conditionals], -2)
        return DiagonalNormal(loc, log_scale=torch.stack([c.log_scale for c in conditionals], -2))

    def _conditionals(self, z: Tensor) -> TorchDistribution:
        """The conditionals of all steps, as functions of z."""
        if self.independent:
            return self.conditional(None, *self.context)
        return self._transitions(z) if self.own else self.conditional(self.states(z), *self.context)

    def _transitions(self, z: Tensor) -> TorchDistribution:
        return once(self.model.transition)(self.states(z))

    def _sum(self, scores: Tensor, value: Tensor) -> Tensor:
        """Scores summed over time; where the conditional is not followed, the transition's take their place."""
        if self.followed is not None:
            scores = torch.where(self.followed, scores, self._transitions(value).log_prob(value))
        return self.full(scores.sum(-1), value)

    def _check(self, value: Tensor) -> None:
        if value.shape[-2:] != self._event_shape:
            raise ValueError(f"z: expected shape (..., {self._event_shape[0]}, {self._event_shape[1]}), "
                             f"got {tuple(value.shape)}")  # fmt: skip

    def full(self, score: Tensor, value: Tensor) -> Tensor:
        """A score with all axes of the batch and of the value, which a conditional may leave to broadcasting."""
        return score.expand(torch.broadcast_shapes(score.shape, self._batch_shape, value.shape[:-2]))


def inputs_of(model: Any, x: Tensor, u: Tensor | None, carry: "Carry | None") -> tuple[Any, ...]:
    """`model.inputs`, marked `once`: guide and model ask for it with the same tensors."""
    # without a carry the argument is left out: models that take whole sequences alone need not state it
    return once(model.inputs)(x, u, *(() if carry is None else (carry,)))


def _start(model: Any, x: Tensor, carry: "Carry | None", *inputs: Any) -> Any:
    """s_1 from the whole inputs, which guide and model share: `once` would not recognise new views of one step."""
    first = at_steps(inputs, x.shape[-2])[0]
    if carry is None:
        return model.start(x, *first)
    return model.advance(carry.s, carry.z, carry.x, *first)
