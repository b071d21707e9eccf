"""`Factorised`: guides side by side, autoguides among them; sizes of single sites; saving; the refusals."""

import copy

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch import nn

import guides
import zoo
from zoo import M2, VAE
from zoo.infer import ELBO, IWELBO, SemiSupervised, fit, gaps, kl_per_site, terms
from zoo.parts.store_keys import RootModule

X = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))


def normal(size):
    return dist.Normal(torch.zeros(size), 1.0).to_event(1)


class TwoVectors(RootModule):
    """Two latent vectors of different size for each datum; a mean and a scale for all of them."""

    data_dim, latent_dim = 4, 2

    def __init__(self, shared=True):
        super().__init__("model")
        self.shared, self.decoder = shared, nn.Linear(5, 4)

    def forward(self, x):
        w = pyro.sample("w", normal(4)) if self.shared else torch.zeros(4)
        scale = pyro.sample("scale", dist.Gamma(2.0, 2.0)) if self.shared else torch.ones(())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(2))
            a = pyro.sample("a", normal(3))
            loc = self.decoder(torch.cat([z, a], -1)) + w
            pyro.sample("x", dist.Normal(loc, scale.unsqueeze(-1)).to_event(1), obs=x)


def local_parts(model, first=guides.Amortized):
    z = first(model, hidden=(5,)) if first is guides.Amortized else first(model, len(X))
    return z, guides.Amortized(model, hidden=(5,), site="a", latent_dim=3, family=guides.FullRank)


@pytest.mark.parametrize("autoguide", [AutoNormal, AutoMultivariateNormal])
@pytest.mark.parametrize("first", [guides.Amortized, guides.PerDatum])
def test_stock_guides_beside_an_autoguide_train_on_batches(first, autoguide):
    model = TwoVectors()
    guide = guides.Factorised(*local_parts(model, first), autoguide(model))
    loss = ELBO(3, num_data=len(X))(model, guide)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    fit(loss, X, steps=3, batch_size=4, progress=False)
    after = loss.state_dict()
    assert all(key.startswith(("model.", "guide.parts.")) for key in after)
    assert all(not torch.equal(value, after[key]) for key, value in before.items())
    index = {"index": torch.arange(len(X))} if first is guides.PerDatum else {}
    assert terms(model, guide, X, num_particles=3, **index).log_weights.shape == (3, 9)
    pyro.set_rng_seed(0)
    loss(X, **index)
    shapes = {name: tuple(value.shape) for name, value in kl_per_site(model, guide, X, num_particles=2).items()}
    shared = {"w": (), "scale": ()} if autoguide is AutoNormal else {"w, scale": ()}
    assert shapes == {"z": (9,), "a": (9,)} | shared


def test_its_bound_is_that_of_the_guides_written_as_one():
    model = TwoVectors(shared=False)
    z, a = local_parts(model)

    def written(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", z.posterior(x))
            pyro.sample("a", a.posterior(x))

    for objective in (ELBO(4), ELBO(analytic_kl=True), ELBO(sticking=True), IWELBO(5, gradient="doubly")):
        pyro.set_rng_seed(0)
        expected = objective.loss(model, written, X)
        pyro.set_rng_seed(0)
        assert objective.loss(model, guides.Factorised(z, a), X) == pytest.approx(expected, rel=1e-6)
    found = guides.Factorised(z, a).posterior(X)
    assert found["a"].shape() == (9, 3)
    assert found["z"].shape() == (9, 2)


def test_svi_finds_keys_of_its_own():
    model = TwoVectors(shared=False)
    guide = guides.Factorised(*local_parts(model))
    pyro.clear_param_store()
    pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), ELBO()).step(X)
    keys = [key for key in pyro.get_param_store() if "guide" in key]
    assert len(keys) == len([*guide.parameters()])
    assert all(".parts." in key for key in keys)


def test_a_copy_is_a_pair_of_its_own():
    model = TwoVectors(shared=False)
    loss = ELBO()(model, guides.Factorised(*local_parts(model)))
    again = copy.deepcopy(loss)
    assert all(part.model is again.model for part in again.guide.parts)
    pyro.set_rng_seed(0)
    expected = loss(X)
    pyro.set_rng_seed(0)
    torch.testing.assert_close(again(X), expected)


def test_saved_and_loaded(tmp_path):
    model = VAE(4, 2, hidden=(5,))
    guide = guides.Factorised(guides.Amortized(model, hidden=(5,)))
    zoo.save_pair(tmp_path / "pair", model, guide)
    loaded_model, loaded = zoo.load_pair(tmp_path / "pair")
    x = (X > 0).float()
    pyro.set_rng_seed(0)
    expected = ELBO(2).loss(model, guide, x)
    pyro.set_rng_seed(0)
    assert ELBO(2).loss(loaded_model, loaded, x) == expected


def test_gaps_of_several_sites():
    model = TwoVectors(shared=False)
    guide = guides.Factorised(*local_parts(model))
    found = gaps(model, guide, X, steps=2, num_particles=40, seed=0)
    assert found.amortization.shape == (9,)
    with torch.no_grad():
        own = guide.per_datum(X)
    torch.testing.assert_close(own.parts[0].family(None, own.parts[0].table).mean, guide.parts[0].posterior(X).mean)


