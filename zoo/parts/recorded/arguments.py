"""The constructor arguments of an object: as recorded, or read back from its attributes."""

import inspect
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, NamedTuple

from pyro.infer.autoguide import AutoGuide, AutoIAFNormal
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.nn import PyroModule
from torch import nn
from torch.distributions import Distribution, Transform
from torch.distributions.constraints import Constraint

from zoo.parts.recorded.names import is_rich_number
from zoo.parts.recorded.recorded import Arguments, Recorded

# Arguments that are no part of an object: tensors are put in place with the dtype and device that they have.
_LEFT_OUT = ("device", "dtype", "validate_args", "_weight", "_bias", "_freeze")
# Names under which the constructor's argument stands in the object.
_STORED_AS = {"base_distribution": "base_dist", "batch_shape": "_batch_shape", "mask": "_mask"}
# Forms of one parameter, of which a distribution takes one; a property computes the others when it is asked for them.
_FORMS = (("probs", "logits"), ("gate", "gate_logits"), ("covariance_matrix", "precision_matrix", "scale_tril"))
_ABSENT = object()


class Given(NamedTuple):
    """Arguments of a constructor; `defaults` names those that the caller left to it."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    defaults: frozenset[str] = frozenset()


def has_arguments(value: Any) -> bool:
    """Tells whether `arguments_of` knows the kind of the object."""
    known = nn.Module | Distribution | Transform | Constraint
    named = isinstance(value, tuple) and hasattr(value, "_fields")
    return isinstance(value, known) or is_dataclass(value) or named or is_rich_number(type(value))


def arguments_of(value: Any, model: Any = None) -> Given:
    """The arguments with which its class makes this object again.

    Args:
        value: a module, a distribution, transform or constraint, a dataclass, a NamedTuple or a rich number.
        model: taken as that of an autoguide which has lost its own, as Pyro's do when they are copied.

    Raises:
        ValueError: they are not known; says why.
    """
    if isinstance(value, Recorded):
        return _recorded(value)
    if isinstance(value, AutoGuide):
        own: Any = model if value._model is None else value.model
        # `AutoNormal` and its like wrap the model in a handler that starts its sites; a handler of the user's stays
        while isinstance(getattr(own, "func", None), partial) and isinstance(own.func.args[0], InitMessenger):
            own = own.func.args[1]
        return Given((), {"model": own} | _of_autoguide(value))
    if isinstance(value, nn.Module):
        return _of_module(value)
    if is_dataclass(value):
        return Given((), {f.name: getattr(value, f.name) for f in fields(value) if f.init})
    if hasattr(value, "_fields"):
        return Given((), value._asdict())
    if is_rich_number(type(value)):
        return Given((), inspect.signature(type(value)).bind(*value.__getnewargs__()).arguments)
    if hasattr(value, "_unbroadcasted_scale_tril") and not hasattr(value, "_unbroadcasted_cov_factor"):
        # the one form that a density of this kind computes with, to the last bit
        others = _read(value, ("covariance_matrix", "precision_matrix"))
        return Given((), others | {"scale_tril": value._unbroadcasted_scale_tril})
    return Given((), _read(value, _other_forms(value)))


def _recorded(value: Any) -> Given:
    kept: Arguments = value._arguments
    try:
        bound = kept.bound(type(value))
    except TypeError as error:
        # a method that calls `cls.__new__` by itself has gone past the record
        raise ValueError(f"its constructor's arguments are not known ({error}): was it made past it?") from error
    parameters = inspect.signature(type(value)).parameters.values()
    by_position = any(p.kind is p.POSITIONAL_ONLY or (p.kind is p.VAR_POSITIONAL and bound.arguments.get(p.name))
                      for p in parameters)  # fmt: skip
    if by_position:
        return Given(bound.args, bound.kwargs)
    # by name wherever that is possible: a person reads the file, and an argument may change its place
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    free: dict[str, Any] = next((bound.arguments[p.name] for p in parameters if p.kind is p.VAR_KEYWORD), {})
    given = {*names[: len(kept.args)], *kept.kwargs}
    return Given((), {name: bound.arguments[name] for name in names} | free, frozenset(names) - given)


def _of_module(value: nn.Module) -> Given:
    if isinstance(value, nn.Sequential):
        named = OrderedDict(value.named_children())
        return Given(tuple(value) if [*named] == [*map(str, range(len(named)))] else (named,))
    if isinstance(value, nn.ModuleList | nn.ParameterList):
        return Given((list(value),))
    if isinstance(value, nn.ModuleDict | nn.ParameterDict):
        return Given((dict(value.items()),))
    if isinstance(value, nn.RNNBase):
        # these take `*args`, so their signature says nothing
        names = ["input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"]
        names += ["nonlinearity"] * isinstance(value, nn.RNN) + ["proj_size"] * isinstance(value, nn.LSTM)
        return Given((), {name: getattr(value, name) for name in names})
    if type(value).__module__.startswith("torch.nn.modules."):
        return Given((), _read(value))
    if type(value).__init__ in (nn.Module.__init__, PyroModule.__init__):
        return Given()
    if not inspect.signature(type(value)).parameters:
        return Given()
    raise ValueError(
        f"{type(value).__name__} does not record its constructor's arguments: "
        f"class {type(value).__name__}(zoo.parts.recorded.Recorded, {type(value).__mro__[1].__name__}) does"
    )


def _of_autoguide(value: AutoGuide) -> dict[str, Any]:
    """The arguments besides the model."""
    if not isinstance(value, AutoIAFNormal):
        return _read(value, ("model",))
    # this one keeps them in the call that will make its flows; `init_loc_fn` is not used, and warns
    call: partial[Any] = value._init_transform_fn
    others = {name: item for name, item in call.keywords.items() if name != "hidden_dims"}
    return {"hidden_dim": call.keywords["hidden_dims"], "num_transforms": call.args[0]} | others


def _other_forms(value: Any) -> tuple[str, ...]:
    """The forms of a parameter that the distribution was not given."""
    found: list[str] = []
    for forms in _FORMS:
        # both are there once the other has been asked for; `_param` is the one that the distribution computes with
        for owner in _inner(value):
            there = [form for form in forms if form in vars(owner)]
            used = [form for form in there if vars(owner)[form] is getattr(owner, "_param", None)] or there
            if used:
                found += [form for form in forms if form != used[0]]
                break
    return tuple(found)


def _inner(value: Any) -> Iterator[Any]:
    """A distribution, then the one that it is made of, as OneHotCategorical is of a Categorical, and so on."""
    while value is not None:
        yield value
        value = vars(value).get("_categorical", vars(value).get("base_dist"))


def _read(value: Any, left_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """Arguments by the attributes that bear their names."""
    found = {}
    for name, parameter in inspect.signature(type(value)).parameters.items():
        if name in _LEFT_OUT or name in left_out or parameter.kind in (
            parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD
        ):  # fmt: skip
            continue
        held = next((h for n in (_STORED_AS.get(name, name), f"_{name}")
                     if (h := getattr(value, n, _ABSENT)) is not _ABSENT), _ABSENT)  # fmt: skip
        if held is _ABSENT and parameter.default is parameter.empty:
            raise ValueError(f"{type(value).__name__} does not keep its argument {name}, which is therefore not known")
        if isinstance(value, nn.Module) and (isinstance(held, nn.Parameter) or (name == "bias" and held is None)):
            # a layer is asked for a bias by True, and holds it, or None, under the same name
            held = held is not None
        if held is not _ABSENT:
            found[name] = held
    return found
