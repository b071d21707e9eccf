"""Hierarchies in use: KL weights and KL by site and by unit, generation, and bad input."""

import copy
import functools
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import guides
from zoo import BIVA, VAE, Hierarchical, load_pair, save_pair
from zoo.infer import ELBO, Tempered, fit, kl_per_site, kl_per_unit, terms
from zoo.infer.training.step.compiled import compiled
from zoo.parts.conditionals import Bernoulli, DiscretizedLogistic, FlowPrior, MixturePrior, Normal
from zoo.parts.hierarchy import Hierarchy
from zoo.parts.networks import DenseStage, Maps, MultiInput, RescaledStage, ResidualStage, ToPicture

HIDDEN = ((7,), (6,), (5,))
X = (torch.rand(5, 6, generator=torch.Generator().manual_seed(0)) < 0.5).float()


def pair(guide=guides.TopDown, **settings):
    torch.manual_seed(0)
    model = Hierarchical(6, (3, 2, 2), HIDDEN, **settings)
    return model, guide(model, hidden=HIDDEN)


def biva():
    torch.manual_seed(0)
    model = BIVA(6, (3, 2, 2), HIDDEN)
    return model, guides.Bidirectional(model, hidden=((7,), (7,), (6,), (6,), (5,)))


# --- weights of the KL, KL by unit -----------------------------------------------------------------------------------


def test_kl_weights_by_site():
    """Each site's log ratio has its own weight and schedule; a site that is not named has weight 1."""
    model, guide = pair()
    objective = Tempered(ELBO(2), kl_weight={"z_3": 0.25, "z_1": lambda step: step / 2})
    run = terms(model, guide, X, num_particles=2)
    for step in range(3):
        objective.advance()
        ratios, found = run.log_ratios, objective.temper(run).log_ratios
        for site, weight in {"z_1": step / 2, "z_2": 1.0, "z_3": 0.25}.items():
            torch.testing.assert_close(found[site], weight * ratios[site])
        assert objective.kl_weight_now == {"z_3": 0.25, "z_1": (step + 1) / 2}


def test_fit_records_weights_by_site(tmp_path, capsys):
    loss = Tempered(ELBO(), kl_weight={"z_1": lambda step: min(1.0, 0.1 + step / 4)})(*pair())
    found = fit(loss, X, epochs=2, batch_size=5, out=tmp_path, progress=True)
    assert [record["beta"] for record in found.history] == [{"z_1": 0.35}, {"z_1": 0.6}]
    assert "beta 0.35 of z_1" in capsys.readouterr().err


@pytest.mark.thorough
def test_a_graph_follows_the_weights_of_each_site(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    torch.manual_seed(0)
    model = Hierarchical(6, (2, 1), ((3,), (3,)))
    guide = guides.BottomUp(model, hidden=((3,), (3,)))
    loss = Tempered(ELBO(), kl_weight={"z_1": lambda step: float(step)})(model, guide)
    graph = compiled(loss, X)
    values = []
    for _ in range(4):
        torch.manual_seed(0)
        values.append(graph(X).item())
    steps = torch.tensor(values).diff()
    torch.testing.assert_close(steps, steps[:1].expand(3), rtol=1e-4, atol=1e-4)
    assert steps[0].abs() > 1e-3


@pytest.mark.parametrize("make", [pair, biva, partial(pair, guides.Ladder), partial(pair, guides.BottomUp)])
@pytest.mark.parametrize("k", [0, 1])
def test_units_add_up_to_their_site(make, k):
    model, guide = make()
    guide = guides.PriorBelow(guide, k)
    options = {"num_particles": 7, "seed": 3}
    by_unit, by_site = (kl(model, guide, X, **options) for kl in (kl_per_unit, kl_per_site))
    assert by_unit.keys() == by_site.keys()
    for site, units in by_unit.items():
        assert units.shape == (5, dict(zip(model.sites, model.latent_dims, strict=True))[site])
        torch.testing.assert_close(units.sum(-1), by_site[site], rtol=1e-5, atol=1e-5)
    assert (by_unit[model.sites[0]] == 0).all() == bool(k)


def test_units_of_a_users_pair_and_of_densities_that_are_no_product():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, torch.tensor([0.7, 1.0])).to_event(1))

    x = torch.randn(4, 2)
    closed = 0.5 * (torch.tensor([0.49, 1.0]) + (0.5 * x) ** 2 - 1) - torch.tensor([0.7, 1.0]).log()
    found = kl_per_unit(model, guide, x, num_particles=20_000, seed=0)["z"]
    # a log ratio has a standard deviation below 2 here, and there are 20,000 of them; failure rate below 1e-4
    torch.testing.assert_close(found, closed.double(), rtol=0, atol=4.5 * 2 / 20_000**0.5)
    model, _ = pair()
    full = guides.TopDown(model, hidden=HIDDEN, family=guides.FullRank)
    with pytest.raises(ValueError, match=r"site 'z_[123]': MultivariateNormal is no product over the units"):
        kl_per_unit(model, full, X)


