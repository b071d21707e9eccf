"""The site that made a loss infinite or NaN."""

from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from zoo.infer.call import Terms, run
from zoo.infer.closed_form import closed_form
from zoo.infer.objectives.objective import Objective
from zoo.infer.sites.programs import program, takes_index
from zoo.infer.training.step.parts import parts_of
from zoo.parts.checks import listed
from zoo.parts.trajectory import StateSpace

_BOUNDED = ("Each step makes z larger: take hidden layers in the guide in place of hidden=(), a bounded transition, "
            "`clip=` or a lower learning rate")  # fmt: skip


def culprit(loss: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any], index: Tensor) -> str | None:
    """Says which site's value or log-probability is not finite, and for which rows of the data set; None if all are.

    It runs the pair once more, so the caller sets the generator to its state before the evaluation in question. The
    first of these that is not finite is named: an argument, a latent, log p of a site of the model, the guide's log q.

    Args:
        loss: the module whose value was not finite; None is returned if it is no `objective(model, guide)`.
        args, kwargs: the arguments of that evaluation.
        index: row numbers of the batch in the data set.
    """
    parts = parts_of(loss)
    if not parts.paired:
        return None
    if said := _in_arguments(args, index):
        return said
    # As many particles as the loss has, or the draws would be others; Pyro's own objectives have such a number too.
    num_particles = getattr(parts.objective, "num_particles", 1)
    ours, pair = isinstance(parts.objective, Objective), (parts.model, parts.guide, args, kwargs, num_particles)
    # Without validation: it would raise its own error, which knows neither site nor row, at the first NaN.
    with torch.no_grad(), pyro.validation_enabled(False):
        if ours and parts.objective.analytic_kl:
            # as the loss has them: at a draw, relaxed codes under a one-hot prior have no ratio
            found = closed_form(*pair, differentiable=False, registered=False)
        else:
            found = run(*pair, point_mass=ours and parts.objective.point_mass)
        if said := _in_latents(found, index):
            return said
        if found.log_weights.isfinite().all():
            return None
        said = _in_model(parts.model, found, args, kwargs, index) or _in_weights(found, index)
    # A trajectory that grew without bound is the cause of any later overflow, so the message names its growth too.
    growth = (_explosion(z) for z in found.latents.values())
    return said + next(filter(None, growth), "")


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


def _in_latents(found: Terms, index: Tensor) -> str:
    for name, z in found.latents.items():
        wrong = ~z.isfinite().reshape(*z.shape[:2], -1).all(-1).all(0)
        if wrong.any():
            return f"site {name!r}: the guide samples non-finite values {data_rows(index, wrong)}{_explosion(z)}"
    return ""


def _in_model(model: Any, found: Terms, args: tuple, kwargs: dict[str, Any], index: Tensor) -> str:
    """The first site of the model whose log p is not finite, for one particle with a log weight that is not."""
    # `Terms` holds the likelihood of all observed sites together, so the model runs again and each is scored alone.
    bad = ~found.log_weights.isfinite()
    particle = int(bad.any(1).nonzero()[0])
    latents = {name: z[particle] for name, z in found.latents.items()}
    model_kwargs = {name: value for name, value in kwargs.items() if name != "index" or takes_index(model)}
    trace = poutine.trace(pyro.condition(program(model), data=latents)).get_trace(*args, **model_kwargs)
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site_is_subsample(site):
            continue
        log_p = site["fn"].log_prob(site["value"])
        wrong = ~log_p.isfinite()
        if wrong.any():
            kind, value = "latent" if name in latents else "observed", log_p[wrong].flatten()[0].item()
            # A global latent has no axis of rows: then all rows whose weight it spoils are named.
            rows = wrong.reshape(len(index), -1).any(-1) if wrong.numel() % len(index) == 0 else bad.any(0)
            return f"site {name!r} ({kind}): log p is {value} {data_rows(index, rows)}"
    return ""


def _in_weights(found: Terms, index: Tensor) -> str:
    for name, ratio in found.log_ratios.items():
        wrong = ~ratio.isfinite().all(0)
        if wrong.any():
            return f"site {name!r}: the guide's log q is not finite {data_rows(index, wrong)}"
    return f"the log weights overflow {data_rows(index, (~found.log_weights.isfinite()).any(0))}"


def _explosion(z: Tensor) -> str:
    """Says from which step on trajectories `(K, N, T, ...)` are larger than any data explain; empty if they are not."""
    if z.dim() <= 3:
        # A vector for each datum, no trajectory.
        return ""
    # The largest of all particles, sequences and entries at each step.
    size = z.abs().nan_to_num(torch.inf).transpose(0, 2).flatten(1).amax(1)
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
