"""Motion capture: joint angles of walks and of exercises."""

from pathlib import Path

import numpy as np
import torch

from zoo.data import manifest
from zoo.data.dataset import Dataset
from zoo.data.loaders.readers import read_npz
from zoo.data.sequences import Sequences
from zoo.data.sources import Root, fetch


def _pack_walks(downloaded: list[Path], target: Path) -> None:
    """Builds mocap_cmu35.npz from the .mat file of ODE2VAE, in float64."""
    from scipy.io import loadmat

    walks = loadmat(downloaded[0])
    parts = {"train": "Xtr", "valid": "Xval", "test": "Xtest"}
    np.savez_compressed(target, **{part: walks[name].astype(np.float32) for part, name in parts.items()})


MOCAP_CMU35 = manifest.file("mocap_cmu35.npz", read_npz, _pack_walks)


def mocap_cmu35(root: Root = None) -> Dataset[Sequences]:
    """16/3/4 walks of CMU's subject 35, 300 frames of 50 joint angles without their mean, as ODE2VAE prepared them."""
    parts = fetch(MOCAP_CMU35, root)
    columns = tuple(f"joint angle {number}, mean removed" for number in range(1, 51))
    train, valid, test = (
        Sequences(torch.tensor(walks).flatten(0, 1), torch.full((len(walks),), 300), columns)
        for walks in (parts["train"], parts["valid"], parts["test"])
    )
    return manifest.dataset("mocap_cmu35", (train, valid, test), (50,), MOCAP_CMU35.digests())


EXERCISES = (
    "jumping jack", "jog", "squat", "knee raise", "arm circle", "twist", "side reach", "box", "up and down",
    "toe touch, one hand", "side bend", "toe touch, two hands",
)  # fmt: skip


def _pack_exercises(downloaded: list[Path], target: Path) -> None:
    """Builds mocap6.npz from the .mat file of M. Hughes."""
    from scipy.io import loadmat

    trials = loadmat(downloaded[0], squeeze_me=True)["DataBySeq"]
    np.savez_compressed(
        target,
        x=np.concatenate([trial["X"] for trial in trials]).astype(np.float64),
        action=np.concatenate([trial["TrueZ"] for trial in trials]).astype(np.uint8),
        length=np.array([len(trial["X"]) for trial in trials], np.int32),
    )


MOCAP6 = manifest.file("mocap6.npz", read_npz, _pack_exercises)


def mocap6(root: Root = None) -> Dataset[Sequences]:
    """Six trials of exercises of CMU's subjects 13 and 14, 12 angles at 10 frames a second, each without its mean.

    `frame_labels` are annotated by hand: 0 to 11, as `EXERCISES` names them. There is no split: `train` has all six.
    """
    parts = fetch(MOCAP6, root)
    columns = ("root ty", "lower back rx", "lower back ry", "upper neck ry", "right humerus rz", "right radius rx",
               "left humerus rz", "left radius rx", "right tibia rx", "right foot rx", "left tibia rx",
               "left foot rx")  # fmt: skip
    trials = Sequences(
        torch.tensor(parts["x"]).float(),
        torch.tensor(parts["length"]).long(),
        columns,
        frame_labels=torch.tensor(parts["action"]).long() - 1,
    )
    return manifest.undivided("mocap6", trials, MOCAP6)
