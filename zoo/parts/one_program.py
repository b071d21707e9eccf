"""Several programs run as one: guides side by side, a guide above a model."""

from collections.abc import Callable, Mapping
from typing import Any

from pyro.distributions import Delta
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from pyro.poutine.util import site_is_subsample
from torch import Tensor

SUFFIX = " (hidden)"
# an autoguide draws "z_unconstrained", and makes z of it
UNCONSTRAINED = "_unconstrained"


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
        name, fn = msg["name"].removesuffix(UNCONSTRAINED), msg["fn"]
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


class Hiding(Messenger):
    """Renames sites, and takes them out of every score, so that handlers outside see no site of the name.

    Args:
        hides: tells for a site's name.
        given: values for sites; the sites that are not hidden are then marked as drawn from the model.

    Attributes:
        values: site -> value, of all sites under their own names.
        joint: True once a draw of several latents together was met, of one of Pyro's joint autoguides.
        points: hidden sites at which the program has a point that is made of no draw of their own.
    """

    # `poutine.block` would keep these sites from the plate of particles outside too: all particles would share one draw
    def __init__(self, hides: Callable[[str], bool], given: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.hides, self.given = hides, given
        self.values: dict[str, Tensor] = {}
        self.joint = False
        self.points: list[str] = []

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        self.joint |= bool(msg["infer"].get("is_auxiliary")) and not name.endswith(UNCONSTRAINED)
        if site_is_subsample(msg):
            # the second program opens the plate of the first again, and only one of the two may be seen
            msg["stop"] = self.given is not None
        elif self.hides(name):
            if self.given is not None and name in self.given:
                msg["value"], msg["done"] = self.given[name], True
            if isinstance(msg["fn"], Delta) and f"{name}{UNCONSTRAINED}" not in self.values:
                self.points.append(name)
            msg["name"], msg["mask"] = f"{name}{SUFFIX}", False
            msg["infer"] = {**msg["infer"], "_deterministic": True, "is_auxiliary": True}
        elif self.given is not None:
            msg["infer"] = {**msg["infer"], "from_model": True}

    def _pyro_post_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):
            self.values[msg["name"].removesuffix(SUFFIX)] = msg["value"]


def spoken_parts(parts: Any) -> str:
    """Parts by class, with their site where they tell it."""
    sites = [getattr(part, "site", None) for part in parts]
    names = [getattr(part, "__name__", type(part).__name__) for part in parts]
    return ", ".join(n if s is None else f"{n}(site={s!r})" for n, s in zip(names, sites, strict=True))
