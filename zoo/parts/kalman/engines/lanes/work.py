"""The scratch memory of a block of eight sequences: every matrix that the kernels write, by name."""

from collections import Counter
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_getattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import intrinsic, models, register_model

from zoo.parts.kalman.engines.lanes.memory import CHUNK, STEP
from zoo.parts.kalman.engines.lanes.vectors import INT, VECTOR, WIDTH, matrix, view_of

# lines of the table of inputs, and of that of their gradients
INITIAL_MEAN, INITIAL_COVARIANCE, A, Q, OFFSET, C, R, Y, SEEN, WEIGHT = range(10)

# name: rows and columns (k = n + m, d = 2 n, w = 2 n + m), and of stacks the number of matrices, and
# the input that says whether they change in time: if it does not, all are one
SHAPES: dict[str, Any] = {
    # the frames of a chunk; a missing coordinate is not seen
    "a": ("nn", "c", A), "q": ("nn", "c", Q), "offset": ("n1", "c", OFFSET), "c": ("mn", "c", C), "r": ("mm", "c", R),
    "y": ("m1", "c", Y), "seen": ("m1", "c", SEEN),
    # the history of a segment: F_t at t + 1, with L of its beginning in the lower right of entry 0; a_t; w_t. And entry
    # 0 of each segment, from which passes back over time run forward once more
    "factors": ("kk", "s"), "means": ("n1", "s"), "whites": ("m1", "s"), "saved_factors": ("kk", "b"),
    "saved_means": ("n1", "b"),
    # a step of the filter: G, N and its root; G L, F F', [G L, N^1/2], F by Householder; P_1; sums of the density
    "g": "kn", "noise": "kk", "noise_root": "kk", "gl": "kn", "joint": "kk", "tall": "kw", "other": "kk", "start": "nn",
    "sums": "31",
    # gains: S^-1/2, S^-1/2 C, A - K C, K
    "inverse": "mm", "scaled": "mn", "closed": "nn", "gain": "nm",
    # the future: r, I, and scratch
    "r_future": "n1", "information": "nn", "nn": "nn", "n1": "n1",
    # p(z_t | x_{1:t}): f, P, its root in Joseph form; L L' C' S^-1/2', and scratch
    "f": "n1", "p": "nn", "root": "nk", "half": "nm", "mn": "mn",
    # p(z_t, z_{t+1} | x); A root, scratch, 1 - root' A' I A root and its root, L L' of t + 1
    "mean": "n1", "covariance": "nn", "cross": "nn", "moved": "nk", "nk": "nk", "kept": "kk", "inner": "kk",
    "ahead": "nn",
    # the same by the second way; the joint root of z_{t+1} and z_t, made triangular; J, and scratch
    "mean2": "n1", "covariance2": "nn", "cross2": "nn", "both": "dw", "triangle": "dd", "pull": "nn", "change": "n1",
    # results of a chunk
    "out_increment": ("11", "c"), "out_f": ("n1", "c"), "out_p": ("nn", "c"), "out_mean": ("n1", "c"),
    "out_covariance": ("nn", "c"), "out_cross": ("nn", "c"),
    # the score: u, Omega, E[z_t | x], G L L', Omega G L L', I K, L' r, weights; gradients of a chunk, and of z_1
    "u": "k1", "omega": "kk", "smoothed": "n1", "spread_g": "kn", "curved": "kn", "gained": "nm", "pushed": "n1",
    "weight": "11", "d_a": ("nn", "c", A), "d_q": ("nn", "c", Q), "d_offset": ("n1", "c"), "d_c": ("mn", "c", C),
    "d_r": ("mm", "c", R), "d_y": ("m1", "c"), "d_mean": "n1", "d_covariance": "nn",
}  # fmt: skip


def _letters(shape: Any) -> tuple[str, str, str]:
    """The letters of rows, columns and the number of matrices."""
    event, count = (shape, "1") if isinstance(shape, str) else shape[:2]
    return event[0], event[1], count


_TABLE = 48 * len(SHAPES)  # bytes of the table of views in front of the matrices
_NUMBERS = Counter(map(_letters, SHAPES.values()))  # a sum over kinds of shapes takes a fraction of one over shapes


def letters(n: int, m: int, segment: int, segments: int) -> dict[str, int]:
    """The sizes that letters stand for."""
    return {"1": 1, "3": 3, "n": n, "m": m, "k": n + m, "d": 2 * n, "w": 2 * n + m, "c": CHUNK + 1, "s": segment + 1,
            "b": segments}  # fmt: skip


def count_numbers(sizes: dict[str, int]) -> int:
    """The number of float64 that the matrices take."""
    return _TABLE // 8 + WIDTH * sum(number * sizes[a] * sizes[b] * sizes[c] for (a, b, c), number in _NUMBERS.items())


class Work(types.Type):
    """The type of all of these matrices together, attributes by name: the address of a table of views.

    A tuple of sixty matrices would be copied at each call, and took numba twice as long to compile.
    """

    def __init__(self) -> None:
        super().__init__(name="Work")


work = Work()


@register_model(Work)
class _WorkModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: types.Type) -> None:
        super().__init__(manager, kind, INT.as_pointer())


@infer_getattr
class _Attributes(AttributeTemplate):
    key = Work

    def generic_resolve(self, value: Any, name: str) -> types.Type | None:
        return matrix if name in SHAPES else None


def _line(builder: Any, table: Any, index: int) -> list[Any]:
    """The places of the six numbers of a view in the table."""
    return [builder.gep(table, [ir.Constant(INT, 6 * index + i)]) for i in range(6)]


@lower_getattr_generic(Work)
def _get(context: Any, builder: Any, kind: Any, value: Any, name: str) -> Any:
    data, *sizes = (builder.load(place) for place in _line(builder, value, list(SHAPES).index(name)))
    return view_of(context, builder, builder.inttoptr(data, VECTOR.as_pointer()), sizes)


@intrinsic
def lay_out(typing: Any, address: Any, table: Any, sizes: Any) -> Any:
    """The matrices in scratch memory at an address. sizes: those of `letters`, in their order."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values = dict(zip(letters(0, 0, 0, 0), cgutils.unpack_tuple(builder, args[2]), strict=True))
        rows_of_table = context.make_array(signature.args[1])(context, builder, args[1]).data
        found = builder.inttoptr(args[0], INT.as_pointer())
        place = builder.add(args[0], ir.Constant(INT, _TABLE))
        for index, shape in enumerate(SHAPES.values()):
            rows, columns, count = (values[letter] for letter in _letters(shape))
            page = size = builder.mul(rows, columns)
            if len(shape) == 3:
                page = builder.load(builder.gep(rows_of_table, [ir.Constant(INT, 5 * shape[2] + STEP)]))
            view = place, rows, columns, columns, ir.Constant(INT, 1), page
            for to, value in zip(_line(builder, found, index), view, strict=True):
                builder.store(value, to)
            place = builder.add(place, builder.mul(builder.mul(size, count), ir.Constant(INT, 8 * WIDTH)))
        return found

    return work(types.intp, table, sizes), code
