"""Ten classic time series and a set of GPS tracks, by name: what they measure, when, and on whose word."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from zoo.data.dataset import Dataset
from zoo.data.files import (
    AIR_PASSENGERS,
    CO2_WEEKLY,
    GPS_TRACKS,
    JOHNSON_JOHNSON,
    LAKE_HURON,
    LYNX,
    NILE,
    SEATBELTS,
    SUNSPOT_YEAR,
    UK_GAS,
    US_ACCIDENT_DEATHS,
)
from zoo.data.sequences import Sequences
from zoo.data.sources import Root, Source, fetch, read_checked

PACKAGE = Path(__file__).parent
R_TERMS = 'none stated; "my understanding is that these datasets are free to re-distribute" (Rdatasets)'


@dataclass(frozen=True)
class Series:
    """One series: its file, its columns with their units, the year of its first value, and values a year."""

    source: Source
    columns: tuple[str, ...]
    start: int
    per_year: int
    cite: str
    licence: str = R_TERMS
    note: str = ""


SERIES = {
    "nile": Series(
        NILE,
        ("annual flow of the Nile at Aswan, 10⁸ m³",),
        1871,
        1,
        "G. W. Cobb, The problem of the Nile, Biometrika 1978; R's `Nile`",
        'public domain (statsmodels: "This is public domain")',
    ),
    "air_passengers": Series(
        AIR_PASSENGERS,
        ("international airline passengers, thousands a month",),
        1949,
        12,
        "G. E. P. Box & G. M. Jenkins, Time Series Analysis, 1970, Series G; R's `AirPassengers`",
    ),
    "uk_gas": Series(
        UK_GAS,
        ("UK gas consumption, millions of therms a quarter",),
        1960,
        4,
        "J. Durbin & S. J. Koopman, Time Series Analysis by State Space Methods, 2001; R's `UKgas`",
    ),
    "seatbelts": Series(
        SEATBELTS,
        (
            "car drivers killed, a month",
            "car drivers killed or seriously injured, a month",
            "front-seat passengers killed or seriously injured, a month",
            "rear-seat passengers killed or seriously injured, a month",
            "distance driven, km",
            "petrol price, index",
            "van drivers killed, a month",
            "seat belt law in force (0, 1)",
        ),
        1969,
        12,
        "A. C. Harvey & J. Durbin, The effects of seat belt legislation, JRSS A 1986; R's `Seatbelts`",
        note="the law came into force on 31 January 1983",
    ),
    "johnson_johnson": Series(
        JOHNSON_JOHNSON,
        ("earnings of Johnson & Johnson, dollars a share and quarter",),
        1960,
        4,
        "R. H. Shumway & D. S. Stoffer, Time Series Analysis and its Applications, 2000; R's `JohnsonJohnson`",
    ),
    "lake_huron": Series(
        LAKE_HURON,
        ("annual level of Lake Huron, feet",),
        1875,
        1,
        "P. J. Brockwell & R. A. Davis, Time Series: Theory and Methods, 1991; R's `LakeHuron`",
    ),
    "lynx": Series(
        LYNX,
        ("lynx trapped in Canada, a year",),
        1821,
        1,
        "P. J. Brockwell & R. A. Davis, Time Series: Theory and Methods, 1991; R's `lynx`",
    ),
    "sunspot_year": Series(
        SUNSPOT_YEAR,
        ("sunspot number, mean of the year",),
        1700,
        1,
        "H. Tong, Non-Linear Time Series, 1990; R's `sunspot.year`",
        note="the series before its revision of 2015",
    ),
    "us_accident_deaths": Series(
        US_ACCIDENT_DEATHS,
        ("accidental deaths in the USA, a month",),
        1973,
        12,
        "P. J. Brockwell & R. A. Davis, Time Series: Theory and Methods, 1991; R's `USAccDeaths`",
    ),
}


def series(name: str, root: Root = None) -> Dataset[Sequences]:
    """One of R's series: float64, none missing, times in years (a month is 1/12, its first day the stamp).

    `nile` and `air_passengers` come with the package, as they are small and may be redistributed; the others are files.
    """
    what = SERIES[name]
    header, *lines = _lines(what.source, root)
    kept = [place for place, word in enumerate(header) if word not in ("rownames", "time")]
    frames = torch.tensor([[float(line[place]) for place in kept] for line in lines], dtype=torch.float64)
    stamps = what.start + torch.arange(len(frames), dtype=torch.float64) / what.per_year
    train = Sequences(frames, torch.tensor([len(frames)]), what.columns, stamps, "years")
    return _whole(name, train, what.source, what.licence, what.cite, what.note)


def co2_weekly(root: Root = None) -> Dataset[Sequences]:
    """CO2 at Mauna Loa, ppm: 2,284 weeks ending 29 March 1958 to 29 December 2001, 59 of them missing (NaN).

    Times are days since 1970-01-01 (`numpy`'s datetime64[D]), 7 apart. It comes with the package.
    """
    _, *lines = _lines(CO2_WEEKLY, root)
    frames = torch.tensor([[float(value or "nan")] for _, value in lines], dtype=torch.float64)
    days = [f"{date[:4]}-{date[4:6]}-{date[6:]}" for date, _ in lines]
    stamps = torch.tensor(np.array(days, "datetime64[D]").astype(np.float64))
    columns = ("CO₂ at Mauna Loa, ppm",)
    return _whole(
        "co2_weekly",
        Sequences(frames, torch.tensor([len(frames)]), columns, stamps, "days since 1970-01-01"),
        CO2_WEEKLY,
        'public domain (statsmodels: "This is public domain")',
        "C. D. Keeling & T. P. Whorf, Atmospheric CO2 concentrations, Scripps (CDIAC) 2004; from statsmodels",
        "weekly means, a Saturday each",
    )


def gps_tracks(root: Root = None) -> Dataset[Sequences]:
    """146 GPS tracks of cars and buses in Brazil, mostly in Aracaju: longitude and latitude in degrees, float64.

    A fix every 6 s or so, with gaps of up to 23 minutes; phones report a resting vehicle as exactly unmoved. Times are
    seconds since 1970, of the local clock taken as UTC. Labels are the source's track numbers; 17 of its 163 tracks are
    second copies of others and left out.
    """
    parts = fetch(GPS_TRACKS, root)
    track, stamps = parts["track_id"], parts["time"].astype(np.float64)
    frames = np.stack([parts["longitude"], parts["latitude"]], -1)
    ids, starts, lengths = np.unique(track, return_index=True, return_counts=True)
    first: dict[bytes, int] = {}
    for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        fixes = slice(start, start + length)
        first.setdefault(frames[fixes].tobytes() + stamps[fixes].tobytes(), row)
    tracks = Sequences(
        torch.tensor(frames),
        torch.tensor(lengths),
        ("longitude, degrees", "latitude, degrees"),
        torch.tensor(stamps),
        "seconds since 1970-01-01",
        torch.tensor(ids, dtype=torch.int64),
    )[torch.tensor(list(first.values()))]
    return _whole(
        "gps_tracks",
        tracks,
        GPS_TRACKS,
        "CC BY 4.0 (UCI repository, GPS Trajectories); GPL-3 on the repository of the file",
        "M. O. Cruz, H. T. Macedo & A. P. Guimarães, Grouping similar trajectories for carpooling purposes, BRACIS "
        '2015 (UCI, "GPS Trajectories")',
        "no split of its own; 17 duplicate tracks left out",
    )


SEQUENCES: dict[str, Callable[[Root], Dataset[Sequences]]] = {
    **{name: partial(series, name) for name in SERIES},
    "co2_weekly": co2_weekly,
    "gps_tracks": gps_tracks,
}


def _lines(source: Source, root: Root) -> list[list[str]]:
    embedded = PACKAGE / source.file
    content = read_checked(source, embedded) if embedded.is_file() else fetch(source, root)
    return list(csv.reader(content["content"].tobytes().decode().splitlines()))


def _whole(name: str, train: Sequences, source: Source, licence: str, cite: str, note: str) -> Dataset[Sequences]:
    """A set that has no split of its own: all of it is `train`; `valid` and `test` have no rows."""
    return Dataset(
        name=name,
        train=train,
        valid=train[:0],
        test=train[:0],
        shape=(len(train.columns),),
        licence=licence,
        source=cite,
        sha256={f"{source.file}/{part}": value for part, value in source.sha256.items()},
        note=note,
    )
