"""The facts of `manifest.json` as objects: the file of a data set with its digests and URLs, its terms and citation.

Facts stand in the JSON and code in `loaders/`, so that a licence or a moved URL is a change of data. `files` has, for
each file, the sha256 of its parts, the parts that a build cannot give (`optional`) and the URLs; `sets` has, for each
name, licence, source and note, and of a series its file, its columns and its calendar.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.dataset import Dataset, Part
from zoo.data.sequences import Sequences
from zoo.data.sources import Remote, Source

FACTS: Mapping[str, Mapping[str, Any]] = json.loads(Path(__file__).with_name("manifest.json").read_text("utf-8"))
SETS = FACTS["sets"]


def file(
    name: str, read: Callable[[Path], dict[str, np.ndarray]], build: Callable[[list[Path], Path], object]
) -> Source:
    """The `Source` of a file of the manifest.

    Args:
        name: the file's path below the data folder, as the manifest has it.
        read: path -> the file's parts, as arrays.
        build: (downloaded files in the order of the URLs, path of the file to write) -> None.
    """
    facts = FACTS["files"][name]
    remotes = tuple(Remote(url["url"], url.get("digest"), url.get("name")) for url in facts["urls"])
    return Source(name, facts["sha256"], read, remotes, build, frozenset(facts.get("optional", ())))


def dataset(
    name: str,
    splits: tuple[Part, Part, Part],
    shape: tuple[int, ...],
    sha256: Mapping[str, str],
    *,
    mean: float = 0.0,
    sd: float = 1.0,
    sample_rate: int | None = None,
) -> Dataset[Part]:
    """The data set `name` with the manifest's licence, source and note; the other arguments are those of `Dataset`."""
    train, valid, test = splits
    facts = SETS[name]
    return Dataset(
        name=name,
        train=train,
        valid=valid,
        test=test,
        shape=shape,
        licence=facts["licence"],
        source=facts["source"],
        sha256=sha256,
        note=facts["note"],
        mean=mean,
        sd=sd,
        sample_rate=sample_rate,
    )


def undivided(name: str, sequences: Sequences, source: Source) -> Dataset[Sequences]:
    """A data set without a split of its own: `train` has all of it, `valid` and `test` have no rows."""
    # No row is held out here: a single series has to be cut in time, at a place that depends on the question.
    none = sequences[:0]
    return dataset(name, (sequences, none, none), (len(sequences.columns),), source.digests())
