"""Time and memory of a training step and of a draw of `PixelCNN` beside masked convolutions in PyTorch, interleaved.

    python -m benchmarks.pixelcnn              # prints the tables, writes results/speed_pixelcnn.json
    python -m benchmarks.pixelcnn --quick      # a smoke run, writes nothing

By hand as public codes do it: full kernels whose weights are multiplied by a mask in every pass, and a draw that runs
the whole network for each pixel. The network computed is the same: before anything is timed the two are compared, from
the same weights. A row of draws is one picture for each of the batch; of the plain draw the rows of the first of two
pictures' pixels are timed, since all of them would take minutes, so a step is `pixels` passes for either program.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.steps import main
from benchmarks.turns import train, turns
from zoo.parts.conditionals import PixelCNN
from zoo.parts.distributions.autoregressive import draw_level, scaled
