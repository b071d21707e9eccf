"""Data as people have them, brought to the tensors of a pair: one door for every function that is given data.

`arrays` reads one array, table or list as it is, `tables` the columns of pandas and polars, `casting` brings numbers to
the dtype of the parameters where that loses nothing, `on_file` leaves arrays on file where they are and reads rows,
`datasets` asks `Dataset`s and `DataLoader`s of torch for their rows, `arguments` opens the door for a whole call,
`methods` for the methods of a model; `programs` finds the arguments of a program that a handler of Pyro wraps.
"""

from zoo.parts.door.arguments import Wanted, entered, is_data, wanted_by
from zoo.parts.door.casting import as_tensor
from zoo.parts.door.datasets import is_collection, loaded
from zoo.parts.door.methods import open_methods
from zoo.parts.door.on_file import OnFile, in_pieces, stand_in
from zoo.parts.door.programs import inside, refuse_unknown, signature_of

__all__ = [
           "OnFile",
           "Wanted",
           "as_tensor",
           "entered",
           "in_pieces",
           "inside",
           "is_collection",
           "is_data",
           "loaded",
           "open_methods",
           "refuse_unknown",
           "signature_of",
           "stand_in",
           "wanted_by",
]  # fmt: skip
