"""Faces in grey: forty persons (Olivetti), and one video of one person (Frey)."""

from pathlib import Path

import numpy as np

from zoo.data import manifest
from zoo.data.dataset import Dataset, Split
from zoo.data.loaders.readers import read_npz
from zoo.data.loaders.rows import split
from zoo.data.sources import Root, fetch


def _stand_upright(downloaded: list[Path], target: Path) -> None:
    """Builds olivetti_faces.npz from the .mat file: `faces` `(4096, 400)`: a column is an image, column by column."""
    from scipy.io import loadmat

    columns = loadmat(downloaded[0])["faces"]
    images = np.ascontiguousarray(columns.T.reshape(-1, 64, 64).swapaxes(1, 2), np.uint8)
    np.savez_compressed(target, images=images, person=np.repeat(np.arange(40, dtype=np.uint8), 10))


OLIVETTI_FACES = manifest.file("olivetti_faces.npz", read_npz, _stand_upright)


def olivetti_faces(root: Root = None) -> Dataset[Split]:
    """400 faces at 64x64, 0 .. 255 (`images` = levels / 255), 10 images of each of 40 persons; labels are the persons.

    The split is ours, and by person: 30/5/5 of them, shuffled with seed 0, which is 300/50/50 images. The persons of
    the test set are not among those of training.
    """
    parts = fetch(OLIVETTI_FACES, root)
    images, person = parts["images"], parts["person"]
    # The ten images of a person are much alike: a split by image would reward a model that remembers persons.
    persons = np.random.RandomState(0).permutation(40)
    rows = [np.flatnonzero(np.isin(person, chosen)) for chosen in (persons[:30], persons[30:35], persons[35:])]
    train, valid, test = (split(images[part], person[part], 256) for part in rows)
    return manifest.dataset("olivetti_faces", (train, valid, test), (64, 64), OLIVETTI_FACES.digests())


def _cut_frames(downloaded: list[Path], target: Path) -> None:
    """Builds frey_faces.npz from the .mat file: `ff` `(560, 1965)`: a column is a frame, row by row."""
    from scipy.io import loadmat

    frames = loadmat(downloaded[0])["ff"].T.reshape(-1, 28, 20)
    np.savez_compressed(target, images=np.ascontiguousarray(frames, np.uint8))


FREY_FACES = manifest.file("frey_faces.npz", read_npz, _cut_frames)


def frey_faces(root: Root = None) -> Dataset[Split]:
    """1,965 frames of one face at 28x20, values 8 .. 238 of 0 .. 255 (`images` = levels / 255), no labels.

    1,565/200/200 frames after a shuffle with seed 0, the sizes of the literature (VampPrior and its followers), whose
    code shuffles with a seed of each run. The frames are consecutive in a video, so every test frame has near copies in
    training: a likelihood here says little of new faces.
    """
    images = fetch(FREY_FACES, root)["images"]
    rows = np.random.RandomState(0).permutation(len(images))
    train, valid, test = (split(images[part], None, 256) for part in np.split(rows, [1565, 1765]))
    return manifest.dataset("frey_faces", (train, valid, test), (28, 20), FREY_FACES.digests())
