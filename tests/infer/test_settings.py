"""Numbers that are settings of evaluations and references: wrong ones are named before anything is computed."""

import math

import pytest
import torch
from gaussian_pairs import Given, LinearGaussian

import guides
from zoo import PPCA
from zoo.infer import (
    active_units,
    compare,
    exact_reference,
    gaps,
    grid_reference,
    hmc_reference,
    impute,
    kl_per_site,
    log_likelihood,
    nuts_reference,
    posterior_draws,
    sample_imputation,
    simulation_based_calibration,
)
from zoo.infer.em import em

NO_COUNTS = (math.nan, -1, 0, 2.5, "a", True)
NO_LENGTHS = (math.nan, -0.5, 0.0, "a")
CHAINS = {
    "max_samples": NO_COUNTS,
    "num_samples": NO_COUNTS,
    "warmup": (math.nan, -1, 2.5, "a"),
    "chains": NO_COUNTS,
    "time_budget": NO_LENGTHS,
    "target_accept": (math.nan, 0.0, 1.0, -1.0, "a"),
    "max_rhat": (math.nan, 0.5, "a"),
    "min_ess": (math.nan, -1.0, "a"),
    "max_divergences": (math.nan, -1, 2.5, "a"),
}
BYTES = {"max_bytes": (math.nan, -1, 0, "a")}
PARTICLES = {"num_particles": NO_COUNTS} | BYTES


@pytest.fixture(scope="module")
def pair():
    model = LinearGaussian()
    return model, Given(model), model.data(3)


CALLS = {
    "nuts": (lambda m, q, x: lambda **k: nuts_reference(m, x, **k), CHAINS | {"max_tree_depth": NO_COUNTS}),
    "hmc": (
        lambda m, q, x: lambda **k: hmc_reference(m, x, **k),
        CHAINS | {"max_leapfrog": NO_COUNTS, "path_length": NO_LENGTHS},
    ),
    "grid": (
        lambda m, q, x: lambda **k: grid_reference(m, x, **k),
        {"points": (math.nan, 8, 10.5, "a"), "tolerance": NO_LENGTHS} | BYTES,
    ),
    "log_likelihood": (lambda m, q, x: lambda **k: log_likelihood(m, q, x, **k), PARTICLES),
    "kl_per_site": (lambda m, q, x: lambda **k: kl_per_site(m, q, x, **k), PARTICLES),
    "active_units": (
        lambda m, q, x: lambda **k: active_units(q, x, **k),
        {"num_particles": NO_COUNTS, "threshold": (math.nan, -1.0, "a")},
    ),
    "gaps": (
        lambda m, q, x: lambda **k: gaps(m, q, x, **k),
        {"steps": NO_COUNTS, "step_particles": NO_COUNTS, "learning_rate": NO_LENGTHS, "num_particles": NO_COUNTS},
    ),
    "compare": (lambda m, q, x: lambda **k: compare(q, exact_reference(m, x), x, model=m, **k), PARTICLES),
    "posterior_draws": (lambda m, q, x: lambda **k: posterior_draws(m, q, x, **k), {"num_draws": NO_COUNTS} | BYTES),
    "calibration": (
        lambda m, q, x: lambda **k: simulation_based_calibration(m, q, x_like=x, **k),
        dict.fromkeys(("num_data", "num_draws", "max_coordinates"), NO_COUNTS) | BYTES,
    ),
    "em": (
        lambda m, q, x: lambda **k: em(PPCA(x.shape[1], 1).double(), x, **k),
        {"max_iterations": NO_COUNTS, "restarts": (math.nan, -1, 2.5, "a")}
        | dict.fromkeys(("tolerance", "slack"), (math.nan, -1.0, "a")),
    ),
}


@pytest.mark.parametrize(("name", "setting"), [(name, word) for name, (_, words) in CALLS.items() for word in words])
def test_wrong_settings_are_named(name, setting, pair):
    call, wrong = CALLS[name]
    for value in wrong[setting]:
        with pytest.raises(ValueError, match=rf"{setting}\b"):
            call(*pair)(**{setting: value})


@pytest.mark.parametrize("function", [impute, sample_imputation])
def test_wrong_settings_of_an_imputation_are_named(function):
    model, x = PPCA(3, 1), torch.zeros(2, 3)
    for value in NO_COUNTS:
        with pytest.raises(ValueError, match="num_particles"):
            function(model, guides.Exact(model), x, x < 0, num_particles=value)
