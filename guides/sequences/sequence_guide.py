"""What the guides of sequences have in common: one trajectory z for each sequence of any `StateSpace`."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, ClassVar

import pyro
from torch import Tensor, nn

from guides.families import Diagonal, Family
from guides.guide import Guide
from guides.sequences.sequence_input import read_frames, size_of_frames
from zoo.parts.checks import widths
from zoo.parts.networks import mlp, start_small
from zoo.parts.trajectory import Carry, StateSpace, Trajectory


@dataclass(frozen=True, eq=False)
class Conditional:
    """family(z_t; p(z_t | s_t), f(s_t, c_t)), its parts looked up once for all steps, which PyroModule is slow at."""

    model: StateSpace
    family: Family
    of_state: nn.Module | None
    rest: nn.Module | None

    def __call__(self, s: Any, context: Tensor) -> Any:
        prior = self.model.transition(s) if self.family.uses_prior else None
        total = context if self.of_state is None else context + self.of_state(self.model.features(s))
        return self.family(prior, total if self.rest is None else self.rest(total))


class SequenceGuide(Guide):
    """q(z | x) = prod_t family(z_t; p(z_t | s_t), f(s_t, c_t)): a subclass says what the context c_t reads (abstract).

    f is a perceptron whose first layer takes s_t and c_t each by a matrix of its own, so that all that does not depend
    on z is computed for all frames at once. Missing x are set to zero before they are encoded, and flagged
    (`read_frames`); after the last observed frame z follows the model's transition, which is exact.

    Args:
        model: any `StateSpace`. What the networks read of a frame is `model.encoding`, x by default, and the controls
            where the model states a `control_dim`.
        family: constructor `(features, context) -> Family`; it is given p(z_t | s_t) as the prior.
        hidden: widths of f, its last layer being the family's; () makes all parameters affine in s_t and c_t.
        recurrent: width of the network over time; 0: none, c_t is frame t as the model encodes it.
        recurrence: its constructor, called with `(in_features, recurrent, batch_first=True)`; of `(N, T, size)` it
            makes a tuple that begins with `(N, T, recurrent)`: `nn.GRU`, `partial(Dropped, probability=0.1)`, ...
        activation: constructor of f's nonlinearity.
        entry_masks: whether masks will speak of single entries, `(N, T, data_dim)`: then every entry has its own flag.

    Sites: `z` (N, T, latent_dim) in `pyro.plate("data", N)`.

    Raises:
        ValueError: the model is no state space; in use: what `model.check` refuses, a sequence of which no frame is
            observed, a mask of single entries without `entry_masks`.

    Example:
        >>> import torch, guides
        >>> from zoo import DMM
        >>> guide = guides.Smoother(DMM(data_dim=2, latent_dim=1), recurrent=8)
        >>> guide.posterior(torch.zeros(3, 10, 2)).sample().shape
        torch.Size([3, 10, 1])
    """

    directions: ClassVar[int] = 1  # how many `recurrences` `read` uses; backwards in time by way of `in_reverse`
    markov: ClassVar[bool] = True  # whether q(z_t) depends on s_t

    def __init__(
        self,
        model: StateSpace,
        *,
        family: Callable[[int, int], Family] = Diagonal,
        hidden: Sequence[int] = (100,),
        recurrent: int = 600,
        recurrence: Callable[..., nn.Module] = nn.GRU,
        activation: Callable[[], nn.Module] = nn.Tanh,
        entry_masks: bool = False,
    ) -> None:
        super().__init__(model)
        if type(self).read is SequenceGuide.read:
            raise TypeError(f"SequenceGuide: abstract; {type(self).__name__} does not state read")
        hidden, recurrent, size = widths(hidden), index(recurrent), size_of_frames(self, entry_masks)
        each = (recurrence(size, recurrent, batch_first=True) for _ in range(self.directions if recurrent else 0))
        self.recurrences, self.entry_masks = nn.ModuleList(each), entry_masks
        self.family = family(model.latent_dim, hidden[-1] if hidden else 0)
        width = hidden[0] if hidden else self.family.num_parameters
        self.of_context = nn.Linear(self.directions * recurrent or size, width)
        self.of_state = nn.Linear(model.state_dim, width, bias=False) if self.markov else None
        self.rest = nn.Sequential(activation(), *mlp(width, hidden[1:], activation=activation)) if hidden else None
        if not hidden:  # the start of a family's own layer; small in z too, which is fed back T times
            start_small(self.of_context.weight, but=self.family.locations)
            start_small(self.of_context.bias, *(self.of_state or nn.Identity()).parameters())

    @abstractmethod
    def read(self, values: Tensor, mask: Tensor | None) -> Tensor:
        """c_1..c_T, `(N, T, directions * recurrent or size)`, from the frames `(N, T, size)`; mask None or `(N, T)`."""

    @property
    def conditional(self) -> Conditional:
        """q(z_t | s_t, c_t), called with s_t and c_t, of one step or of all; c_t has been through its matrix."""
        return Conditional(self.model, self.family, self.of_state, self.rest)

    def posterior(
        self, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None, carry: Carry | None = None
    ) -> Trajectory:
        """q(z | x): batch `(N,)`, event `(T, latent_dim)`. Networks read a chunk alone; its s_1 comes of carry."""
        self.model.check(x, u, mask, carry)
        inputs, values, observed = read_frames(self, x, u, mask, carry, self.entry_masks)
        context = (self.of_context(self.read(values, observed)),)
        alone = not (self.markov or self.family.uses_prior)
        return Trajectory(self.model, self.conditional, x, u, mask, context=context, inputs=inputs, carry=carry,
                          independent=alone)  # fmt: skip

    def forward(
        self, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None, carry: Carry | None = None
    ) -> Tensor:
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.posterior(x, u, mask, carry))
