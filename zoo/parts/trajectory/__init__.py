"""Whole latent trajectories as one site: the model of sequences, the density over them, and rollouts over time."""

from zoo.parts.trajectory.density import Trajectory, shift, side_by_side
from zoo.parts.trajectory.rollout import Carry, Draws, at_steps
from zoo.parts.trajectory.state_space import StateSpace, check_sequences

__all__ = ["Carry", "Draws", "StateSpace", "Trajectory", "at_steps", "check_sequences", "shift", "side_by_side"]
