"""Several guides side by side, each for sites of its own."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.infer.autoguide import AutoGuide
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.nn import PyroModule
from torch import Tensor, nn

from guides.guide import Guide
from zoo.parts.aside import trial
from zoo.parts.given.row_numbers import keywords_of, takes_index
from zoo.parts.one_program import OneProgram, spoken_parts
from zoo.parts.store_keys import adopt


class Factorised(Guide):
    """q(z, w, ...) = prod_i q_i: guides side by side, each for its sites, in one program.

    A plate that several parts open is opened once. `pyro.infer.autoguide.AutoGuideList` puts autoguides side by side
    too; it hands its plates to autoguides alone, so that a guide which opens `pyro.plate("data", ...)` itself fails.

    Args:
        *parts: guides of one model: those of the zoo, Pyro's autoguides, functions with the model's arguments. An
            autoguide that has not run yet takes the sites that the other parts leave; of two, hide each one's sites
            from the other, `AutoNormal(poutine.block(model, hide=["w"]))`.

    Sites: those of the parts.

    Raises:
        ValueError: no part, parts of several models; at a call, a site that two parts sample, or a plate of two sizes.

    Example:
        >>> import guides, torch
        >>> from pyro.infer.autoguide import AutoNormal
        >>> from zoo import VAE
        >>> model = VAE(784, 20)
        >>> guides.Factorised(guides.Amortized(model), AutoNormal(model))(torch.zeros(3, 784))["z"].shape
        torch.Size([3, 20])
    """

    def __init__(self, *parts: Callable) -> None:
        models = [part.model for part in parts if isinstance(part, Guide | AutoGuide)]
        owners = [part.model for part in parts if isinstance(part, Guide)]
        if not models:
            raise ValueError("Factorised: expected guides side by side, at least one of which knows its model")
        if any(model is not owners[0] for model in owners):
            raise ValueError(
                f"Factorised: the parts are guides of several models, {spoken_parts(owners)}; expected one"
            )
        for part in parts:
            adopt(part)
        super().__init__((owners or models)[0])
        # a part that is no PyroModule is none of Pyro's business; the list is, so that its parts share the root's names
        self.parts = PyroModule[nn.ModuleList]([part for part in parts if isinstance(part, nn.Module)])
        self._order = parts

    @property
    def indexed(self) -> bool:
        """True if a part has parameters for each row of the data, and asks for `index`."""
        return any(takes_index(part) for part in self._order)

    @property
    def spoken(self) -> str:
        """The parts in words."""
        return f"Factorised({spoken_parts(self._order)})"

    @property
    def classifier(self) -> Callable:
        """q(y | x) of the part that states it, for `SemiSupervised`."""
        part = next((part for part in self._order if hasattr(part, "classifier")), None)
        if part is None:
            raise AttributeError("no part has a classifier")
        return part.classifier

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        for part in self._order:
            if isinstance(part, AutoGuide) and part.prototype_trace is None:
                self._leave_to(part, args, kwargs)
        with OneProgram() as program:
            for part in self._order:
                program.part = part
                part(*args, **keywords_of(part, kwargs))
        return program.values

    def posterior(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """q of each site whose part is a guide with one latent: site -> distribution."""
        found = [part for part in self._order if hasattr(part, "posterior") and hasattr(part, "site")]
        return {part.site: part.posterior(*args, **keywords_of(part, kwargs)) for part in found}

    @torch.no_grad()
    def per_datum(self, x: Tensor, *args: Any, **kwargs: Any) -> "Factorised":
        """A guide whose amortised parts have parameters of their own for each row of x; the others are the same."""
        # any callable may be a part, so `per_datum` is looked up by name
        return Factorised(*(
            part.per_datum(x, *args, **keywords_of(part, kwargs)) if hasattr(part, "per_datum") else part
            for part in self._order
        ))  # fmt: skip

    def _leave_to(self, autoguide: AutoGuide, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hides the sites of the other parts from the model that an autoguide is about to look at."""
        others = [p for p in self._order if p is not autoguide and getattr(p, "prototype_trace", self) is not None]
        with trial(self), OneProgram() as program, poutine.block():
            for part in others:
                trace = poutine.trace(part).get_trace(*args, **keywords_of(part, kwargs))
                program.values |= {name: trace.nodes[name]["value"] for name in trace.stochastic_nodes}
        seen, hidden = autoguide.model, [*program.values]
        # an autoguide sets a start at each site as the model samples it, and finds none for a discrete one: what it is
        # not to see is hidden from that too
        if isinstance(seen, partial) and seen.args and isinstance(seen.args[0], InitMessenger):
            start, inner = seen.args
            autoguide._model = (start(poutine.block(inner, hide=hidden)),)
        else:
            autoguide._model = (poutine.block(seen, hide=hidden),)
