"""The site that made a loss infinite or NaN."""

from typing import Any

import pyro
import torch
from torch import Tensor, nn

from zoo.infer.call import Call, Purpose, Sites
from zoo.infer.objectives.objective import Objective
from zoo.infer.per_datum import mean_over
from zoo.infer.sites.programs import alone, methods_callable
from zoo.infer.training.step.parts import Parts, parts_of
from zoo.parts.checks import listed
from zoo.parts.trajectory import StateSpace

_BOUNDED = ("Each step makes z larger: take hidden layers in the guide in place of hidden=(), a bounded transition, "
            "`clip=` or a lower learning rate")  # fmt: skip


def culprit(loss: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any], index: Tensor) -> str | None:
    """Says which site's value or log-probability is not finite, and for which rows of the data set; None if all are.

    It runs the pair once more, so the caller sets the generator to its state before the evaluation in question. The
    first of these that is not finite is named: an argument, a latent, log p of a site of the model, the guide's log q,
    the nats that the objective adds; part after part of a batch that is split.

    Args:
        loss: the module whose value was not finite; None is returned if it is no `objective(model, guide)`.
        args, kwargs: the arguments of that evaluation.
        index: row numbers of the batch in the data set.
    """
    parts = parts_of(loss)
    if not parts.paired:
        return None
    for some, named, rows in parts.split_with_rows(args, kwargs, index):
        if said := _in_part(parts, some, named, rows):
            return said
    return None


def _in_part(parts: Parts, args: tuple[Any, ...], kwargs: dict[str, Any], index: Tensor) -> str:
    if said := _in_arguments(args, index):
        return said
    # As many particles as the loss has, or the draws would be others; Pyro's own objectives have such a number too.
    num_particles = getattr(parts.objective, "num_particles", 1)
    point_mass = isinstance(parts.objective, Objective) and parts.objective.point_mass
    purpose = Purpose(point_mass=point_mass, outside=True)
    # Without validation: it would raise its own error, which knows neither site nor row, at the first NaN.
    with torch.no_grad(), pyro.validation_enabled(False), alone():
        call = Call(parts.model, parts.guide, args, kwargs, num_particles, purpose)
        q = call.record(call.guide, call.kwargs)
        if said := _in_latents(call, q, index):
            return said
        said = _in_densities(call, q, index)
        if not said:
            return _in_added(parts, args, kwargs, index)
    # A trajectory that grew without bound is the cause of any later overflow, so the message names its growth too.
    return said + next(filter(None, (_explosion(call, site) for site in q.values())), "")


def _in_arguments(args: tuple[Any, ...], index: Tensor) -> str:
    if any(isinstance(t, Tensor) and t.dtype == torch.bool for t in args):
        # A mask: NaN may stand under it.
        return ""
    for place, value in enumerate(args):
        if isinstance(value, Tensor) and value.is_floating_point() and len(value) == len(index):
            wrong = ~value.isfinite().reshape(len(value), -1).all(-1)
            if wrong.any():
                return f"argument {place} of the batch is NaN or infinite {data_rows(index, wrong)}"
    return ""


def _in_latents(call: Call, q: Sites, index: Tensor) -> str:
    for name, site in q.items():
        value = site["value"]
        wrong = (~value.isfinite()).reshape(*value.shape[: value.dim() - site["fn"].event_dim], -1).any(-1)
        # added up as a density is, so that each datum's entry counts those of its particles, plates and summed values
        lost = call.over_plates({**site, "mask": None}, wrong.double()) > 0
        if lost.any():
            return f"site {name!r}: the guide samples non-finite values{_rows(call, name, index, lost)}" + (
                _explosion(call, site)
            )
    return ""


