"""A model and a guide as one description: written, compared with another, and built again."""

import json
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn

from zoo.parts.aside import built_beside
from zoo.parts.recorded.arguments import arguments_of
from zoo.parts.recorded.decode import Decoder, put
from zoo.parts.recorded.encode import Encoder
from zoo.parts.recorded.files import differences, json_of, shapes_of, tensors_of
from zoo.parts.recorded.likeness import identical, unlike_parts, unlike_tensors, unlike_values
from zoo.parts.recorded.names import Trust
from zoo.parts.recorded.prototype import form_of, run_once
from zoo.parts.recorded.recorded import Recorded

#: number of the form in which descriptions are written; a reader refuses those of a later one
FORMAT = 1
_HALVES = ("model", "guide")
PREFIXES = ("model.", "guide.")


@dataclass(frozen=True)
class Description:
    """A pair in JSON's types, and the tensors beside them that are no part of its state dict.

    Attributes:
        entry: `format`, `model`, `guide`, `dtype` (of each half: torch's default when it was made), names of `frozen`
            parameters; `prototype`, the form of an autoguide's first call; `states`, the tensors of modules that the
            pair reads and does not own.
        tensors: `argument.N`, and `buffer.*` for buffers outside the state dict that moved after the constructor.
    """

    entry: dict[str, Any]
    tensors: dict[str, Tensor]


def halves(model: Any, guide: Any) -> dict[str, nn.Module]:
    """Those of the two that are there, by name."""
    return {name: half for name, half in zip(_HALVES, (model, guide), strict=True) if half is not None}


