"""The data that a pair is scored on: arguments of model and guide, kept in the folder or read from their data set.

A description in score.json says which rows of which data set they are, and in which form. `from_data` alone reads it;
the tool that ships pairs calls it too, so that a description that was written gave these very arguments.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from zoo.data import Sequences, Split, binarize, load
from zoo.parts.recorded.files import read_tensors, write

ARGUMENTS = "arguments.safetensors"

#: the forms in which a `Split` becomes x: name -> x of the split and of the description's seed
FORMS: dict[str, Callable[[Split, int], Tensor]] = {
    "bits": lambda split, seed: binarize(split, seed=seed),
    "images": lambda split, seed: split.images,
    "levels": lambda split, seed: split.levels.float(),
}


def from_data(data: Mapping[str, Any]) -> dict[str, Tensor]:
    """The arguments that a description names, read by `zoo.data.load`.

    Args:
        data: `set` and `split` of `load`; `rows`, numbers of rows. Of images `form`: bits, drawn once for the whole
            split with `seed`, images (numbers in [0, 1]) or levels; before that `shuffled`, the seed of
            `Split.shuffled`. Of sequences `cut`, the longest piece of `Sequences.cut`. The last two may be left out.

    Raises:
        ValueError: the description has no `set`: rows made by a script cannot be read from a data set.
        FileNotFoundError: a file of the data set is nowhere; names the folders and the addresses.
    """
    if "set" not in data:
        raise ValueError(f"the rows are those of {data.get('source', 'a script')}, which no data set of zoo.data has")
    part: Any = getattr(load(data["set"]), data["split"])
    rows = torch.tensor(data["rows"])
    if isinstance(part, Sequences):
        # rows before padding, or a short sequence would be as long as the set's longest
        return of_sequences((part.cut(data["cut"]) if "cut" in data else part)[rows])
    part = part.shuffled(data["shuffled"]) if "shuffled" in data else part
    return {"x": FORMS[data["form"]](part, data.get("seed", 0))[rows]}


def of_sequences(part: Sequences) -> dict[str, Tensor]:
    """Sequences as arguments: x, the controls if there are some, a mask if frames are missing."""
    found = {"x": part.values, "u": part.u, "mask": None if part.mask.all() else part.mask}
    return {name: value for name, value in found.items() if value is not None}


def entries_of(arguments: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Name -> dtype, shape and sha256 of each argument, as score.json holds them."""
    return {
        name: {"dtype": str(t.dtype).removeprefix("torch."), "shape": list(t.shape), "sha256": _digest(t)}
        for name, t in arguments.items()
    }


def keep_subset(folder: Path, arguments: Mapping[str, Tensor]) -> None:
    """Writes the arguments to a folder, whole numbers up to 255 as bytes."""
    # bits as floats would take four times the room of all else in the folder of a small pair
    stored = {name: t.to(torch.uint8) if _is_bytes(t) else t.contiguous() for name, t in arguments.items()}
    write(folder / ARGUMENTS, safetensors.torch.save(stored))


def subset_of(folder: Path, score: Mapping[str, Any]) -> dict[str, Tensor]:
    """The arguments of a folder, its own or those of the data set.

    Raises:
        ValueError: they are not those that the pair was scored on; names the argument.
        FileNotFoundError: the folder keeps none, and a file of the data set is nowhere.
    """
    kept = (folder / ARGUMENTS).exists()
    found = read_tensors(folder / ARGUMENTS) if kept else from_data(score["data"])
    place = folder / ARGUMENTS if kept else f"the data set {score['data']['set']!r}"
    for name, entry in score["arguments"].items():
        if name not in found:
            raise ValueError(f"{place}: has no argument {name!r}, on which the pair was scored")
        found[name] = found[name].to(getattr(torch, entry["dtype"]))
        # another version of a data set would give another figure, and the pair would bear the blame
        if (digest := _digest(found[name])) != entry["sha256"]:
            raise ValueError(f"{place}: {name}: expected sha256 {entry['sha256']}, found {digest}: other rows than the "
                             "pair was scored on")  # fmt: skip
    return {name: found[name] for name in score["arguments"]}


def _is_bytes(t: Tensor) -> bool:
    return t.is_floating_point() and torch.equal(t.to(torch.uint8).to(t.dtype), t)


def _digest(t: Tensor) -> str:
    """The sha256 of a tensor's shape and numbers."""
    return hashlib.sha256(str(list(t.shape)).encode() + t.contiguous().numpy().tobytes()).hexdigest()
