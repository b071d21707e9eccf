"""Linear-Gaussian dynamics whose matrices are mixed anew at each step."""

from zoo.parts.mixed_dynamics.dynamics import MixedDynamics, MixedState
from zoo.parts.mixed_dynamics.marginal import Marginal
from zoo.parts.mixed_dynamics.starts import RandomWalk, Velocity

__all__ = ["Marginal", "MixedDynamics", "MixedState", "RandomWalk", "Velocity"]
