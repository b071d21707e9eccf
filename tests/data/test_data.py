"""Data: exact facts of the sets, the checks on files, downloads from a server on this machine, and binarisation."""

import gzip
import hashlib
import http.server
import io
import os
import socket
import sys
import threading
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ragged import ragged
from sklearn.datasets import load_digits

from zoo.data import Binarized, Sequences, Split, binarize, load
from zoo.data.loaders import digits, letters, series, tracks
from zoo.data.loaders.digits import BINARIZED_MNIST, MNIST
from zoo.data.loaders.letters import OMNIGLOT
from zoo.data.loaders.readers import copy, read_gzip
from zoo.data.loaders.tracks import GPS_TRACKS
from zoo.data.sources import Remote, Source, fetch, folders

REAL = os.environ.get("ZOO_DATA")
real_files = pytest.mark.skipif(not REAL, reason="needs the real data sets: set ZOO_DATA to their folder")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache for every test: none reads or writes the user's. `$ZOO_DATA` is unset."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("ZOO_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "xdg" / "pyro-latent-zoo"


@pytest.fixture
def server():
    """An http server on this machine: `server[path] = (body, announced length)`, and `server.requests`."""

    class Server(dict):
        requests: list[str]
        url: str

    served = Server()
    served.requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            served.requests.append(self.path)
            if self.path[1:] not in served:
                self.send_error(404)
                return
            body, length = served[self.path[1:]]
            self.send_response(200)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        served.url = f"http://127.0.0.1:{httpd.server_port}/"
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        httpd.shutdown()
        thread.join()


# A stand-in for a data file; the real ones go the same way through `fetch`.
CONTENT = np.random.default_rng(0).integers(256, size=5000, dtype=np.uint8).tobytes()
PACKED = gzip.compress(CONTENT)
PACKED_SHA256 = "sha256:" + hashlib.sha256(PACKED).hexdigest()


def toy(url: str, digest: str | None = None) -> Source:
    sha256 = {"content": hashlib.sha256(CONTENT).hexdigest()}
    return Source("toy/noise.gz", sha256, read_gzip, (Remote(url + "noise.gz", digest),), copy)


def put(folder: Path, body: bytes = PACKED) -> Path:
    path = folder / "toy" / "noise.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(body)
    return path


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_dir()]


def rows(*splits: Split) -> Counter:
    return Counter(row.tobytes() for split in splits for row in split.levels.numpy())


# Data sets


def test_digits_are_sklearns_split_by_class():
    digits, bundle = load("digits"), load_digits()
    splits = (digits.train, digits.valid, digits.test)
    assert [len(split) for split in splits] == [1197, 300, 300]
    assert rows(*splits) == Counter(row.tobytes() for row in bundle.data.astype(np.uint8))
    by_pixels = {row.astype(np.uint8).tobytes(): label for row, label in zip(bundle.data, bundle.target, strict=True)}
    counts = np.bincount(bundle.target)
    for split, share in zip(splits, (4 / 6, 1 / 6, 1 / 6), strict=True):
        assert [by_pixels[row.tobytes()] for row in split.levels.numpy()] == split.labels.tolist()
        assert (np.abs(np.bincount(split.labels) - counts * share) <= 1).all()
        assert torch.equal(split.images, split.levels / 16)
        assert split.images.dtype == torch.float32
        assert not torch.equal(split.labels, split.labels.sort().values), "ordered by class"
    assert (digits.data_dim, digits.shape, digits.num_levels) == (64, (8, 8), 17)
    assert rows(load("digits").train) == rows(digits.train)


