"""Agents that walk: how actions move a state, and what a memory of frames says about other places."""

from zoo.parts.walking.futures import Futures
from zoo.parts.walking.rays import Rays
from zoo.parts.walking.recall import Nearest, Recall
from zoo.parts.walking.views import Views
from zoo.parts.walking.walk import Walk, WalkStep

__all__ = [
    "Futures",
    "Nearest",
    "Rays",
    "Recall",
    "Views",
    "Walk",
    "WalkStep",
]
