"""The density over a whole latent trajectory, and what handles tensors with a time axis."""

import copy
from collections.abc import Callable
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions import kl_divergence, register_kl
from torch.utils._pytree import tree_leaves

from zoo.parts.distributions import DiagonalNormal
from zoo.parts.distributions.vector import version_of
from zoo.parts.trajectory.rollout import Carry, at_steps


class _Seen:
    """What a trajectory has computed of the model: for its data, and along the latest value that it was asked about.

    A guide's trajectory offers it to the model's own of the same data, which comes next: so nothing of the model that
    both need runs twice in one evaluation of a loss. It is lent once, as long as the guide's trajectory is there, and
    if no parameter or argument has changed or been frozen since (writes to `.data` cannot be seen).
    """

    def __init__(self, inputs: tuple[Any, ...] | None = None) -> None:
        self.value: Any = None
        self.version = 0  # of the value: how often it was written to
        self.offered_for: tuple[tuple, tuple] | None = None  # arguments, and the stamp of the model
        self.found: dict[str, tuple[Any, bool]] = {}  # inputs, states, prior; each with whether it has a graph
        if inputs is not None:
            self.once("inputs", lambda: inputs)

    def serves(self, model: Any, arguments: tuple) -> bool:
        offered, stamp = self.offered_for or ((), ())
        same = len(offered) == len(arguments) and all(a is b for a, b in zip(offered, arguments, strict=True))
        return same and stamp == _stamp(model, arguments)

    def along(self, value: Tensor) -> "_Seen":
        if self.value is not value or self.version != version_of(value):
            self.value, self.version = value, version_of(value)
            for name in ("states", "prior"):
                self.found.pop(name, None)
        return self

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives; made again where gradients are asked of what was made without."""
        graph = torch.is_grad_enabled()
        if name not in self.found or (graph and not self.found[name][1]):
            self.found[name] = make(), graph
        return self.found[name][0]


_OFFERED: WeakKeyDictionary[Any, ReferenceType[_Seen]] = WeakKeyDictionary()


def _stamp(model: Any, arguments: tuple) -> tuple:
    tensors = (*model.parameters(), *model.buffers(), *(a for a in tree_leaves(arguments) if isinstance(a, Tensor)))
    versions = tuple((id(v), version_of(v), v.requires_grad) for v in tensors)
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), model.training, versions


class Trajectory(TorchDistribution):
    """prod_t c(z_t | s_t): a density over whole trajectories z, event `(T, latent_dim)`.

    Model and guide build the same object with different conditionals: the prior's is `model.transition`; a guide's may
    use what it has made of the data, `lambda s, c: family(model.transition(s), model.features(s), c)` with
    `context=(c,)`. Drawing runs over time with `model.advance`, unless the steps are independent; scoring takes all of
    them at once with `model.states`. It keeps what it has computed: it serves one evaluation, with one set of
    parameters.

    Args:
        model: a `StateSpace`.
        conditional: `(s, *context) -> Distribution` over z_t, event `(latent_dim,)`; called for one step and for all.
            With `independent` s is None.
        x: `(..., T, data_dim)`; its leading axes are the batch shape. Values under the mask do not matter.
        u: controls.
        mask: as in `StateSpace`. After the last observed frame of a sequence `model.transition` takes the place of
            the conditional.
        context: tensors `(..., T, size)`, handed to the conditional step by step.
        inputs: what `model.inputs(x, u, carry)` gives, where it has been computed before.
        carry: the step before the first frame; None at the start of the sequences.
        independent: the conditional looks at the context alone, not at s_t: all steps are then drawn in one call.

    Two densities with a closed-form KL at each step have one as a whole, given the draw: `kl_divergence` then takes the
    conditionals along the latest draw of the first.
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
        carry: Carry | None = None,
        independent: bool = False,
    ) -> None:
        self.carry, self.independent = carry, independent
        self.model, self.conditional, self.context = model, conditional, context
        self.observed = mask
        self.x = x if mask is None else x.masked_fill(~(mask if mask.ndim == x.ndim else mask.unsqueeze(-1)), 0.0)
        self._u = u
        # shared by what `expand` makes: the latest draw, how it was drawn, and how often it had been written to
        self._draw: list[Any] = [None, None, 0]
        own = conditional == model.transition
        # of the prior too every frame follows the transition
        self.followed: Any = None if mask is None or own else _followed(mask, x)
        self._seen = self._meet(inputs, (x, u, mask, carry), own)
        carried = () if carry is None else (carry.z.shape[:-1],)
        batch = torch.broadcast_shapes(x.shape[:-2], *(c.shape[:-2] for c in context), *carried)
        super().__init__(batch, torch.Size((x.shape[-2], model.latent_dim)), validate_args=False)

    def _meet(self, inputs: tuple[Any, ...] | None, arguments: tuple, own: bool) -> _Seen:
        """What has been computed: a guide offers it, the model's own trajectory takes the offer."""
        offer = _OFFERED.pop(self.model, None) if own and inputs is None else None
        offered = None if offer is None else offer()
        if offered is not None and offered.serves(self.model, arguments):
            return offered
        seen = _Seen(inputs)
        if not own:
            seen.offered_for = arguments, _stamp(self.model, arguments)
            _OFFERED[self.model] = ref(seen)
        return seen

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "Trajectory":
        batch_shape = torch.Size(batch_shape)
        if batch_shape == self._batch_shape:
            return self
        new = object.__new__(Trajectory)
        new.__dict__.update(self.__dict__)
        new._batch_shape = torch.broadcast_shapes(batch_shape, self._batch_shape)
        return new

    def __deepcopy__(self, memo: dict) -> "Trajectory":
        """Made of the same things: what was computed belongs to the graph of the original (Pyro's autoguides copy)."""
        new = memo[id(self)] = object.__new__(Trajectory)
        kept = {name: v for name, v in self.__dict__.items() if name not in ("_seen", "_draw")}
        new.__dict__.update({name: copy.deepcopy(v, memo) for name, v in kept.items()})
        new._seen, new._draw = _Seen(), [None, None, 0]
        return new

    @property
    def inputs(self) -> tuple[Any, ...]:
        """What `model.inputs` gives, computed once."""
        carried = () if self.carry is None else (self.carry,)
        return self._seen.once("inputs", lambda: self.model.inputs(self.x, self._u, *carried))

    def start(self) -> Any:
        """s_1: the model's, or that after the carry."""
        inputs = at_steps(self.inputs, self._event_shape[0])[0]
        if self.carry is None:
            return self.model.start(self.x, *inputs)
        return self.model.advance(self.carry.s, self.carry.z, self.carry.x, *inputs)

    def states(self, z: Tensor) -> Any:
        """s_1..s_T along z, computed once for each z: emission and score share them."""
        return self._seen.along(z).once("states", lambda: self._states(z))

    def _states(self, z: Tensor) -> Any:
        self._check(z)
        first = {} if self.carry is None else {"first": self.start()}
        return self.model.states(z, self.x, *self.inputs, **first)

    def _prior(self, z: Tensor) -> TorchDistribution:
        """The transitions along z."""
        s = self.states(z)
        return self._seen.once("prior", lambda: self.model.transition(s))

    def along(self, z: Tensor) -> TorchDistribution:
        """The conditionals of all steps along z; where z is the latest draw, those that drew it."""
        if self._is_draw(z) and (z.requires_grad or not torch.is_grad_enabled()):
            drawn = self._drawn()
            if drawn is not None:
                return drawn
        return self._conditionals(z)

    def _is_draw(self, value: Tensor) -> bool:
        return value is self._draw[0] and version_of(value) == self._draw[2]

    def _conditionals(self, z: Tensor) -> TorchDistribution:
        """Of all steps, as functions of z."""
        if self.independent:
            return self.conditional(None, *self.context)
        own = self.conditional == self.model.transition
        return self._prior(z) if own else self.conditional(self.states(z), *self.context)

    def _drawn(self) -> TorchDistribution | None:
        """The conditionals behind the latest draw as one, with a time axis; None where they cannot be."""
        conditionals = [c for c, _ in self._draw[1]]
        return conditionals[0] if self.independent else _stack(conditionals)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draws with their path of gradients; padding, on which nothing depends, without."""
        shape = torch.Size(sample_shape) + self._batch_shape
        if self.independent:
            return self._rsample_at_once(shape)
        T = self._event_shape[0]
        x, inputs, context = self.x.unbind(-2), at_steps(self.inputs, T), at_steps(self.context, T)
        followed = None if self.followed is None else self.followed.flatten(0, -2).all(0).tolist()
        s = self.start()
        steps, path = [], []
        for t in range(T):
            step = self.conditional(s, *context[t]).expand(shape)
            z = step.rsample()
            steps.append((step, z))
            if followed is not None and not followed[t]:
                z = self._beyond(z, s, t)
            path.append(z)
            if t + 1 < T:
                s = self.model.advance(s, z, x[t], *inputs[t + 1])
        value = torch.stack(path, -2)
        self._draw[:] = value, steps, version_of(value)
        return value

    def _beyond(self, z: Tensor, s: Any, t: int) -> Tensor:
        """z_t, and after the end of a sequence a draw from the transition, without its gradient."""
        with torch.no_grad():
            beyond = self.model.transition(s).expand(z.shape[:-1]).sample()
        return torch.where(self.followed[..., t, None], z, beyond)

    def _rsample_at_once(self, shape: torch.Size) -> Tensor:
        every = self.conditional(None, *self.context).expand((*shape, self._event_shape[0]))
        z = value = every.rsample()
        if self.followed is not None:
            value = torch.where(self.followed.unsqueeze(-1), z, self._padded(z, at_steps(self.inputs, z.shape[-2])))
        self._draw[:] = value, [(every, z)], version_of(value)
        return value

    @torch.no_grad()
    def _padded(self, z: Tensor, inputs: list[tuple[Any, ...]]) -> Tensor:
        """z with draws from the transition after the last observed frame of each sequence."""
        everywhere = self.followed.flatten(0, -2).all(0).tolist()
        s, x, path = self.start(), self.x.unbind(-2), [*z.unbind(-2)]
        for t in range(len(path)):
            if not everywhere[t]:
                path[t] = self._beyond(path[t], s, t)
            if t + 1 < len(path):
                s = self.model.advance(s, path[t], x[t], *inputs[t + 1])
        return torch.stack(path, -2)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._is_draw(value) and not torch.is_grad_enabled():
            return self.log_prob_of_draw(value)  # no network twice; and some families score nothing else
        self._check(value)
        try:
            scores = self._conditionals(value).log_prob(value)
        except NotImplementedError:  # no inverse (`NoInverseError`): what drew the value scores it
            if not self._is_draw(value):
                raise
            return self.log_prob_of_draw(value)
        return self._sum(scores, value)

    def log_prob_of_draw(self, value: Tensor) -> Tensor:
        """`log_prob`; of its own latest draw by the conditionals that drew it, without running a network again."""
        if not self._is_draw(value) or (torch.is_grad_enabled() and not value.requires_grad):
            return self.log_prob(value)
        steps = self._draw[1]
        stacked = None if self.independent else self._drawn()
        if stacked is not None:
            return self._sum(stacked.log_prob_at(torch.stack([c.noise_of_draw for c, _ in steps], -2)), value)
        scores = [getattr(c, "log_prob_of_draw", c.log_prob)(z) for c, z in steps]
        return self._sum(scores[0] if self.independent else torch.stack(scores, -1), value)

    def _sum(self, scores: Tensor, value: Tensor) -> Tensor:
        """Over time; where the conditional is not followed, the transition's score takes its place."""
        if self.followed is not None:
            scores = torch.where(self.followed, scores, self._prior(value).log_prob(value))
        return self._full(scores.sum(-1), value)

    def _check(self, value: Tensor) -> None:
        if value.shape[-2:] != self._event_shape:
            raise ValueError(f"z: expected shape (..., {self._event_shape[0]}, {self._event_shape[1]}), "
                             f"got {tuple(value.shape)}")  # fmt: skip

    def _full(self, log_prob: Tensor, value: Tensor) -> Tensor:
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self._batch_shape, value.shape[:-2]))