@real_files
def test_mnist():
    mnist = load("mnist", REAL)
    assert [len(split) for split in (mnist.train, mnist.valid, mnist.test)] == [50_000, 10_000, 10_000]
    sixty = torch.cat([mnist.train.levels, mnist.valid.levels])
    # the published means of full scale, 0.1307 and 0.1325
    assert round(sixty.double().mean().item() / 255, 5) == 0.13066
    assert round(mnist.test.images.double().mean().item(), 5) == 0.13251
    assert (mnist.data_dim, mnist.num_levels, sixty.dtype, int(sixty.max())) == (784, 256, torch.uint8, 255)
    assert mnist.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]  # the figure in every tutorial
    with gzip.open(Path(REAL, "mnist", "train-images-idx3-ubyte.gz")) as file:
        assert file.read()[16 + 784 * 59_999 :] == mnist.valid.levels[-1].numpy().tobytes()


@real_files
def test_binarized_mnist_is_a_draw_from_mnist():
    bits, mnist = load("binarized_mnist", REAL), load("mnist", REAL)
    splits = (bits.train, bits.valid, bits.test)
    assert [len(split) for split in splits] == [50_000, 10_000, 10_000]
    assert [round(split.images.double().mean().item(), 6) for split in splits] == [0.130562, 0.131127, 0.132512]
    assert bits.num_levels == 2
    # The test set is MNIST's, ordered by class and then by row; so its labels and its grey images are known exactly.
    labels, order = mnist.test.labels.sort(stable=True)
    grey, drawn = mnist.test.levels[order], bits.test.levels
    assert torch.equal(bits.test.labels, labels)
    assert not drawn[grey == 0].any()
    assert drawn[grey == 255].all()
    p = grey.double() / 255
    assert abs((drawn - p).sum() / (p * (1 - p)).sum().sqrt()) < 5
    for label in range(10):
        count = sum(int((split.labels == label).sum()) for split in (bits.train, bits.valid))
        assert count == sum(int((split.labels == label).sum()) for split in (mnist.train, mnist.valid))
    assert len(set(bits.test.shuffled()[:500].labels.tolist())) == 10
    assert set(bits.test[:500].labels.tolist()) == {0}, "if this fails, the docstring's warning is out of date"


@real_files
def test_omniglot():
    omniglot = load("omniglot", REAL)
    assert [len(split) for split in (omniglot.train, omniglot.valid, omniglot.test)] == [23_000, 1_345, 8_115]
    with np.load(Path(REAL, "omniglot_28.npz")) as file:
        assert rows(omniglot.train, omniglot.valid, omniglot.test) == Counter(row.tobytes() for row in file["images"])
        assert round(file["images"].mean() / 255, 4) == 0.0806
    kept = torch.cat([omniglot.train.labels, omniglot.valid.labels])
    assert torch.bincount(kept).tolist() == [15] * 1623
    assert torch.bincount(omniglot.test.labels).tolist() == [5] * 1623
    assert rows(load("omniglot", REAL).valid) == rows(omniglot.valid)


@pytest.mark.parametrize(
    ("word", "near"), [("mnits", "'mnist'"), ("MNIST", "'mnist'"), ("omni", "'omniglot'"), ("UKgas", "'uk_gas'")]
)
def test_unknown_name_gives_the_nearest(word, near):
    with pytest.raises(
        ValueError, match=f"no data set '{word}'. Did you mean {near}.*digits, mnist, binarized_mnist, omni"
    ):
        load(word)


def test_split_carries_labels_with_rows():
    split = load("digits").valid
    again = split.shuffled(3)
    assert torch.equal(again.levels, split.shuffled(3).levels)
    assert not torch.equal(again.levels, split.shuffled(4).levels)
    pairs = [Counter(zip(map(bytes, s.levels.numpy()), s.labels.tolist(), strict=True)) for s in (split, again)]
    assert pairs[0] == pairs[1]
    part = split[torch.tensor([7, 2])]
    assert torch.equal(part.images, split.images[[7, 2]])
    assert torch.equal(part.labels, split.labels[[7, 2]])
    assert len(replace(split, labels=None)[:5]) == 5
    with pytest.raises(TypeError, match="slice or a tensor"):
        split[3]


# Series and tracks

