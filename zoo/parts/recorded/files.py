"""The files of a folder: written whole or not at all, and the pair's tensors beside their description.

config.json          the pair's description, shapes of its parameters, versions: for people and for tables
model.safetensors    tensors: `model.*`, `guide.*`, and those that constructors take
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

TENSORS, CONFIG = "model.safetensors", "config.json"


def write(path: Path, content: bytes | Callable[[BinaryIO], Any]) -> None:
    """Writes a file whole or not at all.

    Args:
        content: the bytes, or a function that writes them to an open file.

    Raises:
        OSError: the disk is full, or the folder cannot be written to. The old file stays.
    """
    # In the same folder, since a rename is atomic within one file system only; flushed to the disk before the rename,
    # since some file systems put the rename there first, and a power cut then leaves an empty file.
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content) if isinstance(content, bytes) else content(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except RuntimeError as error:
        # torch's zip writer reports a full disk in this way.
        raise OSError(f"{path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":
        # The rename is an entry of the folder, which must reach the disk as well.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def json_of(value: Any) -> bytes:
    """The bytes of a JSON file that people can read."""
    text = json.dumps(value, indent=2, allow_nan=False)
    # a list of numbers or words on one line; a line break of the text itself is escaped, so that none is touched
    flat = re.sub(r"\[\n\s+([^\[\]{}]*?)\n\s+\]", lambda found: "[" + re.sub(r",\n\s+", ", ", found[1]) + "]", text)
    return flat.encode() + b"\n"


def write_pair(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Writes config.json, with the digest of the tensors, and model.safetensors; a kill leaves the old or the new pair.

    Raises:
        OSError: the folder cannot be made, or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = safetensors.torch.save(dict(tensors))
    # The new tensors wait under another name until the description is there: between the two renames a reader takes the
    # file that has the description's digest.
    waiting = folder / f"{TENSORS}.next"
    write(waiting, content)
    write(folder / CONFIG, json_of({**config, "sha256": hashlib.sha256(content).hexdigest()}))
    os.replace(waiting, folder / TENSORS)


def read_config(folder: Path) -> dict[str, Any]:
    """The contents of config.json.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is cut off, has a name twice, or is no JSON object.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_bytes(), object_pairs_hook=_each_once)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: there is no such file; expected the folder of a pair") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(config).__name__}")
    return config


def _each_once(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(entries)
    if len(found) < len(entries):
        names = [name for name, _ in entries]
        # JSON would take the last one without a word
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands twice in one object")
    return found


def read_tensors(path: Path, digest: str | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Args:
        path: the file, `model.safetensors` of a folder.
        digest: the sha256 that it must have; None: any.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another digest; not a safetensors file, or a damaged one.
    """
    # the name under which `write_pair` leaves the tensors if it is stopped before its last step
    places = (path,) if digest is None else (path, path.with_name(f"{path.name}.next"))
    contents = [place.read_bytes() for place in places if place.exists()]
    if not contents:
        raise FileNotFoundError(f"{path}: there is no such file")
    content = next((c for c in contents if digest is None or hashlib.sha256(c).hexdigest() == digest), None)
    if content is None:
        found = hashlib.sha256(contents[0]).hexdigest()
        raise ValueError(f"{path}: expected sha256 {digest} by config.json, found {found}: damaged, or another pair's")
    try:
        # safetensors gives them in an order that differs from call to call, which errors would show
        return dict(sorted(safetensors.torch.load(content).items()))
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file, or a damaged one ({error})") from error


def tensors_of(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """A copy of the state dict on the CPU."""
    # Copied one by one: safetensors refuses tensors that share memory, and parameters that model and guide share stand
    # under both names.
    state = module.state_dict(prefix=prefix)
    return {name: t.detach().to("cpu", copy=True).contiguous() for name, t in state.items()}


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Name -> shape, as config.json holds it."""
    return {name: list(t.shape) for name, t in tensors.items()}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """A line 'name.of.the.entry: old, new' for every entry of two nested dictionaries that differs."""
    found = []
    for name in [*old, *(n for n in new if n not in old)]:
        a, b = old.get(name, "absent"), new.get(name, "absent")
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append(f"{prefix}{name}: {a}, {b}")
    return found


def refuse_others(wrong: list[str], path: Path, of: str, hint: str = "") -> None:
    """Refuses a file that differs from the objects at hand.

    Args:
        wrong: a line 'name: in the file, here' for each difference.
        path: the file.
        of: the things that differ, in words.
        hint: the end of the error.

    Raises:
        ValueError: there are differences; names the first few.
    """
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        shown = f"{'; '.join(wrong[:4])}{more}{hint}"
        raise ValueError(f"{path}: {of} of another model and guide (in the file, here): {shown}")
