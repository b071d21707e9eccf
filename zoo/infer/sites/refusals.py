"""Errors about single sites: the value, the shape, the density. Composed when a run has found a site that is wrong."""

from typing import Any

import torch
from pyro.distributions import Delta, constraints
from torch import Tensor
from torch.distributions import biject_to

from zoo.infer.sites.layout import Layout
from zoo.infer.sites.programs import Programs
from zoo.infer.sites.supports import moves_with_latents
from zoo.infer.sites.values import bare, support_of
from zoo.parts.checks import element, listed
from zoo.parts.conditionals.logit import OpenUnit
from zoo.parts.distributions.circle import Circle, latent_support

FirstRow = int | Tensor  # number of a batch's first row in the data, or the numbers of all its rows


def name_of(fn: Any) -> str:
    """The class of a distribution inside wrappers that only reshape or mask it."""
    return type(bare(fn)).__name__


def refuse_value(
    name: str, p: Any, q: Any, programs: Programs, moving: set[str], first_row: FirstRow = 0, *, front: bool = False
) -> None:
    """Refuses a value of a model's site that is NaN or outside its support, or of another shape; names the rows.

    An observed value outside a support that moves with the latents passes: its weight is 0, which is right.

    Args:
        p: the site in the model.
        q: the site in the guide; None if it is observed.
        moving: the observed sites whose support is known to move; this site is added if its support does.
        front: values of summed sites stand on axes in front of the plates, which `check_site` knows nothing of.
    """
    if not front:
        check_site(name, p)
    if p["mask"] is False:
        return
    refuse_nan(name, p, first_row)
    value, fn = _full(p), p["fn"]
    wrong = ~support_of(fn).check(value) & _scored(p)
    if not wrong.any():
        return
    if not p["is_observed"]:
        raise ValueError(
            f"site {name!r}: the guide's {name_of(q['fn'])} has support {q['fn'].support}, the model's {name_of(fn)} "
            f"has {fn.support}, and draws lie outside it in rows {_rows(wrong, p, first_row)}. Map the family onto the "
            "support by guides.Onto (guides do so by themselves where the model offers prior()), or sample an "
            "unconstrained latent and transform it"
        )
    if name in moving or moves_with_latents(name, programs):
        moving.add(name)
        return
    value = p["value"]
    raise ValueError(
        f"site {name!r}: {name_of(fn)} has support {support_of(fn)}, the observed values lie outside in rows "
        f"{_rows(wrong, p, first_row)} (values between {value.min().item():.4g} and {value.max().item():.4g})"
        f"{_hint(fn, value)}"
    )


def _hint(fn: Any, value: Tensor) -> str:
    """A sentence on the usual cause of observed values outside a discrete or a bounded support, or nothing."""
    # one number for each datum is a label; pixels are events, or stand in a plate of their own
    if fn.event_dim == 0 and value.dim() == 1:
        unknown = fn.support.is_discrete and bool((value == -1).any())
        return ". Labels of which some are unknown, -1, need zoo.infer.SemiSupervised" if unknown else ""
    one, unit = element(fn.support), bool(((value >= 0) & (value <= 1)).all())
    if isinstance(one, type(constraints.boolean)) and unit:
        return ". Grey pixels need binarising (zoo.data.Binarized) or another likelihood; dequantised ones a density"
    if isinstance(one, constraints.integer_interval) and bool((value != value.round()).any()):
        return ". Levels are whole numbers (a split's `levels`); dequantised pixels need a density (Logit)"
    undone = unit or bool((value == value.round()).all())
    return ". Levels need dequantising (zoo.data.Dequantised)" if isinstance(one, OpenUnit) and undone else ""


def refuse_nan(name: str, site: Any, first_row: FirstRow = 0) -> None:
    """Refuses a value that is NaN where it is scored; names the rows."""
    value = _full(site)
    nan = torch.isnan(value).reshape(*value.shape[: value.dim() - site["fn"].event_dim], -1).any(-1) & _scored(site)
    if nan.any():
        raise ValueError(f"site {name!r}: the value is NaN in rows {_rows(nan, site, first_row)}")


def refuse_nan_draws(drawn: dict[str, Any], first_row: FirstRow = 0) -> None:
    """Refuses draws of the guide that are NaN. Observed values are checked before: a NaN there may be the cause."""
    for name, site in drawn.items():
        if site["value"].is_floating_point() and site["value"].isnan().any():
            refuse_nan(name, site, first_row)