MONTHS = 12 * 12
LENGTHS = {
    "nile": 100,
    "air_passengers": MONTHS,
    "co2_weekly": 2284,
    "uk_gas": 108,
    "seatbelts": 192,
    "johnson_johnson": 84,
    "lake_huron": 98,
    "lynx": 114,
    "sunspot_year": 289,
    "us_accident_deaths": 72,
}
EMBEDDED = {"nile": "Nile", "air_passengers": "AirPassengers", "co2_weekly": "co2_weekly"}


@pytest.mark.parametrize("name", [name for name in LENGTHS if name in EMBEDDED or REAL])
def test_series_are_one_sequence_each(name):
    found = load(name, REAL)
    sequences, length = found.train, LENGTHS[name]
    assert sequences.values.shape == (1, length, found.data_dim)
    assert sequences.values.dtype == torch.float64
    assert len(sequences.columns) == found.data_dim
    assert (len(found.valid), len(found.test), found.num_levels) == (0, 0, None)
    steps = sequences.times[0].diff()
    assert torch.allclose(steps, steps[:1], rtol=1e-9)
    if name != "co2_weekly":
        assert sequences.mask.all()
        assert (sequences.times[0, 0] % 1, sequences.time_unit) == (0, "years")
    assert found.licence
    assert found.source


@real_files
@pytest.mark.parametrize("name", sorted(series.SERIES))
def test_series_hold_the_numbers_and_the_years_of_the_file(name):
    found = load(name, REAL).train
    path = Path(REAL, series.SERIES[name].file)
    table = np.genfromtxt(path, delimiter=",", names=True, deletechars="")
    columns = [table[word] for word in table.dtype.names if word not in ("rownames", "time")]
    assert np.array_equal(np.stack(columns, -1), found.values[0].numpy())
    if "time" in table.dtype.names:
        assert np.allclose(table["time"], found.times[0].numpy(), rtol=1e-12)


@real_files
@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_series_are_the_files(name):
    file = f"timeseries/{EMBEDDED[name]}.csv"
    assert (series.PACKAGE / file).read_bytes() == Path(REAL, file).read_bytes()


def test_nile_and_air_passengers_are_known():
    nile, air = load("nile").train, load("air_passengers").train
    assert nile.values.mean() == 919.35  # Durbin and Koopman
    assert nile.times[0, [0, -1]].tolist() == [1871, 1970]
    assert air.values[0, [0, -1], 0].tolist() == [112, 432]
    assert air.times[0, 15] == 1950.25


def test_co2_weeks_are_saturdays_and_missing_where_the_file_is_empty():
    co2 = load("co2_weekly").train
    days = co2.times[0].numpy().astype("datetime64[D]")
    assert [str(days[0]), str(days[-1])] == ["1958-03-29", "2001-12-29"]
    assert (np.diff(days) == np.timedelta64(7, "D")).all()
    text = (series.PACKAGE / "timeseries" / "co2_weekly.csv").read_text().split()[1:]
    present = torch.tensor([not line.endswith(",") for line in text])
    assert torch.equal(co2.mask[0], present)
    assert int((~co2.mask).sum()) == 59
    assert torch.equal(co2.values[0].isnan().squeeze(-1), ~present)
    assert co2.values[0, [0, -1], 0].tolist() == [316.1, 371.5]


@real_files
def test_gps_tracks_are_the_files_without_its_duplicates():
    tracks = load("gps_tracks", REAL).train
    with np.load(Path(REAL, "gps_go_track.npz")) as file:
        whole = dict(file)
    assert (len(tracks), len(np.unique(whole["track_id"]))) == (146, 163)
    seen = set()
    for row in range(len(tracks)):
        chosen, length = whole["track_id"] == int(tracks.labels[row]), int(tracks.lengths[row])
        fixes = np.stack([whole["longitude"][chosen], whole["latitude"][chosen]], -1)
        assert np.array_equal(fixes, tracks.values[row, :length].numpy())
        assert np.array_equal(whole["time"][chosen], tracks.times[row, :length].numpy())
        assert (tracks.times[row].diff() >= 0).all()
        assert not tracks.mask[row, length:].any()
        seen.add(fixes.tobytes() + whole["time"][chosen].tobytes())
    assert len(seen) == 146
    # Every track that was left out is a copy of one that is there.
    for track in np.unique(whole["track_id"]):
        chosen = whole["track_id"] == track
        fixes = np.stack([whole["longitude"][chosen], whole["latitude"][chosen]], -1)
        assert fixes.tobytes() + whole["time"][chosen].tobytes() in seen