def state_of(pair: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """A copy of the state dict, keys `model.*` and `guide.*`."""
    return {key: tensor for name, half in pair.items() for key, tensor in tensors_of(half, f"{name}.").items()}


def own_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file without those that stand beside a state dict: constructors' arguments, other buffers."""
    beside = re.compile(r"argument\.\d+|buffer\.(model|guide)\..+")
    return {key: tensor for key, tensor in tensors.items() if not beside.fullmatch(key)}


def written(pair: Mapping[str, nn.Module]) -> tuple[Description, Encoder]:
    """The description of a pair as it stands in the constructors' arguments, without a look at the modules.

    Raises:
        ValueError: an argument cannot be written; begins with its place.
    """
    encoder = Encoder()
    entry: dict[str, Any] = {"format": FORMAT}
    try:
        entry |= {name: encoder.root(half, name) for name, half in pair.items()}
    except RecursionError as error:
        raise ValueError("the arguments hold one another without end") from error
    entry["dtype"] = {name: str(_dtype_of(half)).removeprefix("torch.") for name, half in pair.items()}
    parameters = [p for name, half in pair.items() for p in half.named_parameters(name, remove_duplicate=False)]
    entry["frozen"] = [key for key, parameter in parameters if not parameter.requires_grad]
    form = form_of(pair.get("guide"))
    if form is not None:
        entry["prototype"] = form
    states = _states(pair, encoder)
    if states:
        entry["states"] = states
    return Description(entry, encoder.tensors), encoder


def described(pair: Mapping[str, nn.Module]) -> Description:
    """The description of a pair, after the pair has been built of it and found to be the same.

    Raises:
        ValueError: the pair cannot be built again, or becomes another one: names the argument, part or attribute.
    """
    description, encoder = written(pair)
    tensors = {**description.tensors, **state_of(pair)}
    with warnings.catch_warnings():
        # of constructors, which have warned when the pair was made
        warnings.simplefilter("ignore")
        # of the file's own words, where a number of numpy or a list within a tuple may have become another value
        entry = json.loads(json_of(description.entry))
        twins, decoder = _built(entry, tensors, {}, Trust(everything=True), pair)
    for name, half in pair.items():
        description.tensors.update(_moved(half, twins[name], f"buffer.{name}."))
    _refuse_changed(unlike_tensors(pair, twins))
    # arguments too: a module that a guide looks at is no part of the pair, and a value may be kept under a hidden name
    for value, place in encoder.known.values():
        _refuse_changed(unlike_values(value, decoder.known[place], place))
    return description


def _refuse_changed(lines: Iterator[str]) -> None:
    for line in lines:
        raise ValueError(
            f"{line}: was it changed after its constructor, or drawn in it? Give the value to the constructor"
        )


def description_of(loss: nn.Module) -> Description:
    """The description of a loss's pair; one that cannot be built again has the reason under `unbuilt`."""
    model, guide = (getattr(loss, name, None) for name in _HALVES)
    if not (isinstance(model, nn.Module) and isinstance(guide, nn.Module)):
        return Description({"unbuilt": f"{type(loss).__name__} has no model and guide that are modules"}, {})
    try:
        return described(halves(model, guide))
    except Exception as error:  # a user's constructor, run once more, may raise anything: the training goes on
        return Description({"unbuilt": str(error) or type(error).__name__}, {})


def built(
    entry: Mapping[str, Any], tensors: Mapping[str, Tensor], trust: Trust, model: nn.Module | None = None
) -> tuple[Any, Any]:
    """The model and the guide of a description.

    Args:
        entry, tensors: as in `Description`, with the state dict among the tensors.
        trust: the packages whose objects the description may name.
        model: taken instead of the description's own; the guide is built for it.

    Raises:
        ValueError: the description is damaged, names objects that are not trusted, or does not fit the tensors; `model`
            is of another architecture.
    """
    if entry.get("format") not in range(1, FORMAT + 1) or entry["format"] is True:
        raise ValueError(f"format: expected at most {FORMAT}, found {entry.get('format')!r}: written by a newer zoo")
    _refuse_unread(entry, tensors)
    given: dict[str, Any] = {}
    if model is not None:
        mine, encoder = written({"model": model})
        wrong = changes(entry.get("model"), mine.entry["model"], "model")
        wrong += differences(_shapes(tensors, "model."), shapes_of(model.state_dict(prefix="model.")))
        if wrong:
            shown = "; ".join(wrong[:4])
            raise ValueError(f"model: another architecture than the folder's (in the folder, here): {shown}")
        given = {place: value for value, place in encoder.known.values()}
    try:
        pair, _ = _built(entry, tensors, given, trust)
    except ValueError:
        raise
    except Exception as error:  # whatever torch and Pyro make of values that a hand has changed
        raise ValueError(f"the description of the pair is damaged ({type(error).__name__}: {error})") from error
    return pair.get("model"), pair.get("guide")


def _refuse_unread(entry: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Refuses unknown names of a description, and tensors of a half that the description lacks.

    Raises:
        ValueError: names them.
    """
    unknown = entry.keys() - {"format", *_HALVES, "dtype", "frozen", "prototype", "states"}
    if unknown:
        raise ValueError(f"{min(unknown)}: no entry of the description of a pair: changed by hand?")
    there = tuple(f"{name}." for name in _HALVES if entry.get(name) is not None)
    foreign = [key for key in own_tensors(tensors) if not key.startswith(there)]
    if foreign:
        raise ValueError(f"tensors of no half that the description has: {', '.join(foreign[:4])}")


def _built(
    entry: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    given: dict[str, Any],
    trust: Trust,
    originals: Mapping[str, nn.Module] | None = None,
) -> tuple[dict[str, nn.Module], Decoder]:
    decoder = Decoder(tensors, trust, entry.get("states"))
    decoder.known.update(given)
    # the caller's own model stays as it is, also where the guide holds a part of it
    mine = given.get("model", nn.Module())
    kept = {id(t) for t in (*mine.parameters(), *mine.buffers())}
    pair: dict[str, nn.Module] = {name: given[name] for name in _HALVES if name in given}
    for name in [n for n in _HALVES if entry.get(n) is not None and n not in pair]:
        with built_beside(getattr(torch, entry["dtype"][name])):
            half = decoder.decode(entry[name], name)
            if not isinstance(half, nn.Module):
                raise ValueError(f"{name}: expected a module, found {type(half).__name__}")
            if isinstance(half, AutoGuide) and entry.get("prototype") is not None:
                run_once(half, decoder.known[f"{name}.model"], entry["prototype"])
            if originals is not None:
                # before the tensors are put in place, where a changed part would show as tensors that do not fit
                _refuse_changed(unlike_parts(originals[name], half, name))
            _filled(half, tensors, name, kept)
        pair[name] = half
    _freeze(pair, entry["frozen"], kept)
    lost = decoder.states.keys() - decoder.known.keys()
    if lost:
        raise ValueError(f"states: {min(lost)} is no place of the description")
    return pair, decoder


def _filled(half: nn.Module, tensors: Mapping[str, Tensor], name: str, kept: Collection[int]) -> None:
    """Puts the saved tensors into a half, but for those whose `id` is kept."""
    wrong = differences(_shapes(tensors, f"{name}."), shapes_of(half.state_dict(prefix=f"{name}.")))
    if wrong:
        raise ValueError(f"tensors other than those of the pair (in the file, as built): {'; '.join(wrong[:4])}")
    for prefix in (f"{name}.", f"buffer.{name}."):
        put(half, {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}, name, kept)


def _freeze(pair: Mapping[str, nn.Module], frozen: Any, kept: Collection[int]) -> None:
    """Freezes the parameters that were frozen, and those alone; one whose `id` is kept stays as it is."""
    parameters = {key: parameter for name, half in pair.items()
                  for key, parameter in half.named_parameters(name, remove_duplicate=False)}  # fmt: skip
    if not isinstance(frozen, list) or not all(key in parameters for key in frozen):
        raise ValueError(f"frozen: expected a list of parameters of the pair, found {str(frozen)[:120]}")
    for key, parameter in parameters.items():
        if id(parameter) not in kept:
            parameter.requires_grad_(key not in frozen)


def _shapes(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, list[int]]:
    return shapes_of({key: t for key, t in tensors.items() if key.startswith(prefix)})


def _dtype_of(half: nn.Module) -> torch.dtype:
    """Torch's default dtype when the half was made."""
    if isinstance(half, Recorded):
        return half._arguments.dtype
    floating = (p.dtype for p in half.parameters() if p.is_floating_point())
    return next(floating, torch.get_default_dtype())


def _states(pair: Mapping[str, nn.Module], encoder: Encoder) -> dict[str, dict[str, str]]:
    """The keys of tensors of modules that are arguments and stay outside the pair, such as a guide's other model."""
    owned = {id(t) for half in pair.values() for t in half.state_dict(keep_vars=True).values()}
    found: dict[str, dict[str, str]] = {}
    for value, place in [*encoder.known.values()]:
        if isinstance(value, nn.Module):
            outside = {n: t for n, t in value.state_dict(keep_vars=True).items() if id(t) not in owned}
            owned |= {id(t) for t in outside.values()}
            found |= {place: {n: encoder.tensor(t) for n, t in outside.items()}} if outside else {}
    return found


def _moved(half: nn.Module, twin: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Buffers outside the state dict that are not as the constructor makes them, such as after `.double()`."""
    kept, others = half.state_dict(), dict(twin.named_buffers())
    moved = {name: b for name, b in half.named_buffers()
             if name not in kept and name in others and not identical(b, others[name])}  # fmt: skip
    return {f"{prefix}{name}": b.detach().to("cpu", copy=True).contiguous() for name, b in moved.items()}


# --- architectures ---------------------------------------------------------------------------------------------------


def changes(old: Any, new: Any, place: str) -> list[str]:
    """A line 'place: old, new' for each argument that differs between two descriptions, tensors' values aside."""
    if isinstance(old, dict) and isinstance(new, dict) and [*old][:1] == [*new][:1]:
        if "tensor" in old or "parameter" in old:
            return []
        if "class" not in old or old["class"] == new["class"]:
            # an argument that only one of them has is one that the class has gained, or lost, since
            places = {name: f"{place}.{name}" if "class" in old else place for name in old if name in new}
            return [line for name, inner in places.items() for line in changes(old[name], new[name], inner)]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for i, (a, b) in pairs for line in changes(a, b, f"{place}[{i}]")]
    return [] if old == new else [f"{place}: {_shown(old)}, {_shown(new)}"]


def _shown(node: Any) -> str:
    return str(next(iter(node.values()))) if isinstance(node, dict) and node else str(node)


def another_architecture(entry: Any, loss: nn.Module) -> list[str]:
    """The arguments in which a description differs from a pair, or from one half of a pair; [] if that is not known.

    Args:
        entry: the entry `pair` of config.json; None of a folder from before there was one.
        loss: `objective(model, guide)`, a model or a guide.
    """
    if not isinstance(entry, dict) or "unbuilt" in entry:
        return []
    model, guide = (getattr(loss, name, None) for name in _HALVES)
    try:
        if isinstance(model, nn.Module) and isinstance(guide, nn.Module):
            pair = halves(model, guide)
            compared = [*pair]
        else:
            # a guide is known by its argument; the model that it was made for is not part of the comparison
            model = arguments_of(loss).kwargs.get("model")
            pair = halves(model, loss) if isinstance(model, nn.Module) else {"model": loss}
            compared = [[*pair][-1]]
        mine = written(pair)[0].entry
    except ValueError:
        # nothing is known of arguments that cannot be written
        return []
    return [line for name in compared if name in entry for line in changes(entry[name], mine[name], name)]
