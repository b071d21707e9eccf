"""The way from rows, a sequence each, to lanes and back; and scratch memory.

Eight neighbours of eight rows are a square of 8 x 8 numbers: eight loads, a transposition, eight stores. float32 is
converted on the way, so that one compiled kernel serves both.
"""

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from zoo.parts.kalman.engines.lanes.vectors import INT, VECTOR, WIDTH, at, at_address, matrix, piece

CHUNK = 8  # frames that are read or written at once: then there are squares in rows of one number a frame, too


class Rows(NamedTuple):
    """A tensor of the caller, a row for each sequence, as integers that a kernel can take."""

    address: int
    stride: int  # bytes from row to row; 0: all sequences read the same row
    step: int  # entries from frame to frame; 0: constant in time
    itemsize: int  # 4 or 8
    last: int  # index of the last sequence


@piece
def rows_of(table, index):
    """A line of a table of `Rows`: numba takes thirty times as long to take `Rows` from Python one by one."""
    return Rows(table[index, 0], table[index, 1], table[index, 2], table[index, 3], table[index, 4])


_SINGLE = ir.VectorType(ir.FloatType(), WIDTH)


def _places(builder: Any, rows: list[Any], sequences: list[Any], entry: Any) -> list[Any]:
    """The addresses of an entry of some sequences, as integers."""
    address, stride, _, itemsize, _ = rows
    start = builder.add(address, builder.mul(entry, itemsize))
    return [builder.add(start, builder.mul(sequence, stride)) for sequence in sequences]


def _in_dtype(builder: Any, rows: list[Any]) -> Any:
    """The two branches of code for rows of float32 and of float64."""
    return builder.if_else(builder.icmp_signed("==", rows[3], ir.Constant(INT, 4)))


def _load(builder: Any, rows: list[Any], places: list[Any], single: Any, double: Any) -> list[Any]:
    """Numbers, or vectors, at places of rows of either dtype, as float64."""
    with _in_dtype(builder, rows) as (then, otherwise):
        with then:
            values = [builder.load(builder.inttoptr(place, single.as_pointer()), align=4) for place in places]
            narrow, first = [builder.fpext(value, double) for value in values], builder.block
        with otherwise:
            wide = [builder.load(builder.inttoptr(place, double.as_pointer()), align=8) for place in places]
            second = builder.block
    found = [builder.phi(double) for _ in places]
    for value, a, b in zip(found, narrow, wide, strict=True):
        value.add_incoming(a, first)
        value.add_incoming(b, second)
    return found


def _store(builder: Any, rows: list[Any], places: list[Any], single: Any, double: Any, values: list[Any]) -> None:
    with _in_dtype(builder, rows) as (then, otherwise):
        with then:
            for place, value in zip(places, values, strict=True):
                builder.store(builder.fptrunc(value, single), builder.inttoptr(place, single.as_pointer()), align=4)
        with otherwise:
            for place, value in zip(places, values, strict=True):
                builder.store(value, builder.inttoptr(place, double.as_pointer()), align=8)


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Eight vectors, transposed in three rounds: blocks of 1, 2 and 4 change places."""
    kind, size = ir.VectorType(ir.IntType(32), WIDTH), 1
    while size < WIDTH:
        first = [e if not e & size else WIDTH + (e ^ size) for e in range(WIDTH)]
        second = [e | size if not e & size else WIDTH + e for e in range(WIDTH)]
        for i in range(WIDTH):
            if not i & size:
                pair = rows[i], rows[i | size]
                rows[i], rows[i | size] = (
                    builder.shuffle_vector(*pair, ir.Constant(kind, order)) for order in (first, second)
                )
        size *= 2
    return rows


def _lane(context: Any, builder: Any, view: Any, entry: Any) -> Any:
    """The address of a vector of a matrix whose entries are neighbours."""
    data = cgutils.create_struct_proxy(matrix)(context, builder, view).data
    return builder.gep(data, [entry])


@intrinsic
def _load_square(typing: Any, rows: Any, first: Any, start: Any, view: Any, entry: Any) -> Any:
    """Eight neighbours, from `start` on, of eight rows: vectors of a matrix from `entry` on; the last row repeats."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows = cgutils.unpack_tuple(builder, args[0])
        sequences = [builder.add(args[1], ir.Constant(INT, lane)) for lane in range(WIDTH)]
        there = [builder.select(builder.icmp_signed("<", s, rows[4]), s, rows[4]) for s in sequences]
        found = _load(builder, rows, _places(builder, rows, there, args[2]), _SINGLE, VECTOR)
        for i, value in enumerate(_transposed(builder, found)):
            to = builder.add(args[4], ir.Constant(INT, i))
            builder.store(value, _lane(context, builder, args[3], to), align=8)
        return context.get_dummy_value()

    return types.void(rows, types.intp, types.intp, matrix, types.intp), code


