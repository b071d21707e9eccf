"""The base class of all guides of the zoo."""

from typing import Any

from zoo.parts.door.programs import signature_of
from zoo.parts.store_keys import RootModule


class Guide(RootModule):
    """q(latents | data): a Pyro program with the model's signature that samples all its latent sites (abstract).

    A guide sees the model (`self.model`) and may call its conditionals, but does not own it: the model's parameters
    are not among the guide's, so that `objective(model, guide)` holds each parameter once.

    Args:
        model: the generative model whose posterior is approximated.
    """

    def __init__(self, model: Any) -> None:
        super().__init__("guide")
        # in a tuple: a plain attribute would register the model, and its parameters would be among the guide's
        self._model = (model,)

    @property
    def model(self) -> Any:
        return self._model[0]

    def refuse_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any], hint: str) -> None:
        """Refuses the program's arguments after x, for a guide that reads x alone; None counts as not given.

        Raises:
            ValueError: an argument was given; names it as the model's signature does, and ends with the hint.
        """
        given = [position for position, value in enumerate(args) if value is not None]
        named = [name for name, value in kwargs.items() if value is not None]
        if given or named:
            names = [*signature_of(self.model).parameters][1:]
            given_names = [names[i] if i < len(names) else f"argument {i + 2}" for i in given]
            raise ValueError(
                f"{type(self).__name__}: reads x alone, and was given {', '.join(given_names + named)} too, which the "
                f"posterior of {type(self.model).__name__} depends on. {hint}"
            )
