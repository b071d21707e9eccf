"""Where a file comes from (a folder, the cache, the web), and whether it holds what it should.

What is checked is the sha256 of a file's *content*: the idx bytes inside a .gz, the arrays inside an .npz. The
wrapping depends on who compressed it; the content does not, so one number serves every place a file may come from.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Root = str | os.PathLike[str] | None


@dataclass(frozen=True)
class Remote:
    """A file on the web; `digest` ("md5:…", "sha256:…") is of the bytes as served."""

    url: str
    digest: str | None = None

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Source:
    """One file of a data set.

    Attributes:
        file: its path below the data folder.
        sha256: part -> sha256 of that part's bytes.
        read: path -> parts, as arrays.
        remotes: what to download.
        build: makes `file` of the downloaded files.
        optional: parts that the downloads cannot give (labels that were worked out later).
    """

    file: str
    sha256: Mapping[str, str]
    read: Callable[[Path], dict[str, np.ndarray]]
    remotes: tuple[Remote, ...]
    build: Callable[[list[Path], Path], object]
    optional: frozenset[str] = frozenset()


def folders(root: Root = None) -> list[Path]:
    """Where files are looked for, in this order; downloads go to the last.

    `root` alone where it is given; else `$ZOO_DATA`, then `$XDG_CACHE_HOME/pyro-latent-zoo` or
    `~/.cache/pyro-latent-zoo`.
    """
    if root is not None:
        return [Path(root).expanduser()]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pyro-latent-zoo"
    given = os.environ.get("ZOO_DATA")
    return [Path(given).expanduser(), cache] if given else [cache]


def fetch(source: Source, root: Root = None) -> dict[str, np.ndarray]:
    """The checked parts of a file, downloaded if no folder has it.

    Raises:
        ValueError: the file is there but is not what it should be. It is left where it is.
        FileNotFoundError: no folder has it and it cannot be downloaded; nothing is left behind.
    """
    for folder in folders(root):
        if (path := folder / source.file).is_file():
            try:
                return read_checked(source, path)
            except ValueError as error:
                advice = f"Delete {path} and load again to download it anew from"
                raise ValueError(f"{error}\n{advice}\n{_urls(source)}") from error
    return _download(source, folders(root))


def read_checked(source: Source, path: Path) -> dict[str, np.ndarray]:
    """The parts named in `source.sha256`; ValueError naming the file, the expected and the actual sha256."""
    try:
        found = source.read(path)
    except PermissionError:
        raise
    except Exception as error:  # a damaged file fails in whatever way its format knows
        raise ValueError(
            f"{path} is truncated or damaged: reading it gave {type(error).__name__} ({error})\n"
            f"expected content with sha256 {dict(source.sha256)}\n"
            f"got {path.stat().st_size} bytes with sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
        ) from error
    expected = {part: value for part, value in source.sha256.items() if part in found or part not in source.optional}
    check(found, expected, str(path))
    return {part: found[part] for part in expected}


def check(found: Mapping[str, np.ndarray], sha256: Mapping[str, str], origin: str) -> None:
    """ValueError unless `found` has every part named in `sha256`, with that sha256 of its bytes."""
    for part, expected in sha256.items():
        if part not in found:
            raise ValueError(f"{origin} is not the file it should be: it has {sorted(found)} but no {part!r}")
        got = hashlib.sha256(np.ascontiguousarray(found[part]).data).hexdigest()
        if got != expected:
            raise ValueError(
                f"{origin} is not the file it should be, or is damaged: the sha256 of its {part!r}\n"
                f"should be {expected}\nbut is    {got}"
            )


def _download(source: Source, places: list[Path]) -> dict[str, np.ndarray]:
    target = places[-1] / source.file
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # All work is done in a folder that disappears; only a file that passed the check moves out of it.
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=target.parent) as partial:
            downloaded = [_retrieve(remote, Path(partial), places) for remote in source.remotes]
            built = Path(partial, target.name)
            source.build(downloaded, built)
            parts = read_checked(source, built)
            built.replace(target)
    except (OSError, ValueError, ImportError) as error:
        looked = "\n".join(f"  {place / source.file}" for place in places)
        raise FileNotFoundError(
            f"{source.file} was not found. Looked for\n{looked}\n"
            f"and could not download it to {places[-1]} from\n{_urls(source)}\n"
            f"because: {error}\n"
            f"Either of two will do: put {source.file}, or the files at these URLs, into {places[-1]}; "
            "or set ZOO_DATA to a folder that has them."
        ) from error
    return parts


def _retrieve(remote: Remote, folder: Path, places: list[Path]) -> Path:
    for place in places:  # fetched by hand, say on a machine that has a network
        if (path := place / remote.name).is_file():
            return path
    try:
        import pooch
    except ImportError as error:
        raise ImportError("downloading needs pooch: pip install 'pyro-latent-zoo[data]'") from error
    raw = pooch.retrieve(remote.url, remote.digest, fname=f"raw-{remote.name}", path=folder, progressbar=True)
    return Path(raw)


def _urls(source: Source) -> str:
    return "\n".join(f"  {remote.url}" for remote in source.remotes)
