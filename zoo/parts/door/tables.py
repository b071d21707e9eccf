"""The columns of a table of pandas or polars, of which neither is imported: their methods are asked for by name.

`DataFrame.to_numpy` does not serve by itself. One column of words turns a table into objects, in which no column has a
name any more, and so do whole numbers of which one is missing.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

# kinds of numpy's dtypes, which pandas' own dtypes state too: bool, signed and unsigned whole numbers, floats
NUMBERS = "biuf"


def is_table(value: Any) -> bool:
    """Tells whether an object is a table with named columns."""
    return hasattr(value, "columns") and callable(getattr(value, "to_numpy", None))


def is_column(value: Any) -> bool:
    """Tells whether an object is a column: `Series` of pandas or polars."""
    return not hasattr(value, "columns") and callable(getattr(value, "to_numpy", None))


def numbers_of_table(table: Any, name: str) -> tuple[np.ndarray, list[str]]:
    """The numbers of a table, `(rows, columns)`, and the names of its columns; missing ones are NaN.

    Raises:
        TypeError: a column that holds no numbers; names it.
    """
    columns = list(table.items()) if hasattr(table, "items") else [(c.name, c) for c in table.iter_columns()]
    if len({str(column.dtype) for _, column in columns}) == 1 and all(_plain(column) for _, column in columns):
        # one block: a view of the table's own memory where pandas can give one
        return table.to_numpy(), [str(label) for label, _ in columns]
    found = [numbers_of_column(column, f"{name}: column {label!r}") for label, column in columns]
    return np.stack(found, 1) if found else np.empty((len(table), 0)), [str(label) for label, _ in columns]


def numbers_of_column(column: Any, name: str) -> np.ndarray:
    """The numbers of a column, `(rows,)`; missing ones are NaN.

    Args:
        name: of the column, opens errors.

    Raises:
        TypeError: the column holds no numbers.
    """
    if _kind(column) not in NUMBERS:
        hints = {"object": "astype(float) if all of its entries are numbers, ", "category": "take its cat.codes, "}
        hint = hints.get(str(column.dtype).lower(), "")
        raise TypeError(f"{name} has dtype {column.dtype}, expected numbers; {hint}drop it or make numbers of it")
    if _plain(column):
        return column.to_numpy()
    # numpy's whole numbers have no missing one; a float64 has room for those that a model can tell apart
    missing = np.asarray(column.isna() if hasattr(column, "isna") else column.is_null(), dtype=bool)
    if not missing.any():
        return np.asarray(column.to_list())
    return np.array([np.nan if gone else float(entry) for entry, gone in zip(column.to_list(), missing, strict=True)])


def refuse_another_order(values: Mapping[str, Any]) -> None:
    """Refuses a table or series with the labels of the first one in another order: its numbers belong to other entries.

    Labels that differ altogether are no labels of the same rows or columns, and are not looked at.

    Args:
        values: the arguments of a call by name; all but tables and series are passed over.

    Raises:
        ValueError: columns, or rows of pandas, in another order than those of the first table; names the argument.
    """
    tables = [(name, value) for name, value in values.items() if is_table(value) or is_column(value)]
    for axis in ("columns", "index"):
        labelled = [(name, getattr(value, axis)) for name, value in tables if hasattr(value, axis)]
        for name, labels in labelled[1:]:
            first, own = labelled[0]
            if len(own) == len(labels) and list(own) != list(labels) and Counter(own) == Counter(labels):
                raise ValueError(f"{name}: {axis} with the labels of {first} in another order, {[*labels][:3]} ... "
                                 f"where {first} has {[*own][:3]} ...; bring them to one order")  # fmt: skip


def _kind(column: Any) -> str:
    dtype = column.dtype
    if hasattr(dtype, "kind"):
        return dtype.kind
    # polars' dtypes have no kind; a Decimal is numeric to polars and an object to numpy
    words = str(dtype)
    if words == "Boolean":
        return "b"
    return "f" if dtype.is_numeric() and not words.startswith("Decimal") else "O"


def _plain(column: Any) -> bool:
    """Tells whether `to_numpy` gives the numbers as they are: numpy's own dtypes, and polars' without nulls."""
    if isinstance(column.dtype, np.dtype):
        return column.dtype.kind in NUMBERS
    return hasattr(column, "null_count") and _kind(column) in NUMBERS and column.null_count() == 0
