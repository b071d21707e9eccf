"""Eight numbers as one value of a compiled loop, and matrices of such values: all that numba has to know of the two.

`lanes` is LLVM's <8 x double>, a sequence in each lane: one instruction (two with AVX2, four on NEON) does the same to
eight sequences. In code compiled by numba lanes add, multiply and compare like floats, and a float where lanes are
wanted stands for eight of it. `matrix` is a view of scratch memory: numba's own arrays count their references at each
view, which takes longer than the work on matrices of two rows.

numba's extension interface is used as its manual has it. Arrays with a last axis of eight would need none of this, but
then LLVM decides whether a loop becomes SIMD, and for loops of run-time length it did not.
"""

import operator
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.typeconv import Conversion
from numba.extending import (
    intrinsic,
    lower_builtin,
    lower_cast,
    make_attribute_wrapper,
    models,
    register_model,
    type_callable,
)

WIDTH = 8
ALL = 2**WIDTH - 1  # the bits of all lanes
VECTOR = ir.VectorType(ir.DoubleType(), WIDTH)
INT = ir.IntType(64)

# numpy's error model: a division by zero gives an infinity, which the likelihood shows at its end
_OPTIONS = {"nogil": True, "error_model": "numpy"}
_INNER = {**_OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
kernel = njit(cache=True, **_OPTIONS)  # what Python calls
piece = njit(**_INNER)


class Lanes(types.Type):
    """The type of eight numbers."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")

    # a variable that begins as 0.0 and grows by lanes is lanes from the beginning
    def unify(self, context: Any, other: types.Type) -> types.Type | None:
        return self if other == types.float64 else None

    def can_convert_from(self, context: Any, other: types.Type) -> Conversion | None:
        return Conversion.safe if other == types.float64 else None


class Matrix(types.Type):
    """The type of a matrix of lanes, or of a stack of such matrices."""

    def __init__(self) -> None:
        super().__init__(name="Matrix")


lanes, matrix = Lanes(), Matrix()


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: types.Type) -> None:
        super().__init__(manager, kind, VECTOR)


_SIZES = ("rows", "columns", "down", "across", "page")  # entries from row to row, column to column, matrix to matrix


@register_model(Matrix)
class _MatrixModel(models.StructModel):
    def __init__(self, manager: Any, kind: types.Type) -> None:
        super().__init__(manager, kind, [("data", types.CPointer(lanes)), *((name, types.intp) for name in _SIZES)])


for _name in _SIZES:
    make_attribute_wrapper(Matrix, _name, _name)


# --- arithmetic ------------------------------------------------------------------------------------------------------


@lower_cast(types.float64, Lanes)
def _spread(context: Any, builder: Any, source: Any, target: Any, value: Any) -> Any:
    one = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH))


def _define(operation: Any, result: types.Type, emit: Any) -> None:
    """Lets numba take lanes, or lanes and floats, under an operator."""

    @type_callable(operation)
    def _typed(context: Any) -> Any:
        return lambda a, b: result if lanes in (a, b) and {a, b} <= {lanes, types.float64} else None

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, b = (context.cast(builder, v, kind, lanes) for v, kind in zip(args, signature.args, strict=True))
        return emit(builder, a, b)

    for kinds in ((lanes, lanes), (lanes, types.float64), (types.float64, lanes)):
        lower_builtin(operation, *kinds)(lower)


def _arithmetic(name: str) -> Any:
    # contract: a product and a sum become one fused instruction. No other licence of fast arithmetic is taken
    return lambda builder, a, b: getattr(builder, name)(a, b, flags=("contract",))


def _comparison(sign: str) -> Any:
    # the bits of the lanes where it holds; a NaN fails every comparison
    def emit(builder: Any, a: Any, b: Any) -> Any:
        return builder.zext(builder.bitcast(builder.fcmp_ordered(sign, a, b), ir.IntType(WIDTH)), INT)

    return emit


_INSTRUCTIONS = {operator.add: "fadd", operator.iadd: "fadd", operator.sub: "fsub", operator.isub: "fsub",
                 operator.mul: "fmul", operator.imul: "fmul", operator.truediv: "fdiv"}  # fmt: skip
for _operation, _instruction in _INSTRUCTIONS.items():
    _define(_operation, lanes, _arithmetic(_instruction))
for _operation, _sign in ((operator.gt, ">"), (operator.ge, ">="), (operator.le, "<="), (operator.lt, "<")):
    _define(_operation, types.int64, _comparison(_sign))


def _function(name: str) -> Any:
    @intrinsic
    def function(typing: Any, a: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = ir.FunctionType(VECTOR, [VECTOR])
            return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v8f64"), args)

        return lanes(lanes), code

    return function


sqrt, fabs, log = _function("sqrt"), _function("fabs"), _function("log")


@intrinsic
def choose(typing: Any, bits: Any, a: Any, b: Any) -> Any:
    """a in the lanes whose bits are set, else b."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        mask = ir.VectorType(ir.IntType(1), WIDTH)
        return builder.select(builder.bitcast(builder.trunc(args[0], ir.IntType(WIDTH)), mask), *args[1:])

    return lanes(types.int64, lanes, lanes), code


# --- matrices --------------------------------------------------------------------------------------------------------


def _compile_for_size(builder: Any) -> None:
    # loops over four or so entries gain nothing from being unrolled, and took twice as long to compile
    builder.function.attributes.add("optsize")


def _entry(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """The address of entry (i, j) of a matrix."""
    _compile_for_size(builder)
    view = cgutils.create_struct_proxy(matrix)(context, builder, args[0])
    i, j = (
        context.cast(builder, value, kind, types.intp)
        for value, kind in zip(cgutils.unpack_tuple(builder, args[1]), signature.args[1], strict=True)
    )
    place = builder.add(builder.mul(i, view.down), builder.mul(j, view.across))
    return builder.gep(view.data, [place])


@type_callable(operator.getitem)
def _typed_getitem(context: Any) -> Any:
    return lambda view, index: lanes if view is matrix else None


@lower_builtin(operator.getitem, Matrix, types.BaseTuple)
def _getitem(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return builder.load(_entry(context, builder, signature, args), align=8)


@type_callable(operator.setitem)
def _typed_setitem(context: Any) -> Any:
    return lambda view, index, value: types.none if view is matrix else None


@lower_builtin(operator.setitem, Matrix, types.BaseTuple, types.Any)
def _setitem(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    value = context.cast(builder, args[2], signature.args[2], lanes)
    builder.store(value, _entry(context, builder, signature, args), align=8)
    return context.get_dummy_value()


def view_of(context: Any, builder: Any, data: Any, sizes: Any) -> Any:
    """Emits a matrix from the address of its first entry, and the numbers of `_SIZES`."""
    _compile_for_size(builder)
    view = cgutils.create_struct_proxy(matrix)(context, builder)
    view.data = data
    for name, value in zip(_SIZES, sizes, strict=True):
        setattr(view, name, value)
    return view._getvalue()


@intrinsic
def part(typing: Any, view: Any, row: Any, column: Any, rows: Any, columns: Any) -> Any:
    """So many rows and columns of a matrix from an entry on."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = cgutils.create_struct_proxy(matrix)(context, builder, args[0])
        place = builder.add(builder.mul(args[1], v.down), builder.mul(args[2], v.across))
        return view_of(context, builder, builder.gep(v.data, [place]), (*args[3:], v.down, v.across, v.page))

    return matrix(matrix, *[types.intp] * 4), code


@intrinsic
def at(typing: Any, stack: Any, index: Any) -> Any:
    """A matrix of a stack."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = cgutils.create_struct_proxy(matrix)(context, builder, args[0])
        data = builder.gep(v.data, [builder.mul(args[1], v.page)])
        return view_of(context, builder, data, (v.rows, v.columns, v.down, v.across, v.page))

    return matrix(matrix, types.intp), code


@intrinsic
def transposed(typing: Any, view: Any) -> Any:
    """The transpose of a matrix, a view too."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = cgutils.create_struct_proxy(matrix)(context, builder, args[0])
        return view_of(context, builder, v.data, (v.columns, v.rows, v.across, v.down, v.page))

    return matrix(matrix), code