def test_overlapping_and_missing_sites_are_named_with_the_parts():
    model = TwoVectors(shared=False)
    z, a = local_parts(model)
    with pytest.raises(ValueError, match=r"site 'z' is sampled by Amortized\(site='z'\) and by Amortized\(site='z'\)"):
        guides.Factorised(z, a, guides.Amortized(model, hidden=(5,)))(X)
    of_a, of_both = AutoNormal(poutine.block(model, expose=["a"])), AutoNormal(poutine.block(model, expose=["a", "z"]))
    with pytest.raises(ValueError, match=r"site 'a' is sampled by AutoNormal and by AutoNormal.*hide=\['a'\]"):
        guides.Factorised(of_a, of_both)(X)
    missing = r"site 'a': a latent site .* does not sample; Factorised\(Amortized\(site='z'\)\) samples \['z'\]"
    with pytest.raises(ValueError, match=missing):
        ELBO().loss(model, guides.Factorised(z), X)


def test_parts_that_do_not_belong_together():
    model = TwoVectors(shared=False)
    with pytest.raises(ValueError, match="at least one of which knows its model"):
        guides.Factorised()
    with pytest.raises(ValueError, match="guides of several models, TwoVectors, TwoVectors"):
        guides.Factorised(guides.Amortized(model), guides.Amortized(TwoVectors(), site="a", latent_dim=3))

    def longer(x):
        with pyro.plate("data", len(x) + 1):
            pyro.sample("a", normal(3))

    with pytest.raises(ValueError, match="plate 'data' has 9 rows, and 10 in longer"):
        guides.Factorised(guides.Amortized(model, hidden=(5,)), longer)(X)


def test_a_function_may_be_a_part():
    model = TwoVectors(shared=False)

    def of_a(x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", normal(3))

    guide = guides.Factorised(guides.Amortized(model, hidden=(5,)), of_a)
    assert guide(X).keys() == {"z", "a"}
    assert IWELBO(3).loss(model, guide, X) > 0


def test_sizes_of_single_sites():
    class Sizeless(nn.Module):
        data_dim = 4

    assert guides.Amortized(Sizeless(), latent_dim=3).posterior(X).shape() == (9, 3)
    assert guides.PerDatum(Sizeless(), 9, latent_dim=3)(X).shape == (9, 3)
    with pytest.raises(ValueError, match="Sizeless has no latent_dim"):
        guides.Amortized(Sizeless())


def test_parts_that_have_run_by_themselves_are_parts_like_others():
    model = TwoVectors()
    parts, used = local_parts(model), AutoNormal(poutine.block(model, hide=["z", "a"]))
    for part in (*parts, used):
        part(X)
    guide = guides.Factorised(*parts, used)
    guide(X)
    svi = pyro.infer.SVI(model, guides.PriorBelow(guide, sites=["z"]), pyro.optim.Adam({"lr": 1e-3}), ELBO())
    before = used.locs.w.detach().clone()
    svi.step(X)
    assert (used.locs.w != before).all()


@pytest.mark.parametrize("hidden", [["z"], ["w"], ["scale"], ["z", "a", "w", "scale"]])
def test_a_guide_whose_autoguide_has_run_hides_sites_of_all_kinds(hidden):
    model = TwoVectors()
    guide = guides.Factorised(*local_parts(model), AutoNormal(model))
    guide(X)
    upper = guides.PriorBelow(guide, sites=hidden)
    run = terms(model, upper, X, num_particles=3)
    ratios = run.log_ratios | run.outside
    assert {name for name, ratio in ratios.items() if not ratio.any()} == set(hidden)
    assert ratios.keys() == {"z", "a", "w", "scale"}


def test_an_autoguide_by_itself_hides_its_sites_and_a_part_of_a_joint_draw_is_refused():
    model = TwoVectors()
    auto = AutoNormal(model)
    auto(X)
    run = terms(model, guides.PriorBelow(auto, sites=["w"]), X)
    assert not run.outside["w"].any()
    assert run.outside["scale"].any()
    upper = guides.PriorBelow(guides.Factorised(*local_parts(model), AutoMultivariateNormal(model)), sites=["w"])
    with pytest.raises(ValueError, match="PriorBelow: site 'w': the guide draws it together with other latents"):
        ELBO().loss(model, upper, X)


class WithOffset(RootModule):
    """M2 beside an offset that all data share."""

    data_dim, latent_dim, num_classes = 4, 2, 3

    def __init__(self):
        super().__init__("model")
        self.inner = M2(4, 2, 3, hidden=(5,))
        self.prior = self.inner.prior

    def forward(self, x, y=None):
        pyro.sample("w", normal(4))
        return self.inner.forward(x, y)


@pytest.mark.parametrize("first", ["labelled", "unlabelled"])
def test_an_autoguide_beside_classes_that_are_summed_out(first):
    model, y = WithOffset(), torch.tensor([0, 1, 2, 0, -1, -1, -1, 1, 2])
    guide = guides.Factorised(guides.Labelled(model, hidden=(5,)), AutoNormal(model))
    x = (X > 0).float()
    if first == "unlabelled":
        assert terms(model, guide, x).summed.keys() == {"y"}
    loss = SemiSupervised(ELBO(num_data=9), 1.0)(model, guide)
    fit(loss, (x, y), steps=2, batch_size=4, progress=False)
    assert kl_per_site(model, guide, x, num_particles=2).keys() == {"y", "z", "w"}
