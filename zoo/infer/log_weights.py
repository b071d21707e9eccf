"""The core: the per-datum terms of a model/guide pair, from which every objective and every check is computed.

For latents z_1..z_L and data x, one run of guide and model over K particles gives, for each particle k and datum n,

    log w_kn = log p(x_n | z_kn) + sum_l [log p(z_l,kn | ...) - log q(z_l,kn | ...)].

This needs every site to have a value for each datum, so all sites must stand in one batch plate: a latent outside it
has no per-datum weight, and an importance-weighted bound computed with it is one bound for the whole batch (Pyro's
`RenyiELBO` does that silently). The pair is checked once for each shape of its arguments (`zoo.infer.pair`); after
that a run costs two light messengers and no traces.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.nn.modules.dropout import _DropoutNd as _Dropout

from zoo.infer.pair import Layout, check_pair, program, reordered


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
    """Keeps every sample site of a run; with `values`, replays them at the sites of the same name.

    Compared with `poutine.trace` it copies nothing and scores nothing; it also answers a plate's hidden subsample site,
    which otherwise allocates a range and walks the whole stack each time a plate is made.
    """

    def __init__(self, values: dict[str, Tensor] | None = None) -> None:
        super().__init__()
        self.sites: dict[str, Any] = {}
        self.values = values or {}

    def _process_message(self, msg: Any) -> None:
        if msg["type"] != "sample":
            return
        if type(msg["fn"]) is _Subsample:
            if msg["value"] is None and msg["fn"].subsample_size in (None, msg["fn"].size):
                msg["value"], msg["done"] = _rows(msg["fn"].size, msg["fn"].device), True
        elif not msg["is_observed"] and msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True

    def _postprocess_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and type(msg["fn"]) is not _Subsample and not msg["infer"].get("_deterministic"):
            self.sites[msg["name"]] = msg


_ROWS: dict[tuple[int, Any], Tensor] = {}


def _rows(size: int, device: Any) -> Tensor:
    """The indices 0..size-1 of an unsubsampled plate, made once."""
    key = (size, str(device))
    if key not in _ROWS:
        if len(_ROWS) > 64:
            _ROWS.clear()
        _ROWS[key] = torch.arange(size, device=device)
    return _ROWS[key]


def _run(fn: Callable, args: tuple, kwargs: dict, num_particles: int, dim: int, values: Any = None) -> dict[str, Any]:
    record = _Record(values)
    with record:
        if num_particles == 1:
            fn(*args, **kwargs)
        else:
            with pyro.plate("num_particles", num_particles, dim=dim):
                fn(*args, **kwargs)
    return record.sites


def _per_datum(site: Any, log_prob: Tensor, layout: Layout, num_particles: int) -> Tensor:
    """`(K, N)`: masked, and summed over plates inside the batch plate."""
    if site["mask"] is not None:
        log_prob = scale_and_mask(log_prob, 1.0, site["mask"])
    if layout.nesting > 1:
        inner = [d for d in range(-layout.nesting, 0) if d != layout.batch_dim and -d <= log_prob.dim()]
        log_prob = log_prob.sum(inner) if inner else log_prob
    return log_prob.unsqueeze(0) if num_particles == 1 else log_prob


def log_density(site: Any, layout: Layout, num_particles: int, drawn: bool = False) -> Tensor:
    """log density of a recorded site at its value, `(K, N)`; names the site when its distribution cannot tell.

    With `drawn` the distribution has drawn the value, and no derivative is wanted but that of its parameters.
    """
    fn = site["fn"]
    log_prob_of = getattr(fn, "log_prob_of_draw", fn.log_prob) if drawn else fn.log_prob
    try:
        log_prob = log_prob_of(site["value"], *site["args"], **site["kwargs"])
    except (KeyError, NotImplementedError, ValueError) as error:
        raise ValueError(
            f"site {site['name']!r}: {type(fn).__name__} cannot score this value ({error}). Estimators that "
            "score the guide at values it has not just drawn (`sticking`, `doubly`) need a family with an inverse"
        ) from error
    return _per_datum(site, log_prob, layout, num_particles)


class _DetachParams(Messenger):
    def _pyro_post_param(self, msg: Any) -> None:
        msg["value"] = msg["value"].detach()


class _Frozen:
    """Makes the parameters of the modules, and `pyro.param`s, constants; graphs made before are not touched."""

    def __init__(self, *modules: Any) -> None:
        self.parameters = [p for m in modules if isinstance(m, nn.Module) for p in m.parameters() if p.requires_grad]
        self.store = _DetachParams()

    def __enter__(self) -> None:
        for p in self.parameters:
            p.requires_grad_(False)
        self.store.__enter__()

    def __exit__(self, *exception: Any) -> None:
        self.store.__exit__(*exception)
        for p in self.parameters:
            p.requires_grad_(True)


def _closed_form_kl(p: Any, q: Any, late: dict[str, str]) -> Tensor:
    name = q["name"]
    if name in late:
        raise ValueError(
            f"site {name!r}: no closed-form KL, its parent {late[name]!r} in the model comes after it in "
            "the guide (a bottom-up guide), and the KL at a fixed parent is then wrong. Use analytic_kl=False"
        )
    if not _same_mask(p["mask"], q["mask"]):
        raise ValueError(f"site {name!r}: masked differently in model and guide, so its closed-form KL is ambiguous")
    try:
        return kl_divergence(q["fn"], p["fn"])
    except NotImplementedError as error:
        raise ValueError(
            f"site {name!r}: no closed-form KL from {type(q['fn']).__name__} to {type(p['fn']).__name__}. "
            "Use analytic_kl=False"
        ) from error


def _same_mask(p: Any, q: Any) -> bool:
    return p is q or (isinstance(p, Tensor) and isinstance(q, Tensor) and torch.equal(p, q))


def _check_path(model: Callable, guide: Callable, args: tuple, kwargs: dict, layout: Layout) -> None:
    """Refuses guides that cannot be scored under frozen parameters; once, before the first path derivative.

    A guide that is no Module has parameters that are not found here, so its score would leak into the gradient. One
    that is random beyond its sites (dropout) is another density when it is run again, and log p - log q no bound.
    """
    modules = guide.named_modules() if isinstance(guide, nn.Module) else ()
    for name, module in modules:  # by name, as it may change hardly anything before training and much after it
        if isinstance(module, _Dropout) and module.training and module.p > 0:
            raise ValueError(
                f"guide: {name} drops entries at random, so it is another density when it is run again, and `sticking` "
                "and `doubly` give no bound. Use eval mode or the plain estimator"
            )
    if layout.batch_dim != -layout.nesting:
        raise ValueError(f"plate {layout.batch_plate!r}: `sticking` and `doubly` need it outside all other plates")
    bare, dim = program(guide), -1 - layout.nesting
    with torch.random.fork_rng(devices=[]):
        with torch.no_grad():
            first = _run(bare, args, kwargs, 1, dim)
            drawn = {name: log_density(site, layout, 1) for name, site in first.items()}
            values = {name: site["value"].clone() for name, site in first.items()}
        with torch.enable_grad(), _Frozen(model, guide):
            again = _run(bare, args, kwargs, 1, dim, values)
            frozen = {name: log_density(site, layout, 1) for name, site in again.items()}
    for name, log_q in frozen.items():
        if log_q.requires_grad:
            raise ValueError(
                f"site {name!r}: the guide's parameters cannot be held constant for `sticking` or `doubly`: it is a "
                "function, not a Module that holds them. Make it a PyroModule"
            )
        if not torch.allclose(log_q, drawn[name], rtol=1e-2, atol=1e-2):
            raise ValueError(
                f"site {name!r}: the guide is another density when it is run again (dropout?), so `sticking` and "
                "`doubly` give no bound. Use eval mode or the plain estimator"
            )


def run(
    model: Callable,
    guide: Callable,
    args: tuple,
    kwargs: dict,
    num_particles: int,
    *,
    copy: Callable[[Tensor], Tensor] | None = None,
    analytic_kl: bool = False,
    differentiable: bool = False,
    registered: bool = False,
) -> Terms:
    """`terms` with what the objectives need besides.

    Args:
        copy: the path-derivative form. The guide draws z in its own chain; model and guide score `copy(z)`, the guide
            with its parameters held constant, so that gradients reach the guide's parameters through the samples alone.
            Copies are what makes it right for hierarchical guides: a hook on z itself would weight the path z_1 -> z_2
            twice.
        analytic_kl: give minus the closed-form KL in place of log p - log q.
        differentiable: the result will be differentiated, so every guide site must have a reparameterised sample.
        registered: call PyroModules through Pyro's parameter store, as `pyro.infer.SVI` requires; otherwise past it (5
            to 10 % of a step).
    """
    layout = check_pair(model, guide, args, kwargs, num_particles)
    if differentiable and layout.no_path:
        name, family = next(iter(layout.no_path.items()))
        raise ValueError(
            f"site {name!r}: {family} has no reparameterised sample, so the guide would get no gradient through it"
        )
    run_model, run_guide = (model, guide) if registered else (program(model), program(guide))
    model_kwargs = kwargs
    if "index" in kwargs and not layout.model_takes_index:
        model_kwargs = {name: value for name, value in kwargs.items() if name != "index"}
    if copy is not None and "path" not in layout.found:
        _check_path(model, guide, args, kwargs, layout)
        layout.found["path"] = True
    if analytic_kl and "reordered" not in layout.found:
        late = {} if layout.in_order else reordered(model, guide, args, kwargs, model_kwargs)
        layout.found["reordered"] = late

    dim = -1 - layout.nesting
    q = _run(run_guide, args, kwargs, num_particles, dim)
    values = {name: site["value"] for name, site in q.items()}
    log_q: dict[str, Tensor] = {}
    if copy is not None:
        values = {name: copy(value) if value.requires_grad else value for name, value in values.items()}
        with _Frozen(model, guide):  # scored within: a distribution may hold parameters and use them in `log_prob` only
            frozen = _run(run_guide, args, kwargs, num_particles, dim, values)
            log_q = {name: log_density(site, layout, num_particles) for name, site in frozen.items()}
    else:
        scored = layout.auxiliary if analytic_kl else q
        log_q = {name: log_density(q[name], layout, num_particles, drawn=differentiable) for name in scored}
    p = _run(run_model, args, model_kwargs, num_particles, dim, values)

    log_likelihood: Any = 0.0
    log_ratios: dict[str, Tensor] = {}
    for name, site in p.items():
        if name in q and analytic_kl:
            kl = _closed_form_kl(site, q[name], layout.found["reordered"])
            log_ratios[name] = -_per_datum(q[name], kl, layout, num_particles)
        elif name in q:
            log_ratios[name] = log_density(site, layout, num_particles) - log_q[name]
        elif not site["is_observed"]:
            raise ValueError(f"site {name!r}: a latent site of the model that the guide does not sample")
        else:
            log_likelihood = log_likelihood + log_density(site, layout, num_particles)
    for name, owner in layout.auxiliary.items():  # an autoguide's unconstrained site is part of the site it serves
        log_ratios[owner] = log_ratios[owner] - log_q[name] if owner in log_ratios else -log_q[name]

    if not isinstance(log_likelihood, Tensor):
        log_likelihood = torch.zeros_like(next(iter(log_ratios.values())))
    keep = {n: (v.unsqueeze(0) if num_particles == 1 else v) for n, v in values.items() if n not in layout.auxiliary}
    return Terms(log_likelihood, log_ratios, keep)


def terms(model: Callable, guide: Callable, *args: Any, num_particles: int = 1, **kwargs: Any) -> Terms:
    """Per-datum log-likelihood and per-site log p - log q of a pair, over `num_particles` draws of the guide.

    Args:
        model: a model of the zoo, or any Pyro program whose sites all stand in one batch plate.
        guide: a guide of the zoo, a Pyro autoguide, or any callable with the model's arguments.
        *args, **kwargs: the arguments of both, the batch first. `index` (row numbers of the batch in the data set) goes
            to the guide alone: it is for guides with own parameters for each data point.
        num_particles: K >= 1.

    Returns:
        `Terms`, in nats, every entry `(K, N)`.

    Raises:
        ValueError: the pair does not fit together; names the site and the reason (`zoo.infer.pair`).

    Example:
        >>> import torch, guides
        >>> from zoo import VAE
        >>> from zoo.infer import terms
        >>> model = VAE(784, 20)
        >>> terms(model, guides.Amortized(model), torch.zeros(3, 784), num_particles=5).log_weights.shape
        torch.Size([5, 3])
    """
    return run(model, guide, args, kwargs, num_particles)
