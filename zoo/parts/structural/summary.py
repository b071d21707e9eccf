"""The table of a fitted linear-Gaussian model: values with their errors, criteria, tests of the residuals."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.parts.structural.diagnostics import ResidualTests
from zoo.parts.structural.information import Estimates


@dataclass(frozen=True)
class Summary:
    """The report of a fit; `print` shows it as a table. Counts and criteria are statsmodels'.

    Attributes:
        model: the words for the model.
        estimates: learned values and their covariance.
        log_likelihood: log p(x) of all sequences, nats.
        num_frames: scored frames of all sequences, missing ones too.
        num_diffuse: states of all sequences that start exactly diffuse.
        residual_tests: tests of the residuals.
    """

    model: str
    estimates: Estimates
    log_likelihood: float
    num_frames: int
    num_diffuse: int
    residual_tests: ResidualTests

    @property
    def num_parameters(self) -> int:
        """The count in AIC and BIC: learned values, and the states of which nothing was known."""
        return self.estimates.free + self.num_diffuse

    @property
    def aic(self) -> float:
        """Akaike's criterion."""
        return 2 * self.num_parameters - 2 * self.log_likelihood

    @property
    def bic(self) -> float:
        """Schwarz's criterion."""
        return math.log(self.num_frames) * self.num_parameters - 2 * self.log_likelihood

    @property
    def z(self) -> Tensor:
        """Values over their standard errors."""
        return self.estimates.values / self.estimates.standard_errors

    @property
    def p_values(self) -> Tensor:
        """Two-sided, of z under N(0, 1). A variance has no such test of being 0: that is a bound."""
        return torch.special.erfc(self.z.abs() / math.sqrt(2))

    def interval(self, mass: float = 0.95) -> tuple[Tensor, Tensor]:
        """Lower and upper ends of the values' intervals that hold `mass` of a normal distribution.

        Raises:
            ValueError: a mass that is not between 0 and 1.
        """
        if not 0 < mass < 1:
            raise ValueError(f"mass: expected a number between 0 and 1, got {mass}")
        width = torch.special.ndtri(torch.tensor((1 + mass) / 2).double()) * self.estimates.standard_errors
        return self.estimates.values - width, self.estimates.values + width

    def __str__(self) -> str:
        names, d = self.estimates.names, self.residual_tests
        width = max(16, *map(len, names))
        head = f"{'':{width}}{'value':>12}{'std. error':>12}{'z':>9}{'P>|z|':>8}{'[0.025':>12}{'0.975]':>12}"
        rule = "-" * len(head)
        columns = (self.estimates.values, self.estimates.standard_errors, self.z, self.p_values, *self.interval())
        rows = ["{:{}}{:12.5g}{:12.4g}{:9.2f}{:8.3f}{:12.4g}{:12.4g}".format(name, width, *map(float, row))
                for name, *row in zip(names, *columns, strict=True)]  # fmt: skip
        criteria = f"log-likelihood {self.log_likelihood:.3f}, AIC {self.aic:.3f}, BIC {self.bic:.3f}"
        counts = f"{self.num_frames} frames, {self.estimates.free} learned, {self.num_diffuse} diffuse states"
        tests = {
            f"Ljung-Box, {d.lags} lags": d.ljung_box,
            "heteroscedasticity H": d.heteroscedasticity,
            "Jarque-Bera": d.jarque_bera,
        }
        below = [f"{name:{width + 8}}{_spoken(test.statistic)}   p {_spoken(test.p_value)}"
                 for name, test in tests.items()]  # fmt: skip
        below += [f"{name:{width + 8}}{_spoken(v)}" for name, v in (("skew", d.skew), ("kurtosis", d.kurtosis))]
        return "\n".join([self.model, criteria, counts, rule, head, rule, *rows, rule, *below])


def _spoken(values: Tensor) -> str:
    """The numbers of the first four series."""
    flat = values.flatten()
    shown = " ".join(f"{float(v):10.4g}" for v in flat[:4])
    return shown + (f" and {len(flat) - 4} more" if len(flat) > 4 else "")
