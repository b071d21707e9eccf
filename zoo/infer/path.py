"""Terms for path derivatives: the guide is scored under parameters held constant, so gradients reach it by its samples.

The guide runs once, and draws z_2 given its own z_1. Model and guide then score *copies* of the draws, the guide with
constant parameters. Copies, since a hook on z_1 itself would weight the path z_1 -> z_2 of hierarchical guides twice.

`sticking` holds constant the parameters that the guide owns alone. Parameters that it shares with the model keep their
score. An exact posterior shares all of them: its log p - log q does not depend on z, and with the score every estimate
of the gradient is exact. `doubly` weights the gradients at the copies, for which every parameter must be held constant.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd as _Dropout

from zoo.infer.call import WHOLE, Call, Purpose, plainly
from zoo.infer.owned import leaves, own_parameters
from zoo.infer.per_datum import Terms
from zoo.infer.sites.programs import alone


def sticking(
    model: Any, guide: Any, args: tuple, kwargs: dict[str, Any], num_particles: int, purpose: Purpose
) -> Terms:
    """The terms of a pair whose gradient leaves out the score of log q (Roeder et al. 2017).

    Args:
        model, guide, args, kwargs, num_particles, purpose: as in `zoo.infer.call.run`. For a guide without parameters
            of its own the gradient is the plain one.

    Raises:
        ValueError: as `terms`; a guide that cannot be scored under constant parameters.
    """
    with alone():
        call = Call(model, guide, args, kwargs, num_particles, purpose)
        if not _has_own(call):
            return plainly(call)
        own = own_parameters(model, guide)
        return _scored_at_copies(call, _view, own, call.layout.statements)


def doubly(model: Any, guide: Any, args: tuple, kwargs: dict[str, Any], num_particles: int, purpose: Purpose) -> Terms:
    """The terms of a pair whose gradient of a draw's parameters is weighted by w_k / sum_j w_j (Tucker et al. 2019).

    With a summed site y a weight is that of a particle and a value, q(y | ...) w_ky / sum_jy' q(y' | ...) w_jy', and a
    draw that serves several values takes the sum of theirs.

    Args:
        model, guide, args, kwargs, num_particles, purpose: as in `zoo.infer.call.run`. For a guide without parameters
            of its own, or with sites marked `from_model`, the gradient is the plain one.

    Raises:
        ValueError: as `sticking`.
    """
    with alone():
        call = Call(model, guide, args, kwargs, num_particles, purpose)
        if call.layout.from_model or not _has_own(call):
            return plainly(call)
        every = [p for m in (model, guide) if isinstance(m, nn.Module) for p in m.parameters() if p.requires_grad]
        weights = _Weights(call.layout.nesting - 1)
        if call.summed:
            found = _scored_at_copies(call, _view, every, (), weighted=_WeightedDraws(weights))
        else:
            found = _scored_at_copies(call, weights.hooked, every, (), weighted=nullcontext())
        weights.set(sum(found.summed.values(), found.log_weights).detach())
        return found


class _Weights:
    """The weights w_k / sum_j w_j, which are known when all copies have been scored; backward comes later still.

    Args:
        inner: number of plates inside the batch plate.
    """

    def __init__(self, inner: int) -> None:
        self.inner = inner
        self.values: Tensor

    def set(self, log_weights: Tensor) -> None:
        self.values = log_weights.flatten(0, -2).softmax(0).view_as(log_weights)

    def of(self, gradient: Tensor, event_dim: int) -> Tensor:
        """The weights of a draw, to be multiplied with a gradient at its value."""
        # plates inside the batch plate, and then the event, stand right of the batch
        own = self.values.sum_to_size(gradient.shape[: gradient.dim() - event_dim - self.inner])
        return own.reshape(*own.shape, *(1,) * (self.inner + event_dim))

    def hooked(self, site: Any) -> Tensor:
        """A copy of a draw at which gradients are weighted, on their way to all parameters that the draw depends on."""
        # One weight of a particle serves all its draws, so that it does not matter where a gradient meets it.
        z, event_dim = _view(site), site["fn"].event_dim
        z.register_hook(lambda g: g * self.of(g, event_dim))
        return z


class _WeightedDraws(Messenger):
    """A handler of the guide that weights gradients where they reach the parameters of a draw."""

    # With a summed site y, a draw a that comes before y has the sum of the weights of the draws z that come after it,
    # one for each value. A gradient at z that goes on to a, since the guide draws z given a, must then meet the weight
    # of a and not that of z.
    def __init__(self, weights: _Weights) -> None:
        super().__init__()
        self.weights = weights

    def __enter__(self) -> Any:
        self.earlier: list[Tensor] = []
        return super().__enter__()

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["value"].requires_grad:
            event_dim = msg["fn"].event_dim
            msg["value"] = _WeightedDraw.apply(self.weights, event_dim, msg["value"], *self.earlier)
            self.earlier.append(msg["value"])


class _WeightedDraw(torch.autograd.Function):
    """A draw whose gradient is weighted for its own parameters, and goes on as it is to the draws that it follows."""

    @staticmethod
    def forward(ctx: Any, weights: _Weights, event_dim: int, z: Tensor, *earlier: Tensor) -> Tensor:
        ctx.weights, ctx.event_dim = weights, event_dim
        ctx.save_for_backward(z, *earlier)
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,), (z, *earlier) = gradients, ctx.saved_tensors
        own = ctx.weights.of(gradient, ctx.event_dim)
        # z passes the weighted gradient on to the earlier draws; the rest of it is added here
        left = (1 - own) * gradient
        rest = torch.autograd.grad(z, earlier, left, retain_graph=True, allow_unused=True) if earlier else ()
        return None, None, own * gradient, *rest


def _view(site: Any) -> Tensor:
    return site["value"].view_as(site["value"])


def _scored_at_copies(
    call: Call,
    copy: Callable[[Any], Tensor],
    constant: list[nn.Parameter],
    shared: Iterable[str],
    weighted: AbstractContextManager | None = None,
) -> Terms:
    """The terms at copies of the guide's draws.

    Args:
        copy: makes a copy of a site's value.
        constant: the parameters held constant while the guide is scored.
        shared: names of the `pyro.param` statements that are not held constant.
        weighted: a handler of the guide's first run, for `doubly`. The probabilities of summed sites are then those
            under constant parameters, as every score of log q; otherwise they carry the gradient of q(y | ...).
    """
    call.pair.fact("path", lambda: _refuse_no_path(call))
    # Each of the three runs shares calls (`once`) with itself alone: a frozen guide would lend the model constants, and
    # the model's gradient would be lost where it shares a network with the guide.
    with call.shared():
        with weighted or nullcontext():
            q = call.record(call.guide, call.kwargs)
        measure = call.as_drawn(q, {name: call.log_density(q[name], drawn=True) for name in call.weighing})
    values = {name: copy(site) if site["value"].requires_grad else site["value"] for name, site in q.items()}
    with Frozen(constant, shared), call.shared():
        again = call.record(_bare_guide(call), call.kwargs, values)
        log_q = _log_q(call, again)
        constant_measure = call.as_drawn(again, log_q)
    with call.shared():
        p = call.run_model(q, values)
        return call.add_up(p, q, values, log_q, measure if weighted is None else constant_measure)


def _bare_guide(call: Call) -> Callable:
    """The guide past the parameter store, also under SVI: the store's context would unfreeze the parameters."""
    return call.pair.ways[1](call.owners[1])


