"""Letters: the drawn characters of OMNIGLOT, and the printed ones of notMNIST."""

import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from zoo.data import manifest
from zoo.data.dataset import Dataset, Split
from zoo.data.loaders.readers import read_gzip, read_npz
from zoo.data.loaders.rows import by_class, split
from zoo.data.sources import Root, fetch


def _read_drawings(path: Path) -> list[tuple[tuple[str, int], np.ndarray]]:
    """(alphabet, character) and the 28x28 shares of ink of every drawing of an archive, 105x105 and black on white."""
    from PIL import Image, ImageOps

    found = []
    with zipfile.ZipFile(path) as archive:
        # The order of an archive is not to be relied on; that of the names is the order of the 105x105 file.
        for name in sorted(name.split("/") for name in archive.namelist() if name.endswith(".png")):
            *_, alphabet, character, _ = name
            with archive.open("/".join(name)) as file:
                ink = ImageOps.invert(Image.open(file).convert("L"))
            # BOX averages over exact areas, so that a pixel is the share of ink in it; the other filters ring.
            small = np.asarray(ink.resize((28, 28), Image.Resampling.BOX))
            found.append(((alphabet, int(character.removeprefix("character"))), small))
    return found


def _shrink_drawings(downloaded: list[Path], target: Path) -> None:
    """Builds omniglot_28.npz from the two archives, background and evaluation: images, indices, the test drawings."""
    characters, images = zip(*(drawing for path in downloaded for drawing in _read_drawings(path)), strict=True)
    rows = defaultdict(list)
    for row, key in enumerate(characters):
        rows[key].append(row)
    test = np.zeros(len(images), np.uint8)
    random = np.random.RandomState(0)
    # In the order of the names: the choice must not depend on which archive a character came from.
    for key in sorted(rows):
        test[np.array(rows[key])[random.choice(len(rows[key]), 5, replace=False)]] = 1
    _, alphabet_index = np.unique([alphabet for alphabet, _ in characters], return_inverse=True)
    np.savez_compressed(
        target,
        images=np.stack(images),
        alphabet=alphabet_index.astype(np.uint8),
        character=np.array([number for _, number in characters], np.uint8),
        test=test,
    )


OMNIGLOT = manifest.file("omniglot_28.npz", read_npz, _shrink_drawings)


def omniglot(root: Root = None) -> Dataset[Split]:
    """OMNIGLOT at 28x28, 0 .. 255 = share of ink (`images` = levels / 255); labels are the 1,623 characters.

    **Doubt**: papers use IWAE's `chardata.mat` (24,345 train, 8,070 test), which is another down-sampling and another
    choice of test drawings. Here the original 105x105 drawings are averaged over exact areas, and 5 of each
    character's 20 drawings, chosen with seed 0, are the 8,115 test images: likelihoods compare in kind, not to the
    decimal. The other 24,345 are shuffled with seed 123 and the last 1,345 are validation, as IWAE's code does with
    its own. Test is ordered by alphabet: see `Split.shuffled`.
    """
    parts = fetch(OMNIGLOT, root)
    # A character's number counts within its alphabet, none of which has 100.
    _, labels = np.unique(parts["alphabet"].astype(int) * 100 + parts["character"], return_inverse=True)
    rest, test = (np.flatnonzero(parts["test"] == flag) for flag in (0, 1))
    rest = np.random.RandomState(123).permutation(rest)
    train, valid, test_split = (
        split(parts["images"][rows], labels[rows], 256) for rows in (rest[:-1345], rest[-1345:], test)
    )
    return manifest.dataset("omniglot", (train, valid, test_split), (28, 28), OMNIGLOT.digests())


def _pack_idx(downloaded: list[Path], target: Path) -> None:
    """Builds notmnist_10k.npz from the images and the labels in MNIST's own format."""
    images, labels = (read_gzip(path)["content"] for path in downloaded)
    np.savez_compressed(target, images=images[16:].reshape(-1, 28, 28), labels=labels[8:])


# The public files bear the names of MNIST's own; the manifest saves them under others, so that a folder may have both.
NOTMNIST = manifest.file("notmnist_10k.npz", read_npz, _pack_idx)


def notmnist(root: Root = None) -> Dataset[Split]:
    """10,000 printed letters A to J at 28x28, 0 .. 255 = ink; `labels` 0 .. 9 are the letters, 1,000 of each.

    They are drawn from the clean "small" set of notMNIST. The split is ours: of each letter every tenth row to test and
    every tenth to validation, after a shuffle with seed 0 (`by_class`). Fonts are not kept apart.
    """
    parts = fetch(NOTMNIST, root)
    images, labels = parts["images"], parts["labels"]
    train, valid, test = (split(images[rows], labels[rows], 256) for rows in by_class(labels, every=10))
    return manifest.dataset("notmnist_10k", (train, valid, test), (28, 28), NOTMNIST.digests())