@real_files
def test_gps_tracks_build_from_the_public_text(server, monkeypatch):
    """The text of the public file, in any order of its rows, gives the arrays of gps_go_track.npz."""
    with np.load(Path(REAL, "gps_go_track.npz")) as file:
        whole = dict(file)
    times = whole["time"].astype("datetime64[s]")
    order = np.argsort(whole["track_id"] % 7, kind="stable")
    text = "latitude,longitude,track_id,time\n" + "".join(
        f"{whole['latitude'][i]!r},{whole['longitude'][i]!r},{whole['track_id'][i]},{str(times[i]).replace('T', ' ')}\n"
        for i in order
    ).replace("np.float64(", "").replace(")", "")
    server["tracks.csv"] = text.encode(), len(text)
    local = replace(GPS_TRACKS, remotes=(Remote(server.url + "tracks.csv"),))
    monkeypatch.setattr(tracks, "GPS_TRACKS", local)
    assert torch.equal(load("gps_tracks").train.frames, load("gps_tracks", REAL).train.frames)


@real_files
def test_series_download(server, monkeypatch):
    gas = series.SERIES["uk_gas"]
    body = Path(REAL, gas.file).read_bytes()
    server["UKgas.csv"] = body, len(body)
    local = replace(gas, remotes=(Remote(server.url + "UKgas.csv", gas.remotes[0].digest),))
    monkeypatch.setitem(series.SERIES, "uk_gas", local)
    assert torch.equal(load("uk_gas").train.frames, load("uk_gas", REAL).train.frames)


def test_sequences_are_padded_behind_and_masked():
    found = ragged(stamps=torch.tensor([5.0, 6, 1, 2, 4, 8, 3]))
    nan = float("nan")
    expected = [[[0, 1], [2, 3], [0, 0], [0, 0]], [[4, 5], [nan, nan], [8, 9], [10, 11]], [[12, 13]] + 3 * [[0, 0]]]
    assert torch.equal(found.values.nan_to_num(-1), torch.tensor(expected).nan_to_num(-1))
    assert found.mask.tolist() == [[True, True, False, False], [True, False, True, True], [True, False, False, False]]
    assert found.times.tolist() == [[5, 6, 6, 6], [1, 2, 4, 8], [3, 3, 3, 3]]
    assert ragged().times.tolist() == [[0, 1, 1, 1], [0, 1, 2, 3], [0, 0, 0, 0]]


@pytest.mark.parametrize("rows", [slice(1, 3), torch.tensor([2, 0]), torch.tensor([True, False, True]), slice(0, 0)])
def test_rows_of_sequences(rows):
    whole = ragged(stamps=torch.arange(7.0), labels=torch.tensor([7, 8, 9]))
    part = whole[rows]
    longest = int(whole.lengths[rows].max()) if len(part) else 0
    assert torch.equal(part.lengths, whole.lengths[rows])
    assert torch.equal(part.labels, whole.labels[rows])
    for name in ("values", "mask", "times"):
        mine, theirs = getattr(part, name), getattr(whole, name)[rows][:, :longest]
        assert torch.equal(mine.nan_to_num(-1), theirs.nan_to_num(-1)), name


