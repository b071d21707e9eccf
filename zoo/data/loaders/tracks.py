"""Tracks: positions of vehicles at irregular times."""

import csv
from pathlib import Path

import numpy as np
import torch

from zoo.data import manifest
from zoo.data.dataset import Dataset
from zoo.data.loaders.readers import read_npz
from zoo.data.sequences import Sequences
from zoo.data.sources import Root, fetch


def _pack_tracks(downloaded: list[Path], target: Path) -> None:
    """Builds gps_go_track.npz from a text of latitude, longitude, track_id, time, as "2014-09-13 07:24:32"."""
    # The order of the text's rows is not relied on. Sorted by track and time, a track is a slice.
    with downloaded[0].open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: (int(row["track_id"]), row["time"]))
    np.savez_compressed(
        target,
        latitude=np.array([row["latitude"] for row in rows], np.float64),
        longitude=np.array([row["longitude"] for row in rows], np.float64),
        track_id=np.array([row["track_id"] for row in rows], np.int32),
        time=np.array([row["time"] for row in rows], "datetime64[s]").astype(np.int64),
    )


GPS_TRACKS = manifest.file("gps_go_track.npz", read_npz, _pack_tracks)


def gps_tracks(root: Root = None) -> Dataset[Sequences]:
    """146 GPS tracks of cars and buses in Brazil, mostly in Aracaju: longitude and latitude in degrees, float64.

    A fix every 6 s or so, with gaps of up to 23 minutes; phones report a resting vehicle as exactly unmoved. Times are
    seconds since 1970, of the local clock taken as UTC. Labels are the source's track numbers; 17 of its 163 tracks are
    second copies of others and left out.
    """
    parts = fetch(GPS_TRACKS, root)
    stamps = parts["time"].astype(np.float64)
    frames = np.stack([parts["longitude"], parts["latitude"]], -1)
    ids, starts, lengths = np.unique(parts["track_id"], return_index=True, return_counts=True)
    # A copy agrees with its original in every byte of its positions and times, so equal bytes find it; the first of
    # equal tracks stays.
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
    )
    return manifest.undivided("gps_tracks", tracks[torch.tensor(list(first.values()))], GPS_TRACKS)
