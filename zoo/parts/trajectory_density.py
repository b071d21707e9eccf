"""The density over a whole latent trajectory, and what handles tensors with a time axis."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions import kl_divergence, register_kl

from zoo.parts.rollout import Carry


class Trajectory(TorchDistribution):
    """prod_t c(z_t | s_t): a density over whole trajectories z, event `(T, latent_dim)`.

    Model and guide build the same object with different conditionals: the prior's is `model.transition`; a guide's may
    use what it has made of the data, `lambda s, c: family(model.transition(s), model.features(s), c)` with
    `context=(c,)`. Drawing runs over time with `model.advance`; scoring takes all steps at once with `model.states`.

    Args:
        model: a `StateSpace`.
        conditional: `(s, *context) -> Distribution` over z_t, event `(latent_dim,)`; called for one step and for all.
        x: `(..., T, data_dim)`; its leading axes are the batch shape. Values under the mask do not matter.
        u: controls.
        mask: as in `StateSpace`. After the last observed frame of a sequence `model.transition` takes the place of
            the conditional.
        context: tensors `(..., T, size)`, handed to the conditional step by step.
        inputs: what `model.inputs(x, u, carry)` gives, where it has been computed before.
        carry: the step before the first frame; None at the start of the sequences.

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
    ) -> None:
        self.carry = carry
        self.model, self.conditional, self.context = model, conditional, context
        self.x = x if mask is None else x.masked_fill(~(mask if mask.ndim == x.ndim else mask.unsqueeze(-1)), 0.0)
        self._u, self._inputs = u, inputs
        # of the prior too every frame follows the transition
        self.followed: Any = None if mask is None or conditional == model.transition else _followed(mask, x)
        self._seen: dict[str, Any] = {}  # shared by what `expand` makes: inputs, the latest value's states, the draw
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
        """Made of the same things: what was computed belongs to the graph of the original (Pyro's autoguides copy)."""
        new = memo[id(self)] = object.__new__(Trajectory)
        new.__dict__.update({name: copy.deepcopy(v, memo) for name, v in self.__dict__.items() if name != "_seen"})
        new._seen = {}
        return new

    @property
    def inputs(self) -> tuple[Any, ...]:
        """What `model.inputs` gives, computed once."""
        if self._inputs is not None:
            return self._inputs
        if "inputs" not in self._seen:
            carried = () if self.carry is None else (self.carry,)
            self._seen["inputs"] = self.model.inputs(self.x, self._u, *carried)
        return self._seen["inputs"]

    def _first(self) -> Any:
        """s_1."""
        inputs = at_steps(self.inputs, self._event_shape[0])[0]
        if self.carry is None:
            return self.model.start(self.x, *inputs)
        return self.model.advance(self.carry.s, self.carry.z, self.carry.x, *inputs)

    def states(self, z: Tensor) -> Any:
        """s_1..s_T along z, computed once for each z: emission and score share them."""
        if self._seen.get("value") is not z:
            first = {} if self.carry is None else {"first": self._first()}
            self._seen["value"], self._seen["states"] = z, self.model.states(z, self.x, *self.inputs, **first)
        return self._seen["states"]

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        shape = torch.Size(sample_shape) + self._batch_shape
        T = self._event_shape[0]
        x, inputs, context = self.x.unbind(-2), at_steps(self.inputs, T), at_steps(self.context, T)
        s = self._first()
        steps, path = [], []
        for t in range(T):
            step = [self.conditional(s, *context[t])]
            if self.followed is not None and not self.followed[..., t].all():
                step.append(self.model.transition(s))
            step = [c.expand(shape) for c in step]
            draws = [c.rsample() for c in step]
            z = self._choose(draws, t, None)
            steps.append(list(zip(step, draws, strict=True)))
            path.append(z)
            if t + 1 < T:
                s = self.model.advance(s, z, x[t], *inputs[t + 1])
        value = torch.stack(path, -2)
        self._seen["draw"] = value, steps
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        if value is self._seen.get("draw", (None,))[0] and not torch.is_grad_enabled():
            return self.log_prob_of_draw(value)  # no network twice; and some families score nothing else
        s = self.states(value)
        log_prob = self.conditional(s, *self.context).log_prob(value)
        if self.followed is not None:
            log_prob = torch.where(self.followed, log_prob, self.model.transition(s).log_prob(value))
        return self._full(log_prob.sum(-1), value)

    def log_prob_of_draw(self, value: Tensor) -> Tensor:
        """`log_prob`; of its own latest draw by the conditionals that drew it, without running a network again."""
        drawn, steps = self._seen.get("draw", (None, None))
        if value is not drawn:
            return self.log_prob(value)
        total: Any = 0.0
        for t, step in enumerate(steps):
            scores = [getattr(c, "log_prob_of_draw", c.log_prob)(z) for c, z in step]
            total = total + self._choose(scores, t)
        return self._full(total, value)

    def _choose(self, values: list[Tensor], *t: Any) -> Tensor:
        """The conditional's value where it is followed, the transition's elsewhere, if there is one."""
        return values[0] if len(values) == 1 else torch.where(self.followed[(..., *t)], values[0], values[1])

    def _check(self, value: Tensor) -> None:
        if value.shape[-2:] != self._event_shape:
            raise ValueError(f"z: expected shape (..., {self._event_shape[0]}, {self._event_shape[1]}), "
                             f"got {tuple(value.shape)}")  # fmt: skip

    def _full(self, log_prob: Tensor, value: Tensor) -> Tensor:
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self._batch_shape, value.shape[:-2]))


@register_kl(Trajectory, Trajectory)
def _kl_along_the_draw(q: Trajectory, p: Trajectory) -> Tensor:
    """sum_t KL(q(. | s_t) || p(. | s_t)) at q's latest draw: its mean over draws is KL(q || p)."""
    if "draw" not in q._seen:
        q.rsample()
    z = q._seen["draw"][0]
    s = q.states(z)
    kl = kl_divergence(q.conditional(s, *q.context), p.conditional(p.states(z), *p.context))
    return q._full((kl if q.followed is None else kl * q.followed).sum(-1), z)


def _followed(mask: Tensor, x: Tensor) -> Tensor | None:
    """Where a guide's conditional holds, `(..., T)`: up to the last observed frame; None where that is everywhere."""
    observed = mask.any(-1) if mask.ndim == x.ndim else mask
    until_last = observed.flip(-1).long().cumsum(-1).flip(-1) > 0
    return None if bool(until_last.all()) else until_last


def at_steps(values: tuple[Any, ...], T: int) -> list[tuple[Any, ...]]:
    """Values with a time axis as a list over time. One call for each: indexing at each step copies in backward."""
    return list(zip(*(v.unbind(-2) for v in values), strict=True)) if values else [()] * T


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