# --- generation ------------------------------------------------------------------------------------------------------


def test_generation_by_level():
    """Fixed levels stay, the levels above them do not move them, and the levels below follow."""
    model, _ = pair(skip=True)
    z, x = model.generate(400)
    assert {site: tuple(draws.shape) for site, draws in z.items()} == {
        "z_3": (400, 2),
        "z_2": (400, 2),
        "z_1": (400, 3),
    }
    assert x.shape == (400, 6)
    assert set(x.unique().tolist()) <= {0.0, 1.0}
    assert not any(draws.requires_grad for draws in z.values())
    one = {site: draws[0] for site, draws in z.items() if site != "z_1"}
    again, _ = model.generate(50, fixed=one)
    assert all((again[site] == value).all() for site, value in one.items())
    assert (again["z_1"][0] != again["z_1"][1]).all()
    many, _ = model.generate(400, fixed={"z_3": z["z_3"]})
    assert torch.equal(many["z_3"], z["z_3"])


def test_temperature_scales_the_spread():
    model, _ = pair()
    fixed = {"z_3": torch.tensor([0.3, -0.2])}
    torch.manual_seed(1)
    full = model.generate(2000, fixed=fixed)[0]["z_2"]
    torch.manual_seed(1)
    half = model.generate(2000, temperature=0.5, fixed=fixed)[0]["z_2"]
    mean = model.prior(2, model.descend(3, None, fixed["z_3"])).mean
    torch.testing.assert_close(half - mean, 0.5 * (full - mean))
    at_mean, _ = model.generate(3, temperature=0.0, fixed=fixed)
    torch.testing.assert_close(at_mean["z_2"], mean.expand(3, -1))


@pytest.mark.parametrize("make", [pair, biva])
def test_generation_is_the_program(make):
    """Means and variances of x over the levels equal those of the program, within their Monte Carlo error."""
    model, _ = make()
    num = 20_000
    x = model.generate(num)[1]
    with torch.no_grad():
        other = pyro.poutine.uncondition(model)(torch.zeros(num, 6))
    # bits: the standard error of a difference of two means is at most sqrt(2 * 0.25 / num)
    assert (x.mean(0) - other.mean(0)).abs().max() < 5 * (0.5 / num) ** 0.5


# --- priors, likelihoods, feature maps -------------------------------------------------------------------------------

PICTURE = (RescaledStage, {"shift": 127.5, "scale": 127.5})


@pytest.mark.parametrize("shape", [pytest.param((8, 8), marks=pytest.mark.thorough), (8, 8, 3)], ids=str)
@pytest.mark.parametrize("likelihood", [Bernoulli, DiscretizedLogistic, Normal])
@pytest.mark.parametrize("guide", [guides.TopDown, guides.Ladder, guides.BottomUp, guides.Bidirectional])
def test_feature_maps_under_every_likelihood(shape, likelihood, guide, tmp_path):
    torch.manual_seed(0)
    first, second = (partial(ResidualStage, maps=Maps(n, n, 4), blocks=1) for n in (4, 2))
    x = {Bernoulli: torch.rand, DiscretizedLogistic: torch.rand, Normal: torch.randn}[likelihood](3, Maps(*shape))
    x = x.round() if likelihood is Bernoulli else (256 * x).floor() if likelihood is DiscretizedLogistic else x
    up = (
        first
        if likelihood is not DiscretizedLogistic
        else partial(RescaledStage, stage=first, shift=127.5, scale=127.5)
    )
    wide = partial(DenseStage, hidden=(6,), activation=nn.ELU)
    options = {"likelihood": partial(likelihood, layer=ToPicture)}
    if guide is guides.Bidirectional:
        model = BIVA(Maps(*shape), (3, 2, 2), (first, second, wide), **options)
        q = guide(model, hidden=(up, up, second, second, wide))
    else:
        model = Hierarchical(Maps(*shape), (3, 2, 2), (first, second, wide), guide is guides.TopDown, **options)
        q = guide(model, hidden=(up, second, wide))
    loss = ELBO(2)(model, q)
    before = loss(x)
    before.backward()
    for name, parameter in loss.named_parameters():
        if "change.1" not in name:  # a block's first convolution has no gradient while its last one is zero
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    assert model.generate(2)[1].shape == (2, Maps(*shape))
    save_pair(tmp_path, model, q)
    twin, loaded = copy.deepcopy(loss), ELBO(2)(*load_pair(tmp_path))
    torch.manual_seed(4)
    value = loss(x)
    for other in (twin, loaded):
        torch.manual_seed(4)
        assert other(x) == value


