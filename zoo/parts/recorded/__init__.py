"""Folders that last: modules with their constructor arguments, written as JSON and tensors and built again from them.

`recorded` keeps the arguments, `arguments` finds those of every other kind of object, `encode` writes and `decode`
reads them, by the import paths of `names`. `pair` puts a model and a guide together, `likeness` compares them with
their rebuilt twins, `files` has the files.
"""

from zoo.parts.recorded.recorded import Recorded

__all__ = ["Recorded"]
