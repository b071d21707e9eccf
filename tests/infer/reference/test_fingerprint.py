"""References of other data, other arguments or another model are refused by name; what does not matter is not."""

import copy
import dataclasses
import functools
import json
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from gaussian_pairs import Given, LinearGaussian
from torch import nn

from guides import Exact
from zoo import LGSSM, M2, VAE
from zoo.infer import compare, exact_reference, grid_reference, hmc_reference, nuts_reference, plot_overlay
from zoo.infer.reference.checked import NotAReference
from zoo.infer.reference.fingerprint import check_fingerprint, fingerprint
from zoo.infer.reference.reference import as_reference
from zoo.parts.kalman import Parameters

QUICK = {"seed": 0, "max_rhat": 99.0, "min_ess": 0.0, "max_divergences": 10**9}


def hmc(model, x, **kwargs):
    return hmc_reference(model, x, num_samples=40, warmup=30, **QUICK, **kwargs)


def nuts(model, x, **kwargs):
    return nuts_reference(model, x, num_samples=30, warmup=60, **QUICK, **kwargs)


def grid(model, x, **kwargs):
    return grid_reference(model, x, points=65, **kwargs)


@pytest.fixture
def model():
    return LinearGaussian(scale=0.5)


@pytest.mark.parametrize("find", [exact_reference, grid, hmc, pytest.param(nuts, marks=pytest.mark.thorough)])
def test_a_reference_of_other_data_or_of_a_model_that_was_trained_on(model, find):
    x, guide = model.data(4), Given(model)
    reference = find(model, x)
    for judge in (compare, plot_overlay):
        name = judge.__name__
        options = {"num_particles": 30} if judge is compare else {"num_draws": 200}
        judge(guide, reference, x.clone(), **options)
        with pytest.raises(ValueError, match=f"{name}: the reference is of another 'x': other values, or rows in"):
            judge(guide, reference, x.flip(0), **options)
        # rounded to float32 and back; of another dtype alone, the data are the same to the model
        with pytest.raises(ValueError, match=rf"{name}: the reference is of another 'x': other values, or rows in"):
            judge(guide, reference, x.float(), **options)
        kept_print = as_reference(reference).fingerprint
        with pytest.raises(ValueError, match=rf"{name}.*another 'x': float64 \(4, 4\), here float32 \(4, 4\)"):
            check_fingerprint(kept_print, model, x.float(), (), {}, name)
        kept = model.weight.detach().clone()
        with torch.no_grad():
            model.weight += 1e-6
        with pytest.raises(ValueError, match=f"{name}: the reference is of another model, or of this one before"):
            judge(guide, reference, x, **options)
        with torch.no_grad():
            model.weight.copy_(kept)
        judge(guide, reference, x, model=copy.deepcopy(model), **options)


def linear(data_dim=1):
    return LGSSM(
        Parameters,
        marginal=False,
        initial_mean=torch.zeros(1).double(),
        initial_covariance=torch.eye(1).double(),
        transition_matrix=0.9 * torch.eye(1).double(),
        transition_covariance=0.5 * torch.eye(1).double(),
        emission_matrix=torch.ones(data_dim, 1).double(),
        emission_covariance=0.3 * torch.eye(data_dim).double(),
        transition_input=torch.ones(1, 2).double(),
    )


