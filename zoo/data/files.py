"""The files of the data sets: their contents' sha256, their URLs, and how to read or build them.

A sha256 here is of a file's content, the digest of a `Remote` is of the file as its URL serves it.
"""

import csv
import gzip
import shutil
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from zoo.data.sources import Remote, Source


def _read_gzip(path: Path) -> dict[str, np.ndarray]:
    return {"content": np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8)}


def _read_bytes(path: Path) -> dict[str, np.ndarray]:
    return {"content": np.frombuffer(path.read_bytes(), np.uint8)}


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file, np.load(file) as arrays:  # np.load leaves a truncated file open
        return dict(arrays)


def _copy(downloaded: list[Path], target: Path) -> None:
    shutil.copyfile(downloaded[0], target)


def _pack_amat(downloaded: list[Path], target: Path) -> None:
    """Three texts of 784 characters 0 or 1 per line, one space between them, to packed bits."""
    texts = [np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 2 * 784) for path in downloaded]
    train, valid, test = (np.packbits(text[:, ::2] - ord("0"), axis=-1) for text in texts)
    np.savez_compressed(target, train=train, valid=valid, test=test)


def _pack_tracks(downloaded: list[Path], target: Path) -> None:
    """A text of latitude, longitude, track_id, time ("2014-09-13 07:24:32") to arrays, sorted by track and time."""
    with downloaded[0].open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: (int(row["track_id"]), row["time"]))
    np.savez_compressed(
        target,
        latitude=np.array([row["latitude"] for row in rows], np.float64),
        longitude=np.array([row["longitude"] for row in rows], np.float64),
        track_id=np.array([row["track_id"] for row in rows], np.int32),
        time=np.array([row["time"] for row in rows], "datetime64[s]").astype(np.int64),
    )


def _shrink_omniglot(downloaded: list[Path], target: Path) -> None:
    """The two archives of 105x105 drawings (black on white), to 28x28 shares of ink and the choice of test drawings."""
    from PIL import Image, ImageOps

    images, characters = [], []
    for path in downloaded:  # background, then evaluation
        with zipfile.ZipFile(path) as archive:
            names = [name.split("/") for name in archive.namelist() if name.endswith(".png")]
            for name in sorted(names):
                *_, alphabet, character, _ = name
                with archive.open("/".join(name)) as file:
                    ink = ImageOps.invert(Image.open(file).convert("L"))
                images.append(np.asarray(ink.resize((28, 28), Image.Resampling.BOX)))
                characters.append((alphabet, int(character.removeprefix("character"))))
    rows = defaultdict(list)
    for row, key in enumerate(characters):
        rows[key].append(row)
    test = np.zeros(len(images), np.uint8)
    random = np.random.RandomState(0)
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


DIGITS = {
    "data": "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3",
    "target": "8ba4f891220f5e4c9c819638d1602d74b83618f167043c6da52a2a247841ddf0",
}


def _mnist_file(name: str, sha256: str, md5: str) -> Source:
    remote = Remote(f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}.gz", f"md5:{md5}")
    return Source(f"mnist/{name}.gz", {"content": sha256}, _read_gzip, (remote,), _copy)