def test_shuffled_sequences_stay_whole():
    whole = ragged(labels=torch.tensor([7, 8, 9]))
    again = whole.shuffled(1)
    assert again.labels.tolist() == whole.shuffled(1).labels.tolist() != whole.labels.tolist()
    for row, label in enumerate(again.labels.tolist()):
        assert torch.equal(
            again[row : row + 1].values.nan_to_num(-1), whole[whole.labels == label].values.nan_to_num(-1)
        )


def test_integer_frames_become_float32():
    bits = torch.tensor([[1, 0], [0, 1], [1, 1]], dtype=torch.uint8)
    found = Sequences(bits, torch.tensor([1, 2]), ("low", "high"), num_levels=2)
    assert found.values.dtype == torch.float32
    assert found.values.tolist() == [[[1, 0], [0, 0]], [[0, 1], [1, 1]]]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"lengths": torch.tensor([2, 4])}, r"frames: expected shape \(6, 2\) by lengths .* got \(7, 2\)"),
        ({"columns": ("a",)}, r"frames: expected shape \(7, 1\) by .* columns, got \(7, 2\)"),
        ({"stamps": torch.zeros(6)}, r"stamps: expected shape \(7,\), one for each frame, got \(6,\)"),
        ({"truth": torch.zeros(7)}, r"truth: expected shape \(7, any\), one for each frame, got \(7,\)"),
        ({"controls": torch.zeros(6, 1)}, r"controls: expected shape \(7, any\), one for each frame, got \(6, 1\)"),
        ({"frame_labels": torch.zeros(6)}, r"frame_labels: expected shape \(7,\), one for each frame, got \(6,\)"),
        ({"lengths": torch.tensor([2, 0, 5])}, "sequence 1 has no frames"),
        (
            {"frames": torch.ones(7, 2).index_put((torch.tensor(4), torch.tensor(1)), torch.tensor(float("nan")))},
            "4 is",
        ),
    ],
)
def test_sequences_that_do_not_fit_are_refused(named, message):
    with pytest.raises(ValueError, match=message):
        ragged(**named)
    with pytest.raises(TypeError, match="slice or a tensor"):
        ragged()[1]


# Files


def test_folders_are_searched_in_order(cache, tmp_path, monkeypatch):
    assert folders() == [cache]
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "mine"))
    assert folders() == [tmp_path / "mine", cache]
    assert folders(tmp_path / "root") == [tmp_path / "root"]
    source = toy("http://nowhere.invalid/")
    put(cache)
    assert fetch(source)["content"].tobytes() == CONTENT
    put(tmp_path / "mine", b"not this")  # found first, and refused rather than passed over
    with pytest.raises(ValueError, match="mine"):
        fetch(source)


def test_other_content_names_file_expected_and_got(cache):
    other = b"x" + CONTENT[1:]
    path = put(cache, gzip.compress(other))
    with pytest.raises(ValueError, match="not the file it should be, or is damaged") as caught:
        fetch(toy("http://nowhere.invalid/"))
    message = str(caught.value)
    for text in (CONTENT, other):
        assert hashlib.sha256(text).hexdigest() in message
    assert f"Delete {path} and load again" in message
    assert "http://nowhere.invalid/noise.gz" in message
    assert path.exists(), "a user's file is never deleted"


def test_truncated_file_is_named(cache):
    path = put(cache, PACKED[:-100])
    with pytest.raises(ValueError, match="truncated or damaged: reading it gave EOFError") as caught:
        fetch(toy("http://nowhere.invalid/"))
    assert str(path) in str(caught.value)
    assert hashlib.sha256(CONTENT).hexdigest() in str(caught.value)
    assert hashlib.sha256(PACKED[:-100]).hexdigest() in str(caught.value)


@real_files
@pytest.mark.parametrize("name", ["mnist", "binarized_mnist", "omniglot"])
def test_truncated_real_file_is_named(name, tmp_path):
    whole = {"mnist": MNIST["train-images-idx3"], "binarized_mnist": BINARIZED_MNIST, "omniglot": OMNIGLOT}[name]
    path = tmp_path / whole.file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(Path(REAL, whole.file).read_bytes()[:-1000])
    with pytest.raises(ValueError, match="truncated or damaged") as caught:
        load(name, tmp_path)
    assert str(path) in str(caught.value)


