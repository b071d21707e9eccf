"""Checks that model and guide belong together: a model offers all that is read of it, and their sizes agree."""

from typing import Any


def check_offers(whose: str, model: Any, *needed: str, advice: str) -> None:
    """Refuses a model without an attribute that a guide reads.

    Args:
        whose: name of the guide, for the error.
        needed: names of the attributes.
        advice: words that end the error.

    Raises:
        ValueError: names guide, model and attribute.
    """
    for name in needed:
        if not hasattr(model, name):
            kind = getattr(model, "__name__", type(model).__name__)
            raise ValueError(f"{whose}: {kind} has no {name}; {advice}")


def check_built_for(guide: Any, other: Any, model: Any, *names: str) -> None:
    """Refuses a guide of another model, `other`, whose sizes of these names are not those of the model.

    Raises:
        ValueError: names guide, models and size.
    """
    for name in names:
        ours = getattr(model, name)
        theirs = getattr(other, name, ours)
        if theirs != ours:
            raise ValueError(f"guide: {type(guide).__name__} was built for a {type(other).__name__} of {name} = "
                             f"{theirs}; this {type(model).__name__} has {ours}")  # fmt: skip
