"""Calibration: exact guides pass, wrong ones fail, and each kind of wrong guide in the quantity that sees it.

Verdicts are at 1 %: another seed would fail an exact guide in one case of a hundred. A wrong guide's p-value is below
1e-6 here, so that its verdict does not depend on the seed.
"""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PAIRS
from pyro import poutine
from torch import nn
from torch.utils.data import TensorDataset

import guides
from zoo import M2, PPCA, VAE, VRNN, WithMask
from zoo.infer import simulation_based_calibration
from zoo.infer.calibration.calibration import _Ranked
from zoo.infer.calibration.simulate import Simulated, simulate
from zoo.parts.conditionals import Normal, SelfMasking

QUICK = {"num_data": 400, "num_draws": 49, "seed": 0}


class Scaled(nn.Module):
    """The exact posterior of PPCA with its scale multiplied."""

    def __init__(self, model, scale):
        super().__init__()
        self._model, self.scale = (model,), scale

    def forward(self, x):
        q = self._model[0].posterior(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(q.mean, scale_tril=self.scale * q.scale_tril))


def squares(x):
    """z is known up to its sign: two modes."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
        pyro.sample("x", dist.Normal(z**2, 0.1).to_event(1), obs=x)


def one_mode(x):
    with pyro.plate("data", len(x)):
        root = x.clamp(min=1e-3).sqrt()
        pyro.sample("z", dist.Normal(root, 0.05 / root).to_event(1))


@pytest.mark.parametrize("name", ["ppca-exact", "lgssm-exact", "mixed-dynamics-exact", "hmm-path", "mixture-exact"])
def test_exact_guides_pass(name):
    pair = PAIRS[name]
    model, guide, x = pair.build()
    found = simulation_based_calibration(model, guide, x_like=x, **QUICK, **pair.model_keywords)
    assert found.passes(0.01), str(found)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_wrong_scales_fail_in_every_coordinate(scale):
    torch.manual_seed(0)
    model = PPCA(5, 2)
    found = simulation_based_calibration(model, Scaled(model, scale), **QUICK)
    assert not found.passes(0.01)
    assert {"z[0]", "z[1]", "distance"} <= set(found.failing(1e-6))


def test_missed_mode_fails():
    found = simulation_based_calibration(squares, one_mode, x_like=torch.zeros(1, 1), **QUICK)
    assert "z[0]" in found.failing(1e-6)


def test_prior_as_guide_fails_in_the_likelihood_alone():
    torch.manual_seed(0)
    model = PPCA(5, 2)

    def prior(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))

    assert simulation_based_calibration(model, prior, **QUICK).failing(0.01) == ["log p(x | z)"]


def test_ranks_count_draws_below_and_break_ties_at_random():
    def coin(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def never(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(torch.tensor(0.0)))

    found = simulation_based_calibration(coin, never, 4000, 9, x_like=torch.zeros(1), seed=0)
    ranks = found.ranks[:, found.names.index("z")]
    zero = ranks < 9
    assert (ranks[~zero] == 9).all()
    # of the true zeros, which equal all draws, nine in ten have a rank below 9: 0.45 of the data, sd 0.008
    assert abs(zero.double().mean() - 0.45) < 0.04


def test_quantities_of_the_caller_are_ranked():
    torch.manual_seed(0)
    model = PPCA(5, 2)
    asked = {"norm": lambda latents, x: latents["z"].norm(dim=-1)}
    exact = simulation_based_calibration(model, guides.Exact(model), quantities=asked, **QUICK)
    assert exact.names[-1] == "norm"
    assert exact.passes(0.01)
    narrow = simulation_based_calibration(model, Scaled(model, 0.5), quantities=asked, **QUICK)
    assert "norm" in narrow.failing(0.01)


def test_same_seed_gives_the_same_ranks_and_leaves_the_stream():
    torch.manual_seed(0)
    model = PPCA(5, 2)
    before = torch.get_rng_state()
    runs = [simulation_based_calibration(model, guides.Exact(model), 20, 9, seed=3).ranks for _ in range(2)]
    assert torch.equal(*runs)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_pieces_of_particles_give_ranks_of_all_draws():
    torch.manual_seed(0)
    model = PPCA(5, 2)
    # about ten data and all particles, then one datum and some particles at a time
    for max_bytes in (50_000, 8_000):
        found = simulation_based_calibration(model, guides.Exact(model), 60, 19, max_bytes=max_bytes, seed=0)
        assert found.ranks.max() > 15
        assert found.passes(0.01)


@pytest.mark.parametrize("name", ["m2-labelled", "srnn-smoother", "hierarchical-ladder", "kvae", "vae-categorical"])
def test_labels_sequences_and_levels_are_drawn(name):
    pair = PAIRS[name]
    model, guide, x = pair.build()
    found = simulation_based_calibration(model, guide, 20, 9, x_like=x, seed=0, **pair.model_keywords)
    assert found.ranks.shape == (20, len(found.names))
    assert found.ranks.max() <= 9


def test_labels_that_are_observed_are_drawn_with_x():
    model, _, x = PAIRS["m2-labelled"].build()
    y = PAIRS["m2-labelled"].model_keywords["y"]
    drawn = simulate(model, x.repeat(20, 1), {"y": y.repeat(20)})
    assert drawn.kwargs["y"].dtype == torch.long
    assert set(drawn.kwargs["y"].tolist()) == set(range(model.num_classes))
    assert [*drawn.latents] == ["z"]


def test_likelihood_of_the_draws_is_that_of_the_model():
    torch.manual_seed(0)
    model = VAE(6, 2, (8,))
    drawn = simulate(model, torch.zeros(300, 6), {})
    with torch.no_grad():
        expected = model.likelihood(drawn.latents["z"]).log_prob(drawn.x)
    torch.testing.assert_close(drawn.log_likelihood, expected)


def test_models_that_feed_x_back_draw_it_frame_by_frame():
    torch.manual_seed(0)
    model = VRNN(3, 2, recurrent=4, hidden=(8,)).double()
    drawn = simulate(model, torch.zeros(50, 6, 3, dtype=torch.double), {})
    # the first frame's density is no function of later frames, and bits drawn by the model are no zeros
    assert drawn.latents["z"].shape == (50, 6, 2)
    assert 0.2 < drawn.x.mean() < 0.8
    with torch.no_grad():
        s = model.states(drawn.latents["z"], *(drawn.x, *model.inputs(drawn.x)))
        expected = model.observation(drawn.latents["z"], s).log_prob(drawn.x)
    torch.testing.assert_close(drawn.log_likelihood, expected)


def test_long_sites_are_thinned():
    model, guide, x = PAIRS["lgssm-exact"].build()
    found = simulation_based_calibration(model, guide, 10, 4, x_like=x, max_coordinates=3, seed=0)
    assert len([name for name in found.names if name.startswith("z[")]) == 3
    assert found.names[0] == "z[0,0]"


def test_words_name_the_verdict():
    torch.manual_seed(0)
    model = PPCA(5, 2)
    assert "passes at 1 % over all 4 quantities" in str(
        simulation_based_calibration(model, guides.Exact(model), **QUICK)
    )
    assert "fails in " in str(simulation_based_calibration(model, Scaled(model, 0.5), **QUICK))


def reads_x(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z + x.sum(-1), 1.0).expand([2, len(x)]).to_event(0) if x.dim() > 1
                    else dist.Normal(z + x, 1.0), obs=x)  # fmt: skip


def hidden_data(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("w", dist.Normal(z, 1.0), obs=torch.zeros(len(x)))


def no_latent(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


def no_data(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def global_latent(x):
    z = pyro.sample("scale", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (reads_x, "cannot generate"),
        (hidden_data, "site 'w': function observes none of the model's arguments"),
        (no_latent, "no latent site"),
        (no_data, "no observed site"),
        (global_latent, "site 'scale': expected a value for each of 6 rows"),
    ],
)
def test_models_that_cannot_generate_are_refused(model, words):
    with pytest.raises(ValueError, match=words):
        simulation_based_calibration(model, lambda x: None, 6, 4, x_like=torch.ones(1))


def beside_a_covariate(x):
    """Of each row the last entry is observed, and the first is a covariate."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x[:, 0], 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 1])


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_slices_of_an_argument_are_drawn_and_the_rest_of_it_stays(scale):
    def exact(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.mean(-1), scale * 0.5**0.5))

    x = 3 * torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(simulate(beside_a_covariate, x, {}).x[:, 0], x[:, 0])
    found = simulation_based_calibration(beside_a_covariate, exact, x_like=x, **QUICK)
    assert found.passes() == (scale == 1.0)


