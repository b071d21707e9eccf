"""Whole latent trajectories as one site: the model of sequences, the density over them, and rollouts over time."""

from zoo.parts.checks import check_sequences
from zoo.parts.trajectory import divergence as _registered  # noqa: F401
from zoo.parts.trajectory.carry import Carry
from zoo.parts.trajectory.density import Trajectory
from zoo.parts.trajectory.rollout import Draws
from zoo.parts.trajectory.state_space import StateSpace
from zoo.parts.trajectory.time import at_steps, shift, side_by_side

__all__ = ["Carry", "Draws", "StateSpace", "Trajectory", "at_steps", "check_sequences", "shift", "side_by_side"]
