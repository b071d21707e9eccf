"""Files of a training. Each is written to a temporary file and renamed, so that a kill leaves the old or the new one.

config.json          settings, parameter names and shapes, versions: for people and for tables of results
metrics.jsonl        one line for each epoch
model.safetensors    state dict of the pair (keys `model.*`, `guide.*`): the best by validation, or the latest
last.pt              the state from which a training is resumed; `torch.load(weights_only=True)` reads it
"""

import json
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

_KEYS = {"format", "settings", "loss", "optimizer", "schedule", "objective_step", "ranks", "progress"}


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


def tensors_of(loss: nn.Module) -> dict[str, Tensor]:
    """A copy of the state dict on the CPU."""
    # Copied one by one: safetensors refuses tensors that share memory, and parameters that model and guide share stand
    # under both names.
    return {name: t.detach().to("cpu", copy=True).contiguous() for name, t in loss.state_dict().items()}


def save_model(loss: nn.Module | Mapping[str, Tensor], path: str | Path) -> None:
    """Writes the state dict of a pair, `objective(model, guide)`, as safetensors."""
    tensors = tensors_of(loss) if isinstance(loss, nn.Module) else dict(loss)
    write(Path(path), safetensors.torch.save(tensors))


def load_model(loss: nn.Module, path: str | Path) -> None:
    """Loads the parameters that `save_model` or `fit` wrote into a pair that was built like the one saved.

    Args:
        loss: the pair, `objective(model, guide)`. Autoguides create their parameters at their first call: evaluate
            `loss` on a batch before loading.
        path: the file, or the folder of a training.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a safetensors file, or one of another pair; names the parameters that differ.
    """
    path = Path(path)
    path = path / "model.safetensors" if path.is_dir() else path
    try:
        tensors = safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file, or a damaged one ({error})") from error
    refuse_foreign(loss, tensors, path)
    loss.load_state_dict(tensors)


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Name -> shape, as config.json holds it."""
    return {name: list(t.shape) for name, t in tensors.items()}


def refuse_foreign(loss: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuses the tensors of a file whose names or shapes are not those of `loss`.

    Raises:
        ValueError: names the first few.
    """
    wrong = differences(shapes_of(tensors), shapes_of(loss.state_dict()))
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        shown = "; ".join(wrong[:4])
        raise ValueError(f"{path}: parameters of another model and guide (in the file, here): {shown}{more}")


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


class Folder:
    """The output folder of a training.

    Args:
        path: created where it does not exist.

    Raises:
        OSError: the folder cannot be made, or written to.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.last, self.metrics = self.path / "last.pt", self.path / "metrics.jsonl"
        # The epoch and step saved in last.pt, in words, for messages.
        self.saved = ""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(error.errno, f"cannot create the output folder ({error.strerror})", str(self.path)) from error

    def probe(self, checkpoint: dict[str, Any]) -> None:
        """Writes a checkpoint, reads it back and removes it, so that an error shows before the training.

        Raises:
            OSError: the folder cannot be written to.
            ValueError: the state of optimiser or schedule holds objects that cannot be loaded safely.
        """
        path = self.path / "probe.pt"
        try:
            write(path, lambda file: torch.save(checkpoint, file))
        except OSError as error:
            raise OSError(error.errno, f"cannot write to the output folder ({error})", str(self.path)) from error
        try:
            torch.load(path, weights_only=True)
        except pickle.UnpicklingError as error:
            said = "the state of the optimizer, the schedule or a callback cannot be saved safely"
            raise ValueError(f"{said}: {error}") from error
        finally:
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
                save_model(model, self.path / "model.safetensors")
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

    def start(self, config: dict[str, Any], history: list[dict[str, Any]] | None) -> None:
        """Writes config.json and metrics.jsonl.

        Args:
            history: the records to go on from; None starts anew, and renames the files of an older training `*.old`.
        """
        if history is None:
            for path in (self.last, self.metrics, self.path / "model.safetensors"):
                if path.exists():
                    os.replace(path, path.with_name(path.name + ".old"))
        write(self.path / "config.json", json.dumps(config, indent=2).encode() + b"\n")
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
        refuse_foreign(loss, checkpoint["loss"], self.last)
        wrong = differences(checkpoint["settings"], settings)
        if wrong:
            raise ValueError(
                f"{self.last}: cannot resume with other settings (in the file, now): {'; '.join(wrong)}. "
                "Train on into another folder, or give the old settings"
            )
        progress = checkpoint["progress"]
        self.saved = f"epoch {progress['epoch']}, step {progress['step']}"
        return checkpoint
