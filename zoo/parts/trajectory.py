"""A whole latent trajectory as one site: what a sequence model states, and the density over all of its states at once.

A `pyro.sample` for each time step costs 2.8 to 3.5 x hand-written PyTorch, one site for all of them 1.07 x (sizes of a
deep Markov model), and NUTS, masks and plots become simpler.
"""

import copy
from abc import abstractmethod
from collections.abc import Callable
from itertools import chain
from typing import Any

import pyro
import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.nn import PyroModule
from torch import Tensor
from torch.distributions import kl_divergence, register_kl


class StateSpace(PyroModule):
    """p(x, z) = prod_t p(z_t | s_t) p(x_t | z_t, s_t), s_{t+1} = f(s_t, z_t, x_t): a model of sequences (abstract).

    The state s_t is all that step t needs to know of what came before: z_{t-1} in a Markov model, the hidden vector of
    a recurrent network otherwise; a tensor, or a NamedTuple of tensors. A model says how it starts and advances, one
    step at a time, and the same once more for all steps at once (`states`), which is what scoring uses.

    What does not depend on z belongs in `inputs`: it is computed once, outside every loop over time. For step t it may
    use x_1..x_{t-1} and all of u, and nothing later.

    Masks: True where x is observed, `(N, T)` for whole frames; models whose emission allows it take `(N, T, data_dim)`
    for single entries too. x may hold anything, NaN too, where it is False. The mask speaks of x alone: z_t is a latent
    variable at every t, since what came before and what comes after tell about it. So a frame of padding still has its
    p(z_t | s_t); after the last observed frame of a sequence that is also the exact posterior, a `Trajectory` that
    is given the mask draws z_t from it, and log p - log q of padding is zero. A model that feeds x back is fed zeros
    where x is missing.

    Attributes:
        data_dim, latent_dim: sizes of x_t and z_t.
        state_dim: size of `features(s)`.

    Sites, in `pyro.plate("data", N)`: `z` `(T, latent_dim)`; `x` `(T, data_dim)`, observed.
    """

    data_dim: int
    latent_dim: int
    state_dim: int

    def __init__(self) -> None:
        super().__init__("model")
        left = [name for name in ("advance", "emission", "start", "states", "transition") if _is_abstract(self, name)]
        if left:
            raise TypeError(f"StateSpace: abstract; {type(self).__name__} states neither {' nor '.join(left)}")

    def inputs(self, x: Tensor, u: Tensor | None = None) -> tuple[Any, ...]:
        """What enters the steps besides z, for all t at once: handed on, step by step, as further arguments.

        Args:
            x: `(..., T, data_dim)`, zero where it is not observed.
            u: controls, `(..., T, control_dim)`.

        Returns:
            Any number of entries; each is a tensor `(..., T, size)`, or has an `unbind(-2)` that gives its T steps.
        """
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
    def states(self, z: Tensor, x: Tensor, *inputs: Any) -> Any:
        """s_1..s_T with a time axis, from the whole z `(..., T, latent_dim)`: what `advance` gives step by step."""

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

    def forward(self, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        check_sequences(x, self.data_dim, next(chain(self.parameters(), self.buffers())), u, mask)
        return self.program(Trajectory(self, self.transition, x, u, mask), mask)

    def program(self, prior: "Trajectory", mask: Tensor | None) -> Tensor:
        """The generative program: z from the prior, x from z."""
        with pyro.plate("data", len(prior.x)):
            z = pyro.sample("z", prior)
            return pyro.sample("x", self.observation(z, prior.states(z), mask), obs=prior.x)

    @torch.no_grad()
    def extend(self, z: Tensor, x: Tensor, k: int, u: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """k more frames of each sequence, drawn step by step with the drawn x fed back.

        Args:
            z, x: the sequences so far, `(N, T, latent_dim)` (a guide's draws, say) and `(N, T, data_dim)`; T may be 0.
            u: controls of all T + k frames.

        Returns:
            z `(N, k, latent_dim)` and x `(N, k, data_dim)`.
        """
        T, known = x.shape[-2], x.shape[-2] + k
        if k < 1:
            raise ValueError(f"k: expected at least one frame, got {k}")
        z, x = (torch.nn.functional.pad(v, (0, 0, 0, k)) for v in (z, x))
        inputs = at_steps(self.inputs(x, u), known)
        s = self.start(x, *inputs[0])
        for t in range(known):
            if t >= T:
                z[..., t, :] = self.transition(s).expand(z.shape[:-2]).sample()
                x[..., t, :] = self.emission(z[..., t, :], s).expand(x.shape[:-2]).sample()
                inputs = at_steps(self.inputs(x, u), known)  # what they say of step t + 1 is known only now
            if t + 1 < known:
                s = self.advance(s, z[..., t, :], x[..., t, :], *inputs[t + 1])
        return z[..., T:, :], x[..., T:, :]

    def generate(self, num: int, T: int, u: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`num` new sequences of T frames: z `(num, T, latent_dim)` and x `(num, T, data_dim)`."""
        like = next(chain(self.parameters(), self.buffers()))
        return self.extend(like.new_zeros(num, 0, self.latent_dim), like.new_zeros(num, 0, self.data_dim), T, u)


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
        inputs: what `model.inputs(x, u)` gives, where it has been computed before.

    Two densities with a closed-form KL at each step have one as a whole, given the draw: `kl_divergence` then takes the
    conditionals along the latest draw of the first.
    """

    arg_constraints: dict = {}  # noqa: RUF012
    has_rsample = True
    support = constraints.independent(constraints.real, 2)

    def __init__(
        self,
        model: StateSpace,
        conditional: Callable[..., TorchDistribution],
        x: Tensor,
        u: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        context: tuple[Tensor, ...] = (),
        inputs: tuple[Any, ...] | None = None,
    ) -> None:
        self.model, self.conditional, self.context = model, conditional, context
        self.x = x if mask is None else x.masked_fill(~(mask if mask.ndim == x.ndim else mask.unsqueeze(-1)), 0.0)
        self._u, self._inputs = u, inputs
        # of the prior too every frame follows the transition
        self.followed: Any = None if mask is None or conditional == model.transition else _followed(mask, x)
        self._seen: dict[str, Any] = {}  # shared by what `expand` makes: inputs, the latest value's states, the draw
        batch = torch.broadcast_shapes(x.shape[:-2], *(c.shape[:-2] for c in context))
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
            self._seen["inputs"] = self.model.inputs(self.x, self._u)
        return self._seen["inputs"]

    def states(self, z: Tensor) -> Any:
        """s_1..s_T along z, computed once for each z: emission and score share them."""
        if self._seen.get("value") is not z:
            self._seen["value"], self._seen["states"] = z, self.model.states(z, self.x, *self.inputs)
        return self._seen["states"]

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        shape = torch.Size(sample_shape) + self._batch_shape
        T = self._event_shape[0]
        x, inputs, context = self.x.unbind(-2), at_steps(self.inputs, T), at_steps(self.context, T)
        s = self.model.start(self.x, *inputs[0])
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


def _is_abstract(model: StateSpace, name: str) -> bool:
    """PyroModule's metaclass is not that of abstract classes."""
    return getattr(getattr(type(model), name), "__isabstractmethod__", False)


def at_steps(values: tuple[Any, ...], T: int) -> list[tuple[Any, ...]]:
    """Values with a time axis as a list over time. One call for each: indexing at each step copies in backward."""
    return list(zip(*(v.unbind(-2) for v in values), strict=True)) if values else [()] * T


def shift(z: Tensor, first: Tensor) -> Tensor:
    """(first, z_1, ..., z_{T-1}) along time: what a Markov model knows at each step. `first` `(size,)` or batched."""
    first = first.expand(*z.shape[:-2], z.shape[-1]).unsqueeze(-2)
    return torch.cat([first, z[..., :-1, :]], -2)


def side_by_side(*parts: Tensor) -> Tensor:
    """Tensors as one along the last axis, leading axes broadcast (`torch.cat` does not)."""
    lead = torch.broadcast_shapes(*(p.shape[:-1] for p in parts))
    return torch.cat([p.expand(*lead, p.shape[-1]) for p in parts], -1)


def check_sequences(
    x: Tensor, data_dim: int, like: Tensor, u: Tensor | None = None, mask: Tensor | None = None
) -> None:
    """Refuses what can be told without looking at a value.

    Raises:
        ValueError: x is not `(N, T, data_dim)`, u not `(N, T, ...)`, mask not boolean `(N, T)` or of the shape of x; x
            or u has not the dtype of `like`, a parameter of the model.
        TypeError: x is not a tensor.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a torch.Tensor, got {type(x).__name__}; torch.as_tensor converts it")
    if x.ndim != 3 or x.shape[-1] != data_dim:
        raise ValueError(f"x: expected shape (N, T, {data_dim}), got {tuple(x.shape)}")
    if 0 in x.shape:
        raise ValueError(f"x: expected at least one sequence and one frame, got shape {tuple(x.shape)}")
    if u is not None and (u.ndim != 3 or u.shape[:2] != x.shape[:2]):
        raise ValueError(f"u: expected shape ({len(x)}, {x.shape[1]}, control_dim), got {tuple(u.shape)}; "
                         "u.expand(len(x), -1, -1) gives all sequences the same")  # fmt: skip
    for name, value in (("x", x), ("u", u)):
        if value is not None and value.dtype != like.dtype:
            raise ValueError(f"{name}: expected {like.dtype} like the model's parameters, got {value.dtype}")
    if mask is not None and (mask.dtype != torch.bool or mask.shape not in (x.shape, x.shape[:2])):
        raise ValueError(
            f"mask: expected torch.bool of shape {tuple(x.shape[:2])} or {tuple(x.shape)}, True where x is observed, "
            f"got {mask.dtype} of shape {tuple(mask.shape)}"
        )
