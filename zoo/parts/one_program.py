"""Several programs run as one: guides side by side."""

from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor


class OneProgram(Messenger):
    """Opens each plate once for several programs, and refuses a site that two of them sample."""

    def __init__(self) -> None:
        super().__init__()
        self.part: Any = None
        self.owners: dict[str, Any] = {}
        self.values: dict[str, Tensor] = {}
        self.plates: dict[str, tuple[int, Tensor]] = {}

    def _process_message(self, msg: Any) -> None:
        if msg["type"] != "sample":
            return
        # an autoguide draws "z_unconstrained" before it makes z of it
        name, fn = msg["name"].removesuffix("_unconstrained"), msg["fn"]
        if type(fn) is not _Subsample:
            if self.owners.setdefault(name, self.part) is not self.part or msg["name"] in self.values:
                raise ValueError(
                    f"Factorised: site {name!r} is sampled by {spoken_parts([self.owners[name]])} and by "
                    f"{spoken_parts([self.part])}; each site belongs to one part. Hide it from an autoguide by "
                    f"poutine.block(model, hide=[{name!r}])"
                )
        elif name in self.plates:
            size, rows = self.plates[name]
            if size != fn.size:
                raise ValueError(
                    f"Factorised: plate {name!r} has {size} rows, and {fn.size} in {spoken_parts([self.part])}"
                )
            # stopped here, or handlers outside would see a plate that is opened twice
            msg["value"], msg["done"], msg["stop"] = rows, True, True

    def _postprocess_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and type(msg["fn"]) is _Subsample:
            self.plates.setdefault(msg["name"], (msg["fn"].size, msg["value"]))
        elif msg["type"] == "sample":
            self.values[msg["name"]] = msg["value"]


def spoken_parts(parts: Any) -> str:
    """Parts by class, with their site where they tell it."""
    sites = [getattr(part, "site", None) for part in parts]
    names = [getattr(part, "__name__", type(part).__name__) for part in parts]
    return ", ".join(n if s is None else f"{n}(site={s!r})" for n, s in zip(names, sites, strict=True))
