"""What every guide of the zoo is."""

from typing import Any

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
        self._model = (model,)  # in a tuple: seen by `forward`, invisible to `parameters()` and `state_dict()`

    @property
    def model(self) -> Any:
        return self._model[0]
