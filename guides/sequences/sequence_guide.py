"""The guide of sequences that all others derive from: one trajectory z for each sequence of any `StateSpace`."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from operator import index
from typing import ClassVar

import pyro
from torch import Tensor, nn

from guides.families import Diagonal, Family
from guides.guide import Guide
from guides.sequences.conditional import Conditional
from guides.sequences.sequence_input import read_frames, size_of_frames
from zoo.parts.checks import widths
from zoo.parts.networks import mlp, start_small
from zoo.parts.once import once
from zoo.parts.trajectory import Carry, StateSpace, Trajectory


class SequenceGuide(Guide):
    """q(z | x) = prod_t family(z_t; p(z_t | s_t), f(s_t, c_t)), c_t by a subclass's `read` (abstract).

    f is a perceptron whose first layer takes s_t and c_t each by a matrix of its own. Missing x are set to zero before
    they are encoded, and flagged (`read_frames`); after the last observed frame z follows the model's transition, which
    is the exact posterior there.

    Args:
        model: any `StateSpace`. The networks read `model.encoding` of a frame, x by default, and the controls where the
            model has a `control_dim`.
        family: constructor `(features, context) -> Family`; its prior is p(z_t | s_t).
        hidden: widths of f, the last layer being the family's; () makes all parameters affine in s_t and c_t.
        recurrent: width of the network over time; 0: none, c_t is frame t as the model encodes it.
        recurrence: constructor of that network, called with `(in_features, recurrent, batch_first=True)`; the network
            maps `(N, T, size)` to a tuple whose first entry is `(N, T, recurrent)`: `nn.GRU`,
            `partial(Dropped, probability=0.1)`, ...
        activation: constructor of f's nonlinearity.
        entry_masks: True if masks may mark single entries, `(N, T, data_dim)`: every entry then has its own flag.

    Sites: `z` (N, T, latent_dim) in `pyro.plate("data", N)`.

    Raises:
        ValueError: the model is no state space; the family reads a prior that this guide cannot give; `recurrent=0` in
            a guide that needs a network over time. At each call: as `model.check`; a sequence without an observed
            frame; a mask of single entries without `entry_masks`.

    Example:
        >>> import torch, guides
        >>> from zoo import DMM
        >>> guide = guides.Smoother(DMM(data_dim=2, latent_dim=1), recurrent=8)
        >>> guide.posterior(torch.zeros(3, 10, 2)).sample().shape
        torch.Size([3, 10, 1])
    """

    # declared by a subclass, so that all guides share one constructor and one signature
    directions: ClassVar[int] = 1  # number of networks over time; `in_reverse` makes one read backwards
    markov: ClassVar[bool] = True  # q(z_t) depends on s_t
    prior_allowed: ClassVar[bool] = True  # families may look at p(z_t | s_t)
    needs_recurrence: ClassVar[bool] = False  # `recurrent=0` is refused

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
        if self.needs_recurrence and not recurrent:
            raise ValueError(f"{type(self).__name__}: recurrent=0 leaves nothing to read later frames with; "
                             "Filter(recurrent=0) does")  # fmt: skip
        each = (recurrence(size, recurrent, batch_first=True) for _ in range(self.directions if recurrent else 0))
        self.recurrences, self.entry_masks = nn.ModuleList(each), entry_masks
        self.family = Family.built(family, model.latent_dim, hidden[-1] if hidden else 0)
        if self.family.uses_prior and not self.prior_allowed:
            raise ValueError(f"{type(self).__name__}: {type(self.family).__name__} looks at p(z_t | s_t), which "
                             "depends on z_(t-1): use Filter, Smoother")  # fmt: skip
        width = hidden[0] if hidden else self.family.num_parameters
        self.of_context = nn.Linear(self.directions * recurrent or size, width)
        self.of_state = nn.Linear(model.state_dim, width, bias=False) if self.markov else None
        self.rest = nn.Sequential(activation(), *mlp(width, hidden[1:], activation=activation)) if hidden else None
        # starts as a family's head does. The weights of s_t are small too: they feed z back T times, and it may explode
        if not hidden:
            start_small(self.of_context.weight, but=self.family.locations)
            start_small(self.of_context.bias, *(self.of_state or nn.Identity()).parameters())

    @abstractmethod
    def read(self, values: Tensor, mask: Tensor | None) -> Tensor:
        """c_1..c_T, `(N, T, directions * recurrent or size)`, from the frames `(N, T, size)`; mask None or `(N, T)`."""

    @property
    def conditional(self) -> Conditional:
        """q(z_t | s_t, c_t)."""
        return Conditional(self.model, self.family, self.of_state, self.rest)

    def posterior(
        self, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None, carry: Carry | None = None
    ) -> Trajectory:
        """q(z | x): batch `(N,)`, event `(T, latent_dim)`. A carry gives s_1 alone: networks read no earlier frame."""
        once(self.model.check)(x, u, mask, carry)
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