def check_site(name: str, site: Any, several: str = "") -> None:
    """Refuses a site that is scaled, or whose shapes do not fit its plates.

    Args:
        several: words for the error, " with 5 particles".
    """
    scale = site["scale"]
    if isinstance(scale, Tensor) or scale != 1.0:
        raise ValueError(
            f"site {name!r}: scaled by {scale} (a subsampled plate or poutine.scale). A scaled weight is not a bound: "
            "use a plate of the batch size, and zoo.infer.Tempered to weight the KL"
        )
    fn, value = site["fn"], site["value"]
    plates = {f.dim: f.size for f in site["cond_indep_stack"] if f.vectorized}
    shape = tuple(plates.get(d, 1) for d in range(min(plates, default=0), 0))
    if tuple(fn.batch_shape) != shape:
        raise ValueError(
            f"site {name!r}{several}: batch shape {tuple(fn.batch_shape)} does not match its plates {shape}; "
            "declare the other axes as the event, with .to_event(...)"
        )
    if site["mask"] is False or not isinstance(value, Tensor):
        return
    expected = fn.batch_shape + fn.event_shape
    fits = value.dim() >= fn.event_dim and value.shape[value.dim() - fn.event_dim :] == fn.event_shape
    try:
        # one observed value may serve several entries of a plate, but must not make the plate larger
        fits = fits and torch.broadcast_shapes(value.shape, expected) == expected
    except RuntimeError:
        fits = False
    if not fits or (value.shape != expected and not site["is_observed"]):
        found = tuple(value.shape)
        raise ValueError(f"site {name!r}{several}: expected values of shape {tuple(expected)}, got {found}")


def check_front(name: str, site: Any, nesting: int, front: tuple[int, ...], said: str) -> None:
    """Refuses a site whose distribution has other axes than those in front of the batch and its plates.

    Args:
        nesting: number of axes of plates in the pair, those that the site does not stand in among them.
        front: sizes of the axes of summed sites and particles, each of which a distribution may lack or have as 1.
        said: words for the error.
    """
    plates = {f.dim: f.size for f in site["cond_indep_stack"] if f.vectorized and f.name != "num_particles"}
    own = tuple(plates.get(d, 1) for d in range(-nesting, 0))
    found, expected = tuple(site["fn"].batch_shape), (*front, *own)
    # a site outside some plates may lack their axes
    whole = (1,) * (nesting - len(found)) + found
    fits = whole[len(whole) - nesting :] == own and len(found) <= len(expected)
    if not fits or any(size not in (1, most) for size, most in zip(reversed(found), reversed(expected), strict=False)):
        raise ValueError(
            f"site {name!r}{said}: batch shape {found} does not match the values, particles and plates {expected}; "
            "networks must keep leading axes as they are, as zoo.parts.networks.MultiInput does"
        )


def refuse_purpose(layout: Layout, point_mass: bool) -> None:
    """Refuses a guide of densities where an objective wants points, and the reverse.

    Args:
        point_mass: True if the objective maximises log p(x, z) at a point of the guide.
    """
    if point_mass and (densities := [n for n in layout.latents if n not in layout.point_masses]):
        raise ValueError(
            f"site {densities[0]!r}: MAP wants a point, a Delta of the guide (AutoDelta), and the guide draws from a "
            "density; ELBO and its like take densities"
        )
    if layout.point_masses and not point_mass:
        raise ValueError(
            f"site {layout.point_masses[0]!r}: the guide's Delta is a point and has no density over a continuous "
            "latent, so log p - log q is no bound and no weight. zoo.infer.MAP() maximises log p(x, z) at the point"
        )


def refuse_unwound(name: str, p: Any, q: Any) -> None:
    """Refuses a density over the whole real line for an angle, whose prior repeats itself there without end."""
    turning = isinstance(element(latent_support(p["fn"])), Circle)
    if (
        turning
        and isinstance(element(latent_support(q["fn"])), type(constraints.real))
        and not (isinstance(bare(q["fn"]), Delta))
    ):
        raise ValueError(
            f"site {name!r}: the model's {name_of(p['fn'])} is a density over one turn, the guide's "
            f"{name_of(q['fn'])} one over the real line, so that log p - log q is no weight. Take guides.Onto, "
            "which Amortized does by itself where the model offers prior()"
        )