def _log_q(call: Call, sites: dict[str, Any]) -> dict[str, Tensor]:
    # the frozen parameters must still be frozen here: a distribution may hold a parameter and use it in `log_prob` only
    return {name: call.log_density(sites[name], path=True) for name in call.scored(sites)}


class _DetachParams(Messenger):
    """Makes the value of each `pyro.param` a constant, but for the names that the model states too."""

    def __init__(self, shared: Iterable[str]) -> None:
        super().__init__()
        self.shared = frozenset(shared)

    def _pyro_post_param(self, msg: Any) -> None:
        if msg["name"] not in self.shared:
            msg["value"] = msg["value"].detach()


class Frozen:
    """A context in which parameters are constants; graphs made before are not touched.

    Args:
        parameters: all of them require a gradient, which the end of the context restores.
        shared: names of the `pyro.param` statements that keep their gradient.
    """

    def __init__(self, parameters: list[nn.Parameter], shared: Iterable[str] = ()) -> None:
        self.parameters, self.store = parameters, _DetachParams(shared)

    def __enter__(self) -> None:
        for p in self.parameters:
            p.requires_grad_(False)
        self.store.__enter__()

    def __exit__(self, *exception: Any) -> None:
        self.store.__exit__(*exception)
        for p in self.parameters:
            p.requires_grad_(True)


