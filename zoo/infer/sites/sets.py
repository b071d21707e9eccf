"""The sets of sites that belong together: in model and guide, in the batch plate, under the guide's marks."""

import difflib
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from zoo.infer.sites.auxiliary import cut_out
from zoo.infer.sites.refusals import name_of
from zoo.infer.sites.values import bare


class _Twice(Messenger):
    """Refuses a plate that is opened a second time, and a site that is sampled a second time, in one program."""

    # Pyro's own trace says "Multiple sample sites named 'data'", of a plate too, and not which modules are at odds.
    def __init__(self) -> None:
        super().__init__()
        self.openers: dict[str, str] = {}

    def _pyro_sample(self, msg: Any) -> None:
        name, opener = msg["name"], _opener()
        if name not in self.openers:
            self.openers[name] = opener
            return
        if type(msg["fn"]) is not _Subsample:
            raise ValueError(f"site {name!r}: sampled twice in one program, by {self.openers[name]} and by {opener}")
        raise ValueError(
            f"plate {name!r}: opened twice in one program, by {self.openers[name]} and by {opener}. Open it once and "
            f'sample from their posteriors: with pyro.plate("{name}", len(x)): '
            'pyro.sample("z_1", first.posterior(x)); pyro.sample("z_2", second.posterior(x))'
        )


def _opener() -> str:
    """The class of the innermost PyroModule whose `forward` is running, else the name of the function."""
    # Pyro's messages do not tell which module sent them; the stack of frames does, and is walked only at the check.
    frame = sys._getframe(1)
    function = ""
    while frame is not None:
        owner, code = frame.f_locals.get("self"), frame.f_code
        if isinstance(owner, PyroModule) and code.co_name == "forward":
            site = getattr(owner, "site", None)
            return type(owner).__name__ + ("" if site is None else f"(site={site!r})")
        if not function and not frame.f_globals.get("__name__", "").startswith(("pyro.", "zoo.infer.", "contextlib")):
            function = code.co_name
        frame = frame.f_back  # type: ignore[assignment]
    return function


def traced(fn: Callable, args: tuple, kwargs: dict) -> Any:
    """The trace of a program that samples each site once."""
    with poutine.trace() as tracer, _Twice():
        fn(*args, **kwargs)
    return tracer.trace


def nearest(word: str, words: Iterable[str]) -> str:
    """', did you mean ...?' for a misspelt word, or nothing."""
    close = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


# a draw a that only the guide knows makes log p(x, z) - log q(a, z) a ratio of densities over other variables
_REVERSE = "an auxiliary variable needs a reverse model: `WithAuxiliary`"


def _other_form(model: Any) -> str:
    """Words on the other form of a model that has two, with and without the latents that can be summed out."""
    marginal = getattr(model, "marginal", None)
    if not isinstance(marginal, bool):
        return ""
    return f"; this is {type(model).__name__}(marginal={marginal}), and marginal={not marginal} has other sites"


def check_drawn(drawn: dict[str, Any]) -> None:
    """Refuses sites of a guide that are observed, whatever the model."""
    for name, site in drawn.items():
        if site["is_observed"]:
            raise ValueError(f"site {name!r}: the guide observes a value; a guide only samples")


