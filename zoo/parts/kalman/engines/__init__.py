"""The engines of the recursions, modules with the same functions: loops compiled by numba, or batched PyTorch."""

from functools import partial

from zoo.parts.recursions.engine import engine_of

#: device -> the module that runs the recursions there
engine_for = partial(engine_of, __name__)
