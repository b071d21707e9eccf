"""Ten classic time series, each a text of one line for each time: nine of R's, and CO2 at Mauna Loa."""

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from zoo.data import manifest
from zoo.data.dataset import Dataset
from zoo.data.loaders.readers import copy, read_bytes
from zoo.data.sequences import Sequences
from zoo.data.sources import Root, Source, fetch, read_checked

# Three series come with the package, in `timeseries/`: they are small, may be given away, and the examples need them.
PACKAGE = Path(__file__).parents[1]
CO2_WEEKLY = manifest.file("timeseries/co2_weekly.csv", read_bytes, copy)
SERIES = {
    name: manifest.file(facts["file"], read_bytes, copy) for name, facts in manifest.SETS.items() if "per_year" in facts
}


def series(name: str, root: Root = None) -> Dataset[Sequences]:
    """One of R's series: float64, none missing, times in years (a month is 1/12, its first day the stamp).

    `nile` and `air_passengers` come with the package; the others are files in the data folder, or downloaded.
    """
    facts = manifest.SETS[name]
    header, *lines = _lines(SERIES[name], root)
    kept = [place for place, word in enumerate(header) if word not in ("rownames", "time")]
    frames = torch.tensor([[float(line[place]) for place in kept] for line in lines], dtype=torch.float64)
    # The files' own times are rounded decimals, or missing (Seatbelts); first year and step are exact.
    stamps = facts["start"] + torch.arange(len(frames), dtype=torch.float64) / facts["per_year"]
    train = Sequences(frames, torch.tensor([len(frames)]), tuple(facts["columns"]), stamps, "years")
    return manifest.undivided(name, train, SERIES[name])


def co2_weekly(root: Root = None) -> Dataset[Sequences]:
    """CO2 at Mauna Loa, ppm: 2,284 weeks ending 29 March 1958 to 29 December 2001, 59 of them missing (NaN).

    Times are days since 1970-01-01 (`numpy`'s datetime64[D]), 7 apart. The series comes with the package.
    """
    _, *lines = _lines(CO2_WEEKLY, root)
    # An empty field is a week without a measurement.
    frames = torch.tensor([[float(value or "nan")] for _, value in lines], dtype=torch.float64)
    days = [f"{date[:4]}-{date[4:6]}-{date[6:]}" for date, _ in lines]
    stamps = torch.tensor(np.array(days, "datetime64[D]").astype(np.float64))
    columns = tuple(manifest.SETS["co2_weekly"]["columns"])
    train = Sequences(frames, torch.tensor([len(frames)]), columns, stamps, "days since 1970-01-01")
    return manifest.undivided("co2_weekly", train, CO2_WEEKLY)


SERIES_SETS: dict[str, Callable[[Root], Dataset[Sequences]]] = {
    **{name: partial(series, name) for name in SERIES},
    "co2_weekly": co2_weekly,
}


def _lines(source: Source, root: Root) -> list[list[str]]:
    embedded = PACKAGE / source.file
    content = read_checked(source, embedded) if embedded.is_file() else fetch(source, root)
    return list(csv.reader(content["content"].tobytes().decode().splitlines()))
