"""Files of a training. Each is written to a temporary file and renamed, so that a kill leaves the old or the new one.

config.json          settings, the pair's description (`zoo.load_pair`), parameter names and shapes, versions
metrics.jsonl        one line for each epoch
model.safetensors    state dict of the pair (keys `model.*`, `guide.*`): the best by validation, or the latest; and
                     tensors that the constructors were given
last.pt              the state from which a training is resumed; `torch.load(weights_only=True)` reads it
"""

import json
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from zoo.parts.recorded.files import (
    CONFIG,
    TENSORS,
    differences,
    json_of,
    read_config,
    read_tensors,
    refuse_others,
    shapes_of,
    tensors_of,
    write,
)
from zoo.parts.recorded.pair import PREFIXES, Description, another_architecture, own_tensors

_KEYS = {"format", "settings", "loss", "optimizer", "schedule", "objective_step", "ranks", "progress"}


def save_model(loss: nn.Module | Mapping[str, Tensor], path: str | Path) -> None:
    """Writes the state dict of a pair, `objective(model, guide)`, as safetensors."""
    tensors = tensors_of(loss) if isinstance(loss, nn.Module) else dict(loss)
    write(Path(path), safetensors.torch.save(tensors))


def load_model(loss: nn.Module, path: str | Path) -> None:
    """Loads the parameters that `save_model`, `save_pair` or `fit` wrote into a pair that was built like the one saved.

    Args:
        loss: the pair, `objective(model, guide)`; or the model or the guide alone, which takes its half of a pair's
            file. Autoguides create their parameters at their first call: evaluate `loss` on a batch before loading.
        path: the file; or the folder of a pair or a training, whose config.json tells the architecture.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a safetensors file, a damaged one, or one of another pair: names the parameters that differ, or
            the constructor's arguments.
    """
    path, config = Path(path), {}
    if path.is_dir():
        # folders from before there were descriptions may lack the file
        config = read_config(path) if (path / CONFIG).exists() else {}
        hint = f"; {TENSORS} itself, given as the path, goes by shapes alone"
        refuse_others(another_architecture(config.get("pair"), loss), path / CONFIG, "arguments", hint)
        path = path / TENSORS
    tensors = own_tensors(read_tensors(path, config.get("sha256")))
    refuse_foreign(loss, tensors := _half(loss, tensors), path)
    loss.load_state_dict(tensors)