def test_npz_with_other_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "omniglot_28.npz", pixels=np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match=r"it has \['pixels'\] but no 'images'"):
        load("omniglot", tmp_path)
    np.savez(tmp_path / "omniglot_28.npz", images=np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="the sha256 of its 'images'"):
        load("omniglot", tmp_path)


def test_missing_file_names_url_and_folders(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "mine"))
    with socket.socket() as taken:  # a port that nobody answers
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        with pytest.raises(FileNotFoundError, match=r"toy/noise\.gz was not found") as caught:
            fetch(toy(url))
    message = str(caught.value)
    assert url + "noise.gz" in message
    assert str(tmp_path / "mine" / "toy" / "noise.gz") in message
    assert str(cache / "toy" / "noise.gz") in message
    assert "ZOO_DATA" in message
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("name", ["mnist", "binarized_mnist", "omniglot", "frey_faces", "lynx", "gps_tracks"])
def test_without_pooch_the_error_says_what_to_install(name, cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(FileNotFoundError, match=r"pip install 'pyro-latent-zoo\[data\]'") as caught:
        load(name)
    assert "https://" in str(caught.value)
    assert str(cache) in str(caught.value)


def test_download_once_then_from_the_cache(cache, server):
    server["noise.gz"] = PACKED, len(PACKED)
    source = toy(server.url, PACKED_SHA256)
    for _ in range(2):
        assert fetch(source)["content"].tobytes() == CONTENT
    assert server.requests == ["/noise.gz"]
    assert files_below(cache) == [cache / "toy" / "noise.gz"]


@pytest.mark.parametrize(
    ("body", "length", "digest"),
    [
        pytest.param(PACKED[:2000], len(PACKED), None, id="connection lost"),
        pytest.param(PACKED[:2000], 2000, None, id="short file"),
        pytest.param(
            PACKED[:2000], 2000, "sha256:" + hashlib.sha256(PACKED).hexdigest(), id="short file, known digest"
        ),
        pytest.param(gzip.compress(b"sorry"), len(gzip.compress(b"sorry")), None, id="another file"),
        pytest.param(b"<html>sorry</html>", 18, None, id="a web page"),
        pytest.param(b"", 0, None, id="empty"),
    ],
)
def test_bad_download_leaves_nothing_behind(body, length, digest, cache, server):
    server["noise.gz"] = body, length
    with pytest.raises(FileNotFoundError, match="could not download") as caught:
        fetch(toy(server.url, digest))
    assert server.url + "noise.gz" in str(caught.value)
    assert files_below(cache) == []
    server["noise.gz"] = PACKED, len(PACKED)
    assert fetch(toy(server.url))["content"].tobytes() == CONTENT, "the next attempt starts clean"


def test_404_and_a_folder_that_cannot_be_made(tmp_path, server):
    with pytest.raises(FileNotFoundError, match="404"):
        fetch(toy(server.url))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileNotFoundError, match=r"because: .*file"):
        fetch(toy(server.url), tmp_path / "file" / "folder")


