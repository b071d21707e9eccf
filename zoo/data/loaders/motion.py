"""Motion capture: joint angles of walks."""

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
