"""Traditional variational inference in a hierarchy: every data point has variational parameters of its own."""

import copy
from typing import TYPE_CHECKING, Any

import pyro
from torch import Tensor, nn

from guides.guide import Guide
from guides.per_datum import own_rows
from zoo.parts.checks import parameter_of

if TYPE_CHECKING:
    from guides.levels.hierarchy_guide import HierarchyGuide


class PerDatumLevels(Guide):
    """The q of a guide of hierarchies, with an offset lambda_nl of the parameters of q(z_l | ...) for each datum n.

    A level whose network reads x (`BottomUp`: the first) has offsets, which set its view of x free for each datum. The
    networks are a copy of the guide's, shared by the data points and frozen. The offsets start at 0, at the guide's own
    densities.

    References: Cremer, Li and Duvenaud 2018.

    Args:
        guide: the guide at which the densities start; it is copied.
        num_data: number of data points N.

    Sites: those of the guide. `forward(x, index=...)` takes the row numbers of the batch, as `PerDatum` does.

    Raises:
        ValueError: as `PerDatum`; at each call: as the guide.
    """

    def __init__(self, guide: "HierarchyGuide", num_data: int) -> None:
        super().__init__(guide.model)
        # The copy sees the same model, which is not copied. It is frozen: trained with the offsets, at a learning rate
        # that suits a table, the networks between the levels lose more than the data points gain.
        self.shared: Any = copy.deepcopy(guide, {id(guide.model): guide.model}).requires_grad_(False)
        self.num_data = num_data
        read: Any = self.shared.parts if guide.sees_data else self.shared.parts[:1]
        like: Any = parameter_of(guide)
        self.offsets = nn.ParameterList(like.new_zeros(num_data, part.family.num_parameters) for part in read)

    def forward(self, x: Tensor, *args: Any, index: Tensor | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """Samples the levels; returns site -> draw."""
        rows = own_rows("PerDatumLevels", self.num_data, x, index)
        seen = self.shared.inputs.see(self, x, args, kwargs, "Write a guide of your own for it")
        offsets = {level: table if rows is None else table[rows] for level, table in enumerate(self.offsets, 1)}
        with pyro.plate("data", len(x)):
            return self.shared.draw(seen, offsets)
