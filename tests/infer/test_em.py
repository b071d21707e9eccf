"""`em` on models of its own: it must find a known maximum, see a fall, and say what is wrong."""

import math

import pytest
import torch
from torch import Tensor, nn

from zoo.infer.em import EMError, em
from zoo.mixture import GaussianMixture, MixtureStatistics
from zoo.parts.covariances import DiagonalCovariance
from zoo.ppca import PPCA, PPCAStatistics


class CensoredExponential:
    """Lifetimes x ~ Exponential(rate), some only known to exceed x: the maximum is deaths / sum(x). A user's model."""

    def __init__(self, summed: bool = False) -> None:
        self.rate, self.summed, self.calls = torch.tensor(5.0, dtype=torch.float64), summed, 0

    def e_step(self, x: Tensor, censored: Tensor) -> tuple[Tensor, Tensor]:
        expected = torch.where(censored, x + 1 / self.rate, x)
        log_prob = torch.where(censored, 0.0, self.rate.log()) - self.rate * x
        return expected.mean(), log_prob.sum() if self.summed else log_prob

    def m_step(self, statistics: Tensor) -> None:
        self.calls += 1
        self.rate = 1 / statistics


@pytest.fixture
def lifetimes() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    x = -torch.rand(200, dtype=torch.float64).log()
    return x.clamp(max=0.8), x > 0.8


@pytest.mark.parametrize("summed", [False, True])
def test_finds_the_known_maximum_of_a_users_model(lifetimes, summed):
    x, censored = lifetimes
    model = CensoredExponential(summed)
    result = em(model, (x, censored), tolerance=1e-14)
    rate = (~censored).sum() / x.sum()
    assert model.rate == pytest.approx(
        rate.item(), rel=1e-6
    )  # the gain is quadratic in the distance: sqrt(1e-14) / 0.1
    best = (rate.log() * (~censored) - rate * x).mean().item()
    assert result.converged
    assert result.log_likelihood == pytest.approx(best, abs=1e-12)
    assert result.iterations == model.calls == len(result.trajectory) - 1
    assert all(b >= a for a, b in zip(result.trajectory, result.trajectory[1:], strict=False))


def test_data_as_a_tuple_or_with_keywords(lifetimes):
    x, censored = lifetimes
    by_tuple = em(CensoredExponential(), (x, censored), max_iterations=5)
    by_keyword = em(CensoredExponential(), x, max_iterations=5, censored=censored)
    assert by_tuple == by_keyword
    assert by_tuple.iterations == 5
    assert not by_tuple.converged


def test_zero_tolerance_goes_on_to_rounding_and_stops(lifetimes):
    result = em(CensoredExponential(), lifetimes, tolerance=0.0, max_iterations=10_000)
    assert result.converged
    assert result.trajectory[-1] - result.trajectory[-2] < 1e-14


def test_a_fall_names_iteration_and_amount_and_keeps_the_history(lifetimes):
    class WrongThirdStep(CensoredExponential):
        def m_step(self, statistics: Tensor) -> None:
            super().m_step(statistics)
            if self.calls == 3:
                self.rate = self.rate * 3

    with pytest.raises(EMError, match="M-step 3 lowered the log-likelihood by") as raised:
        em(WrongThirdStep(), lifetimes)
    error = raised.value
    assert error.iteration == 3
    assert len(error.trajectory) == 4
    assert error.amount == error.trajectory[2] - error.trajectory[3] > 0
    right = em(CensoredExponential(), lifetimes, max_iterations=2)
    assert error.trajectory[:3] == right.trajectory


class NoiseFromLatentSize(PPCA):
    """The classical slip: the noise variance divided by the wrong number of entries."""

    def m_step(self, statistics: PPCAStatistics) -> None:
        super().m_step(statistics._replace(observed=statistics.observed / 4))


