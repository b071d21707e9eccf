"""The core: the per-datum terms of a model/guide pair, from which every objective and every check is computed.

For latents z_1..z_L and data x, one run of guide and model over K particles gives, for each particle k and datum n,

    log w_kn = log p(x_n | z_kn) + sum_l [log p(z_l,kn | ...) - log q(z_l,kn | ...)].

This needs every site to have a value for each datum, so all sites must stand in one batch plate: a latent outside it
has no per-datum weight, and an importance-weighted bound computed with it is one bound for the whole batch (Pyro's
`RenyiELBO` does that silently). The pair's structure is checked once for each shape of its arguments
(`zoo.infer.pair`), values in every run; besides that a run costs two light messengers and no traces.
"""

import math
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import pyro
import torch
from pyro.distributions import is_validation_enabled
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor, nn

from zoo.infer.closed_form import closed_form_kl, reordered
from zoo.infer.pair import Layout, check_pair, check_values, refuse_nan_draws
from zoo.infer.path import Frozen, has_own, own_parameters, refuse_no_path
from zoo.infer.sites.supports import log_prob_within
from zoo.infer.store import refuse_claimed_keys
from zoo.parts.once import Once


class Terms(NamedTuple):
    """What one run of a pair gives, in nats. K: particles, N: data points of the batch.

    Attributes:
        log_likelihood: log p(x | z), all observed sites together, `(K, N)`.
        log_ratios: for each latent site log p - log q at the guide's sample, `(K, N)`.
        latents: the guide's samples, `(K, N, ...)`.
    """

    log_likelihood: Tensor
    log_ratios: dict[str, Tensor]
    latents: dict[str, Tensor]

    @property
    def log_weights(self) -> Tensor:
        """log p(x, z) - log q(z | x), `(K, N)`."""
        total = self.log_likelihood
        for ratio in self.log_ratios.values():
            total = total + ratio
        return total


class _Record(Messenger):
    """Keeps every sample site of a run, and replays `values` at the sites of the same name.

    Compared with `poutine.trace` it copies nothing and scores nothing; it also answers a plate's hidden subsample site,
    which otherwise allocates a range and walks the whole stack each time a plate is made.
    """

    def __init__(self, values: dict[str, Tensor], rows: dict[tuple, Tensor]) -> None:
        super().__init__()
        self.sites: dict[str, Any] = {}
        self.values, self.rows = values, rows

    def _process_message(self, msg: Any) -> None:
        if msg["type"] != "sample":
            return
        if type(msg["fn"]) is _Subsample:
            if msg["value"] is None and msg["fn"].subsample_size in (None, msg["fn"].size):
                msg["value"], msg["done"] = self._rows(msg["fn"].size, msg["fn"].device), True
        elif not msg["is_observed"] and msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True

    def _rows(self, size: int, device: Any) -> Tensor:
        """The indices 0..size-1 of an unsubsampled plate, made once for guide and model."""
        if (size, device) not in self.rows:
            self.rows[size, device] = torch.arange(size, device=device)
        return self.rows[size, device]

    def _postprocess_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and type(msg["fn"]) is not _Subsample and not msg["infer"].get("_deterministic"):
            self.sites[msg["name"]] = msg


def _run(
    fn: Callable,
    args: tuple,
    kwargs: dict,
    num_particles: int,
    dim: int,
    rows: dict[tuple, Tensor],
    values: dict[str, Tensor] | None = None,
) -> dict[str, Any]:
    record = _Record(values or {}, rows)
    with record:
        if num_particles == 1:
            fn(*args, **kwargs)
        else:
            with pyro.plate("num_particles", num_particles, dim=dim):
                fn(*args, **kwargs)
    return record.sites


def _per_datum(site: Any, log_prob: Tensor, layout: Layout, num_particles: int) -> Tensor:
    """`(K, N)`: masked, summed over plates inside the batch plate, and for each datum also where all have one value."""
    if site["mask"] is not None:
        log_prob = scale_and_mask(log_prob, 1.0, site["mask"])
    if layout.nesting > 1:
        inner = [d for d in range(-layout.nesting, 0) if d != layout.batch_dim and -d <= log_prob.dim()]
        log_prob = log_prob.sum(inner) if inner else log_prob
    shape = (num_particles, _batch_size(site, layout))
    return log_prob if log_prob.shape == shape else log_prob.expand(shape)


def _batch_size(site: Any, layout: Layout) -> int:
    """The number of data, as the site's own plate has it: data may come by other ways than arguments."""
    for frame in site["cond_indep_stack"]:
        if frame.name == layout.batch_plate:
            return frame.size
    raise ValueError(f"site {site['name']!r}: stands outside the batch plate {layout.batch_plate!r}, not so before")