def check_together(
    stated: dict[str, Any], drawn: dict[str, Any], model: Any = None, guide: Any = None
) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Refuses sites that do not belong together.

    Args:
        stated: the model's sites.
        drawn: the guide's sites.
        model, guide: for errors.

    Returns:
        The guide's auxiliary sites, each with the latent made of it; and its joint ones, each with all latents that
        are cut out of it.
    """
    latents = {n for n, s in stated.items() if not s["is_observed"]}
    auxiliary: dict[str, str] = {}
    joint: dict[str, tuple[str, ...]] = {}
    for name, site in drawn.items():
        if name in latents:
            continue
        if site["infer"].get("is_auxiliary") and name.startswith("_") and name.endswith("_latent"):
            joint[name] = cut_out(name, stated, drawn)
        elif site["infer"].get("is_auxiliary"):
            auxiliary[name] = _made_of(name, drawn, latents)
        elif name in stated:
            raise ValueError(f"site {name!r}: sampled by the guide but observed in the model")
        else:
            raise ValueError(
                f"site {name!r}: sampled by the guide but not a latent site of the model {sorted(latents)}"
                f"{nearest(name, latents) or _other_form(model) or f'; {_REVERSE}'}"
            )
    for name in latents - drawn.keys():
        if stated[name]["infer"].get("enumerate"):
            raise ValueError(
                f"site {name!r}: enumerated in the model. These objectives sum out the sites that the guide marks: "
                'sample it there with infer={"enumerate": "parallel"} (guides.Exact), or use TraceEnum_ELBO'
            )
        raise ValueError(
            f"site {name!r}: a latent site of the model that the guide does not sample; "
            f"{getattr(guide, 'spoken', 'it')} samples {sorted(drawn)}"
        )
    return auxiliary, joint


def _made_of(name: str, drawn: dict[str, Any], latents: set[str]) -> str:
    """The latent that a guide makes of an auxiliary site."""
    # Pyro's autoguides name the draw "z_unconstrained" before its transform to "z"
    for latent in latents & drawn.keys():
        if name.startswith(f"{latent}_") and isinstance(bare(drawn[latent]["fn"]), Delta):
            return latent
    raise ValueError(
        f"site {name!r}: auxiliary, sampled by the guide alone; {_REVERSE}. Without one it must be the draw that a "
        'latent site, a Delta of the guide, is made of (Pyro\'s autoguides: "z_unconstrained")'
    )


def batch_plate(sites: list[tuple[str, Any]], args: tuple) -> Any:
    """The plate of the batch: of those in which all sites stand, else of all, the one of the batch's size.

    Of several such plates it is the one named "data", else the one with most observed sites.

    Args:
        sites: name and site, of model and guide.
        args: the first tensor among them has the batch as its first axis.

    Raises:
        ValueError: no site, no plate, or data outside the plate; names the first such site.
    """
    if not sites:
        raise ValueError("the model has no sample site")
    frames = [{f for f in site["cond_indep_stack"] if f.vectorized} for _, site in sites]
    size = next((len(a) for a in args if isinstance(a, Tensor) and a.dim()), None)
    if not (seen := set.union(*frames)):
        name = sites[0][0]
        raise ValueError(f'site {name!r}: no site stands in a plate; put all in one `pyro.plate("data", len(x))`')
    count: dict[Any, int] = {}
    for (_, site), own in zip(sites, frames, strict=True):
        for frame in own:
            count[frame] = count.get(frame, 0) + (len(sites) if site["is_observed"] else 1)
    # of several plates that pass these tests alike, the outermost
    common = set.intersection(*frames) or seen
    batch = max(common, key=lambda f: (f.size == size, f.name == "data", len(common) > 1 and count[f], -f.dim))
    for (name, site), own in zip(sites, frames, strict=True):
        # data in no plate at all are a plate forgotten, and no global term: a smaller batch has fewer of them
        if not own and site["is_observed"] and size and site["value"].shape[:1] == (size,):
            raise _outside(name, batch, "")
    return batch


def outside(sites: dict[str, Any], others: dict[str, Any], batch: Any) -> set[str]:
    """The sites of a program that stand outside the batch plate.

    Args:
        sites: of the program.
        others: of the other program of the pair.

    Raises:
        ValueError: a site that stands inside the plate in the other program; names it.
    """
    found = {name for name, site in sites.items() if batch not in site["cond_indep_stack"]}
    for name in sites:
        if name in found and name in others and batch in others[name]["cond_indep_stack"]:
            own = [frame.name for frame in sites[name]["cond_indep_stack"] if frame.vectorized]
            said = f"in plate {own[0]!r}" if own else "in no plate"
            raise _outside(name, batch, f" (it stands {said}: model and guide must give the batch plate one name)")
    return found


def _outside(name: str, batch: Any, hint: str) -> ValueError:
    return ValueError(
        f"site {name!r}: stands outside the batch plate {batch.name!r}, so it has no per-datum weight{hint}. All that "
        "has a value for each datum must stand in one plate of the batch size"
    )


def point_masses(scored: dict[str, Any], drawn: dict[str, Any], made: set[str]) -> tuple[str, ...]:
    """The continuous latents for which the guide gives a point. (For a discrete latent, log q = 0 at a point is right.)

    Args:
        scored, drawn: the sites of the model and of the guide.
        made: latents made of an auxiliary site.

    Raises:
        ValueError: a guide's site is discrete and the model's is not.
    """
    continuous = [n for n in drawn if n in scored and n not in made and not scored[n]["fn"].support.is_discrete]
    points = tuple(name for name in continuous if _has_point(drawn[name]["fn"]))
    for name in continuous:
        if name not in points and drawn[name]["fn"].support.is_discrete:
            raise ValueError(
                f"site {name!r}: the guide's {name_of(drawn[name]['fn'])} is discrete and has no density over the "
                f"continuous latent of the model's {name_of(scored[name]['fn'])}"
            )
    return points


def _has_point(fn: Any) -> bool:
    """Tells whether a distribution is a Delta under any wrappers and transforms, or mixes one."""
    names = ("base_dist", "component_distribution", "component0", "component1")
    parts = [getattr(fn, name) for name in names if hasattr(fn, name)]
    return isinstance(fn, Delta) or any(_has_point(part) for part in parts)


def from_model(scored: dict[str, Any], drawn: dict[str, Any]) -> frozenset[str]:
    """The sites that the guide marks as the model's own conditional.

    Raises:
        ValueError: a marked site has another density than the model's; names it and the difference in nats.
    """
    marked = frozenset(name for name, site in drawn.items() if site["infer"].get("from_model"))
    for name in marked & scored.keys():
        # compared in float64, within a thousand units of the rounding in which the densities were computed
        p, q = (site["fn"].log_prob(site["value"]).double() for site in (scored[name], drawn[name]))
        rounding = 1e3 * torch.finfo(scored[name]["fn"].log_prob(scored[name]["value"]).dtype).eps
        # NaN in both comes of NaN in the data, which each run refuses by its own name
        if not torch.allclose(q, p, rtol=rounding, atol=rounding, equal_nan=True):
            raise ValueError(
                f"site {name!r}: marked from_model, but it is drawn from another density than the model's own: log q "
                f"and log p differ by up to {(q - p).abs().max().item():.3g} nats ({name_of(drawn[name]['fn'])} and "
                f"{name_of(scored[name]['fn'])})"
            )
    return marked
