"""The engines of the recursions, modules with the same four functions: loops compiled by numba, or batched PyTorch.

Both take `initial` `(K,)`, `transition` `(K, K)` and `scores` `(N, T, K)`, the tensors of a `Chain` with one batch
axis, and normalise at each step: the logarithms of a long sequence would otherwise grow until rounding hides their
differences, in float32 within some thousand frames.
"""

from functools import partial

from zoo.parts.recursions.engine import engine_of

#: device -> the module that runs the recursions there
engine_for = partial(engine_of, __name__)
