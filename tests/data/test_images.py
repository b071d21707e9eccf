"""The image sets of letters, faces and pictures: exact facts, splits, builds from the public files; the manifest."""

import gzip
import io
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from zoo.data import load, manifest
from zoo.data.catalogue import DATASETS
from zoo.data.loaders import faces, letters, pictures
from zoo.data.loaders.rows import by_class
from zoo.data.sources import Remote, fetch

REAL = os.environ.get("ZOO_DATA")
real_files = pytest.mark.skipif(not REAL, reason="needs the real data sets: set ZOO_DATA to their folder")
IMAGES = {  # rows of train, valid, test, shape, classes
    "notmnist_10k": ((8000, 1000, 1000), (28, 28), 10),
    "olivetti_faces": ((300, 50, 50), (64, 64), 40),
    "frey_faces": ((1565, 200, 200), (28, 20), None),
    "cifar10_first4000": ((3000, 500, 500), (32, 32, 3), 10),
    "photos": ((164, 21, 21), (64, 64, 3), 4),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache for every test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def whole(name):
    with np.load(Path(REAL, f"{name}.npz")) as file:
        return dict(file)


def splits(data):
    return data.train, data.valid, data.test


@real_files
@pytest.mark.parametrize("name", IMAGES)
def test_sizes_and_levels(name):
    data, (sizes, shape, classes) = load(name), IMAGES[name]
    assert tuple(map(len, splits(data))) == sizes
    assert (data.shape, data.num_levels, data.data_dim) == (shape, 256, np.prod(shape))
    for split in splits(data):
        assert split.levels.dtype == torch.uint8
        assert split.images.dtype == torch.float32
        assert torch.equal(split.images, split.levels / 255)
        assert (split.labels is None) == (classes is None)
    if classes:
        labels = torch.cat([split.labels for split in splits(data)])
        assert set(labels.tolist()) == set(range(classes))
    assert all((data.licence, data.source, data.note, data.sha256))


@real_files
@pytest.mark.parametrize("name", [name for name in IMAGES if name != "photos"])
def test_splits_hold_the_images_of_the_file_with_their_labels(name):
    file, data = whole(name), load(name)
    labels = file.get("labels", file.get("person", np.zeros(len(file["images"]), int)))
    mine = [
        (row.tobytes(), 0 if split.labels is None else int(split.labels[n]))
        for split in splits(data)
        for n, row in enumerate(split.levels.numpy())
    ]
    theirs = [(row.tobytes(), int(label)) for row, label in zip(file["images"], labels, strict=True)]
    assert Counter(mine) == Counter(theirs)


@real_files
def test_letters_are_split_by_class():
    data = load("notmnist_10k")
    for split, each in zip(splits(data), (800, 100, 100), strict=True):
        assert split.labels.bincount().tolist() == [each] * 10
        assert not torch.equal(split.labels, split.labels.sort().values), "ordered by class"


@real_files
def test_no_face_of_test_is_of_a_person_in_training():
    persons = [set(split.labels.tolist()) for split in splits(load("olivetti_faces"))]
    assert list(map(len, persons)) == [30, 5, 5]
    assert len(set.union(*persons)) == 40


@real_files
def test_frames_of_the_video_are_shuffled():
    file, data = whole("frey_faces")["images"].reshape(1965, -1).astype(float), load("frey_faces")
    steps = [np.abs(np.diff(rows, axis=0)).mean() for rows in (file, data.train.levels.numpy().astype(float))]
    assert steps[0] < 0.5 * steps[1]


@real_files
def test_channels_of_a_pixel_stand_together():
    data = load("cifar10_first4000")
    assert data.train.levels[0, :6].tolist() == [59, 62, 63, 43, 46, 45]  # the first pixels of data_batch_1, red first
    channels_first = data.train.images[:2].unflatten(-1, data.shape).movedim(-1, -3)
    assert channels_first.shape == (2, 3, 32, 32)
    assert channels_first.is_contiguous(memory_format=torch.channels_last)
    assert data.train.labels[:5].tolist() == [6, 9, 9, 4, 1]  # as in data_batch_1


@real_files
def test_photos_are_put_together_again_by_their_tiles():
    data, file = load("photos"), whole("photos")
    tiles = Counter(row.tobytes() for split in splits(data) for row in split.levels.numpy())
    seen = 0
    for photo in file.values():
        for top in range(0, photo.shape[0] - 63, 64):
            for left in range(0, photo.shape[1] - 63, 64):
                assert tiles[photo[top : top + 64, left : left + 64].tobytes()]
                seen += 1
    assert seen == sum(tiles.values()) == 206
    assert fetch(pictures.PHOTO_FILE)["chelsea"].shape == (300, 451, 3)


def test_rows_by_class_are_shared_out_to_within_one():
    labels = np.random.default_rng(0).integers(3, size=100)
    parts = by_class(labels, every=5)
    assert sorted(np.concatenate(parts).tolist()) == list(range(100))
    for part, share in zip(parts, (3 / 5, 1 / 5, 1 / 5), strict=True):
        assert (part == np.sort(part)).all()
        assert (np.abs(np.bincount(labels[part], minlength=3) - share * np.bincount(labels)) <= 1).all()


# Builds from the files that the public places serve, made here from this project's copies


def png(picture):
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def mat(**arrays):
    stream = io.BytesIO()
    savemat(stream, arrays)
    return stream.getvalue()


def public_files(name):
    file = whole(name)
    if name == "notmnist_10k":
        return [gzip.compress(bytes(16) + file["images"].tobytes()), gzip.compress(bytes(8) + file["labels"].tobytes())]
    if name == "cifar10_first4000":
        return [png(part.reshape(1000, 1024, 3)) for part in np.split(file["images"], 4)]
    if name == "photos":
        return [png(file[photo]) for photo in pictures.PHOTOS]
    if name == "olivetti_faces":
        return [mat(faces=np.stack([face.flatten(order="F") for face in file["images"]], -1))]
    return [mat(ff=file["images"].reshape(1965, 560).T)]


SOURCES = {
    "notmnist_10k": (letters, "NOTMNIST"),
    "olivetti_faces": (faces, "OLIVETTI_FACES"),
    "frey_faces": (faces, "FREY_FACES"),
    "cifar10_first4000": (pictures, "CIFAR10_FIRST4000"),
    "photos": (pictures, "PHOTO_FILE"),
}


@pytest.mark.thorough
@real_files
@pytest.mark.parametrize("name", IMAGES)
def test_build_from_the_public_files(name, tmp_path, monkeypatch):
    """Files fetched by hand: the same images, and the labels where the public files have them."""
    expected = load(name)
    source = getattr(*SOURCES[name])
    monkeypatch.delenv("ZOO_DATA")
    folder = tmp_path / "xdg" / "pyro-latent-zoo"
    folder.mkdir(parents=True)
    for remote, body in zip(source.remotes, public_files(name), strict=True):
        (folder / remote.name).write_bytes(body)
    built = load(name)
    for mine, theirs in zip(splits(built), splits(expected), strict=True):
        assert torch.equal(mine.levels, theirs.levels)
        if name == "cifar10_first4000":
            assert mine.labels is None
        elif theirs.labels is not None:
            assert torch.equal(mine.labels, theirs.labels)
    assert set(built.sha256) == {key for key in expected.sha256 if key != "cifar10_first4000.npz/labels"}
    assert (folder / source.file).is_file()


# The manifest


def test_every_set_has_its_terms_and_every_file_its_urls():
    assert set(manifest.SETS) == set(DATASETS)
    for name, facts in manifest.SETS.items():
        assert facts["licence"], name
        assert facts["source"], name
        assert facts.get("file", "timeseries/").startswith("timeseries/"), name
    for name, facts in manifest.FACTS["files"].items():
        assert facts["urls"], name
        assert all(len(value) == 64 for value in facts["sha256"].values()), name
        assert set(facts.get("optional", [])) <= set(facts["sha256"]), name


def test_no_two_downloads_share_a_name():
    """A file fetched by hand is found by its name: notMNIST's are called as MNIST's on the web, and not here."""
    names = [Remote(url["url"], None, url.get("name")).name for facts in manifest.FACTS["files"].values()
             for url in facts["urls"]]  # fmt: skip
    assert len(set(names)) == len(names)


def test_an_error_tells_the_name_under_which_a_download_is_saved(tmp_path, monkeypatch):
    renamed = tuple(replace(remote, url=f"http://127.0.0.1:1/{n}") for n, remote in enumerate(letters.NOTMNIST.remotes))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(FileNotFoundError, match=r"127\.0\.0\.1:1/0 \(as notmnist-images-idx3-ubyte\.gz\)"):
        fetch(replace(letters.NOTMNIST, remotes=renamed), tmp_path)