def test_masks_and_controls_are_part_of_it():
    model, generator = linear(), torch.Generator().manual_seed(0)
    x, u = (torch.randn(3, 5, size, generator=generator).double() for size in (1, 2))
    mask = torch.arange(5) < torch.tensor([[5], [3], [4]])
    guide, reference = Exact(model), exact_reference(model, x, u, mask)
    compare(guide, reference, x, mask=mask, u=u, num_particles=30)  # by position and by name
    padded = x.clone()
    padded[~mask] = math.nan
    compare(guide, reference, padded, u, mask, num_particles=30)
    for arguments, message in (
        ((x, u, mask.flip(0)), "of another 'x'.*; and of another 'mask'"),
        ((x, u.flip(0), mask), "^compare: the reference is of another 'u': other values"),
        ((x, u), "found with the argument 'mask'"),
        ((x + mask.unsqueeze(-1), u, mask), "of another 'x'"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(guide, reference, *arguments, num_particles=30)
    without = exact_reference(model, x, u)
    with pytest.raises(ValueError, match="found without the argument 'mask'"):
        compare(guide, without, x, u, mask, num_particles=30)
    entries = mask.unsqueeze(-1).expand(x.shape)
    assert fingerprint(model, x, u, entries) == fingerprint(model, padded, u, entries)


def test_what_does_not_matter(model):
    x = model.data(6)
    x[0, 0] = 0.0
    expected = fingerprint(model, x)
    minus = x.clone()
    minus[0, 0] = -0.0
    strided = torch.stack([x, x], -1)[..., 0]
    assert not strided.is_contiguous()
    for same in (x.clone(), minus, strided, x.T.contiguous().T, x.clone().requires_grad_()):
        assert fingerprint(model, same) == expected
    other = LinearGaussian(scale=0.5, seed=9)
    assert fingerprint(other, x) != expected
    other.load_state_dict(model.state_dict())
    assert fingerprint(other, x) == expected
    model.train(False).requires_grad_(False)
    assert fingerprint(model, x) == expected
    for different in (x.float(), x[:5], x.flip(0), x.reshape(3, 8), x.nextafter(x + 1)):
        assert fingerprint(model, different) != expected


def test_draws_keep_it_in_a_file(model, tmp_path):
    from xarray import load_dataset

    x = model.data(3)
    found = hmc(model, x)
    words = found["posterior"].attrs["fingerprint"]
    assert isinstance(words, str)
    assert set(json.loads(words)) == {"x", "the model"}
    found["posterior"].to_netcdf(tmp_path / "draws.nc", engine="h5netcdf")
    attrs = load_dataset(tmp_path / "draws.nc", engine="h5netcdf").attrs
    assert json.loads(attrs["fingerprint"]) == fingerprint(model, x) == as_reference(found).fingerprint


def test_draws_of_ones_own_have_none(model):
    x = model.data(3)
    reference = dataclasses.replace(exact_reference(model, x), fingerprint=None)
    assert (compare(Given(model), reference, x, num_particles=30).gap.abs() < 1e-6).all()
    assert check_fingerprint(None, model, x, (), {}, "compare") is None


def test_the_gap_below_zero_is_never_good(model):
    """Draws of one's own and log p(x) of other data, or of another model: all else is in order."""
    x = model.data(3)
    exact = exact_reference(model, x)
    for off in (8.0, 0.01):
        wrong = dataclasses.replace(exact, log_evidence=exact.log_evidence - off, fingerprint=None)
        found = compare(Given(model), wrong, x, num_particles=200, seed=0)
        torch.testing.assert_close(found.gap, torch.full((3,), -off, dtype=torch.float64), rtol=0, atol=1e-6)
        assert [v.value for v in found.verdicts] == ["bad"] * 3
        assert found.reasons == ["gap below zero: reference or log p of other data or another model"] * 3
        assert "gap below zero" in str(found)
    within = dataclasses.replace(wrong, log_evidence_error=torch.full((3,), 0.005))
    assert [v.value for v in compare(Given(model), within, x, num_particles=200, seed=0).verdicts] == ["good"] * 3


# --- programs that are no modules ------------------------------------------------------------------------------------

scale = 0.5


def by_global(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, scale).to_event(1), obs=x)


def closing_over(value):
    def program(x, y=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            loc = value(z) if callable(value) else z * value
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    return program


def with_store(x):
    w = pyro.param("test_fingerprint_w", torch.ones(2))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z * w, 1.0).to_event(1), obs=x)


class Called:
    def __init__(self, weight):
        self.weight, self.count = weight, 0

    def method(self, x):
        closing_over(self.weight)(x)

    def __call__(self, x):
        self.count += 1
        self.method(x)


