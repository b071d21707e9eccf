"""Which site made a loss infinite or NaN."""

from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from zoo.infer.pair import program, takes_index
from zoo.infer.terms import run

_BOUNDED = ("Each step makes z larger: take hidden layers in the guide in place of hidden=(), a bounded transition, "
            "`clip=` or a lower learning rate")  # fmt: skip


def culprit(loss: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any], index: Tensor) -> str | None:
    """Says which site's value or log-probability is not finite, and for which rows of the data set; None if all are.

    Runs the pair once more, so the caller sets the generator to its state before the run in question. In order: a
    latent that is itself not finite, a site of the model with its log p, else the guide's log q.

    Args:
        index: row numbers of the batch in the data set.
    """
    model, guide = getattr(loss, "model", None), getattr(loss, "guide", None)
    if model is None or guide is None:
        return None
    for place, value in enumerate(args):
        masked = any(isinstance(t, Tensor) and t.dtype == torch.bool for t in args)
        if isinstance(value, Tensor) and value.is_floating_point() and len(value) == len(index) and not masked:
            wrong = ~value.isfinite().reshape(len(value), -1).all(-1)
            if wrong.any():
                return f"argument {place} of the batch is NaN or infinite {data_rows(index, wrong)}"
    num_particles = getattr(getattr(loss, "elbo", None), "num_particles", 1)
    with torch.no_grad(), pyro.validation_enabled(False):
        point_mass = getattr(getattr(loss, "elbo", None), "point_mass", False)
        found = run(model, guide, args, kwargs, num_particles, point_mass=point_mass)
    growth = ""
    for name, z in found.latents.items():
        wrong = ~z.isfinite().reshape(*z.shape[:2], -1).all(-1).all(0)
        explodes = _explosion(z) if z.dim() > 3 else ""  # a trajectory
        growth = growth or explodes
        if wrong.any():
            return f"site {name!r}: the guide samples non-finite values {data_rows(index, wrong)}{explodes}"
    bad = ~found.log_weights.isfinite()
    if not bad.any():
        return None
    particle = int(bad.any(1).nonzero()[0])  # one with the trouble; the model's sites are scored for it one by one
    latents = {name: z[particle] for name, z in found.latents.items()}
    model_kwargs = {name: value for name, value in kwargs.items() if name != "index" or takes_index(model)}
    with torch.no_grad(), pyro.validation_enabled(False):
        trace = poutine.trace(pyro.condition(program(model), data=latents)).get_trace(*args, **model_kwargs)
        for name, site in trace.nodes.items():
            if site["type"] == "sample" and not site_is_subsample(site):
                log_p = site["fn"].log_prob(site["value"])
                wrong = ~log_p.isfinite()
                if wrong.any():
                    which = "latent" if name in latents else "observed"
                    value = log_p[wrong].flatten()[0].item()
                    wrong = wrong.reshape(len(index), -1).any(-1) if wrong.numel() % len(index) == 0 else bad.any(0)
                    return f"site {name!r} ({which}): log p is {value} {data_rows(index, wrong)}{growth}"
    for name, ratio in found.log_ratios.items():
        wrong = ~ratio.isfinite().all(0)
        if wrong.any():
            return f"site {name!r}: the guide's log q is not finite {data_rows(index, wrong)}{growth}"
    return f"the log weights overflow {data_rows(index, bad.any(0))}{growth}"


def _explosion(z: Tensor) -> str:
    """Says from which step on trajectories `(K, N, T, ...)` are larger than any data explain; empty if they are not."""
    size = z.abs().nan_to_num(torch.inf).transpose(0, 2).flatten(1).amax(1)  # over all but time
    far = (size > 1e6 * size[0].clamp(min=1.0)).nonzero().flatten().tolist()
    if not far:
        return ""
    t, lost = far[0], (~size.isfinite()).nonzero().flatten().tolist()  # t steps are not far off
    end = f", not finite from step {lost[0] + 1} on" if lost else ""
    if lost[:1] == [t] and size[t - 1] < 1e3 * size[0].clamp(min=1.0):
        return f", whose trajectories are finite up to step {t}"  # all at once, which is no growth
    shown = [f"{size[i]:.3g} at step {i + 1}" for i in sorted({0, t - 1, t}) if size[i].isfinite()]
    return f". The trajectory explodes: |z| is {', '.join(shown)}{end}. {_BOUNDED}"


def data_rows(index: Tensor, wrong: Tensor | None = None) -> str:
    """Words such as "in rows 3, 17": the rows of the data behind a batch, or behind its `wrong` entries."""
    rows = (index.cpu() if wrong is None else index.cpu()[wrong.cpu()]).tolist()
    return f"in rows {', '.join(map(str, rows[:5]))}" + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")


def refuse_nonfinite_parameters(loss: nn.Module, where: str) -> None:
    """FloatingPointError naming the parameters that are not finite: a gradient can be NaN where the loss is not."""
    wrong = [name for name, p in loss.named_parameters() if not p.detach().isfinite().all()]
    if wrong:
        shown = ", ".join(wrong[:4]) + (f" and {len(wrong) - 4} more" if len(wrong) > 4 else "")
        why = "(often sqrt or log at 0, or a masked-out NaN)"
        if hasattr(getattr(loss, "model", None), "advance"):  # a state space, in which what is masked out is zero
            why = f"through all steps of a trajectory, so the trajectory explodes. {_BOUNDED}"
        raise FloatingPointError(
            f"{where}: parameters became NaN or infinite though the loss was finite: {shown}. A gradient is not finite "
            f"{why}"
        )
