"""Linear-Gaussian dynamics whose matrices are mixed at each step: the model is `zoo.MixedDynamics`."""

from zoo.parts.mixed_dynamics.marginal import Marginal
from zoo.parts.mixed_dynamics.starts import RandomWalk, Velocity

__all__ = ["Marginal", "RandomWalk", "Velocity"]