def refuse_other_dimension(name: str, p: Any, q: Any) -> None:
    """Refuses a density of the guide over fewer or more numbers than the model's, such as one over a simplex.

    Such values may lie in the model's support, and log p - log q is then a ratio of densities over other volumes.
    """
    free = [_free(site["fn"]) for site in (p, q)]
    if None not in free and free[0] != free[1]:
        raise ValueError(
            f"site {name!r}: the guide's {name_of(q['fn'])} is a density over {free[1]} free numbers, "
            f"{q['fn'].support}, the model's {name_of(p['fn'])} over {free[0]}, {p['fn'].support}; their ratio is no "
            "weight. Take a family with the model's support"
        )


def _free(fn: Any) -> int | None:
    """The free numbers of a value: C - 1 on a simplex of C entries; None where torch does not know them."""
    try:
        return int(biject_to(fn.support).inverse_shape(fn.event_shape).numel())
    except NotImplementedError:
        return None


def refuse_mixed(name: str, p: Any, q: Any) -> None:
    """Refuses log p - log q, at a draw, of a site that has a density in one program and probabilities in the other."""
    raise ValueError(
        f"site {name!r}: the model's {name_of(p['fn'])} and the guide's {name_of(q['fn'])} are a discrete variable and "
        "a relaxed one, and the ratio of a probability and a density is no weight. Take ELBO(analytic_kl=True), whose "
        "KL is that of the discrete variables, or relax both: CodePrior(..., temperature=)"
    )


def refuse_outside(layout: Layout) -> None:
    """Refuses, for callers that want a weight of each datum, a pair with sites outside the batch plate."""
    raise ValueError(
        f"site {layout.first_outside!r}: stands outside the batch plate {layout.batch_plate!r}, so it has no "
        "per-datum weight: all data share its value, and neither importance-weighted bounds nor log p(x_n) have an "
        "entry for each of them. ELBO, RLOO and MAP take such sites, so do kl_per_site, posterior_draws without "
        "weights, nuts_reference and compare"
    )


def refuse_no_sample(no_path: dict[str, str]) -> None:
    """Refuses, for a gradient, sites of the guide without a reparameterised sample."""
    for name, family in no_path.items():
        raise ValueError(
            f"site {name!r}: {family} has no reparameterised sample, so the guide would get no gradient through it; "
            "RLOO and VIMCO need none"
        )


def unscorable(site: Any, error: Exception, path: bool) -> ValueError:
    """The error for a distribution that cannot score a value.

    Args:
        error: raised by the distribution.
        path: True if a path estimator scores the guide at values that it has not just drawn.
    """
    said = ""
    if path and isinstance(error, NotImplementedError):
        said = (
            ". Estimators that score the guide at values it has not just drawn (`sticking`, `doubly`) need a family "
            "with an inverse"
        )
    if site["value"].is_floating_point() and site["value"].isnan().any():
        said += ". Fill missing values, with zeros say: a masked NaN has no score but makes the gradient NaN"
    return ValueError(f"site {site['name']!r}: {type(site['fn']).__name__} cannot score this value ({error}){said}")


def _full(site: Any) -> Tensor:
    """A site's value in the shape of its batch and event."""
    fn, value = site["fn"], site["value"]
    return value.expand(torch.broadcast_shapes(value.shape, fn.batch_shape + fn.event_shape))


def _scored(site: Any) -> Tensor:
    """A site's mask and that of its distribution, in the shape of the batch: True where it is scored."""
    fn, value = site["fn"], site["value"]
    here = torch.ones(fn.batch_shape, dtype=torch.bool, device=value.device)
    for mask in (site["mask"], getattr(fn, "_mask", None)):
        if mask is not None:
            here = here & mask
    return here


def _rows(wrong: Tensor, site: Any, first_row: FirstRow) -> str:
    """The rows in which anything is wrong, in words, as `first_row` counts them."""
    plates = [f for f in site["cond_indep_stack"] if f.vectorized and f.name != "num_particles"]
    nesting = max((-f.dim for f in plates), default=0)
    # particles stand in front of the plates
    while wrong.dim() > nesting:
        wrong = wrong.any(0)
    if not plates:
        # outside all plates there is one value, and no row
        return "all"
    found = wrong.reshape(len(wrong), -1).any(-1).nonzero()[:, 0]
    return listed((found + first_row if isinstance(first_row, int) else first_row[found]).tolist())
