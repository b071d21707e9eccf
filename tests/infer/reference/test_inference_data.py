"""Containers and diagnostics of both arviz: known values, computed without it.

Under arviz 1.x beside an environment with 0.2x: see `make arviz1`.
"""

import math

import numpy as np
import pytest
import torch
from gaussian_pairs import Z_MAX, Given, LinearGaussian
from matplotlib.figure import Figure
from scipy import stats
from xarray import Dataset, DataTree

from zoo.infer.reference.compare import Verdict, compare
from zoo.infer.reference.inference_data import (
    diagnose,
    ess_mean,
    is_inference_data,
    pareto_k,
    site_draws,
    to_inference_data,
)
from zoo.infer.reference.reference import as_reference
from zoo.plots.overlay import plot_overlay


def rank_rhat(draws):
    """Equations 6 to 14 of Vehtari et al. 2021 for one coordinate, `(chains, draws)`."""
    half = draws.shape[1] // 2
    split = np.concatenate([draws[:, :half], draws[:, -half:]])
    found = []
    for x in (split, np.abs(split - np.median(split))):
        z = stats.norm.ppf((stats.rankdata(x) - 3 / 8) / (x.size + 1 / 4)).reshape(x.shape)
        between, within = half * z.mean(1).var(ddof=1), z.var(1, ddof=1).mean()
        found.append(math.sqrt(((half - 1) / half * within + between / half) / within))
    return max(found)


def test_rhat_is_the_papers():
    """Of chains that agree, differ in place, in scale, and have no mean."""
    generator = torch.Generator().manual_seed(3)
    draws = torch.randn(4, 251, 2, 2, generator=generator, dtype=torch.float64)
    draws[1, :, 0, 1] += 0.7
    draws[2, :, 1, 0] *= 3
    draws[..., 1, 1] /= torch.randn(4, 251, generator=generator)
    expected = [[rank_rhat(draws[..., i, j].numpy()) for j in range(2)] for i in range(2)]
    torch.testing.assert_close(diagnose({"z": draws}).rhat["z"], torch.tensor(expected, dtype=torch.float64))


