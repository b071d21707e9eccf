"""Data sets by name, images and sequences; binarisation that changes every epoch, few labels, batches of sequences.

>>> from zoo.data import Binarized, load
>>> digits = load("digits")
>>> digits.train.images.shape  # float32 in [0, 1], flat
torch.Size([1197, 64])
>>> len(Binarized(digits.train))  # data for `fit`: fresh Bernoulli bits at every access
1197
>>> nile = load("nile").train  # float64 (sequences, time, columns), with `mask` and `times`
>>> nile.values.shape, nile.mask.shape, nile.times[0, 0].item()
(torch.Size([1, 100, 1]), torch.Size([1, 100]), 1871.0)
"""

from zoo.data.batches import Buckets, Streams
from zoo.data.binarized import Binarized, binarize
from zoo.data.catalogue import load
from zoo.data.dataset import Dataset, Split
from zoo.data.dequantised import Dequantised, dequantise
from zoo.data.fresh import Fresh
from zoo.data.partly_labelled import PartlyLabelled
from zoo.data.sequences import Sequences

__all__ = ["Binarized", "Buckets", "Dataset", "Dequantised", "Fresh", "PartlyLabelled", "Sequences", "Split", "Streams",
           "binarize", "dequantise", "load"]  # fmt: skip