def test_walks_are_drawn_after_the_frames_that_are_memorised():
    model, guide, x = PAIRS["gtmsm"].build()
    given = PAIRS["gtmsm"].model_keywords
    drawn = simulate(model, x, given)
    assert torch.equal(drawn.x[:, :2], x[:, :2])
    assert (drawn.x[:, 2:] != x[:, 2:]).all()
    with torch.no_grad():
        trace = poutine.trace(poutine.condition(model, data=drawn.latents)).get_trace(drawn.x, **given)
    trace.compute_log_prob()
    torch.testing.assert_close(drawn.log_likelihood, trace.nodes["x"]["log_prob"])
    assert "s[0,0]" in simulation_based_calibration(model, guide, 20, 4, x_like=x, **given).names
    masked = given | {"mask": torch.ones(x.shape[:2], dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"site 'x': GTMSM observes a part of the argument 'x'.*without a mask it may"):
        simulation_based_calibration(model, guide, 6, 4, x_like=x, **masked)


@pytest.mark.parametrize("slope", [0.0, 1.5])
def test_masks_that_are_data_are_drawn_with_x(slope):
    """Where the mask tells nothing of x the inner posterior is exact, and where it does it is not."""
    torch.manual_seed(0)
    inner = PPCA(4, 2)
    model = WithMask(inner, SelfMasking(4))
    with torch.no_grad():
        model.missingness.rate.fill_(slope), model.missingness.offset.fill_(0.5)
    guide = guides.PriorBelow(guides.Exact(inner), sites=["x_missing"], model=model)
    found = simulation_based_calibration(model, guide, **QUICK)
    assert found.passes() == (slope == 0.0), str(found)
    assert slope == 0.0 or found.p_value < 1e-6


def test_labels_beside_a_mask_that_is_data_are_drawn_too():
    inner = M2(4, 2, 3, (5,), likelihood=Normal)
    model = WithMask(inner, SelfMasking(4))
    drawn = simulate(model, torch.zeros(30, 4), {"y": torch.zeros(30, dtype=torch.long)})
    assert drawn.latents.keys() == {"z", "x_missing"}
    assert drawn.kwargs["y"].unique().tolist() == [0, 1, 2]
    assert torch.equal(drawn.latents["x_missing"] == drawn.x, ~drawn.kwargs["mask"])


@pytest.mark.parametrize("name", ["vae-per-datum", "vae-auto-normal"])
def test_guides_with_parameters_for_each_row_are_refused(name):
    model, guide, _ = PAIRS[name].build()
    with pytest.raises(ValueError, match="parameters for each row"):
        simulation_based_calibration(model, guide, 6, 4)


def test_guide_without_the_site_is_refused():
    model = PPCA(5, 2)

    def other(x):
        with pyro.plate("data", len(x)):
            pyro.sample("w", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match=r"'w'|'z'"):
        simulation_based_calibration(model, other, 6, 4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_data": 0}, "num_data"),
        ({"num_draws": 0}, "num_draws"),
        ({"max_coordinates": 0}, "max_coordinates"),
        ({"x_like": torch.zeros(0, 5)}, "x_like: expected at least one row"),
        ({"quantities": {"z[0]": lambda latents, x: latents["z"][..., 0]}}, "'z\\[0\\]' is ranked already"),
        ({"quantities": {"f": lambda latents, x: latents["z"]}}, "'f': expected shape"),
        ({"quantities": {"f": lambda latents, x: latents["z"].sum(-1) * torch.nan}}, "f: NaN cannot be ranked"),
    ],
)
def test_wrong_arguments_are_named(options, words):
    model = PPCA(5, 2)
    with pytest.raises(ValueError, match=words):
        simulation_based_calibration(model, guides.Exact(model), **{"num_data": 6, "num_draws": 4} | options)