@pytest.mark.parametrize("prior", [partial(MixturePrior, 2, components=3), partial(FlowPrior, 2, hidden=(4,))])
def test_other_priors_of_the_top(prior):
    model, guide = pair(prior=prior())
    fit(ELBO()(model, guide), X, steps=2, batch_size=5, progress=False)
    assert model.generate(3)[1].shape == (3, 6)


def test_a_flow_has_no_mean_to_be_near_to():
    model, _ = pair(prior=FlowPrior(2, hidden=(4,)))
    with pytest.raises(NotImplementedError, match="FlowDensity: no closed form of the mean"):
        model.generate(3, temperature=0.5)


# --- bad input -------------------------------------------------------------------------------------------------------


class NoDescend(Hierarchy):
    def prior(self, level, above):
        """."""

    def likelihood(self, above):
        """."""


def small(**settings):
    return Hierarchical(6, (3, 2), **{"hidden": ((7,), (6,)), **settings})


class Lying(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.size, self.layer = 9, nn.Linear(sum(sizes), 8)

    def forward(self, *inputs):
        return self.layer(torch.cat(inputs, -1))


def bad_model(**settings):
    return lambda: small(**settings)


def bad_guide(guide, model=small, **settings):
    return lambda: guide(model(), **{"hidden": ((7,), (6,)), **settings})


BAD = {
    "no levels": (lambda: Hierarchical(6, ()), "latent_dims: expected a size for each level, at least one, got"),
    "no levels of BIVA": (lambda: BIVA(6, ()), "latent_dims: expected a size for each level, at least one, got"),
    "a size of zero": (
        lambda: Hierarchical(6, (3, 0)),
        r"latent_dims\[1\]: expected a whole number, at least 1, got 0",
    ),
    "no data": (lambda: Hierarchical(0, (3, 2)), "data_dim: expected a whole number, at least 1, got 0"),
    "hidden of one level": (
        bad_model(hidden=((7,),)),
        "hidden: expected an entry for each of the 2 levels, got 1 entr",
    ),
    "hidden of no sequence": (
        bad_model(hidden=7),
        "hidden: expected an entry for each of the 2 levels, got no sequence",
    ),
    "guide's hidden": (
        bad_guide(guides.TopDown, hidden=((7,),) * 3),
        "hidden: expected an entry for each of the 2 lev",
    ),
    "hidden of BIVA's guide": (
        lambda: guides.Bidirectional(BIVA(6, (3, 2), ((7,), (6,))), hidden=((7,), (6,))),
        "hidden: expected an entry for each of the 3 levels, got 2 entries",
    ),
    "family": (
        bad_guide(guides.TopDown, family=[guides.Diagonal]),
        "family: expected an entry for each of the 2 levels",
    ),
    "a model without prior": (lambda: guides.TopDown(VAE(6, 3)), "TopDown: VAE has no latent_dims; guides of hierarch"),
    "bottom-up looks at the prior": (
        bad_guide(guides.BottomUp, family=guides.Residual),
        r"family: Residual looks at p\(z_1 \| ...\), which is not known yet when z_1 is drawn",
    ),
    "up looks at the prior": (
        lambda: guides.Bidirectional(small(), hidden=((7,), (6,)), bottom_up=[1], family_up=guides.PrecisionWeighted),
        r"family: PrecisionWeighted looks at p\(z_1 \| ...\), which is not known yet",
    ),
    "a ladder that does not look": (
        bad_guide(guides.Ladder, family=guides.Diagonal),
        r"Ladder: Diagonal ignores p\(z_1 \| ...\), so that z_1 would be independent",
    ),
    "a level out of range": (
        bad_guide(guides.Bidirectional, bottom_up=[3]),
        r"bottom_up: expected levels of 1 to 2, got \[3\]",
    ),
    "no levels to go up": (
        bad_guide(guides.Bidirectional),
        "bottom_up: .*got None; Hierarchical states none of its own",
    ),
    "k out of range": (
        lambda: guides.PriorBelow(guides.TopDown(small(), hidden=((7,), (6,))), 2),
        "k: expected a number of levels, 0 to 1, got 2",
    ),
    "k of a guide without levels": (
        lambda: guides.PriorBelow(guides.Amortized(VAE(6, 3)), 1),
        "k: expected sites=, as the guide states no levels, got 1",
    ),
    "k and sites": (
        lambda: guides.PriorBelow(guides.TopDown(small(), hidden=((7,), (6,))), 1, sites=["z_1"]),
        "PriorBelow: expected k or sites, one of the two",
    ),
    "no model": (lambda: guides.PriorBelow(lambda x: x, sites=["z"]), "PriorBelow: <lambda> knows no model"),
    "resolutions": (
        bad_model(hidden=[partial(ResidualStage, maps=Maps(n, n, 2)) for n in (4, 3)], skip=True),
        r"hidden\[0\]: no stage of inputs of sizes \(3, Maps\(3, 3, 2\)\): .* do not meet",
    ),
    "a stage of another size": (bad_model(hidden=[Lying, (6,)]), r"hidden\[0\]: Lying says size = 9, and makes \(8,\)"),
    "a stage of one input": (
        bad_model(hidden=[lambda sizes: nn.Linear(sizes[0], 4), (6,)], skip=True),
        r"hidden\[0\]: no stage of inputs of sizes \(3, 6\): .*positional argument",
    ),
    "a stage of no width": (bad_model(hidden=[(), (6,)]), r"hidden\[0\]: no stage .*a stage needs at least one width"),
    "no inputs": (lambda: MultiInput((), 3), "sizes: expected the length of each input, at least one, got"),
    "a scale of zero": (
        lambda: RescaledStage((3,), partial(DenseStage, hidden=(4,)), shift=0.0, scale=0.0),
        "scale: expected a finite number > 0, got 0.0",
    ),
    "no temperature": (lambda: small().generate(3, temperature=-1.0), "temperature: expected a finite number >= 0"),
    "a site that is not there": (
        lambda: small().generate(3, fixed={"z_5": X}),
        "fixed: 'z_5' is no latent site of Hier",
    ),
    "a value of another shape": (
        lambda: small().generate(3, fixed={"z_2": torch.zeros(4, 2)}),
        r"fixed\['z_2'\]: expected shape \(3, 2\) or \(2,\), got \(4, 2\)",
    ),
    "another number of inputs": (
        lambda: MultiInput((3, 2), 4)(torch.zeros(3)),
        "MultiInput: built for 2 inputs, got 1",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    make, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            bad_model(hidden=(512, 256)),
            r"hidden\[1\]: expected widths such as \(512, 512\), or a constructor .* got 256",
        ),
        (bad_model(hidden=[nn.Linear(3, 4), (6,)]), r"hidden\[0\]: expected widths .* got Linear"),
        (lambda: NoDescend(6, (3,)), "Hierarchy: abstract; NoDescend states neither descend"),
        (lambda: guides.HierarchyGuide(small()), "HierarchyGuide: abstract; HierarchyGuide does not state climb"),
        (lambda: ToPicture(Maps(4, 4, 2), 784), "ToPicture: expected Maps of the features and of the data"),
        (lambda: ResidualStage((3,), 784).size, "maps: expected Maps\\(height, width, channels\\), got 784"),
    ],
)
def test_arguments_of_another_kind_are_named(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_x_of_another_shape_is_named():
    model, guide = pair()
    for program in (model, guide, guide.per_datum(X).forward):
        with pytest.raises(ValueError, match=r"x: expected shape \(..., 6\), got \(5, 1, 2, 3\); x.flatten\(1\)"):
            program(X.reshape(5, 1, 2, 3))
        with pytest.raises(ValueError, match=r"x: expected shape \(..., 6\), got \(5, 4\)"):
            program(X[:, :4])
    with pytest.raises(ValueError, match=r"mask: expected torch\.bool"):
        guide(X, X)
    with pytest.raises(ValueError, match="TopDown: reads x alone, and was given argument 4 too"):
        guide(X, None, None, X)


def test_a_guide_of_another_models_sizes_is_named():
    model, _ = pair()
    other = Hierarchical(6, (3, 2, 1), HIDDEN)
    for guide in (guides.Ladder(other, hidden=HIDDEN), guides.PriorBelow(guides.Ladder(other, hidden=HIDDEN), 1)):
        with pytest.raises(
            ValueError, match=r"built for a Hierarchical of latent_dims = \(3, 2, 1\); .* has \(3, 2, 2\)"
        ):
            ELBO()(model, guide)(X)


def test_sites_that_the_guide_does_not_sample_are_named():
    _, guide = pair()
    with pytest.raises(
        ValueError, match=r"PriorBelow: the model samples no site \['z_7'\], but \['x', 'z_1', 'z_2', 'z_3'\]"
    ):
        guides.PriorBelow(guide, sites=["z_7"])(X)


def test_levels_that_do_not_agree_are_named():
    class Model:
        data_dim, latent_dims, sites = 6, (3, 2), ("a",)

        def prior(self, level, above):
            """."""

    with pytest.raises(ValueError, match=r"TopDown: expected a size and a name for each level .* sites = \('a',\)"):
        guides.TopDown(Model(), hidden=((7,), (6,)))


def test_hidden_draws_are_not_scored_under_constant_parameters():
    model, guide = biva()
    with pytest.raises(ValueError, match=r"site 'z_.*': the guide is another density when it is run again"):
        ELBO(sticking=True)(model, guides.PriorBelow(guide, 1))(X)
