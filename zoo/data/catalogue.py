"""The data sets by name."""

import difflib
from collections.abc import Callable
from typing import Any

from zoo.data.dataset import Dataset
from zoo.data.loaders.digits import binarized_mnist, digits, mnist
from zoo.data.loaders.faces import frey_faces, olivetti_faces
from zoo.data.loaders.letters import notmnist, omniglot
from zoo.data.loaders.motion import mocap6, mocap_cmu35
from zoo.data.loaders.music import MUSIC_SETS
from zoo.data.loaders.pictures import cifar10_first4000, photos
from zoo.data.loaders.series import SERIES_SETS
from zoo.data.loaders.speech import ljspeech_32, spoken_digits
from zoo.data.loaders.tracks import gps_tracks
from zoo.data.simulated.balls import BALL_SETS
from zoo.data.simulated.cadences import cadences
from zoo.data.simulated.shapes import shapes_set
from zoo.data.sources import Root


def load(name: str, root: Root = None) -> Dataset[Any]:
    """The data set of a name: checked arrays, the splits of the literature, terms and citation.

    Images, each split a `Split`:

    ===================  ========================  ======  =====================================================
    name                 train / valid / test      levels  contents
    ===================  ========================  ======  =====================================================
    `digits`             1,197 / 300 / 300         17      8x8 digits bundled with scikit-learn, no file needed
    `mnist`              50,000 / 10,000 / 10,000  256     grey MNIST; bits at each access by `Binarized`
    `binarized_mnist`    50,000 / 10,000 / 10,000  2       Larochelle's fixed bits ("static MNIST")
    `omniglot`           23,000 / 1,345 / 8,115    256     28x28, *not* the `chardata.mat` of the IWAE paper
    `notmnist_10k`       8,000 / 1,000 / 1,000     256     28x28 printed letters A to J
    `olivetti_faces`     300 / 50 / 50             256     64x64 faces of 40 persons, split by person
    `frey_faces`         1,565 / 200 / 200         256     28x20 frames of one face
    `cifar10_first4000`  3,000 / 500 / 500         256     32x32x3, the first 4,000 training images of CIFAR-10
    `photos`             164 / 21 / 21             256     64x64x3 tiles of four photographs
    `shapes`             12,000 / 1,000 / 2,000    2       16x16 simulated shapes with their factors, no file needed
    ===================  ========================  ======  =====================================================

    Simulated videos of a ball, each split a `Sequences` of 20 frames of 32 x 32 bits with the true positions and
    velocities, `truth`; made at each load in a few seconds, no file is needed:

    =============  =====================  =====================================================================
    name           train / valid / test   contents
    =============  =====================  =====================================================================
    `box`          5,000 / 500 / 1,000    a square room; bounces lose no energy
    `box_gravity`  5,000 / 500 / 1,000    the same with gravity
    `pong`         5,000 / 500 / 1,000    floor, roof and two paddles; a bounce takes a tenth of the speed
    `polygon`      5,000 / 500 / 1,000    an irregular room of six walls
    `box_pushed`   5,000 / 500 / 1,000    the square room, and known random pushes of the ball, `controls`
    =============  =====================  =====================================================================

    Music, speech and motion, each split a `Sequences`:

    =================  =======================  ================================================================
    name               train / valid / test     contents
    =================  =======================  ================================================================
    `cadences`         200 / 50 / 50            generated chords on 88 keys, exact log p(x) known, no file needed
    `jsb`              229 / 76 / 77            chorales of J. S. Bach, 88 keys as bits
    `nottingham`       694 / 173 / 170          folk tunes
    `piano_midi`       87 / 12 / 25             classical piano
    `muse_data`        524 / 135 / 124          orchestral and piano classics
    `jsb_srnn`, ...    chunks / chunks / songs  the four in SRNN's files: *other frames*, see `music_srnn`
    `spoken_digits`    2,400 / 300 / 300        digits at 8 kHz, frames of 200 samples
    `ljspeech_32`      24 / 4 / 4               read sentences at 16 kHz, frames of 200 samples
    `mocap_cmu35`      16 / 3 / 4               walks, 300 frames of 50 joint angles
    `mocap6`           6 / 0 / 0                exercises, 12 joint angles, every frame labelled with its exercise
    =================  =======================  ================================================================

    Series and tracks, each split a `Sequences`; none of these has a split of its own, so all is in `train`:

    ====================  ===============  ===========================================================
    name                  sequences        contents
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
    then downloaded there with pooch (`ljspeech_32` cannot be). `root` is a folder that stands for both. The sha256 of
    every file's content is checked at each load, wherever the file came from. The docstring of each data set's own
    function, in `zoo.data.loaders` and `zoo.data.simulated`, says how the set is split and scaled.

    Args:
        name: one of the names above.
        root: a folder to use instead of `$ZOO_DATA` and the cache (sets that come with a package need none).

    Raises:
        ValueError: an unknown name, or a file with other content than expected.
        FileNotFoundError: a file that is nowhere and cannot be downloaded; it names the folders and the URL.
    """
    if name not in DATASETS:
        near = difflib.get_close_matches(str(name).lower(), DATASETS, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no data set {name!r}.{hint} There are {', '.join(DATASETS)}.")
    return DATASETS[name](root)


DATASETS: dict[str, Callable[[Root], Dataset[Any]]] = {
    "digits": digits,
    "mnist": mnist,
    "binarized_mnist": binarized_mnist,
    "omniglot": omniglot,
    "notmnist_10k": notmnist,
    "olivetti_faces": olivetti_faces,
    "frey_faces": frey_faces,
    "cifar10_first4000": cifar10_first4000,
    "photos": photos,
    "shapes": shapes_set,
    **BALL_SETS,
    "cadences": cadences,
    **MUSIC_SETS,
    "spoken_digits": spoken_digits,
    "ljspeech_32": ljspeech_32,
    "mocap_cmu35": mocap_cmu35,
    "mocap6": mocap6,
    **SERIES_SETS,
    "gps_tracks": gps_tracks,
}
