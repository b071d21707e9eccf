"""The guide of a model without latents."""

from typing import Any

from guides.guide import Guide


class Empty(Guide):
    """q of no latent at all: every bound of a pair with it is log p(x), for models that sum or have no latents.

    Args:
        model: a model without latent sites, such as `HMM` and `LGSSM` in their marginal forms.

    Sites: none.

    Example:
        >>> import guides, torch
        >>> from zoo import HMM
        >>> from zoo.infer import ELBO
        >>> from zoo.parts.conditionals import NormalEmission
        >>> model, x = HMM(2, NormalEmission(2, 3)), torch.randn(4, 5, 3)
        >>> bool(torch.isclose(ELBO()(model, guides.Empty(model))(x), -model.log_prob(x).sum()))
        True
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Samples nothing; takes whatever the model takes, which checks its arguments itself."""
