"""Readers of single files, path -> parts, and the two builds that need no format: copy, and refuse."""

import gzip
import shutil
from pathlib import Path

import numpy as np


def read_bytes(path: Path) -> dict[str, np.ndarray]:
    """The bytes of a file, as the part `content`."""
    return {"content": np.frombuffer(path.read_bytes(), np.uint8)}


def read_gzip(path: Path) -> dict[str, np.ndarray]:
    """The bytes inside a .gz, as the part `content`."""
    return {"content": np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8)}


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz, each a part."""
    # numpy leaves the file open if it is truncated; the handle is ours, so that it is closed.
    with path.open("rb") as file, np.load(file) as arrays:
        return dict(arrays)


def copy(downloaded: list[Path], target: Path) -> None:
    """Builds a file that is used as the URL serves it."""
    shutil.copyfile(downloaded[0], target)


def cannot_be_built(downloaded: list[Path], target: Path) -> None:
    """Refuses to build a file whose content a download cannot repeat.

    Raises:
        ValueError: always.
    """
    raise ValueError("it was resampled by its maker from the public recordings, which a download cannot repeat")