def log_density(site: Any, layout: Layout, num_particles: int, *, drawn: bool = False, path: bool = False) -> Tensor:
    """log density of a recorded site at its value, `(K, N)`; names the site when its distribution cannot tell.

    Args:
        drawn: the distribution has drawn the value, and no derivative is wanted but that of its parameters.
        path: an estimator scores the guide at values that it has not just drawn.
    """
    fn = site["fn"]
    try:
        if layout.found.get(f"support of {site['name']}"):
            log_prob = log_prob_within(fn, site["value"])
        else:
            log_prob_of = getattr(fn, "log_prob_of_draw", fn.log_prob) if drawn else fn.log_prob
            log_prob = log_prob_of(site["value"], *site["args"], **site["kwargs"])
    except (KeyError, NotImplementedError, ValueError) as error:
        hint = (
            ". Estimators that score the guide at values it has not just drawn (`sticking`, `doubly`) need a family "
            "with an inverse"
        )
        said = hint if path and isinstance(error, NotImplementedError) else ""
        if site["value"].is_floating_point() and site["value"].isnan().any():
            said += ". Fill what is missing, with zeros say: under a mask a NaN has no score but a gradient that is NaN"
        name = type(fn).__name__
        raise ValueError(f"site {site['name']!r}: {name} cannot score this value ({error}){said}") from error
    return _per_datum(site, log_prob, layout, num_particles)


_RUNNING = threading.RLock()  # two runs at once would write into each other's messages