MNIST = {
    "train-images": _mnist_file(
        "train-images-idx3-ubyte",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    ),
    "train-labels": _mnist_file(
        "train-labels-idx1-ubyte",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "d53e105ee54ea40749a09fcbcd1e9432",
    ),
    "t10k-images": _mnist_file(
        "t10k-images-idx3-ubyte",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "9fb629c4189551a2d022fa330f9573f3",
    ),
    "t10k-labels": _mnist_file(
        "t10k-labels-idx1-ubyte",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
}

AMAT = "https://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/binarized_mnist_"

BINARIZED_MNIST = Source(
    file="binarized_mnist.npz",
    sha256={
        "train": "727146c35424b019f3e350e1e69faa05644a0abaf787e3f4e1a9632220a13906",
        "valid": "a256ac44ae26be720fad8616a05ed6ecfd1619930d9a208379bb2a4405df5b6d",
        "test": "9fcd8da6f0fdf09b2ba30fe63a0bb784042a0de82563172530229b983e294ff2",
        "train_label": "8412fa05f88a60e55c9f434182cbcd829e0a2918a576632cfa5002deb43aeea6",
        "valid_label": "ad502ca809c8f0e332f8d621550df6592eb5ca9a0d007e8fe8c1d2dec6d2cfcf",
        "test_label": "f7cd9d3a7438833ddaff2865a3ef3497a9479b8a1fc1e2dc2db0faf6648419c2",
    },
    read=_read_npz,
    remotes=(
        Remote(f"{AMAT}train.amat", "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d"),
        Remote(f"{AMAT}valid.amat", "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2"),
        Remote(f"{AMAT}test.amat", "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c"),
    ),
    build=_pack_amat,
    optional=frozenset({"train_label", "valid_label", "test_label"}),
)

OMNIGLOT = Source(
    file="omniglot_28.npz",
    sha256={
        "images": "d76a1451bb8709f84cd8678e2c1e218339e26c1e23790e402fb39f8144e9a3db",
        "alphabet": "e1bf12c3e417ab4c2bc290b6a358bea7bddaefb08bfb8ad8636c9cbbe52310e5",
        "character": "23ce77d02722ea5c944bc6cd23d62ac9d957f4e448ba6ff08621ff627f88ed0f",
        "test": "80d9517da29a393d9facea12c41844e7ceae189a159752cbb2d9032a3020c6a8",
    },
    read=_read_npz,
    remotes=(
        Remote(
            "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/images_background.zip",
            "md5:68d2efa1b9178cc56df9314c21c6e718",
        ),
        Remote(
            "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/images_evaluation.zip",
            "md5:6b91aef0f799c5bb55b94e3f2daec811",
        ),
    ),
    build=_shrink_omniglot,
)


RDATASETS = "https://raw.githubusercontent.com/vincentarelbundock/Rdatasets/1dcc2bf5f955cc1224a3e1307256e1fe86b68dae"


def _text_file(file: str, url: str, sha256: str) -> Source:
    return Source(file, {"content": sha256}, _read_bytes, (Remote(url, f"sha256:{sha256}"),), _copy)


def _series_file(name: str, sha256: str) -> Source:
    return _text_file(f"timeseries/{name}.csv", f"{RDATASETS}/csv/datasets/{name}.csv", sha256)


NILE = _series_file("Nile", "d0452bea38c61e796a4eeb950bf91d20fb5c7f13d5822eadf5990fe54f9c8d07")
AIR_PASSENGERS = _series_file("AirPassengers", "bdb98adbd418a6de6842a742e0602f363c3b841c26677e7e61a1e055e9509bd8")
UK_GAS = _series_file("UKgas", "69ec013fbeeaf956a42603aaf8f68d943a3aab5f90b6ed89c5de2ed02eba59ff")
SEATBELTS = _series_file("Seatbelts", "61f8faf2aba26fc848054e34e1abedbb292e01aa535cb2d3a9ecce8570b52567")
JOHNSON_JOHNSON = _series_file("JohnsonJohnson", "8d84846f400a24fd6bed71d80c5a89b9cda2e47702ef58c03610a538ca9157e7")
LAKE_HURON = _series_file("LakeHuron", "7fe634970d5b28128ade898c3932dbc4015fecbeb6dabc443efaf88a2fd037d8")
LYNX = _series_file("lynx", "0766d4043eb8a20ac83afefff1c78063beff3891571c59e8e38d72503ca86cf1")
SUNSPOT_YEAR = _series_file("sunspot.year", "f6d6b62da79feac7408cd876efff2bf9c9853fd6b76b59ed3717a51d997764f9")
US_ACCIDENT_DEATHS = _series_file("USAccDeaths", "7eb8927b29341a5abe4420a278e4e21100af1a14212d700a0f296f7462377b29")

CO2_WEEKLY = _text_file(
    "timeseries/co2_weekly.csv",
    "https://raw.githubusercontent.com/statsmodels/statsmodels/82c59e378bdfb5ae324006c477954879ad3e24be"
    "/statsmodels/datasets/co2/co2.csv",
    "16695fa2786e53414e5a6b54767a3fdf5de99cfbc68617f69d1362d92776a92f",
)

GPS_TRACKS = Source(
    file="gps_go_track.npz",
    sha256={
        "latitude": "db621edfb96c144726daa60d6e858843d5cd5302f90b25d54377d0140d8eba81",
        "longitude": "9f815269dfa39b26a7b522021949792dee4174b3c0b5bdc84bd1a5db849455cb",
        "track_id": "21221267bc734624eea89ddd30fffef9beeabb2221617f1e4c24cd7044321b43",
        "time": "395879675820c316f628a39b04c7dcdafd7c75ae9db89faefbf21f040e8df5ed",
    },
    read=_read_npz,
    remotes=(
        Remote(
            "https://raw.githubusercontent.com/AnaMazziotti/Base-de-Dados---IP---IME"
            "/cc2ce98898c25975dee76c526b743071e72a4f0e/datasets/go_track_trackspoints.csv"
        ),
    ),
    build=_pack_tracks,
)
