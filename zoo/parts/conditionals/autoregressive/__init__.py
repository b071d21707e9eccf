"""Conditionals whose entries depend on those before them: one pass scores a vector, a draw goes entry by entry."""

from zoo.parts.conditionals.autoregressive.made import MADE
from zoo.parts.conditionals.autoregressive.maf_prior import MAFPrior
from zoo.parts.conditionals.autoregressive.pixel_cnn import PixelCNN

__all__ = ["MADE", "MAFPrior", "PixelCNN"]