def _has_own(call: Call) -> bool:
    """Tells whether the guide has anything to learn of its own: parameters, or `pyro.param` statements."""
    model, guide = call.owners
    # a function has no parameters to look for; its leaves are looked at by `_refuse_no_path`
    if not isinstance(guide, nn.Module) or own_parameters(model, guide):
        return True
    return bool(call.pair.fact("statements of the guide", lambda: _own_statements(call)))


def _own_statements(call: Call) -> set[str]:
    programs = call.programs()
    with programs.trial():
        trace = pyro.poutine.trace(programs.guide).get_trace(*programs.args, **programs.kwargs)
    return {name for name, site in trace.nodes.items() if site["type"] == "param"} - call.layout.statements


def _refuse_no_path(call: Call) -> None:
    """Refuses guides that cannot be scored under frozen parameters; once, before the first path derivative.

    A guide that is no Module has parameters that are not found here, so its score would leak into the gradient. One
    that is random beyond its sites (dropout) is another density when it is run again, and log p - log q is no bound.
    """
    layout, (model, guide) = call.layout, call.owners
    _refuse_dropout(guide)
    if layout.batch_dim != -layout.nesting:
        raise ValueError(f"plate {layout.batch_plate!r}: `sticking` and `doubly` need it outside all other plates")
    single = Call(model, guide, call.args, call.kwargs, 1, WHOLE)
    with call.programs().trial():
        sites = single.record(single.guide, call.kwargs)
        drawn = _log_q(single, sites)
        values = {name: site["value"].clone() for name, site in sites.items()}
        with torch.enable_grad(), Frozen(own_parameters(model, guide), layout.statements):
            frozen = _log_q(single, single.record(single.guide, call.kwargs, values))
    store = pyro.get_param_store()
    shared = {id(p) for p in model.parameters()} if isinstance(model, nn.Module) else set()
    shared |= {id(store._params[name]) for name in layout.statements if name in store}
    shared |= {id(value) for value in (*call.args, *call.kwargs.values()) if isinstance(value, Tensor)}
    for name, log_prob in frozen.items():
        if any(id(leaf) not in shared for leaf in leaves(log_prob)):
            raise ValueError(
                f"site {name!r}: the guide's parameters cannot be held constant for `sticking` or `doubly`: it is a "
                "function, not a Module that holds them. Make it a PyroModule"
            )
        # a hundredth of a nat: dropout moves log q by far more, rounding by far less
        if not torch.allclose(log_prob, drawn[name], rtol=1e-2, atol=1e-2):
            raise ValueError(
                f"site {name!r}: the guide is another density when it is run again (dropout, hidden draws?), so "
                "`sticking` and `doubly` give no bound. Use eval mode or the plain estimator"
            )


def _refuse_dropout(guide: Any) -> None:
    # by name of the module: a comparison of two runs may find hardly any change before training, and much after it
    for name, module in guide.named_modules() if isinstance(guide, nn.Module) else ():
        if isinstance(module, _Dropout) and module.training and module.p > 0:
            raise ValueError(
                f"guide: {name} drops entries at random, so it is another density when it is run again, and `sticking` "
                "and `doubly` give no bound. Use eval mode or the plain estimator"
            )
