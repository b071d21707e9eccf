"""Handwritten digits: scikit-learn's small ones, grey MNIST, and MNIST in fixed bits."""

from pathlib import Path

import numpy as np

from zoo.data import manifest
from zoo.data.dataset import Dataset, Split
from zoo.data.loaders.readers import copy, read_gzip, read_npz
from zoo.data.loaders.rows import by_class, split
from zoo.data.sources import Root, check_content, fetch


def digits(root: Root = None) -> Dataset[Split]:
    """8x8 digits, values 0 .. 16 (`images` = levels / 16), bundled with scikit-learn.

    They are the 1,797 test images of UCI's "Optical Recognition of Handwritten Digits". The split is ours: of each
    class every sixth row to test and every sixth to validation, after a shuffle with seed 0 (`by_class`). Writers are
    not kept apart.
    """
    from sklearn.datasets import load_digits

    bundle = load_digits()
    levels, labels = bundle.data.astype(np.uint8), bundle.target.astype(np.uint8)
    origin, sha256 = "sklearn.datasets.load_digits", manifest.SETS["digits"]["sha256"]
    check_content({"data": levels, "target": labels}, sha256, f"{origin}()")
    train, valid, test = (split(levels[rows], labels[rows], 17) for rows in by_class(labels, every=6))
    known = {f"{origin}/{part}": value for part, value in sha256.items()}
    return manifest.dataset("digits", (train, valid, test), (8, 8), known)


MNIST = {
    name: manifest.file(f"mnist/{name}-ubyte.gz", read_gzip, copy)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
}


def mnist(root: Root = None) -> Dataset[Split]:
    """Grey MNIST, 0 .. 255 (`images` = levels / 255); validation is the last 10,000 training images.

    Other splits in print, from the same rows: IWAE trains on the first 59,600 and validates on the last 400
    (`torch.cat([train.levels, valid.levels])` has all 60,000 in file order); LVAE and BIVA train on all 60,000.
    """
    # The sha256 has settled the content, so that the idx headers (16 bytes of images, 8 of labels) need no parsing.
    parts = {name: fetch(source, root)["content"] for name, source in MNIST.items()}
    images, test_images = (parts[f"{name}-images-idx3"][16:].reshape(-1, 784) for name in ("train", "t10k"))
    labels, test_labels = (parts[f"{name}-labels-idx1"][8:] for name in ("train", "t10k"))
    train = split(images[:50_000], labels[:50_000], 256)
    valid = split(images[50_000:], labels[50_000:], 256)
    digests = {name: value for source in MNIST.values() for name, value in source.digests().items()}
    return manifest.dataset("mnist", (train, valid, split(test_images, test_labels, 256)), (28, 28), digests)


def _pack_texts(downloaded: list[Path], target: Path) -> None:
    """Packs three texts, each line 784 characters 0 or 1 with one space between them, to bits."""
    # Every character is one byte, followed by a space or by the line's end: the bytes are the table, without a parser
    # for 55 million numbers.
    texts = [np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 2 * 784) for path in downloaded]
    train, valid, test = (np.packbits(text[:, ::2] - ord("0"), axis=-1) for text in texts)
    np.savez_compressed(target, train=train, valid=valid, test=test)


BINARIZED_MNIST = manifest.file("binarized_mnist.npz", read_npz, _pack_texts)


def binarized_mnist(root: Root = None) -> Dataset[Split]:
    """MNIST in bits fixed by Larochelle, 50,000/10,000/10,000: the "static MNIST" of NADE, MADE, flows and BIVA.

    **The test set is ordered by class**: `test.shuffled()[:n]` is a sample of it, `test[:n]` is zeros. The original has
    no labels. Those of this project's own file were worked out: exactly in test; in train and valid as the labels of
    the most likely grey image (99.5 % of the matches are unique). Data from the original text files have labels None.
    """
    parts = fetch(BINARIZED_MNIST, root)
    train, valid, test = (
        split(np.unpackbits(parts[name], axis=-1, count=784), parts.get(f"{name}_label"), 2)
        for name in ("train", "valid", "test")
    )
    return manifest.dataset("binarized_mnist", (train, valid, test), (28, 28), BINARIZED_MNIST.digests(parts))
