"""The prior of codes of categorical variables."""

import torch
from torch import Tensor, nn

from zoo.parts.checks import check_counts, check_positive
from zoo.parts.distributions import Concrete, OneHotCode
from zoo.parts.recorded import Recorded


class CodePrior(Recorded, nn.Module):
    """p(z) = prod_g Uniform(z_g), z_g a one-hot block of z; with a temperature its Concrete relaxation in training.

    The model's `latent_dim` is groups * categories. In evaluation mode the codes are one-hot, whatever the temperature.

    References: Maddison, Mnih and Teh 2017 (the relaxed prior); Jang, Gu and Poole 2017 (the one-hot one).

    Args:
        groups: number of categorical variables.
        categories: number of values of each, at least 2.
        temperature: of the relaxed prior in training, for a relaxed guide under a sampled KL (`ELBO()`, `IWELBO`);
            0.5 or more in float32. None: one-hot codes in training too, for `ELBO(analytic_kl=True)` and for guides
            that draw codes.

    Attributes:
        temperature: a buffer, which `zoo.infer.Scheduled` moves.

    Raises:
        ValueError: groups < 1, categories < 2, or a temperature that is not positive.

    Example:
        >>> from zoo import VAE
        >>> from zoo.parts.conditionals import CodePrior
        >>> VAE(784, 200, prior=CodePrior(20, 10)).prior().sample((3,)).sum(-1)
        tensor([20., 20., 20.])
    """

    logits: Tensor
    temperature: Tensor | None

    def __init__(self, groups: int, categories: int, *, temperature: float | None = None) -> None:
        super().__init__()
        check_counts(groups=groups)
        check_counts(2, categories=categories)
        self.register_buffer("logits", torch.zeros(groups, categories), persistent=False)
        if temperature is not None:
            check_positive(temperature=temperature)
        self.register_buffer("temperature", None if temperature is None else torch.tensor(float(temperature)))

    def forward(self) -> OneHotCode | Concrete:
        if self.temperature is None or not self.training:
            return OneHotCode(self.logits)
        return Concrete(self.logits, self.temperature)
