"""The parts of a loss that a training treats differently, looked up in one place."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn

from zoo.infer.objectives.objective import Objective, Part
from zoo.infer.pair import check_pair
from zoo.infer.sites.programs import has_autoguide
from zoo.parts.aside import aside
from zoo.parts.door import Wanted, wanted_by
from zoo.parts.given.row_numbers import takes_index


@dataclass(frozen=True)
class Parts:
    """The parts of a loss; of a module that is no `objective(model, guide)` they are None.

    Attributes:
        model, guide: the pair.
        objective: one of the zoo's or of Pyro's.
        indexed: the guide is given the row numbers of a batch, as it has parameters for each row.
        whole: the guide is, or holds, an autoguide of Pyro, whose parameters are those of the rows in order.
    """

    model: Any
    guide: Any
    objective: Any
    indexed: bool
    whole: bool

    @property
    def paired(self) -> bool:
        return self.model is not None and self.guide is not None

    @property
    def ours(self) -> bool:
        """Tells whether the objective is one of the zoo's, whose pairs can be looked at beforehand."""
        return isinstance(self.objective, Objective)

    def split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Part]:
        """A batch as the objective splits it; whole for an objective that is not one of the zoo's."""
        return self.objective.parts(self.guide, args, kwargs) if self.ours else [(args, kwargs)]

    def split_with_rows(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], index: Tensor
    ) -> list[tuple[tuple[Any, ...], dict[str, Any], Tensor]]:
        """The arguments of each part of a batch, and the numbers of its rows in the data.

        Args:
            index: numbers of the batch's rows in the data.
        """
        # among the arguments, for they are cut together; on their device, where the cut is made
        device = next((t.device for t in args if isinstance(t, Tensor)), index.device)
        found = self.split(args, kwargs | {"index": index.to(device)})
        return [
            (some, {name: v for name, v in named.items() if self.indexed or name != "index"}, named["index"])
            for some, named in found
        ]


def parts_of(loss: nn.Module) -> Parts:
    """The parts of a loss, found by the names that Pyro's ELBO modules have."""
    model, guide, objective = (getattr(loss, name, None) for name in ("model", "guide", "elbo"))
    whole = isinstance(objective, Objective) and has_autoguide(guide)
    return Parts(model, guide, objective, takes_index(guide), whole)


def holds_rows(parts: Parts, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Tells whether an autoguide of Pyro, in a checked pair, has parameters for each row of the data.

    One whose latents all stand outside the batch plate has none, and serves batches of any size.
    """
    plate = check_pair(parts.model, parts.guide, args, kwargs).layout.batch_plate
    autoguides = [part for part in parts.guide.modules() if isinstance(part, AutoGuide)]
    return any(plate in part._prototype_frames for part in autoguides)


def wanted_of(loss: Any) -> Wanted:
    """The form in which a loss wants its data; they stay on their device."""
    if not isinstance(loss, nn.Module):
        return Wanted()
    parts = parts_of(loss)
    if parts.paired:
        return wanted_by(parts.model, parts.guide, device=False)
    # of a loss that is no pair nothing is known but its parameters: whole numbers may be those of an embedding
    return replace(wanted_by(loss, device=False), names=("x",), more=True, integers=True)


@contextmanager
def beside(loss: nn.Module, parts: Parts, seed: int) -> Iterator[None]:
    """A context for an evaluation of the loss between two steps: `aside`, with the noise of `seed` each time."""
    # Pyro's `TraceEnum_ELBO` raises an error without gradients: its `differentiable_loss` wants a result that has one.
    pyros = isinstance(parts.objective, pyro.infer.ELBO) and not parts.ours
    with aside(loss, seed), torch.set_grad_enabled(pyros):
        yield
