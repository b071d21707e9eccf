"""The check that a model offers what a guide reads of it."""

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
