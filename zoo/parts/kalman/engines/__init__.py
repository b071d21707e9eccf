"""The engines of the recursions, and the choice of one.

Two are modules with the same functions, one pass of the recursions each: loops compiled by numba, or batched PyTorch.
The third, `lanes`, runs eight sequences at a time from a `Problem` to its results, for problems that the loops of the
first would go through one by one.
"""

from functools import partial
from types import ModuleType

from zoo.parts.kalman.given import Problem
from zoo.parts.recursions.engine import engine_of

#: device -> the module that runs the recursions there
engine_for = partial(engine_of, __name__)


def lanes_for(problem: Problem) -> ModuleType | None:
    """The module whose functions solve the whole problem, or None where the recursions of `engine_for` are better."""
    grouping, mask, tensors, _ = problem
    engine = engine_for(tensors.y.device)
    if not engine.__name__.endswith("compiled") or grouping.sequences > 1:
        return None
    # lanes without a sequence cost as much as the others. Measured: one sequence gains up to 2 states, two up to 4,
    # three up to 10 or more but not 32, and eight up to 32 and more
    if tensors.initial_mean.shape[-1] > grouping.groups**2 + 1:
        return None
    # where nothing changes in time covariances settle, and the other engine then stops
    matrices = tensors[2:6]
    if all(a.ndim == 2 or a.shape[-3] == 1 for a in matrices) and (mask is None or len(mask) == 1):
        return None
    from zoo.parts.kalman.engines.lanes import calls

    return calls