def _in_densities(call: Call, q: Sites, index: Tensor) -> str:
    """The first site whose log p, or then whose log q, is not finite."""
    p = call.run_model(q, {name: site["value"] for name, site in q.items()})
    measure = call.as_drawn(q, {name: call.log_density(q[name]) for name in call.summed})
    for name, log_q in measure.items():
        # -inf is right there: a value that the guide rules out
        if (lost := log_q.isnan()).any():
            return f"site {name!r}: the guide's log q is not finite{_rows(call, name, index, lost)}"
    total: Tensor | float = 0.0
    for name, site in p.items():
        if name in call.layout.from_model:
            continue
        log_p = mean_over([*measure.values()], call.log_density(site))
        if (wrong := ~log_p.isfinite()).any():
            kind, value = "observed" if site["is_observed"] else "latent", log_p[wrong][0].item()
            return f"site {name!r} ({kind}): log p is {value}{_rows(call, name, index, wrong)}"
        total = total + (log_p.unsqueeze(-1) if name in call.layout.outside else log_p)
    for name in call.scored(q):
        if call.purpose.point_mass and name in call.layout.point_masses:
            continue
        log_q = mean_over([*measure.values()], call.log_density(q[name]))
        if (wrong := ~log_q.isfinite()).any():
            return f"site {name!r}: the guide's log q is not finite{_rows(call, name, index, wrong)}"
        total = total - (log_q.unsqueeze(-1) if name in call.layout.outside else log_q)
    wrong = ~torch.as_tensor(total).isfinite()
    return f"the log weights overflow {data_rows(index, wrong.any(0))}" if wrong.any() else ""


def _rows(call: Call, name: str, index: Tensor, wrong: Tensor) -> str:
    """The rows of the data in which a site's entries `(..., K, N)` are wrong; nothing for a site of no row."""
    return "" if name in call.layout.outside else f" {data_rows(index, wrong.reshape(-1, len(index)).any(0))}"


def _in_added(parts: Parts, args: tuple, kwargs: dict[str, Any], index: Tensor) -> str:
    if parts.ours:
        with methods_callable(parts.guide, registered=False):
            added = parts.objective.added(parts.guide, args, kwargs)
        if added is not None and not (finite := added.isfinite()).all():
            name = type(parts.objective).__name__
            return f"the term that {name} adds to the bound is {added[~finite][0].item()} {data_rows(index, ~finite)}"
    return ""


def _explosion(call: Call, site: Any) -> str:
    """Says from which step on trajectories `(T, ...)` are larger than any data explain; empty if they are not."""
    z, event_dim = site["value"], site["fn"].event_dim
    if event_dim < 2 or call.summed:
        # A vector for each datum, no trajectory.
        return ""
    # The largest of all particles, sequences and entries at each step.
    size = z.flatten(0, -1 - event_dim).abs().nan_to_num(torch.inf).transpose(0, 1).flatten(1).amax(1)
    far = (size > 1e6 * size[0].clamp(min=1.0)).nonzero().flatten().tolist()
    if not far:
        return ""
    t, lost = far[0], (~size.isfinite()).nonzero().flatten().tolist()
    end = f", not finite from step {lost[0] + 1} on" if lost else ""
    if lost[:1] == [t] and size[t - 1] < 1e3 * size[0].clamp(min=1.0):
        # All at once, which is no growth: the advice on growth would mislead. Step t, counted from 1, is the last good.
        return f", whose trajectories are finite up to step {t}"
    shown = [f"{size[i]:.3g} at step {i + 1}" for i in sorted({0, t - 1, t}) if size[i].isfinite()]
    return f". The trajectory explodes: |z| is {', '.join(shown)}{end}. {_BOUNDED}"


def data_rows(index: Tensor, wrong: Tensor | None = None) -> str:
    """Words such as "in rows 3, 17": the rows of the data behind a batch, or behind its `wrong` entries."""
    return f"in rows {listed((index.cpu() if wrong is None else index.cpu()[wrong.cpu()]).tolist())}"


def refuse_nonfinite_parameters(loss: nn.Module, where: str) -> None:
    """Refuses parameters that are not finite: a gradient can be NaN though the loss is finite.

    Args:
        where: the point of the training, for the error.

    Raises:
        FloatingPointError: names the parameters.
    """
    wrong = [name for name, p in loss.named_parameters() if not p.detach().isfinite().all()]
    if wrong:
        why = "(often sqrt or log at 0, or a masked-out NaN)"
        if isinstance(parts_of(loss).model, StateSpace):
            # A state space fills masked frames with zeros, so that a masked-out NaN is not the reason.
            why = f"through all steps of a trajectory, so the trajectory explodes. {_BOUNDED}"
        raise FloatingPointError(
            f"{where}: parameters became NaN or infinite though the loss was finite: {listed(wrong, 4)}. A gradient is "
            f"not finite {why}"
        )