def run(
    model: Any,
    guide: Any,
    args: tuple,
    kwargs: dict,
    num_particles: int,
    *,
    copy: Callable[[Tensor], Tensor] | None = None,
    weighted: bool = False,
    analytic_kl: bool = False,
    point_mass: bool = False,
    differentiable: bool = False,
    registered: bool = False,
) -> Terms:
    """`terms` with what the objectives need besides.

    Args:
        copy: the path-derivative form. The guide draws z in its own chain; model and guide score `copy(z)`, the guide
            with its own parameters held constant, so that gradients reach these through the samples alone. Copies are
            what makes it right for hierarchical guides: a hook on z itself would weight the path z_1 -> z_2 twice.
        weighted: the copies weigh gradients, for which *every* parameter of the guide must be held constant, those of
            the model too. A guide without parameters of its own, or with sites marked `from_model`, is run plainly.
        analytic_kl: give minus the closed-form KL in place of log p - log q.
        point_mass: the guide gives points, no densities: log q = 0. Otherwise they are refused.
        differentiable: the result will be differentiated, so every guide site must have a reparameterised sample.
        registered: call PyroModules through Pyro's parameter store, as `pyro.infer.SVI` requires; otherwise past it (5
            to 10 % of a step).
    """
    if not _RUNNING.acquire(blocking=False):
        raise RuntimeError(
            "another thread is running a model and a guide. Pyro's handlers are one stack for the whole process, so "
            "two runs at once give wrong numbers: evaluate in one thread, or in several processes"
        )
    try:
        layout = check_pair(model, guide, args, kwargs, num_particles)
        _check_purpose(layout, point_mass, differentiable)
        run_model: Any = model.forward if layout.direct[0] and not registered else model
        bare_guide: Any = guide.forward if layout.direct[1] else guide
        run_guide = guide if registered else bare_guide
        refuse_claimed_keys(run_model)
        refuse_claimed_keys(run_guide)
        model_kwargs = kwargs
        if "index" in kwargs and not layout.model_takes_index:
            model_kwargs = {name: value for name, value in kwargs.items() if name != "index"}
        if copy is not None and ((weighted and layout.from_model) or not has_own(model, guide, args, kwargs, layout)):
            copy = None
        if analytic_kl and "reordered" not in layout.found:
            late = {} if layout.in_order else reordered(model, guide, args, kwargs, model_kwargs)
            layout.found["reordered"] = late

        dim = -1 - layout.nesting
        rows: dict[tuple, Tensor] = {}

        def log_q_at(values: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
            sites = _run(bare_guide, args, kwargs, 1, dim, rows, values)
            log_q = {n: log_density(s, layout, 1, path=True) for n, s in sites.items() if n not in layout.from_model}
            return {name: site["value"] for name, site in sites.items()}, log_q

        if copy is not None and "path" not in layout.found:
            refuse_no_path(model, guide, args, kwargs, layout, log_q_at)
            layout.found["path"] = True
        # A frozen guide would lend the model what it made of constants, and SVI trains what it sees called.
        with nullcontext() if copy is not None or registered else Once():
            q = _run(run_guide, args, kwargs, num_particles, dim, rows)
            values = {name: site["value"] for name, site in q.items()}
            log_q: dict[str, Tensor] = {}
            if copy is not None:
                values = {name: copy(value) if value.requires_grad else value for name, value in values.items()}
                owned = _all_parameters(model, guide) if weighted else own_parameters(model, guide)
                # scored within: a distribution may hold parameters and use them in `log_prob` only
                with Frozen(owned, () if weighted else layout.statements):
                    for name, site in _run(bare_guide, args, kwargs, num_particles, dim, rows, values).items():
                        if name not in layout.from_model:
                            log_q[name] = log_density(site, layout, num_particles, path=True)
            else:
                for name in layout.auxiliary if analytic_kl else q:
                    if name not in layout.from_model:
                        log_q[name] = log_density(q[name], layout, num_particles, drawn=differentiable)
            if point_mass:
                log_q |= {name: torch.zeros_like(log_q[name]) for name in layout.point_masses}
            p = _run(run_model, args, model_kwargs, num_particles, dim, rows, values)
            if is_validation_enabled():
                check_values(model, guide, args, kwargs, layout, p, q)
            return _terms(layout, num_particles, p, q, values, log_q, analytic_kl)
    finally:
        _RUNNING.release()


def _check_purpose(layout: Layout, point_mass: bool, differentiable: bool) -> None:
    """Refuses guides of which the objective makes no sense."""
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
    if differentiable and layout.no_path:
        name, family = next(iter(layout.no_path.items()))
        raise ValueError(
            f"site {name!r}: {family} has no reparameterised sample, so the guide would get no gradient through it"
        )


def _all_parameters(*modules: Any) -> list[nn.Parameter]:
    return [p for m in modules if isinstance(m, nn.Module) for p in m.parameters() if p.requires_grad]


def _terms(
    layout: Layout,
    num_particles: int,
    p: dict[str, Any],
    q: dict[str, Any],
    values: dict[str, Tensor],
    log_q: dict[str, Tensor],
    analytic_kl: bool,
) -> Terms:
    """The terms of two recorded runs."""
    sizes = {_batch_size(site, layout) for sites in (q, p) for site in sites.values()}
    if len(sizes) > 1:
        raise ValueError(f"plate {layout.batch_plate!r}: model and guide give it other sizes, {sorted(sizes)}")
    if strange := [name for name in q if name not in p and name not in layout.auxiliary]:
        raise ValueError(f"site {strange[0]!r}: sampled by the guide but not a latent site of the model {[*p]}")
    shape = (num_particles, *sizes)
    log_likelihood: Any = 0.0
    log_ratios: dict[str, Tensor] = {}
    for name, site in p.items():
        if site["scale"] != 1.0:
            raise ValueError(f"site {name!r}: scaled by {site['scale']}, and was not when the pair was checked")
        if name in layout.from_model:
            log_ratios[name] = site["value"].new_zeros(shape, dtype=_floating(site["value"]))
        elif name in q and analytic_kl:
            kl = closed_form_kl(site, q[name], layout.found["reordered"])
            log_ratios[name] = -_per_datum(q[name], kl, layout, num_particles)
        elif name in q:
            log_ratios[name] = log_density(site, layout, num_particles) - log_q[name]
        elif not site["is_observed"]:
            raise ValueError(f"site {name!r}: a latent site of the model that the guide does not sample")
        else:
            log_likelihood = log_likelihood + log_density(site, layout, num_particles)
    for name, owner in layout.auxiliary.items():  # an autoguide's unconstrained site is part of the site it serves
        log_ratios[owner] = log_ratios[owner] - log_q[name]
    if not isinstance(log_likelihood, Tensor):
        log_likelihood = torch.zeros_like(next(iter(log_ratios.values())))
    keep = {n: (v.unsqueeze(0) if num_particles == 1 else v) for n, v in values.items() if n not in layout.auxiliary}
    parts = (log_likelihood, *log_ratios.values())
    if is_validation_enabled() and any(math.isnan(v.detach().sum().item()) for v in parts):
        refuse_nan_draws(q)
    return Terms(log_likelihood, log_ratios, keep)


def _floating(value: Tensor) -> torch.dtype:
    return value.dtype if value.is_floating_point() else torch.get_default_dtype()


def terms(model: Callable, guide: Callable, *args: Any, num_particles: int = 1, **kwargs: Any) -> Terms:
    """Per-datum log-likelihood and per-site log p - log q of a pair, over `num_particles` draws of the guide.

    Args:
        model: a model of the zoo, or any Pyro program whose sites all stand in one batch plate.
        guide: a guide of the zoo, a Pyro autoguide, or any callable with the model's arguments. A site that is drawn
            from the model's own conditional is marked `infer={"from_model": True}`: its ratio is 0 and not computed.
        *args, **kwargs: the arguments of both, the batch first. `index` (row numbers of the batch in the data set) goes
            to the guide alone: it is for guides with own parameters for each data point.
        num_particles: K >= 1.

    Returns:
        `Terms`, in nats, every entry `(K, N)`.

    Raises:
        ValueError: the pair does not fit together, or a value is none of its site's; names the site and the reason
            (`zoo.infer.pair`). Values are not looked at under `pyro.enable_validation(False)`.
        RuntimeError: another thread is running a pair.

    Example:
        >>> import torch, guides
        >>> from zoo import VAE
        >>> from zoo.infer import terms
        >>> model = VAE(784, 20)
        >>> terms(model, guides.Amortized(model), torch.zeros(3, 784), num_particles=5).log_weights.shape
        torch.Size([5, 3])
    """
    return run(model, guide, args, kwargs, num_particles)
