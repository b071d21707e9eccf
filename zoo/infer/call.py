"""One call of a pair: its programs run over K particles, their sites scored, the scores added up to `Terms`."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.distributions import MaskedDistribution, is_validation_enabled
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from zoo.infer.owned import own_parameters, refuse_untrained
from zoo.infer.pair import check_pair
from zoo.infer.per_datum import Terms
from zoo.infer.sites.programs import Programs, alone, as_it_is, programs_of
from zoo.infer.sites.refusals import (
    refuse_mixed,
    refuse_nan_draws,
    refuse_no_sample,
    refuse_outside,
    refuse_purpose,
    refuse_value,
    unscorable,
)
from zoo.infer.sites.summed import AllValues
from zoo.infer.sites.supports import log_prob_within
from zoo.infer.sites.values import doubtful
from zoo.infer.store import refuse_claimed_keys
from zoo.parts.given.gaps import refuse_unmasked
from zoo.parts.once import Once

Sites = dict[str, Any]  # name -> Pyro's message of the site
Values = dict[str, Tensor]  # name of a site -> a tensor
_NOTHING = nullcontext()


@dataclass(frozen=True)
class Purpose:
    """The demands that a caller makes on a run and on the guide.

    Attributes:
        differentiable: the result will be differentiated, so every drawn site must have a reparameterised sample.
        score: sites without one are taken, and their log q comes as `log_score`.
        point_mass: the guide's sites must be points without densities, log q = 0. False: points are refused.
        cancels_summed: log q of summed sites cancels in the caller's bound, so parameters that the guide has for them
            alone would get no gradient, and are refused where the result will be differentiated.
        sample_all: sites that the guide marks to be summed out are drawn.
        registered: call PyroModules through Pyro's parameter store, as `pyro.infer.SVI` requires.
        outside: the caller has a use for the terms of sites outside the batch plate; False: such sites are refused.
    """

    differentiable: bool = False
    score: bool = False
    point_mass: bool = False
    cancels_summed: bool = False
    sample_all: bool = False
    registered: bool = False
    outside: bool = False


PLAIN = Purpose()
WHOLE = Purpose(outside=True)  # for callers that want every term there is


class _Record(Messenger):
    """Keeps every sample site of a run, and replays `values` at the sites of the same name."""

    # `poutine.trace` under `poutine.replay` records the same, but copies each message and builds a graph of the sites.
    def __init__(self, values: Values, rows: dict[Any, Tensor]) -> None:
        super().__init__()
        self.sites: Sites = {}
        self.values, self.rows = values, rows

    def _process_message(self, msg: Any) -> None:
        if msg["type"] != "sample":
            return
        fn = msg["fn"]
        if type(fn) is _Subsample:
            # A plate samples its rows at a hidden site, which allocates a range and walks the whole stack each time a
            # plate is opened. The rows of a plate that is not subsampled are known: all of them.
            if msg["value"] is None and fn.subsample_size in (None, fn.size):
                key = fn.size, fn.device
                if key not in self.rows:
                    self.rows[key] = torch.arange(fn.size, device=fn.device)
                msg["value"], msg["done"] = self.rows[key], True
        elif not msg["is_observed"] and msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True

    def _postprocess_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and type(msg["fn"]) is not _Subsample and not msg["infer"].get("_deterministic"):
            self.sites[msg["name"]] = msg


class Call:
    """One call of a checked pair: runs its programs, scores their sites, and adds the scores up.

    Raises:
        ValueError: the pair does not fit together, or the guide does not serve the purpose; names the site.
    """

    def __init__(
        self, model: Any, guide: Any, args: tuple, kwargs: dict[str, Any], num_particles: int, purpose: Purpose = PLAIN
    ) -> None:
        self.pair = pair = check_pair(model, guide, args, kwargs, num_particles)
        self.layout, self.num_particles, self.purpose = pair.layout, num_particles, purpose
        self.owners, self.args, self.kwargs = (model, guide), args, kwargs
        self.summed = () if purpose.sample_all else pair.layout.summed
        # sites whose log q weighs the others, by the measure of `Terms` or by a score
        self.weighing = (*self.summed, *(pair.layout.no_path if purpose.score else ()))
        self._check_purpose()
        self.model_kwargs = kwargs
        if pair.drops_index:
            self.model_kwargs = {name: value for name, value in kwargs.items() if name != "index"}
        to_model, to_guide = pair.ways
        self.model = model if purpose.registered else to_model(model)
        self.guide = guide if purpose.registered else to_guide(guide)
        if purpose.registered or as_it_is in pair.ways:
            refuse_claimed_keys(self.model)
            refuse_claimed_keys(self.guide)
        self._rows: dict[Any, Tensor] = {}

    def programs(self) -> Programs:
        """The programs of the pair, past the parameter store, for runs besides this one, such as a check."""
        return programs_of(*self.owners, self.args, self.kwargs)

    def _check_purpose(self) -> None:
        purpose, layout = self.purpose, self.layout
        if purpose.point_mass or layout.point_masses:
            refuse_purpose(layout, purpose.point_mass)
        if purpose.differentiable and layout.no_path and not purpose.score:
            refuse_no_sample(layout.no_path)
        if layout.outside and not purpose.outside:
            refuse_outside(layout)

    def shared(self) -> AbstractContextManager[Any]:
        """A context in which guide and model share the results of calls marked `once`."""
        # SVI trains the parameters of the modules that it sees called, so for SVI every call is made anew.
        return nullcontext() if self.purpose.registered else Once()

    def record(self, fn: Callable, kwargs: dict[str, Any], values: Values | None = None) -> Sites:
        """Runs a program over the particles, latents named in `values` fixed at these; returns its sites."""
        record = _Record(values or {}, self._rows)
        # the record answers first: at the guide's values a model need not be able to list its own
        # no plate for one particle, or every tensor of the run would carry an axis of size 1
        several = self.num_particles > 1
        plate = pyro.plate("num_particles", self.num_particles, dim=-1 - self.layout.nesting) if several else _NOTHING
        try:
            with AllValues(self.layout) if self.summed else _NOTHING, record, plate:
                fn(*self.args, **kwargs)
        except (ValueError, RuntimeError):
            # the cause may be NaN in x, which the error of a distribution or a network does not name
            refuse_unmasked(self.owners[0], self.args, self.model_kwargs)
            raise
        return record.sites

    def run_model(self, q: Sites, values: Values) -> Sites:
        """The model's sites at the guide's values.

        Raises:
            ValueError: a value that its site cannot have; not checked under `pyro.enable_validation(False)`.
        """
        p = self.record(self.model, self.model_kwargs, values)
        if is_validation_enabled():
            for name in doubtful(p, self.layout.unlike):
                refuse_unmasked(self.owners[0], self.args, self.model_kwargs)
                refuse_value(name, p[name], q.get(name), self.programs(), self.pair.moving, front=bool(self.summed))
        return p

    def log_density(self, site: Any, *, drawn: bool = False, path: bool = False) -> Tensor:
        """The log density of a recorded site at its value, `(K, N)`, outside the batch plate `(K,)`.

        With summed sites `(..., K, N)`.

        Args:
            drawn: the value is the distribution's own latest draw, scored by `log_prob_of_draw` if there is one: the
                same number and the same gradient of the distribution's parameters, in fewer steps, but no gradient of
                the value itself.
            path: for the error: a path derivative asks for the score, at a value that the guide has not just drawn.

        Raises:
            ValueError: the distribution cannot score the value; names the site.
        """
        fn, value = site["fn"], site["value"]
        try:
            if site["name"] in self.pair.moving:
                log_prob = log_prob_within(fn, value)
            else:
                score = getattr(fn, "log_prob_of_draw", fn.log_prob) if drawn else fn.log_prob
                log_prob = score(value, *site["args"], **site["kwargs"])
        except (KeyError, NotImplementedError, ValueError) as error:
            raise unscorable(site, error, path) from error
        return self.over_plates(site, log_prob)

    def over_plates(self, site: Any, log_prob: Tensor) -> Tensor:
        """A site's log density as `Terms` have it: masked, and summed over all its plates but the batch plate."""
        layout = self.layout
        if site["mask"] is not None:
            log_prob = scale_and_mask(log_prob, 1.0, site["mask"])
        if site["name"] in layout.outside:
            plates = range(-min(layout.nesting, log_prob.dim()), 0)
            log_prob = log_prob.sum([*plates]) if plates else log_prob
            return log_prob.expand(self.num_particles)
        if layout.nesting > 1:
            inner = [d for d in range(-layout.nesting, 0) if d != layout.batch_dim and -d <= log_prob.dim()]
            log_prob = log_prob.sum(inner) if inner else log_prob
        # the values of summed sites stand left of the particles
        left = log_prob.shape[:-2] if self.summed else ()
        # a distribution that does not depend on the datum, such as a prior, has one value for all
        shape = (*left, self.num_particles, self.batch_size(site))
        return log_prob if log_prob.shape == shape else log_prob.expand(shape)

    def scored(self, q: Sites) -> list[str]:
        """The guide's sites whose log q enters: all but those of the model, which enter where they weight others."""
        return [name for name in q if name not in self.layout.from_model or name in self.weighing]

    def as_drawn(self, q: Sites, log_q: Values) -> Values:
        """log q of the values of summed sites, and with `score` of drawn ones without a path, whatever is masked.

        A mask takes a site's ratio out of the bound, but the site is drawn, and its values are weighted, all the same:
        with the masked log q = 0 each value would have probability 1.

        Args:
            q, log_q: the guide's sites, and their log densities with masks.

        Raises:
            ValueError: parameters of the guide for a summed site alone, which would get no gradient; names the site.
        """
        found: Values = {}
        for name in self.weighing:
            site, fn = q[name], q[name]["fn"]
            if site["mask"] is None and not isinstance(fn, MaskedDistribution):
                found[name] = log_q[name]
                continue
            while isinstance(fn, MaskedDistribution):
                fn = fn.base_dist
            found[name] = self.log_density({**site, "mask": None, "fn": fn})
        if self.summed and self.purpose.cancels_summed and self.purpose.differentiable:
            summed, draws = {name: found[name] for name in self.summed}, [site["value"] for site in q.values()]
            refuse_untrained(summed, draws, own_parameters(*self.owners))
        return found

    def batch_size(self, site: Any) -> int:
        """The number of data: the size of the batch plate around the site, since data need not come as arguments."""
        for frame in site["cond_indep_stack"]:
            if frame.name == self.layout.batch_plate:
                return frame.size
        plate = self.layout.batch_plate
        raise ValueError(f"site {site['name']!r}: has left the batch plate {plate!r} since the pair was checked")

    def add_up(
        self, p: Sites, q: Sites, values: Values, log_q: Values, measure: Values, known: Values | None = None
    ) -> Terms:
        """The terms of two recorded runs.

        Args:
            p, q, values: the sites of model and guide, and the guide's values, at which the model has run.
            log_q: the guide's log densities at `values`.
            measure: the result of `as_drawn`: log q under which the values of summed sites are averaged.
            known: log ratios to take in place of log p - log q at the sample, such as minus a closed-form KL.
        """
        layout = self.layout
        sizes = {self.batch_size(s) for sites in (q, p) for s in sites.values() if s["name"] not in layout.outside}
        if len(sizes) > 1:
            raise ValueError(f"plate {layout.batch_plate!r}: model and guide give it different sizes, {sorted(sizes)}")
        if strange := [n for n in q if n not in p and n not in layout.auxiliary and n not in layout.joint]:
            raise ValueError(f"site {strange[0]!r}: sampled by the guide but not a latent site of the model {[*p]}")
        log_likelihood: Any = 0.0
        outside_likelihood: Tensor | None = None
        log_ratios: dict[str, Tensor] = {}
        outside: dict[str, Tensor] = {}
        for name, site in p.items():
            found = outside if name in layout.outside else log_ratios
            if site["scale"] != 1.0:
                raise ValueError(f"site {name!r}: scaled by {site['scale']}, and was not when the pair was checked")
            if known is not None and name in known:
                found[name] = known[name]
            elif name in layout.from_model:
                value = site["value"]
                dtype = value.dtype if value.is_floating_point() else torch.get_default_dtype()
                rows = () if name in layout.outside else sizes
                found[name] = value.new_zeros((self.num_particles, *rows), dtype=dtype)
            elif name in q:
                if name in layout.mixed:
                    refuse_mixed(name, site, q[name])
                found[name] = self.log_density(site) - log_q[name]
            elif site["is_observed"] and name in layout.outside:
                log_p = self.log_density(site)
                outside_likelihood = log_p if outside_likelihood is None else outside_likelihood + log_p
            elif site["is_observed"]:
                log_likelihood = log_likelihood + self.log_density(site)
            else:
                raise ValueError(f"site {name!r}: a latent site of the model that the guide does not sample")
        # a latent z made of an auxiliary a: log q(z) = log q(a) - log |det|, and only the last term is scored at z;
        # a closed form is that of q(a), whole
        for name, latent in layout.auxiliary.items() if known is None else ():
            found = outside if latent in layout.outside else log_ratios
            found[latent] = found[latent] - log_q[name]
        # of latents cut out of one joint draw, log q is that of all of them together
        for name, latents in layout.joint.items() if known is None else ():
            outside[", ".join(latents)] = sum((outside.pop(latent) for latent in latents), -log_q[name])
        if not isinstance(log_likelihood, Tensor):
            some = next(iter((log_ratios or {n: ratio.unsqueeze(-1) for n, ratio in outside.items()}).values()))
            log_likelihood = torch.zeros_like(some.expand(*some.shape[:-1], *sizes))
        # a NaN anywhere makes a sum NaN, so one number for each term is read, and the entries only if a sum is NaN
        parts = (log_likelihood, *log_ratios.values(), *outside.values())
        if is_validation_enabled() and any(math.isnan(part.detach().sum().item()) for part in parts):
            refuse_nan_draws(q)
        kept = {n: value for n, value in values.items() if n not in layout.auxiliary and n not in layout.joint}
        if self.num_particles == 1:
            # what depends on a summed site has an axis for the particles already
            fronts = {n: v.dim() - q[n]["fn"].event_dim > layout.nesting for n, v in kept.items()}
            kept = {name: value if fronts[name] else value.unsqueeze(0) for name, value in kept.items()}
        summed = {name: measure[name] for name in self.summed}
        score = None
        if self.purpose.score:
            # a value outside the batch plate moves the weights of all data, so each of them multiplies its whole score
            whole = (measure[n].unsqueeze(-1) if n in layout.outside else measure[n] for n in layout.no_path)
            score = sum(whole, torch.zeros(()))
        guide = {name: _masked(site) for name, site in q.items()}
        return Terms(log_likelihood, log_ratios, kept, summed, score, (), outside, outside_likelihood, {}, guide)


def _masked(site: Any) -> Any:
    return site["fn"] if site["mask"] is None else site["fn"].mask(site["mask"])


def run(
    model: Any, guide: Any, args: tuple, kwargs: dict[str, Any], num_particles: int, purpose: Purpose = PLAIN
) -> Terms:
    """The terms of a pair (`zoo.infer.terms`), with the demands that objectives make on the guide."""
    with alone():
        return plainly(Call(model, guide, args, kwargs, num_particles, purpose))


def plainly(call: Call) -> Terms:
    """The terms of a call, whose gradient is that of plain differentiation."""
    purpose, layout = call.purpose, call.layout
    with call.shared():
        q = call.record(call.guide, call.kwargs)
        log_q = {name: call.log_density(q[name], drawn=purpose.differentiable) for name in call.scored(q)}
        if purpose.point_mass:
            log_q |= {name: torch.zeros_like(log_q[name]) for name in layout.point_masses}
        values = {name: site["value"] for name, site in q.items()}
        p = call.run_model(q, values)
        return call.add_up(p, q, values, log_q, call.as_drawn(q, log_q))