def _half(loss: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a pair's file that belong to a model or a guide alone; all for a pair."""
    names = set(loss.state_dict())
    parts = [{name.removeprefix(p): t for name, t in tensors.items() if name.startswith(p)} for p in PREFIXES]
    model, guide = (len(names & set(part)) for part in parts)
    if names & set(tensors) or not (model or guide):
        return tensors
    # A half is known by its names, and where both halves have the same ones, by its root's name.
    named = str(getattr(loss, "_pyro_name", "")).startswith("guide")
    return parts[guide > model or (guide == model and named)]


def refuse_foreign(loss: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuses the tensors of a file whose names or shapes are not those of `loss`.

    Raises:
        ValueError: names the first few.
    """
    refuse_others(differences(shapes_of(tensors), shapes_of(loss.state_dict())), path, "parameters")


class Folder:
    """The output folder of a training.

    Args:
        path: created where it does not exist.

    Raises:
        OSError: the folder cannot be made, or written to.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        # Tensors that are written beside the parameters: arguments of constructors.
        self.constants: Mapping[str, Tensor] = {}
        self.last, self.metrics = self.path / "last.pt", self.path / "metrics.jsonl"
        # The epoch and step saved in last.pt, in words, for messages.
        self.saved = ""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(error.errno, f"cannot create the output folder ({error.strerror})", str(self.path)) from error

    def probe(self, checkpoint: dict[str, Any]) -> None:
        """Writes a checkpoint and removes it, so that an error shows before the training.

        Raises:
            OSError: the folder cannot be written to.
        """
        path = self.path / "probe.pt"
        try:
            write(path, lambda file: torch.save(checkpoint, file))
        except OSError as error:
            raise OSError(error.errno, f"cannot write to the output folder ({error})", str(self.path)) from error
        path.unlink()

    def save(
        self, checkpoint: dict[str, Any], model: Mapping[str, Tensor] | None, record: dict[str, Any] | None
    ) -> None:
        """Writes the end of an epoch.

        Args:
            checkpoint: of the training.
            model: the state dict to keep; None leaves the file as it is.
            record: the line of metrics.jsonl; None of an epoch that was interrupted.

        Raises:
            OSError: the disk is full; says which checkpoint is the last good one.
        """
        # The checkpoint last: a kill before it leaves one line too many in metrics.jsonl, which `history` leaves out,
        # and a resumed training writes line and model again.
        try:
            if record is not None:
                with self.metrics.open("ab") as file:
                    file.write(json.dumps(record).encode() + b"\n")
                    file.flush()
                    os.fsync(file.fileno())
            if model is not None:
                save_model({**model, **self.constants}, self.path / TENSORS)
            write(self.last, lambda file: torch.save(checkpoint, file))
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot write the checkpoint ({error}). {self.good}. The loss keeps its trained parameters in memory: "
                "make room and call zoo.infer.save_model(loss, path)",
                str(self.path),
            ) from error
        progress = checkpoint["progress"]
        self.saved = f"epoch {progress['epoch']}, step {progress['step']}"

    def history(self, epoch: int) -> list[dict[str, Any]]:
        """The records of metrics.jsonl up to `epoch`. Later ones, and a line torn by a kill, are left out."""
        history = []
        for line in self.metrics.read_bytes().splitlines() if self.metrics.exists() else []:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record["epoch"] <= epoch:
                history.append(record)
        return history

    def start(self, config: dict[str, Any], history: list[dict[str, Any]] | None, pair: Description) -> None:
        """Writes config.json and metrics.jsonl.

        Args:
            pair: the description of the loss's pair, for config.json.
            history: the records to go on from; None starts anew, and renames the files of an older training `*.old`.
        """
        if history is None:
            for path in (self.last, self.metrics, self.path / TENSORS):
                if path.exists():
                    os.replace(path, path.with_name(path.name + ".old"))
        # The parameters follow at the end of each epoch, so this file has no digest of them: a kill between the two
        # must leave a folder that can be loaded. Tensors of constructors go into each file of parameters.
        self.constants = pair.tensors
        if "unbuilt" in pair.entry:
            print(f"{self.path}: zoo.load_pair will not build this pair, since {pair.entry['unbuilt']}; "
                  "zoo.infer.load_model takes its parameters as ever")  # fmt: skip
        kept = self.path / TENSORS
        if history is not None and kept.exists():
            # An earlier part of the training may have written other constants, or none, and kept its best model.
            save_model({**own_tensors(read_tensors(kept)), **self.constants}, kept)
        write(self.path / CONFIG, json_of({**config, "pair": pair.entry}))
        write(self.metrics, b"".join(json.dumps(record).encode() + b"\n" for record in history or []))

    @property
    def good(self) -> str:
        """Says which checkpoint is the last good one."""
        return f"The last good checkpoint is {self.last} ({self.saved})" if self.saved else "There is no checkpoint yet"

    def load(self, loss: nn.Module, settings: dict[str, Any]) -> dict[str, Any]:
        """The checkpoint in last.pt.

        Args:
            loss: the pair that it must be of.
            settings: those of this training, which must be the same.

        Raises:
            ValueError: damaged, not one of `fit`, of another pair, or of a training with other settings.
        """
        if not zipfile.is_zipfile(self.last):
            raise ValueError(f"{self.last}: not a checkpoint of zoo.infer.fit (no zip archive), or cut off")
        try:
            # torch.load does not look at the checksums, and loads a flipped bit of a tensor without a word.
            with zipfile.ZipFile(self.last) as archive:
                damaged = archive.testzip()
            if damaged:
                raise ValueError(f"{self.last}: damaged, the checksum of {damaged} is wrong")
            checkpoint = torch.load(self.last, map_location="cpu", weights_only=True)
        except (RuntimeError, zipfile.BadZipFile, pickle.UnpicklingError, EOFError) as error:
            raise ValueError(f"{self.last}: cannot be read as a checkpoint of zoo.infer.fit ({error})") from error
        missing = _KEYS - set(checkpoint) if isinstance(checkpoint, dict) else _KEYS
        if missing:
            raise ValueError(f"{self.last}: not a checkpoint of zoo.infer.fit, it lacks {', '.join(sorted(missing))}")
        config = read_config(self.path) if (self.path / CONFIG).exists() else {}
        refuse_others(another_architecture(config.get("pair"), loss), self.path / CONFIG, "arguments")
        refuse_foreign(loss, checkpoint["loss"], self.last)
        saved, schedule = checkpoint["settings"], settings["schedule"]
        if schedule is not None and saved["schedule"] == schedule["class"]:
            # Checkpoints from before the options of schedules were compared name the class alone.
            settings = {**settings, "schedule": schedule["class"]}
        wrong = differences(saved, settings)
        if wrong:
            raise ValueError(
                f"{self.last}: cannot resume with other settings (in the file, now): {'; '.join(wrong)}. "
                "Train on into another folder, or give the old settings"
            )
        progress = checkpoint["progress"]
        self.saved = f"epoch {progress['epoch']}, step {progress['step']}"
        return checkpoint
