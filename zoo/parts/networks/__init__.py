"""Networks that map the last axis and broadcast all others."""

from zoo.parts.networks.convolutional import ConvolutionalDecoder, ConvolutionalEncoder
from zoo.parts.networks.maps import Maps
from zoo.parts.networks.memory import Retrieved, retrieve
from zoo.parts.networks.mlp import mlp, start_kaiming, start_small
from zoo.parts.networks.multi_input import MultiInput
from zoo.parts.networks.recurrent import GRU, Dropped
from zoo.parts.networks.residual import ResidualStage, ToPicture
from zoo.parts.networks.stages import DenseStage, RescaledStage
from zoo.parts.networks.with_head import WithHead

__all__ = [
    "GRU",
    "ConvolutionalDecoder",
    "ConvolutionalEncoder",
    "DenseStage",
    "Dropped",
    "Maps",
    "MultiInput",
    "RescaledStage",
    "ResidualStage",
    "Retrieved",
    "ToPicture",
    "WithHead",
    "mlp",
    "retrieve",
    "start_kaiming",
    "start_small",
]