def test_distance_of_a_datum_is_measured_by_the_others():
    z = torch.randn(5, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    scales = []
    for first in (0.0, 9.0):
        z[0] = first
        scales.append(_Ranked(Simulated({"z": z.clone()}, torch.zeros(5, 1), {}, torch.zeros(5)), {}, 3).scale)
    torch.testing.assert_close(scales[0][0], scales[1][0])
    torch.testing.assert_close(scales[0][0], z[1:].std(0, unbiased=False))
    assert (scales[0][1:] < scales[1][1:]).all()


def test_masks_and_conditions_are_used_over_and_over():
    model, mask = PPCA(5, 2), torch.rand(7, 5) < 0.6
    guide, table = guides.Exact(model), torch.full((7, 5), torch.nan)
    wanted = simulation_based_calibration(model, guide, 20, 4, x_like=table, mask=mask, seed=0)
    rows = torch.arange(20) % 7
    for given in ({"mask": mask}, {"x_like": TensorDataset(table, mask)}, {"x_like": table[rows], "mask": mask[rows]}):
        assert torch.equal(simulation_based_calibration(model, guide, 20, 4, seed=0, **given).ranks, wanted.ranks)
    with pytest.raises(ValueError, match=r"^mask: expected 3 rows, as many as x_like, got shape \(7, 5\)$"):
        simulation_based_calibration(model, guide, 20, 4, x_like=table[:3], mask=mask)


def test_shape_of_sequences_is_asked_for():
    for name in ("lgssm-exact", "hmm-path"):
        model, guide, _ = PAIRS[name].build()
        with pytest.raises(ValueError, match=r"x_like: .*sequences of any number of frames"):
            simulation_based_calibration(model, guide, 6, 4)
    with pytest.raises(ValueError, match="x_like: function does not say the shape"):
        simulation_based_calibration(squares, one_mode, 6, 4)
    with pytest.raises(TypeError, match="x_like"):
        simulation_based_calibration(squares, one_mode, 6, 4, x_like="rows")


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_level_is_a_probability(level):
    model = PPCA(5, 2)
    found = simulation_based_calibration(model, guides.Exact(model), 6, 4, seed=0)
    with pytest.raises(ValueError, match="level"):
        found.passes(level)
