"""The way from rows, a sequence each, to lanes and back; and scratch memory.

Eight neighbours of eight rows are a square of 8 x 8 numbers: eight loads, a transposition, eight stores. float32 is
converted on the way, so that one compiled kernel serves both.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from zoo.parts.kalman.engines.lanes.vectors import INT, VECTOR, WIDTH, matrix, piece

CHUNK = 8  # frames that are read or written at once: then there are squares in rows of one number a frame, too


# columns of a table of rows: the address of a tensor with a row for each sequence; bytes from row to row, 0 where all
# sequences read one; entries from frame to frame, 0 where it is constant in time; bytes of an entry; the last row
ADDRESS, STRIDE, STEP, ITEMSIZE, LAST = range(5)
_SINGLE = ir.VectorType(ir.FloatType(), WIDTH)


def _places(builder: Any, rows: list[Any], sequences: list[Any], entry: Any) -> list[Any]:
    """The addresses of an entry of some sequences, as integers."""
    start = builder.add(rows[ADDRESS], builder.mul(entry, rows[ITEMSIZE]))
    return [builder.add(start, builder.mul(sequence, rows[STRIDE])) for sequence in sequences]


def _in_dtype(builder: Any, rows: list[Any]) -> Any:
    """The two branches of code for rows of float32 and of float64."""
    return builder.if_else(builder.icmp_signed("==", rows[ITEMSIZE], ir.Constant(INT, 4)))


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
    """Eight vectors, transposed in three rounds: blocks of 1, 2 and 4 change places. One number stays as it is."""
    kind, size = ir.VectorType(ir.IntType(32), WIDTH), 1
    while size < len(rows):
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


def _mover(square: bool, write: bool) -> Any:
    """Moves a square, or one number, between rows and a matrix whose entries are neighbours."""
    width, single, double = (WIDTH, _SINGLE, VECTOR) if square else (1, ir.FloatType(), ir.DoubleType())

    @intrinsic
    def move(typing: Any, rows: Any, sequence: Any, start: Any, view: Any, entry: Any, lane: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            rows, (_, sequence, start, view, entry, lane) = cgutils.unpack_tuple(builder, args[0]), args
            sequences = [builder.add(sequence, ir.Constant(INT, i)) for i in range(width)]
            # the last row stands in for those that there are not
            there = [builder.select(builder.icmp_signed("<", s, rows[LAST]), s, rows[LAST]) for s in sequences]
            places = _places(builder, rows, there, start)
            data = cgutils.create_struct_proxy(matrix)(context, builder, view).data
            inside = [builder.gep(data, [builder.add(entry, ir.Constant(INT, i))]) for i in range(width)]
            if not square:
                inside = [builder.gep(builder.bitcast(inside[0], double.as_pointer()), [lane])]
            if write:
                values = [builder.load(place, align=8) for place in inside]
                _store(builder, rows, places, single, double, _transposed(builder, values))
            else:
                values = _load(builder, rows, places, single, double)
                for place, value in zip(inside, _transposed(builder, values), strict=True):
                    builder.store(value, place, align=8)
            return context.get_dummy_value()

        return types.void(rows, types.intp, types.intp, matrix, types.intp, types.intp), code

    return move


_load_square, _store_square = _mover(True, False), _mover(True, True)
_load_number, _store_number = _mover(False, False), _mover(False, True)


@piece
def gather(table, index, first, frame, count, out):
    """Fills a stack with `count` frames, from `frame` on, of the sequences first..first + 7."""
    rows = table[index, 0], table[index, 1], table[index, 2], table[index, 3], table[index, 4]
    start, entries = frame * rows[STEP], (count - 1) * out.page + out.rows * out.columns
    whole = entries - entries % WIDTH
    for e in range(0, whole, WIDTH):
        _load_square(rows, first, start + e, out, e, 0)
    for lane in range(WIDTH):
        for e in range(whole, entries):
            _load_number(rows, first + lane, start + e, out, e, lane)


@piece
def scatter(table, index, first, frame, count, source):
    """Writes `count` frames of a stack to those sequences that there are; nothing where nobody asks for them."""
    rows = table[index, 0], table[index, 1], table[index, 2], table[index, 3], table[index, 4]
    start, entries = frame * rows[STEP], (count - 1) * source.page + source.rows * source.columns
    there = min(WIDTH, rows[LAST] + 1 - first) if rows[ADDRESS] else 0
    whole = entries - entries % WIDTH if there == WIDTH else 0
    for e in range(0, whole, WIDTH):
        _store_square(rows, first, start + e, source, e, 0)
    for lane in range(there):
        for e in range(whole, entries):
            _store_number(rows, first + lane, start + e, source, e, lane)
