"""Files of data: found in a folder, in the cache or on the web, and checked against known sha256 digests.

The digest is that of a file's *content*: the idx bytes inside a .gz, the arrays inside an .npz.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Root = str | os.PathLike[str] | None


@dataclass(frozen=True)
class Remote:
    """A file on the web.

    Attributes:
        url: its address.
        digest: "md5:…" or "sha256:…" of the bytes as the URL serves them; None where that is not known.
        saved_as: its name in a folder; None: the last part of the URL.
    """

    url: str
    digest: str | None = None
    saved_as: str | None = None

    @property
    def name(self) -> str:
        return self.saved_as or self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Source:
    """One file of a data set.

    Attributes:
        file: its path below the data folder.
        sha256: part -> sha256 of that part's bytes.
        read: path -> parts, as arrays.
        remotes: the files to download.
        build: (downloaded files, path to write) -> None: makes `file` of them.
        optional: parts that the downloads cannot give (labels that were worked out later).
    """

    file: str
    # The wrapping of a file depends on who compressed it, its content does not: digests of parts serve every place
    # that a file may come from.
    sha256: Mapping[str, str]
    read: Callable[[Path], dict[str, np.ndarray]]
    remotes: tuple[Remote, ...]
    build: Callable[[list[Path], Path], object]
    optional: frozenset[str] = frozenset()

    def digests(self, parts: Iterable[str] | None = None) -> dict[str, str]:
        """`file/part` -> sha256 of the named parts, of all by default: the form of `Dataset.sha256`."""
        return {f"{self.file}/{part}": self.sha256[part] for part in (self.sha256 if parts is None else parts)}


def folders(root: Root = None) -> list[Path]:
    """The folders in which files are looked for, in this order; downloads go to the last.

    `root` alone if it is given; else `$ZOO_DATA`, then `$XDG_CACHE_HOME/pyro-latent-zoo` or `~/.cache/pyro-latent-zoo`.
    """
    if root is not None:
        return [Path(root).expanduser()]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pyro-latent-zoo"
    given = os.environ.get("ZOO_DATA")
    return [Path(given).expanduser(), cache] if given else [cache]


def fetch(source: Source, root: Root = None) -> dict[str, np.ndarray]:
    """Reads a file, checks its parts and returns them; a file that no folder has is downloaded first.

    Raises:
        ValueError: a folder has the file, with other content than expected. The file stays.
        FileNotFoundError: no folder has the file and it cannot be downloaded; no partial file is left behind.
    """
    for folder in folders(root):
        if (path := folder / source.file).is_file():
            # The first file found decides. Passing over a wrong one would hide that $ZOO_DATA holds other data, and
            # deleting it is the user's choice: it may be the only copy of something else.
            try:
                return read_checked(source, path)
            except ValueError as error:
                advice = f"Delete {path} and load again to download it anew from"
                raise ValueError(f"{error}\n{advice}\n{_urls(source)}") from error
    return _download(source, folders(root))


def read_checked(source: Source, path: Path) -> dict[str, np.ndarray]:
    """Reads the parts named in `source.sha256` from `path` and checks them.

    Raises:
        ValueError: a file that cannot be read, or other content; with the path, the expected and the actual sha256.
    """
    try:
        found = source.read(path)
    except PermissionError:
        # A file that may not be read is not damaged: the advice to delete it would be wrong.
        raise
    except Exception as error:
        # A damaged file fails in whatever way its format knows: EOFError, BadZipFile, zlib.error, KeyError, ...
        raise ValueError(
            f"{path} is truncated or damaged: reading it gave {type(error).__name__} ({error})\n"
            f"expected content with sha256 {dict(source.sha256)}\n"
            f"got {path.stat().st_size} bytes with sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
        ) from error
    expected = {part: value for part, value in source.sha256.items() if part in found or part not in source.optional}
    check_content(found, expected, str(path))
    return {part: found[part] for part in expected}


def check_content(found: Mapping[str, np.ndarray], sha256: Mapping[str, str], origin: str) -> None:
    """Checks that `found` has every part named in `sha256`, with that sha256 of its bytes.

    Raises:
        ValueError: a missing part, or one with other bytes; it names `origin`, the part and both digests.
    """
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
        # All work is done in a folder that disappears, beside the target: only a file that passed the check moves out
        # of it, and a move inside one file system is atomic, so that two processes may download at once.
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
    # A file fetched by hand, say on a machine that has a network, serves as the download.
    for place in places:
        if (path := place / remote.name).is_file():
            return path
    # pooch is an extra: the sets that come with a package, and files in $ZOO_DATA, need no download.
    try:
        import pooch
    except ImportError as error:
        raise ImportError("downloading needs pooch: pip install 'pyro-latent-zoo[data]'") from error
    raw = pooch.retrieve(remote.url, remote.digest, fname=f"raw-{remote.name}", path=folder, progressbar=True)
    return Path(raw)


def _urls(source: Source) -> str:
    named = [f"{remote.url}" + f" (as {remote.name})" * (remote.saved_as is not None) for remote in source.remotes]
    return "\n".join(f"  {line}" for line in named)