class CovarianceAboutZero(GaussianMixture):
    """Another: second moments where covariances belong."""

    def m_step(self, statistics: MixtureStatistics) -> Tensor:
        change = super().m_step(statistics)
        with torch.no_grad():
            r, x = statistics.responsibilities, statistics.x
            self.unconstrained_scale.copy_(((r.T @ x.square()) / r.sum(0).unsqueeze(-1)).log() / 2)
        return change


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (lambda: PPCA(6, 2), lambda: NoiseFromLatentSize(6, 2)),
        (
            lambda: GaussianMixture(6, 3, covariance=DiagonalCovariance()),
            lambda: CovarianceAboutZero(6, 3, covariance=DiagonalCovariance()),
        ),
    ],
    ids=["ppca", "mixture"],
)
def test_catches_a_wrong_m_step_and_passes_the_right_one(right, wrong):
    torch.manual_seed(1)
    x = torch.cat([torch.randn(60, 6) + shift for shift in (0.0, 1.5, 3.0)]).double()
    start = right().double()
    start.initialise(x)
    assert em(start, x, max_iterations=30, tolerance=0.0).iterations > 1
    model = wrong().double()
    model.load_state_dict(start.state_dict())
    with pytest.raises(EMError, match="lowered the log-likelihood"):
        em(model, x)


class Announced:
    """Its log-likelihood falls at every step, by 1 nat over its 10 data, and it announces as much as it is told."""

    def __init__(self, announced: float | None, fall: float = 1.0) -> None:
        self.announced, self.fall, self.value = announced, fall, 0.0

    def e_step(self, x: Tensor) -> tuple[None, Tensor]:
        return None, torch.full((10,), self.value)

    def m_step(self, statistics: None) -> float | None:
        self.value -= self.fall / 10
        return self.announced


def test_an_announced_fall_passes_and_a_larger_one_does_not():
    result = em(Announced(1.0), torch.zeros(10), max_iterations=3)
    assert result.iterations == 3
    assert not result.converged
    for announced in (None, 0.9):
        with pytest.raises(EMError) as raised:
            em(Announced(announced), torch.zeros(10))
        assert raised.value.amount == pytest.approx(0.1, rel=1e-6)
    assert em(Announced(None), torch.zeros(10), slack=0.11).converged


def test_rounding_of_float32_passes_and_ten_times_the_slack_does_not():
    unit = torch.finfo(torch.float32).eps
    assert em(Announced(None, fall=10 * 10 * unit), torch.zeros(10)).converged
    with pytest.raises(EMError):
        em(Announced(None, fall=10 * 1000 * unit), torch.zeros(10))


def test_a_value_that_is_not_finite_names_the_rows():
    class Breaks(Announced):
        def e_step(self, x: Tensor) -> tuple[None, Tensor]:
            return None, torch.tensor([0.0, 0.0, math.nan if self.value < -0.15 else self.value])

        def m_step(self, statistics: None) -> float:
            super().m_step(statistics)
            return 1.0

    with pytest.raises(EMError, match=r"nan nats per datum after 2 M-steps \(rows 2\)") as raised:
        em(Breaks(None), torch.zeros(3))
    assert raised.value.iteration == 2
    assert math.isnan(raised.value.amount)


def test_restarts_leave_the_model_at_the_best_end():
    torch.manual_seed(2)
    x = torch.randn(150, 2, dtype=torch.float64)  # one cloud: six components can share it in many ways
    model = GaussianMixture(2, 6).double()
    result = em(model, x, restarts=6, max_iterations=20)
    assert len(result.starts) == 6
    ends = [trajectory[-1] for trajectory in result.starts]
    assert len({round(value, 3) for value in ends}) > 1, "the starts must differ for the test to mean something"
    assert result.log_likelihood == max(ends)
    assert result.trajectory == result.starts[ends.index(max(ends))]
    assert model.log_prob(x).mean().item() == pytest.approx(result.log_likelihood, abs=1e-12)

    torch.manual_seed(7)
    first = em(GaussianMixture(2, 6).double(), x, restarts=2, max_iterations=5)
    torch.manual_seed(7)
    assert em(GaussianMixture(2, 6).double(), x, restarts=2, max_iterations=5) == first


def test_parameters_stay_leaves_that_can_be_trained_on():
    torch.manual_seed(3)
    x = torch.randn(50, 4)
    model = PPCA(4, 1)
    kept = dict(model.named_parameters())
    em(model, x, max_iterations=3)
    for name, parameter in model.named_parameters():
        assert parameter is kept[name]
        assert parameter.is_leaf
        assert parameter.requires_grad
    model.log_prob(x).mean().backward()


def test_says_which_method_a_model_lacks(lifetimes):
    with pytest.raises(TypeError, match="Linear has no e_step, m_step"):
        em(nn.Linear(1, 1), lifetimes)
    with pytest.raises(TypeError, match="CensoredExponential has no initialise, state_dict, load_state_dict"):
        em(CensoredExponential(), lifetimes, restarts=2)
