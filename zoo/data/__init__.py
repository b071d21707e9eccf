"""Data sets by name, and binarisation that changes every epoch.

>>> from zoo.data import Binarized, load
>>> digits = load("digits")
>>> digits.train.images.shape  # float32 in [0, 1], flat
torch.Size([1197, 64])
>>> len(Binarized(digits.train))  # what `fit` takes: fresh Bernoulli bits at every access
1197
"""

from zoo.data.binarized import Binarized, binarize
from zoo.data.catalogue import load
from zoo.data.dataset import Dataset, Split

__all__ = ["Binarized", "Dataset", "Split", "binarize", "load"]
