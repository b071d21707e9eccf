"""Networks that map the last axis and broadcast all others."""

from zoo.parts.networks.mlp import mlp, start_small
from zoo.parts.networks.recurrent import GRU, Dropped

__all__ = ["GRU", "Dropped", "mlp", "start_small"]
