"""The data sets by name: their splits, scales, terms and doubts."""

import difflib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from zoo.data.dataset import Dataset, Split
from zoo.data.files import BINARIZED_MNIST, DIGITS, MNIST, OMNIGLOT
from zoo.data.music import MUSIC_SETS
from zoo.data.recordings import RECORDINGS
from zoo.data.series import SEQUENCES
from zoo.data.sources import Root, Source, check, fetch


def load(name: str, root: Root = None) -> Dataset[Any]:
    """A data set: checked arrays, the splits of the literature, its terms.

    Images, each split a `Split`:

    ==================  ========================  ======  ====================================================
    name                train / valid / test      levels  what
    ==================  ========================  ======  ====================================================
    `digits`            1,197 / 300 / 300         17      8x8 digits bundled with scikit-learn, no file needed
    `mnist`             50,000 / 10,000 / 10,000  256     grey MNIST; bits at each access by `Binarized`
    `binarized_mnist`   50,000 / 10,000 / 10,000  2       Larochelle's fixed bits ("static MNIST")
    `omniglot`          23,000 / 1,345 / 8,115    256     28x28, *not* the `chardata.mat` of the IWAE paper
    ==================  ========================  ======  ====================================================

    Music, speech and motion, each split a `Sequences`:

    =================  =====================  ==================================================================
    name               train / valid / test   what
    =================  =====================  ==================================================================
    `cadences`         200 / 50 / 50          generated chords on 88 keys, exact log p(x) known, no file needed
    `jsb`              229 / 76 / 77          chorales of J. S. Bach, 88 keys as bits
    `nottingham`       694 / 173 / 170        folk tunes
    `piano_midi`       87 / 12 / 25           classical piano
    `muse_data`        524 / 135 / 124        orchestral and piano classics
    `jsb_srnn`, ...    chunks / chunks / songs  the four in SRNN's files: *other frames*, see `music_srnn`
    `spoken_digits`    2,400 / 300 / 300      digits at 8 kHz, frames of 200 samples
    `ljspeech_32`      24 / 4 / 4             read sentences at 16 kHz, frames of 200 samples
    `mocap_cmu35`      16 / 3 / 4             walks, 300 frames of 50 joint angles
    =================  =====================  ==================================================================

    Series and tracks, each split a `Sequences`; none of these has a split of its own, so all is in `train`:

    ====================  ===============  ===========================================================
    name                  sequences        what
    ====================  ===============  ===========================================================
    `nile`                100 years        flow at Aswan, 1871-1970; comes with the package
    `air_passengers`      144 months       airline passengers, 1949-1960; comes with the package
    `co2_weekly`          2,284 weeks      CO2 at Mauna Loa, 1958-2001, 59 missing; comes with the package
    `uk_gas`              108 quarters     gas consumption, 1960-1986
    `seatbelts`           192 months       8 columns of road casualties and covariates, 1969-1984
    `johnson_johnson`     84 quarters      earnings a share, 1960-1980
    `lake_huron`          98 years         water level, 1875-1972
    `lynx`                114 years        trappings, 1821-1934
    `sunspot_year`        289 years        sunspot numbers, 1700-1988
    `us_accident_deaths`  72 months        accidental deaths, 1973-1978
    `gps_tracks`          146 tracks       longitude and latitude of vehicles, irregular times
    ====================  ===============  ===========================================================

    Files are looked for in `$ZOO_DATA`, then in the cache (`$XDG_CACHE_HOME` or `~/.cache`, `/pyro-latent-zoo`),
    then downloaded there with pooch (`ljspeech_32` cannot be). With `root`, that folder stands for both. The sha256 of
    every file's content is checked at each load, wherever it came from. Each data set's own function says how it is
    split and scaled.

    Args:
        name: one of the names above.
        root: a folder to use instead of `$ZOO_DATA` and the cache (sets that come with a package need none).

    Raises:
        ValueError: an unknown name, or a file whose content is not what it should be.
        FileNotFoundError: a file that is nowhere and cannot be downloaded; it names the folders and the URL.
    """
    if name not in DATASETS:
        near = difflib.get_close_matches(str(name).lower(), DATASETS, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no data set {name!r}.{hint} There are {', '.join(DATASETS)}.")
    return DATASETS[name](root)


def digits(root: Root = None) -> Dataset[Split]:
    """8x8 digits, values 0 .. 16 (`images` = levels / 16), bundled with scikit-learn.

    They are the 1,797 test images of UCI's "Optical Recognition of Handwritten Digits". The split is ours: rows
    shuffled with seed 0, then every sixth row of each class to test and every sixth to validation (stratified to within
    one image), back in file order. Writers are not kept apart.
    """
    from sklearn.datasets import load_digits

    bundle = load_digits()
    levels, labels = bundle.data.astype(np.uint8), bundle.target.astype(np.uint8)
    check({"data": levels, "target": labels}, DIGITS, "sklearn.datasets.load_digits()")
    rows = np.random.RandomState(0).permutation(len(labels))
    rows = rows[np.argsort(labels[rows], kind="stable")]
    turn = np.arange(len(rows)) % 6
    parts = [np.sort(rows[chosen]) for chosen in (turn > 1, turn == 1, turn == 0)]
    train, valid, test = (_split(levels[part], labels[part], 17) for part in parts)
    return Dataset(
        name="digits",
        train=train,
        valid=valid,
        test=test,
        shape=(8, 8),
        licence="CC BY 4.0 (UCI repository)",
        source="E. Alpaydin & C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998; from scikit-learn",
        sha256={f"sklearn.datasets.load_digits/{part}": value for part, value in DIGITS.items()},
        note="split by this library: numbers compare only within it",
    )


def mnist(root: Root = None) -> Dataset[Split]:
    """Grey MNIST, 0 .. 255 (`images` = levels / 255); validation is the last 10,000 training images.

    Other splits in print, from the same rows: IWAE trains on the first 59,600 and validates on the last 400
    (`torch.cat([train.levels, valid.levels])` has all 60,000 in file order); LVAE and BIVA train on all 60,000.
    """
    parts = {name: fetch(source, root)["content"] for name, source in MNIST.items()}
    # The content is known by its sha256, so the idx headers (16 and 8 bytes) need no parsing.
    images, test_images = (parts[name][16:].reshape(-1, 784) for name in ("train-images", "t10k-images"))
    labels, test_labels = (parts[name][8:] for name in ("train-labels", "t10k-labels"))
    return Dataset(
        name="mnist",
        shape=(28, 28),
        train=_split(images[:50_000], labels[:50_000], 256),
        valid=_split(images[50_000:], labels[50_000:], 256),
        test=_split(test_images, test_labels, 256),
        licence="CC BY-SA 3.0 as it is generally distributed; the files state none",
        source="Y. LeCun, C. Cortes & C. J. C. Burges, The MNIST database of handwritten digits",
        sha256=_sha256(*MNIST.values()),
        note="IWAE splits 59,600/400, LVAE and BIVA train on all 60,000; static and dynamic bits do not compare",
    )


def binarized_mnist(root: Root = None) -> Dataset[Split]:
    """MNIST in bits fixed by Larochelle, 50,000/10,000/10,000: the "static MNIST" of NADE, MADE, flows and BIVA.

    **The test set is ordered by class**: `test.shuffled()[:n]` is a sample of it, `test[:n]` is zeros. The original has
    no labels; those of this project's own file were worked out (exact in test; in train and valid by the most likely
    grey image, 99.5 % of the matches unique). They are None where the data came from the original text files.
    """
    parts = fetch(BINARIZED_MNIST, root)
    train, valid, test = (
        _split(np.unpackbits(parts[name], axis=-1, count=784), parts.get(f"{name}_label"), 2)
        for name in ("train", "valid", "test")
    )
    return Dataset(
        name="binarized_mnist",
        train=train,
        valid=valid,
        test=test,
        shape=(28, 28),
        licence="none stated; MNIST's terms apply",
        source="H. Larochelle & I. Murray, The Neural Autoregressive Distribution Estimator, AISTATS 2011; bits after "
        "R. Salakhutdinov & I. Murray, ICML 2008",
        sha256={name: value for name, value in _sha256(BINARIZED_MNIST).items() if name.split("/")[-1] in parts},
        note="test is ordered by class; about 2 nats worse than dynamic MNIST for the same model (IWAE's README)",
    )


def omniglot(root: Root = None) -> Dataset[Split]:
    """OMNIGLOT at 28x28, 0 .. 255 = share of ink (`images` = levels / 255); labels are the 1,623 characters.

    **Doubt**: papers use IWAE's `chardata.mat` (24,345 train, 8,070 test), which is another down-sampling and another
    choice of test drawings. Here the original 105x105 drawings are averaged over exact areas, and 5 of each
    character's 20 drawings, chosen with seed 0, are the 8,115 test images: likelihoods compare in kind, not to the
    decimal. The other 24,345 are shuffled with seed 123 and the last 1,345 are validation, as IWAE's code does with
    its own. Test is ordered by alphabet: see `Split.shuffled`.
    """
    parts = fetch(OMNIGLOT, root)
    images = parts["images"].reshape(-1, 784)
    _, labels = np.unique(parts["alphabet"].astype(int) * 100 + parts["character"], return_inverse=True)
    rest, test = (np.flatnonzero(parts["test"] == flag) for flag in (0, 1))
    rest = np.random.RandomState(123).permutation(rest)
    train, valid, test_split = (_split(images[rows], labels[rows], 256) for rows in (rest[:-1345], rest[-1345:], test))
    return Dataset(
        name="omniglot",
        train=train,
        valid=valid,
        test=test_split,
        shape=(28, 28),
        licence="MIT (github.com/brendenlake/omniglot)",
        source="B. M. Lake, R. Salakhutdinov & J. B. Tenenbaum, Human-level concept learning, Science 2015",
        sha256=_sha256(OMNIGLOT),
        note="not the chardata.mat of IWAE: other down-sampling and test drawings, numbers compare in kind only",
    )


DATASETS: dict[str, Callable[[Root], Dataset[Any]]] = {
    "digits": digits,
    "mnist": mnist,
    "binarized_mnist": binarized_mnist,
    "omniglot": omniglot,
    **MUSIC_SETS,
    **RECORDINGS,
    **SEQUENCES,
}


def _split(levels: np.ndarray, labels: np.ndarray | None, num_levels: int) -> Split:
    # torch.tensor copies: a view of a checked file's bytes would be read-only
    return Split(torch.tensor(levels), None if labels is None else torch.tensor(labels, dtype=torch.int64), num_levels)


def _sha256(*sources: Source) -> dict[str, str]:
    return {f"{source.file}/{part}": value for source in sources for part, value in source.sha256.items()}