def test_file_fetched_by_hand_needs_no_network(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    (tmp_path / "noise.gz").write_bytes(PACKED)
    assert fetch(toy("http://nowhere.invalid/"))["content"].tobytes() == CONTENT
    assert (cache / "toy" / "noise.gz").read_bytes() == PACKED


@real_files
def test_mnist_downloads(server, monkeypatch):
    for source in MNIST.values():
        body = Path(REAL, source.file).read_bytes()  # not the public gzip wrapping, so the digest is left out
        server[source.remotes[0].name] = body, len(body)
    local = {k: replace(s, remotes=(Remote(server.url + s.remotes[0].name),)) for k, s in MNIST.items()}
    monkeypatch.setattr(digits, "MNIST", local)
    mnist = load("mnist")
    assert torch.equal(mnist.test.levels, load("mnist", REAL).test.levels)
    assert len(server.requests) == 4


@pytest.mark.thorough
@real_files
def test_binarized_mnist_builds_from_the_public_texts(server, monkeypatch):
    mine = load("binarized_mnist", REAL)
    for name, split in (("train", mine.train), ("valid", mine.valid), ("test", mine.test)):
        text = np.full((len(split), 2 * 784), ord(" "), np.uint8)
        text[:, ::2] = split.levels.numpy() + ord("0")
        text[:, -1] = ord("\n")
        server[f"binarized_mnist_{name}.amat"] = text.tobytes(), text.size
    local = tuple(Remote(server.url + remote.name, remote.digest) for remote in BINARIZED_MNIST.remotes)
    monkeypatch.setattr(digits, "BINARIZED_MNIST", replace(BINARIZED_MNIST, remotes=local))
    built = load("binarized_mnist")
    for split in ("train", "valid", "test"):
        assert torch.equal(getattr(built, split).levels, getattr(mine, split).levels)
        assert getattr(built, split).labels is None


def omniglot_archives(chosen: np.ndarray | slice) -> list[bytes]:
    """Drawings of the original resolution in the layout of the two public archives: black on white, 1-bit PNG."""
    with np.load(Path(REAL, "omniglot_105.npz")) as file:
        drawings = {name: array if name == "alphabet_names" else array[chosen] for name, array in file.items()}
    ink = np.unpackbits(drawings["images"], axis=-1, count=105 * 105).reshape(-1, 105, 105)
    archives = []
    for evaluation, folder in enumerate(("images_background", "images_evaluation")):
        body = io.BytesIO()
        with zipfile.ZipFile(body, "w") as archive:
            rows = np.flatnonzero(drawings["evaluation"] == evaluation)
            for row in np.random.default_rng(0).permutation(rows):  # an archive's order is not to be relied on
                png = io.BytesIO()
                Image.fromarray(ink[row] == 0).save(png, "PNG", compress_level=1)
                alphabet = drawings["alphabet_names"][drawings["alphabet"][row]]
                drawing = f"{drawings['character_id'][row]:04}_{drawings['drawer'][row]:02}.png"
                archive.writestr(
                    f"{folder}/{alphabet}/character{drawings['character'][row]:02}/{drawing}", png.getvalue()
                )
        archives.append(body.getvalue())
    return archives


@real_files
def test_omniglot_build_shrinks_and_chooses_as_in_the_file(tmp_path):
    """The first three alphabets (the second is in the evaluation archive) give their rows of omniglot_28.npz."""
    with np.load(Path(REAL, "omniglot_28.npz")) as file:
        expected = dict(file)
    chosen = np.flatnonzero(expected["alphabet"] < 3)
    paths = [tmp_path / "background.zip", tmp_path / "evaluation.zip"]
    for path, body in zip(paths, omniglot_archives(chosen), strict=True):
        path.write_bytes(body)
    OMNIGLOT.build(paths, tmp_path / "built.npz")
    with np.load(tmp_path / "built.npz") as built:
        assert set(built) == set(OMNIGLOT.sha256)
        for name in built:
            assert np.array_equal(built[name], expected[name][chosen]), name


@pytest.mark.slow
@real_files
def test_omniglot_builds_from_the_public_archives(server, monkeypatch):
    remotes = []
    for remote, body in zip(OMNIGLOT.remotes, omniglot_archives(slice(None)), strict=True):
        server[remote.name] = body, len(body)
        remotes.append(Remote(server.url + remote.name))
    monkeypatch.setattr(letters, "OMNIGLOT", replace(OMNIGLOT, remotes=tuple(remotes)))
    built, mine = load("omniglot"), load("omniglot", REAL)
    for split in ("train", "valid", "test"):
        assert torch.equal(getattr(built, split).levels, getattr(mine, split).levels)
        assert torch.equal(getattr(built, split).labels, getattr(mine, split).labels)


# Binarisation

Z = 5.0  # two-sided normal tail 6e-7


@pytest.mark.parametrize("num_levels", [2, 17, 256])
@pytest.mark.parametrize("as_floats", [False, True])
def test_bits_have_the_grey_mean(num_levels, as_floats):
    repeats = 40_000
    levels = torch.arange(num_levels, dtype=torch.uint8).repeat(repeats, 1)
    split = Split(levels, None, num_levels)
    (bits,) = Binarized(split.images if as_floats else split).batch(
        torch.arange(repeats), torch.Generator().manual_seed(0)
    )
    assert bits.shape == levels.shape
    assert bits.dtype == torch.float32
    assert ((bits == 0) | (bits == 1)).all()
    p = torch.arange(num_levels, dtype=torch.float64) / (num_levels - 1)
    mean, variance = bits.double().mean(0), p * (1 - p) / repeats
    assert mean[0] == 0
    assert mean[-1] == 1
    assert ((mean - p).abs() <= Z * variance.sqrt()).all()
    # All levels together are sharper: dividing by num_levels instead of num_levels - 1 would be 15 sd off at 256.
    assert (mean - p).sum().abs() <= Z * variance.sum().sqrt()


def test_bits_are_independent_between_pixels_and_rows():
    """Four pixels share one 64-bit draw: no correlation at any short lag."""
    (bits,) = Binarized(torch.full((1000, 999), 0.5)).batch(torch.arange(1000), torch.Generator().manual_seed(1))
    signs = 2 * bits.double().flatten() - 1
    for lag in (1, 2, 3, 4, 5, 8, 999):
        products = signs[lag:] * signs[:-lag]
        assert products.sum().abs() < Z * len(products) ** 0.5, lag


def test_every_epoch_draws_anew_and_a_generator_state_fixes_the_draw():
    data, index = Binarized(load("digits").train), torch.randperm(1197, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(7)
    first, second = (data.batch(index, generator)[0] for _ in range(2))
    again = data.batch(index, torch.Generator().manual_seed(7))[0]
    assert torch.equal(first, again)
    grey = load("digits").train.images[index].double()
    # Two draws of a pixel differ with probability 2 p (1 - p).
    p = 2 * grey * (1 - grey)
    assert abs((first != second).double().sub(p).sum() / (p * (1 - p)).sum().sqrt()) < Z


def test_batch_gives_the_rows_of_the_index():
    rows = torch.randint(2, (50, 4, 3), generator=torch.Generator().manual_seed(0)).float()
    index = torch.tensor([3, 49, 3, 0])
    data = Binarized(rows)
    assert len(data) == 50
    assert torch.equal(data.batch(index, torch.Generator())[0], rows[index])  # probabilities 0 and 1 are certain


def test_binarize_is_fixed_by_its_seed():
    digits = load("digits")
    assert torch.equal(binarize(digits.test, 1), binarize(digits.test, 1))
    assert not torch.equal(binarize(digits.test, 1), binarize(digits.test, 2))
    assert torch.equal(binarize(digits.test, 1), binarize(digits.test.images, 1))
    bits = Split(torch.tensor([[0, 1, 1, 0]], dtype=torch.uint8), None, 2)
    assert torch.equal(binarize(bits, 0), bits.images)


@pytest.mark.parametrize("bad", [float("nan"), -0.1, 1.5, float("inf")])
def test_what_is_no_probability_is_refused_with_its_rows(bad):
    grey = torch.full((6, 3), 0.5)
    grey[4, 1] = grey[2, 0] = bad
    for use in (Binarized, lambda x: binarize(x, 0)):
        with pytest.raises(ValueError, match=r"2 rows are not probabilities .*\[2, 4\]"):
            use(grey)


def test_integers_without_a_scale_are_refused():
    with pytest.raises(TypeError, match="uint8 pixels without their scale"):
        Binarized(load("digits").train.levels)