def test_the_state_of_a_function_is_what_it_refers_to(monkeypatch):
    x, net = torch.ones(3, 2), nn.Linear(2, 2)
    before = fingerprint(by_global, x)
    assert fingerprint(by_global, x) == before
    monkeypatch.setitem(globals(), "scale", 0.6)
    assert fingerprint(by_global, x) != before

    weight = torch.ones(2)
    pyro.clear_param_store()
    for program, change in (
        (closing_over(net), lambda: nn.init.zeros_(net.weight)),
        (closing_over(weight), lambda: weight.add_(1)),
        (functools.partial(closing_over(1.0), y=weight), lambda: weight.add_(1)),
        (Called(weight), lambda: weight.add_(1)),
        (Called(weight).method, lambda: weight.add_(1)),
        (with_store, lambda: pyro.param("test_fingerprint_w").data.add_(1)),
    ):
        before = fingerprint(program, x)
        assert fingerprint(program, x) == before
        change()
        assert fingerprint(program, x)["the model"] != before["the model"] or "y" in before
        assert fingerprint(program, x) != before
    pyro.clear_param_store()
    assert fingerprint(closing_over(1.0), x) == fingerprint(closing_over(1.0), x)
    assert fingerprint(closing_over(1.0), x) != fingerprint(closing_over(2.0), x)
    assert fingerprint(lambda x: x in {"a", "b"}, x) != fingerprint(lambda x: x in {"a", "c"}, x)
    assert fingerprint(lambda x: None, x) != fingerprint(lambda x: [1.0 for _ in x] and None, x)


def test_settings_that_are_no_parameters_count_too():
    model, x = LinearGaussian(), torch.ones(2, 4).double()
    before = fingerprint(model, x)
    model.temperature = 2.0
    warm = fingerprint(model, x)
    assert warm != before
    model.temperature = 2.5
    assert fingerprint(model, x) not in (before, warm)


def recursive(x, depth=0):
    return recursive(x, depth + 1) if depth < 2 else by_global(x)


def test_a_program_may_call_itself():
    assert fingerprint(recursive, torch.ones(2, 2)) == fingerprint(recursive, torch.ones(2, 2))


def test_arguments_of_every_kind():
    x = torch.ones(2, 3)

    def program(x, y=None, *rest, flag=True, **more):
        return None

    assert fingerprint(program, x) == fingerprint(program, x, None, flag=True)
    several = [
        {}, {"y": torch.ones(2)}, {"y": torch.ones(2).bool()}, {"y": np.ones(2)}, {"flag": False}, {"more": 2},
        {"y": [torch.ones(2), {"a": 1}]}, {"y": (torch.ones(2), {"a": 2})}, {"y": np.array(["a"])}, {"y": object()},
        {"index": torch.arange(2)},
    ]  # fmt: skip
    found = [json.dumps(fingerprint(program, x, **arguments)) for arguments in several]
    assert len(set(found)) == len(several)
    assert fingerprint(program, x, 1, 2) != fingerprint(program, x, 1, 3)
    assert set(fingerprint(lambda *a: None, x, 5)) == {"x", "argument_1", "the model"}
    assert fingerprint(lambda x: None, x).keys() == fingerprint(lambda x: None, x, index=torch.arange(2)).keys()
    mismatched = torch.zeros(5, dtype=torch.bool)
    assert fingerprint(lambda x, mask: None, x, mismatched)["x"] == fingerprint(lambda x, mask: None, x, None)["x"]


def test_a_refusal_is_no_reference_to_keep(model):
    with pytest.raises(NotAReference) as info:
        hmc_reference(model, model.data(2), num_samples=20, warmup=20, max_samples=20, seed=0)
    assert as_reference(info.value.inference_data).fingerprint == fingerprint(model, model.data(2))


def test_a_class_is_its_one_hot_vector():
    model, x, y = VAE(4, 2, (5,), condition_dim=3), torch.zeros(5, 4), torch.tensor([0, 2, 1, 1, 0])
    vectors = torch.eye(3)[y]
    same = [fingerprint(model, x, y=given) for given in (y, vectors, vectors.long(), vectors.double(), y.int())]
    assert all(one == same[0] for one in same)
    assert fingerprint(model, x, y=y.flip(0)) != same[0]
    assert fingerprint(model, x, y=2 * vectors) != same[0]
    # a label is no condition
    labelled = M2(4, 2, 3, (5,))
    assert fingerprint(labelled, x, y=y) != fingerprint(labelled, x, y=vectors)
