"""The pairs that ship, by name: `zoo.pretrained`."""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.folders import load_pair
from zoo.parts.recorded.files import CONFIG, TENSORS, read_config
from zoo.shipped.sums import SUMS, check_sums

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
SCORE = "score.json"
#: number of the form of score.json; a reader refuses those of a later one
FORMAT = 1


@dataclass(frozen=True)
class Shipped:
    """A pair that ships, with the data and the figure by which anyone can score it again.

    Attributes:
        folder: config.json, model.safetensors, README.md, and score.json, which states the rows, the number of
            particles, the seed and the figure; arguments.safetensors, the rows themselves where their terms allow it;
            SHA256SUMS.
        name: of the folder.
        about: the facts of the training, and its figure on the whole test set.
        score: the contents of score.json.
        pair: model, guide and family, in words.
    """

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def about(self) -> dict[str, Any]:
        return read_config(self.folder).get("about", {})

    @property
    def score(self) -> dict[str, Any]:
        # before anything is read: a changed byte may leave JSON that can be read and says another thing
        check_sums(self.folder, CONFIG, TENSORS, SCORE)
        found = json.loads((self.folder / SCORE).read_bytes())
        if found.get("format") not in range(1, FORMAT + 1):
            raise ValueError(f"{self.folder / SCORE}: format: expected at most {FORMAT}, found {found.get('format')!r}:"
                             " written by a newer zoo")  # fmt: skip
        return found

    @property
    def pair(self) -> str:
        entry = read_config(self.folder)["pair"]
        model, guide = (entry[half]["class"].rpartition(".")[2] for half in ("model", "guide"))
        family = entry["guide"].get("family")
        if isinstance(family, Mapping):
            path = family.get("partial", family).get("import", "")
            guide += f"({path.rpartition('.')[2]})" if path else ""
        return f"{model} + {guide}"

    @property
    def figure(self) -> str:
        """The figure on the fixed rows, with its error as that of a sample, in words."""
        score = self.score
        error, rows = score["error"], score["arguments"]["x"]["shape"][0]
        spread = "" if error is None else f" +- {error:.2f}"
        return f"{score['value']:.3f}{spread} {score['unit']}, {rows} row{'s' if rows > 1 else ''}"

    def load(self) -> tuple[Any, Any]:
        """The model and the guide, in evaluation mode.

        Raises:
            ValueError: a file has changed, or is of a newer zoo.
            FileNotFoundError: a file is missing.
        """
        # asked for its checks, which each call makes anew: a file may have changed since the last
        self.score  # noqa: B018
        model, guide = load_pair(self.folder)
        return model.eval(), guide.eval()

    def data(self) -> dict[str, Tensor]:
        """The rows that the pair is scored on: arguments of model and guide by name, x the first.

        Raises:
            ValueError: a file has changed; the data set has other rows than those that were scored.
            FileNotFoundError: the rows do not ship, and a file of their data set is nowhere.
        """
        # sets of data are asked for here alone: `import zoo` loads none of their readers
        from zoo.shipped.subset import subset_of

        return subset_of(self.folder, self.score)


class Shelf(Mapping[str, Shipped]):
    """The pairs that ship by name, as a table where it is printed.

    Args:
        folder: whose folders are pairs.
    """

    def __init__(self, folder: Path = WEIGHTS) -> None:
        # a folder that is no pair, such as one of a cache, is none of ours
        self._found = {p.name: Shipped(p) for p in sorted(folder.glob("*")) if (p / SUMS).is_file()}

    def __getitem__(self, name: str) -> Shipped:
        """The pair of a name.

        Raises:
            ValueError: there is none; lists the names, the closest first.
        """
        # no KeyError, which would print its message as a quoted word
        if name not in self._found:
            close = difflib.get_close_matches(str(name), self._found, n=len(self._found), cutoff=0.0)
            raise ValueError(f"no pair {name!r} ships; there are, the closest first, {', '.join(close)}")
        return self._found[name]

    def __contains__(self, name: object) -> bool:
        return name in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        rows = [("name", "pair", "data", "figure on its fixed rows")]
        return "\n".join(columns([*rows, *map(_row, self.values())]))


def _row(at: Shipped) -> tuple[str, ...]:
    """The line of a pair; of a folder that was changed the reason why it has none."""
    try:
        figure = at.figure
        return at.name, at.pair, str(at.about.get("data", "")), figure
    except (ValueError, FileNotFoundError) as error:
        return at.name, "", "", str(error)


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines of a table whose columns are as wide as their longest entry."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def pretrained(name: str | None = None) -> Any:
    """The model and the guide of a pair that ships, in evaluation mode; without a name, the list of all of them.

    Every file of the pair's folder is compared with its sha256 before it is read. `python -m zoo NAME` scores a pair
    again on its fixed rows and draws from it.

    Args:
        name: of the list; None: the list, a mapping from names to `Shipped` that prints as a table. Of an entry,
            `data()` gives the rows that the pair is scored on, `about` the facts of its training.

    Raises:
        ValueError: no pair has the name (lists them, the closest first); a file has changed; a newer format.
        FileNotFoundError: a file is missing.

    Example:
        >>> import zoo
        >>> model, guide = zoo.pretrained("digits-vae")
        >>> x = zoo.pretrained()["digits-vae"].data()["x"]
        >>> guide.posterior(x).event_shape
        torch.Size([2])
    """
    shelf = Shelf(WEIGHTS)
    return shelf if name is None else shelf[name].load()