@intrinsic
def _store_square(typing: Any, rows: Any, first: Any, start: Any, view: Any, entry: Any) -> Any:
    """The way back, to eight rows that are all there."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows = cgutils.unpack_tuple(builder, args[0])
        entries = [builder.add(args[4], ir.Constant(INT, i)) for i in range(WIDTH)]
        found = [builder.load(_lane(context, builder, args[3], entry), align=8) for entry in entries]
        sequences = [builder.add(args[1], ir.Constant(INT, lane)) for lane in range(WIDTH)]
        places = _places(builder, rows, sequences, args[2])
        _store(builder, rows, places, _SINGLE, VECTOR, _transposed(builder, found))
        return context.get_dummy_value()

    return types.void(rows, types.intp, types.intp, matrix, types.intp), code


def _number(context: Any, builder: Any, view: Any, entry: Any, lane: Any) -> Any:
    """The address of one number of a matrix."""
    data = builder.bitcast(_lane(context, builder, view, entry), ir.DoubleType().as_pointer())
    return builder.gep(data, [lane])


@intrinsic
def _load_number(typing: Any, rows: Any, sequence: Any, start: Any, view: Any, entry: Any, lane: Any) -> Any:
    """One entry of a row: a number of a matrix."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows = cgutils.unpack_tuple(builder, args[0])
        (value,) = _load(builder, rows, _places(builder, rows, [args[1]], args[2]), ir.FloatType(), ir.DoubleType())
        builder.store(value, _number(context, builder, *args[3:]))
        return context.get_dummy_value()

    return types.void(rows, types.intp, types.intp, matrix, types.intp, types.intp), code


@intrinsic
def _store_number(typing: Any, rows: Any, sequence: Any, start: Any, view: Any, entry: Any, lane: Any) -> Any:
    """The way back."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows = cgutils.unpack_tuple(builder, args[0])
        value = builder.load(_number(context, builder, *args[3:]))
        _store(builder, rows, _places(builder, rows, [args[1]], args[2]), ir.FloatType(), ir.DoubleType(), [value])
        return context.get_dummy_value()

    return types.void(rows, types.intp, types.intp, matrix, types.intp, types.intp), code


@piece
def gather(rows, first, frame, count, out):
    """Fills a stack with `count` frames, from `frame` on, of the sequences first..first + 7; the last repeats."""
    start, entries = frame * rows.step, (count - 1) * out.page + out.rows * out.columns
    whole = entries - entries % WIDTH
    for e in range(0, whole, WIDTH):
        _load_square(rows, first, start + e, out, e)
    for lane in range(WIDTH):
        sequence = min(first + lane, rows.last)
        for e in range(whole, entries):
            _load_number(rows, sequence, start + e, out, e, lane)


@piece
def scatter(rows, first, frame, count, source):
    """Writes `count` frames of a stack to those sequences that there are; nothing where nobody asks for them."""
    if rows.address == 0:
        return
    start, entries = frame * rows.step, (count - 1) * source.page + source.rows * source.columns
    there = min(WIDTH, rows.last + 1 - first)
    whole = entries - entries % WIDTH if there == WIDTH else 0
    for e in range(0, whole, WIDTH):
        _store_square(rows, first, start + e, source, e)
    for lane in range(there):
        for e in range(whole, entries):
            _store_number(rows, first + lane, start + e, source, e, lane)


@piece
def take(pool, pages, rows, columns):
    """A stack of matrices from scratch memory. pool: the address of what is left of it, and its end."""
    # memory of the caller: numba frees an array of its own after the last line that names it, whatever views there are
    place = pool[0]
    pool[0] += 8 * WIDTH * pages * rows * columns
    return at_address(place, rows, columns, rows * columns)


@piece
def take_frames(pool, source, frames, rows, columns):
    """Scratch for frames of the caller's matrices; one serves all where they are constant in time."""
    place = pool[0]
    take(pool, frames, rows, columns)
    return at_address(place, rows, columns, source.step)


@piece
def clear(stack, pages):
    """Sets the matrices of a stack to zero."""
    for page in range(pages):
        zeroed = at(stack, page)
        for i in range(stack.rows):
            for j in range(stack.columns):
                zeroed[i, j] = 0.0