@register_kl(Trajectory, Trajectory)
def _kl_along_the_draw(q: Trajectory, p: Trajectory) -> Tensor:
    """sum_t KL(q(. | s_t) || p(. | s_t)) at q's latest draw: its mean over draws is KL(q || p)."""
    if q._draw[0] is None:
        q.rsample()
    z = q._draw[0]
    kl = kl_divergence(q.along(z), p.along(z))
    return q._full((kl if q.followed is None else kl * q.followed).sum(-1), z)


def _stack(steps: list[TorchDistribution]) -> DiagonalNormal | None:
    """The conditionals of all steps as one, with a time axis; None where they are not diagonal Gaussians."""
    if not all(type(c) is DiagonalNormal for c in steps):
        return None
    return DiagonalNormal(
        torch.stack([c.loc for c in steps], -2),
        log_scale=torch.stack([c.log_scale for c in steps], -2),
    )


def _followed(mask: Tensor, x: Tensor) -> Tensor | None:
    """Where a guide's conditional holds, `(..., T)`: up to the last observed frame; None where that is everywhere."""
    observed = mask.any(-1) if mask.ndim == x.ndim else mask
    until_last = observed.flip(-1).long().cumsum(-1).flip(-1) > 0
    return None if bool(until_last.all()) else until_last


def shift(z: Tensor, first: Tensor) -> Tensor:
    """(first, z_1, ..., z_{T-1}) along time: what a Markov model knows at each step. `first` `(size,)` or batched."""
    first = first.expand(*z.shape[:-2], z.shape[-1]).unsqueeze(-2)
    return torch.cat([first, z[..., :-1, :]], -2)


def last(v: Tensor) -> Tensor:
    """The last frame."""
    return v[..., -1, :]


def side_by_side(*parts: Tensor) -> Tensor:
    """Tensors as one along the last axis, leading axes broadcast (`torch.cat` does not)."""
    lead = torch.broadcast_shapes(*(p.shape[:-1] for p in parts))
    return torch.cat([p.expand(*lead, p.shape[-1]) for p in parts], -1)
