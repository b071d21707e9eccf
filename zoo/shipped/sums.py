"""The digests of a folder's files, in the form that `sha256sum -c` reads too."""

import hashlib
import re
from pathlib import Path

from zoo.parts.recorded.files import write

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  ([\w.-]+)")


def seal(folder: Path) -> None:
    """Writes SHA256SUMS: a line for each other file of the folder."""
    files = sorted(path for path in folder.iterdir() if path.name != SUMS)
    write(folder / SUMS, "".join(f"{_digest(path)}  {path.name}\n" for path in files).encode())


def check_sums(folder: Path, *needed: str) -> None:
    """Refuses a folder whose files are not those that were sealed.

    Args:
        needed: names of files that must be among them.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file has other bytes, SHA256SUMS is damaged, or does not list a file of `needed`.
    """
    path = folder / SUMS
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; expected the folder of a pair that ships")
    lines = path.read_text(errors="replace").splitlines()
    found = [_LINE.fullmatch(line) for line in lines]
    # a line that cannot be read would leave its file unchecked
    if None in found:
        raise ValueError(f"{path}: line {found.index(None) + 1}: expected a sha256 and a file's name, found "
                         f"{lines[found.index(None)]!r}")  # fmt: skip
    sums = {match[2]: match[1] for match in found if match}
    if unlisted := [name for name in needed if name not in sums]:
        raise ValueError(f"{path}: lists no {unlisted[0]}, which the folder of a pair that ships has")
    for name, expected in sums.items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: there is no such file, and {SUMS} lists it")
        if (digest := _digest(folder / name)) != expected:
            raise ValueError(f"{folder / name}: changed since it was sealed: expected sha256 {expected} by {SUMS}, "
                             f"found {digest}")  # fmt: skip


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
