"""The methods of every state space that draw frames, and those that give the moments of frames."""

from collections.abc import Callable

import torch
from torch import Tensor

from zoo.parts.checks import check_counts, check_gaps
from zoo.parts.kalman import Forecast
from zoo.parts.trajectory import rollout
from zoo.parts.trajectory.rollout import Draws
from zoo.parts.trajectory.tractable import exactly


class Forecasts:
    """New sequences, forecasts and filled gaps: p(x_{T+1..T+k} | x_{1:T}) and p(x_missing | x_observed).

    `StateSpace` inherits these methods; none is for a subclass to replace. `forecast` and `impute` give moments,
    `sample_forecast` and `sample_imputation` draws. Without `guide=` all four are exact, in a model whose posterior has
    a closed form (`tractable.Tractable`: `LGSSM`); with it, z of the observed past is drawn from the guide.
    """

    def extend(self, z: Tensor, x: Tensor, k: int, u: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """k more frames of each sequence, drawn step by step with the drawn x fed back.

        Args:
            z, x: the sequences so far, `(N, T, latent_dim)` (a guide's draws, say) and `(N, T, data_dim)`; T may be 0.
            u: controls of all T + k frames.

        Returns:
            z `(N, k, latent_dim)` and x `(N, k, data_dim)`.
        """
        return rollout.extend(self, z, x, k, u)

    def generate(self, num: int, T: int, u: Tensor | None = None, **values: Tensor) -> tuple[Tensor, Tensor]:
        """`num` new sequences of T frames: z `(num, T, latent_dim)` and x `(num, T, data_dim)`.

        Args:
            u: controls, `(num, T, control_dim)`.
            **values: of parameters that have a prior, by name.
        """
        return rollout.generate(self, num, T, u, values)

    def forecast(
        self,
        x: Tensor,
        k: int,
        u: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        guide: Callable | None = None,
        num: int = 100,
        **values: Tensor,
    ) -> Forecast:
        """Means and covariances, of z and of x, of the k frames after each sequence's last observed one.

        Exact where the posterior has a closed form and no guide is given; otherwise the moments of `sample_forecast`'s
        draws. The standard error of a mean is then the standard deviation over sqrt(num).

        Args:
            x, mask: as in `forward`. A sequence that is observed nowhere is forecast from the model's start, exactly;
                sequence guides refuse it.
            k: frames, at least 1.
            u: controls of all T + k frames, counted from the first of x: those of a forecast stand at its frames.
                Parameters that change in time have T + k entries too.
            guide: any guide of this model; needed where the posterior has no closed form.
            num: draws for each sequence, at least 2.
            **values: of parameters that have a prior, by name.
        """
        if guide is None:
            return exactly(self).exact_forecast(x, k, u, mask, **values)
        check_counts(2, num=num)
        return self.sample_forecast(x, k, num, guide, u, mask, **values).moments()

    def impute(
        self,
        x: Tensor,
        mask: Tensor,
        u: Tensor | None = None,
        *,
        guide: Callable | None = None,
        num: int = 100,
        **values: Tensor,
    ) -> Tensor:
        """x with the mean of each missing entry filled in: E[x_missing | x_observed], or the mean of draws.

        Args:
            x, u, mask: as in `forward`.
            guide, num, **values: as in `forecast`; the draws are those of `sample_imputation`.
        """
        check_gaps(mask)
        if guide is None:
            return exactly(self).exact_imputation(x, mask, u, **values)
        drawn = self.sample_imputation(x, mask, guide, num, u, **values).x.mean(0)
        return torch.where(mask.unsqueeze(-1), x, drawn)

    def sample_forecast(
        self,
        x: Tensor,
        k: int,
        num: int,
        guide: Callable | None = None,
        u: Tensor | None = None,
        mask: Tensor | None = None,
        **values: Tensor,
    ) -> Draws:
        """`num` continuations of each sequence by k frames: z from p(z | x) or the guide, then the model's own draws.

        Every sequence starts at the model's `start`. A given first frame, as SRNN's data have it, goes in front of x;
        it is then an ordinary frame, with a z of its own, unlike in SRNN's convention.

        Args:
            x, k, u, mask, guide, **values: as in `forecast`; by a guide, masks are of whole frames.
            num: draws for each sequence.
        """
        return rollout.sample_forecast(self, x, k, num, guide, u, mask, values)

    def sample_imputation(
        self,
        x: Tensor,
        mask: Tensor,
        guide: Callable | None = None,
        num: int = 1,
        u: Tensor | None = None,
        **values: Tensor,
    ) -> Draws:
        """`num` draws of each sequence with its gaps filled in: z from p(z | x) or the guide, drawn frames fed back.

        Observed frames are as they are in x. A guide knows of later frames as far as it reads them; in a model that
        feeds x back a filled frame follows z and the past, and is not weighted by the later frames that depend on it.

        Args:
            x, mask, guide, u, **values: as in `impute`; by a guide, masks are of whole frames.
            num: draws for each sequence.
        """
        return rollout.draw_imputation(self, x, mask, guide, num, u, values)
