"""Folders that last: a pair with its constructor arguments, loaded by a process that has neither script nor data."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from zoo.parts.recorded.card import CARD, MARK, card
from zoo.parts.recorded.files import CONFIG, TENSORS, json_of, read_config, read_tensors, shapes_of, write, write_pair
from zoo.parts.recorded.names import Trust
from zoo.parts.recorded.pair import built, described, halves, state_of


def save_pair(
    folder: str | Path,
    model: nn.Module | None,
    guide: nn.Module | None = None,
    *,
    about: Mapping[str, Any] | None = None,
    stored: torch.dtype | None = None,
) -> None:
    """Writes a model and its guide so that `load_pair` makes them again without the script that made them.

    config.json has the constructors' arguments, for people too; model.safetensors has the tensors; README.md says what
    the pair is, as a hub of models shows it, and a README that somebody wrote is left alone. Before anything is written
    the pair is built of its own description and compared: a pair that would come back as another is refused. An older
    pair in the folder is replaced, whole or not at all.

    Args:
        folder: made where it does not exist.
        model: a model of the zoo, or of your own: a class with constructor arguments inherits
            `zoo.parts.recorded.Recorded`, which `RootModule`, `StateSpace`, `Guide` and `Family` do; None saves the
            guide alone, with the model that it was made for as its argument.
        guide: a guide of the zoo, of your own, or one of Pyro's autoguides; None saves the model alone.
        about: facts to keep in config.json and README.md, in JSON's types. README.md puts `name`, `data`, `figure`,
            `value`, `error`, `convention` and `command` first.
        stored: `torch.float16` halves the file; floating tensors are rounded to it, and have their own dtype again
            when they are loaded.

    Raises:
        TypeError: model or guide is no module, or neither is given; `about` is no mapping, or has a value that JSON
            has not.
        ValueError: an argument cannot be written (a lambda, a local class, an open file, ...), the pair was changed
            after its constructor, `stored` would overflow, or the folder holds a training; names the place.
        OSError: the folder cannot be written to.

    Example:
        >>> import guides, tempfile, zoo
        >>> model = zoo.VAE(784, 20)
        >>> folder = tempfile.mkdtemp()
        >>> zoo.save_pair(folder, model, guides.Amortized(model))
        >>> zoo.load_pair(folder)[1].posterior(torch.zeros(3, 784)).event_shape
        torch.Size([20])
    """
    folder, pair = Path(folder), halves(model, guide)
    given: Mapping[str, Any] = pair or {"model": model}
    for name, half in given.items():
        if not isinstance(half, nn.Module):
            raise TypeError(f"save_pair: {name} is a module, got {type(half).__name__}")
    if about is not None and not isinstance(about, Mapping):
        raise TypeError(f"save_pair: about: expected names and values, got {type(about).__name__}")
    try:
        json_of({**(about or {})})
    except (TypeError, ValueError) as error:
        raise TypeError(f"save_pair: about: expected values of JSON's types ({error})") from error
    if (folder / "last.pt").exists():
        raise ValueError(f"save_pair: {folder} holds a training, which keeps its own pair there: take another folder")
    try:
        description = described(pair)
        state, dtypes = _stored(state_of(pair), stored)
    except ValueError as error:
        raise ValueError(f"save_pair: {error}") from error
    config: dict[str, Any] = {"pair": description.entry, "parameters": shapes_of(state), "versions": _versions()}
    if dtypes:
        config["dtypes"] = dtypes
    if about is not None:
        config["about"] = dict(about)
    write_pair(folder, config, {**state, **description.tensors})
    if _has_no_readme(folder):
        write(folder / CARD, card(config, {name: _sentence(half) for name, half in pair.items()}).encode())


def push_to_hub(folder: str | Path, repo: str, *, private: bool = False, message: str = "A model/guide pair") -> str:
    """Uploads the pair in a folder to a model repository of the Hugging Face Hub; returns the address of its page.

    config.json, model.safetensors and README.md are uploaded, nothing else in the folder. A repository that does not
    exist is made. Who uploads is known to huggingface_hub (`hf auth login`, or its environment variables).

    Args:
        folder: of `save_pair`, or of a training, `fit(out=)`.
        repo: "owner/name".
        private: of a repository that is made.
        message: of the commit.

    Raises:
        ImportError: huggingface_hub is not installed.
        FileNotFoundError: the folder lacks a file.
        ValueError: repo is not "owner/name"; a file is damaged, or the pair cannot be built again.
    """
    folder = Path(folder)
    if not isinstance(repo, str) or not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ValueError(f"repo: expected 'owner/name', got {repo!r}")
    config = read_config(folder)
    if not isinstance(config.get("pair"), dict) or "unbuilt" in config["pair"]:
        raise ValueError(f"push_to_hub: {folder / CONFIG}: the pair cannot be built again from it, so nobody could "
                         "load it")  # fmt: skip
    read_tensors(folder / TENSORS, config.get("sha256"))
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise ImportError("push_to_hub needs the extra: pip install 'pyro-latent-zoo[hub]'") from error
    if not (folder / CARD).exists():
        write(folder / CARD, card(config).encode())
    page = hub.create_repo(repo, private=private, exist_ok=True)
    hub.upload_folder(
        repo_id=repo, folder_path=str(folder), allow_patterns=[CONFIG, TENSORS, CARD], commit_message=message
    )
    return str(page)


def load_pair(folder: str | Path, *, model: nn.Module | None = None, trust: Sequence[str] = ()) -> tuple[Any, Any]:
    """The model and the guide in a folder of `save_pair` or of `fit(out=)`, on the CPU; one that was not saved is None.

    Args:
        folder: the folder.
        model: a model of the folder's architecture, for which the folder's guide is built; its own parameters stay.
        trust: packages of your own whose classes and functions the folder may name. Nothing else is imported than
            modules, dataclasses and functions of zoo and guides, modules and activations of torch.nn, distributions,
            constraints and autoguides of Pyro.

    Raises:
        TypeError: `trust` is no sequence of packages' names; `model` is no module.
        FileNotFoundError: the folder lacks a file.
        ValueError: a file is damaged, of another pair or of a newer zoo; an import path is not trusted; a constructor
            takes other arguments than it did; `model` is of another architecture. Names folder and argument.
    """
    folder, trusted = Path(folder), Trust(trust)
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(f"load_pair: model is a module, got {type(model).__name__}")
    config = read_config(folder)
    entry = config.get("pair")
    if not isinstance(entry, dict):
        raise ValueError(f"{folder / CONFIG}: expected an entry 'pair', found none: written before there was one; "
                         "build the pair as then, and use zoo.infer.load_model")  # fmt: skip
    if "unbuilt" in entry:
        raise ValueError(f"{folder / CONFIG}: the pair cannot be built again, since {entry['unbuilt']}; build it by "
                         "its script, and use zoo.infer.load_model")  # fmt: skip
    tensors = read_tensors(folder / TENSORS, config.get("sha256"))
    try:
        tensors |= {key: tensors[key].to(getattr(torch, dtype)) for key, dtype in config.get("dtypes", {}).items()}
        return built(entry, tensors, trusted, model)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error


def _has_no_readme(folder: Path) -> bool:
    """True if there is no README, or one of `card`."""
    path = folder / CARD
    return not path.exists() or MARK in path.read_text(errors="replace")


def _sentence(half: nn.Module) -> str:
    """The first sentence of the docstring of a module's class."""
    text = (type(half).__doc__ or "").strip().split("\n\n")[0]
    return re.split(r"(?<=\.)\s", text, maxsplit=1)[0]


def _stored(state: dict[str, Tensor], dtype: torch.dtype | None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors as they are stored, and the dtypes of those that are rounded."""
    if dtype is None:
        return state, {}
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"stored: expected a floating dtype such as torch.float16, got {dtype}")
    rounded = {key: t.to(dtype) for key, t in state.items() if t.is_floating_point() and t.dtype != dtype}
    for key, t in rounded.items():
        # as float32, since a dtype of 8 bits is not compared with infinity
        if not torch.equal(t.float().isfinite(), state[key].isfinite()):
            raise ValueError(f"stored: {key} has values up to {state[key].abs().max():.3g}, beyond {dtype}")
    return {**state, **rounded}, {key: str(state[key].dtype).removeprefix("torch.") for key in rounded}


def _versions() -> dict[str, str]:
    return {"torch": torch.__version__, "pyro": pyro.__version__}