def test_independent_draws_count_as_many_as_they_are():
    """ESS / n of iid draws is 1 within some 2 / sqrt(n) of the autocorrelations it sums, a few of them."""
    draws = torch.randn(4, 20000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = diagnose({"z": draws})
    for ess in (found.ess_bulk["z"], found.ess_tail["z"], ess_mean(draws)):
        assert ess.shape == (3,)
        assert (ess / 80000 - 1).abs().max() < Z_MAX * 2 * math.sqrt(6 / 80000)


def test_the_tail_begins_at_five_percent_on_either_side():
    """Tail ESS is that of the mean of {z <= q}, q the 5 % or the 95 % quantile, the smaller of both."""
    draws = torch.randn(4, 1000, generator=torch.Generator().manual_seed(1), dtype=torch.float64).cumsum(1).sin()
    below = [draws <= draws.flatten().quantile(q) for q in (0.05, 0.95)]
    expected = torch.stack([ess_mean(indicator) for indicator in below]).min()
    torch.testing.assert_close(diagnose({"z": draws.unsqueeze(-1)}).ess_tail["z"], expected.reshape(1))


def test_diagnose_does_not_let_stuck_chains_pass():
    draws = torch.randn(4, 200, 3, generator=torch.Generator().manual_seed(0))
    draws[2, :, 1] = 0.7  # one chain never moved
    draws[0, 5, 2] = math.nan
    found = diagnose({"z": draws})
    assert found.rhat["z"][0] < 1.05
    assert found.rhat["z"][1:].isinf().all()
    assert (found.ess_bulk["z"][1:] == 0).all()
    assert (found.ess_tail["z"][1:] == 0).all()


def test_one_chain_is_judged_by_its_halves_and_many_short_ones_are_no_scandal():
    generator = torch.Generator().manual_seed(0)
    still = torch.randn(1, 400, 2, generator=generator)
    drifting = still + torch.linspace(0, 3, 400).reshape(1, 400, 1)
    assert diagnose({"z": still}).rhat["z"].max() < 1.05
    assert diagnose({"z": drifting}).rhat["z"].min() > 1.2
    short = torch.randn(64, 20, 3, 1, generator=generator)
    assert as_reference(to_inference_data({"z": short})).mean_error.max() < 0.1


def test_ess_of_an_autoregression():
    """AR(1) with coefficient a: ESS / n = (1 - a) / (1 + a)."""
    torch.manual_seed(0)
    n, a = 20000, 0.6
    noise = torch.randn(4, n, dtype=torch.float64)
    draws = torch.zeros(4, n, dtype=torch.float64)
    for t in range(1, n):
        draws[:, t] = a * draws[:, t - 1] + math.sqrt(1 - a**2) * noise[:, t]
    found = diagnose({"z": draws.unsqueeze(-1)})
    # the estimate's own relative error, about sqrt(2 * lags / n) with some 20 lags
    assert found.ess_bulk["z"].item() / (4 * n) == pytest.approx((1 - a) / (1 + a), rel=Z_MAX * math.sqrt(40 / (4 * n)))


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_pareto_k_of_pareto_weights(k):
    """Weights with a Pareto tail of shape k: asymptotic sd of the tail fit (1 + k) / sqrt(tail), tail 3 sqrt(K)."""
    num = 20000
    weights = torch.rand(num, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** -k
    found = pareto_k(weights.log())
    sd = (1 + k) / math.sqrt(3 * math.sqrt(num))
    assert ((found - k).abs() < Z_MAX * sd).all()
    assert abs(found.mean().item() - k) < Z_MAX * sd / math.sqrt(8) + 0.02  # 0.02: arviz draws k a little to 0.5


def test_pareto_k_at_the_limits():
    equal = torch.full((100, 1), -3.0)
    rounded = equal + 1e-7 * torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    broken = torch.randn(100, 1)
    broken[3] = math.nan
    found = pareto_k(torch.cat([equal, rounded, broken], 1))
    assert found.tolist() == [-math.inf, -math.inf, math.inf]
    with pytest.raises(ValueError, match="too few"):
        pareto_k(torch.zeros(10, 2))
    with pytest.raises(ValueError, match="num_particles, batch"):
        pareto_k(torch.zeros(100))


def test_inference_data_keeps_names_shapes_and_facts():
    draws = {"z": torch.randn(4, 5, 3, 4), "s": torch.randn(4, 5, 3)}
    stats = {"diverging": torch.zeros(4, 5, 3, dtype=torch.bool)}
    data = to_inference_data(draws, sample_stats=stats, observed={"x": torch.ones(3, 7)}, attrs={"sampler": "mine"})
    assert data["posterior"]["z"].dims == ("chain", "draw", "datum", "z_dim_0")
    assert data["sample_stats"]["diverging"].dims == ("chain", "draw", "datum")
    assert data["observed_data"]["x"].dims == ("datum", "x_dim_0")
    back = site_draws(data, ["s", "z"])
    assert list(back) == ["s", "z"]
    assert torch.equal(back["z"], draws["z"])
    with pytest.raises(ValueError, match=r"no draws of \['y'\]"):
        site_draws(data, ["y"])
    reference = as_reference(data)
    assert reference.kind == "mine"
    assert reference.mean.shape == (3, 5)
    torch.testing.assert_close(reference.mean[:, reference.coordinates.index("s")], draws["s"].double().mean((0, 1)))


# --- containers ------------------------------------------------------------------------------------------------------


def as_tree(draws, **attrs):
    """The draws as arviz 1.x would keep them, made without arviz."""
    dims = {name: ["chain", "draw", *[f"{name}_{i}" for i in range(v.dim() - 2)]] for name, v in draws.items()}
    group = Dataset({name: (dims[name], v.numpy()) for name, v in draws.items()}, attrs=attrs)
    return DataTree.from_dict({"posterior": group})


@pytest.mark.parametrize("make", [to_inference_data, as_tree], ids=["of this arviz", "of xarray"])
def test_compare_and_the_overlay_take_either_container(make):
    model = LinearGaussian(scale=0.5)
    x = model.data(3)
    torch.manual_seed(0)
    own = make({"z": model.posterior(x).sample(torch.Size([4, 500]))})
    assert is_inference_data(own)
    found = compare(Given(model), own, x, seed=0)
    assert found.verdicts == [Verdict.GOOD] * 3
    assert found.kind == "draws"
    assert isinstance(plot_overlay(Given(model), own, x, num_draws=2000), Figure)


def test_what_holds_no_posterior_is_no_reference():
    empty = DataTree.from_dict({"prior": Dataset({"z": (["chain", "draw"], np.zeros((4, 5)))})})
    for other in (empty, Dataset(), {"posterior": 1}, None):
        assert not is_inference_data(other)
        with pytest.raises(ValueError, match=f"InferenceData or a DataTree with a posterior.*{type(other).__name__}"):
            as_reference(other)
