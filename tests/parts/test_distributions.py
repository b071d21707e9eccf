"""The house's densities against torch's own."""

import copy
from functools import partial
from typing import NamedTuple

import pyro
import pytest
import torch
from torch import nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    kl_divergence,
)
from torch.nn.utils import prune

from guides.families import IAF, Diagonal, Planar, Radial, Spline
from guides.families.pushforward import Pushforward
from zoo.infer import terms
from zoo.parts.conditionals import Categorical as CategoricalLikelihood
from zoo.parts.conditionals import DiscretizedLogistic, FlowPrior, MixturePrior
from zoo.parts.conditionals import Normal as NormalLikelihood
from zoo.parts.distributions import (
    DiagonalNormal,
    IndependentBernoulli,
    IndependentDiscretizedLogistic,
    MixtureOfNormalsDensity,
    UnitNormal,
)
from zoo.parts.distributions.vector import VectorDistribution

pytestmark = pytest.mark.usefixtures("double_precision")


def parameters(*shape):
    return torch.randn(*shape, requires_grad=True), torch.randn(*shape, requires_grad=True)


def exact(loc, log_scale):
    return Independent(Normal(loc, log_scale.exp()), 1)


def test_densities_are_torchs():
    loc, log_scale = parameters(4, 3)
    z = torch.randn(5, 4, 3)
    for q in (DiagonalNormal(loc, log_scale=log_scale), DiagonalNormal(loc, log_scale.exp())):
        torch.testing.assert_close(q.log_prob(z), exact(loc, log_scale).log_prob(z))
        torch.testing.assert_close(q.expand((5, 4)).log_prob(z), exact(loc, log_scale).log_prob(z))
        torch.testing.assert_close(q.entropy(), exact(loc, log_scale).entropy())
    torch.testing.assert_close(UnitNormal(3, z).log_prob(z), Independent(Normal(z * 0, z * 0 + 1), 1).log_prob(z))
    x = torch.bernoulli(torch.full((4, 3), 0.5))
    logits = torch.randn(5, 4, 3)
    torch.testing.assert_close(IndependentBernoulli(logits).log_prob(x), Bernoulli(logits=logits).log_prob(x).sum(-1))


@pytest.mark.parametrize("particles", [(), (5,)])
def test_log_prob_of_a_draw_has_the_value_and_the_total_gradient_of_log_prob(particles):
    loc, log_scale = parameters(4, 3)
    q = DiagonalNormal(loc, log_scale=log_scale).expand((*particles, 4))
    for _ in range(2):  # of the latest draw, and as well of one before it
        z = q.rsample()
        for value in (z, z * 1):
            quick, long = q.log_prob_of_draw(value), exact(loc, log_scale).log_prob(value)
            torch.testing.assert_close(quick, long)
            weight = torch.randn_like(quick)
            options = {"retain_graph": True, "materialize_grads": True}
            gradients = [torch.autograd.grad((f * weight).sum(), (loc, log_scale), **options) for f in (quick, long)]
            torch.testing.assert_close(*gradients)


def test_log_prob_of_a_draw_without_a_path_has_the_score():
    loc, log_scale = parameters(4, 3)
    q = DiagonalNormal(loc, log_scale=log_scale)
    z = q.sample()
    scores = [torch.autograd.grad(f.sum(), loc)[0] for f in (q.log_prob_of_draw(z), exact(loc, log_scale).log_prob(z))]
    assert scores[1].abs().min() > 0
    torch.testing.assert_close(*scores)


@pytest.mark.parametrize("heteroscedastic", [False, True])
def test_no_standard_deviation_of_a_normal_likelihood_is_below_its_floor(heteroscedastic):
    """Variances add up; however far the network goes, densities stay bounded and have a gradient."""
    likelihood = NormalLikelihood(2, 3, scale=0.5, heteroscedastic=heteroscedastic, floor=0.1)
    h = torch.randn(4, 2)
    torch.testing.assert_close(likelihood(h).variance, torch.full((4, 3), 0.5**2 + 0.1**2))
    with torch.no_grad():
        likelihood.log_scale.fill_(-1e3)
    x = likelihood(h).loc
    density = likelihood(h).log_prob(x.detach())
    torch.testing.assert_close(density, exact(x, torch.full((4, 3), 0.1).log()).log_prob(x))
    assert all(g.isfinite().all() for g in torch.autograd.grad(density.sum(), list(likelihood.parameters())))
    for wrong in ({"floor": -1.0}, {"floor": float("inf")}, {"scale": 0.0}):
        with pytest.raises(ValueError, match="Normal: expected scale > 0 and floor >= 0"):
            NormalLikelihood(2, 3, **wrong)


@pytest.mark.parametrize("particles", [(), (5,)])
@pytest.mark.parametrize("shape", [(), (3,), (1,), (2, 1, 1), (4, 1)])
@pytest.mark.parametrize("by_log", [False, True])
def test_a_scale_that_data_share_counts_for_each_of_them(particles, shape, by_log):
    """Values, moments and gradients are those of a scale repeated for each; location (4, 3)."""
    loc, log_scale = torch.randn(4, 3, requires_grad=True), torch.randn(shape, requires_grad=True)
    q = DiagonalNormal(loc, log_scale=log_scale) if by_log else DiagonalNormal(loc, log_scale.exp())
    expected = exact(*torch.broadcast_tensors(loc, log_scale))
    batch = (*particles, *expected.batch_shape)
    q, expected = q.expand(batch), expected.expand(batch)
    assert (q.batch_shape, q.loc.shape) == (expected.batch_shape, expected.mean.shape)
    torch.manual_seed(0)
    z = q.rsample()
    for name in ("mean", "stddev", "variance"):
        torch.testing.assert_close(getattr(q, name), getattr(expected, name))
    torch.testing.assert_close(q.entropy(), expected.entropy())
    found = []
    unused = {"allow_unused": True, "materialize_grads": True, "retain_graph": True}
    for score in (q.log_prob_of_draw(z), q.log_prob(z), expected.log_prob(z)):
        weighted = (score * z.detach().sum(-1)).sum()
        found.append((score, *torch.autograd.grad(weighted, (loc, log_scale), **unused)))
    for a, b in zip(found[0] + found[1], found[2] * 2, strict=True):
        torch.testing.assert_close(a, b)


def pruned(*sizes):
    """A layer whose weight is made anew by a hook at each call."""
    layer = prune.random_unstructured(nn.Linear(*sizes), "weight", amount=0.5)
    nn.init.normal_(layer.weight_orig)
    return layer


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear,
        partial(nn.Linear, bias=False),
        lambda *sizes: nn.Sequential(nn.Linear(*sizes)),
        pruned,
        # one mean for all coordinates
        lambda width, _: nn.Linear(width, 1),
    ],
)
def test_location_and_scale_of_a_likelihood_are_two_linear_maps(layer):
    """A plain layer is multiplied together with the scale's map, another one is called."""
    likelihood, h = NormalLikelihood(4, 3, scale=0.5, heteroscedastic=True, layer=layer), torch.randn(2, 5, 4)
    nn.init.normal_(likelihood.scale_weight)
    p, expected = (
        likelihood(h),
        (likelihood.loc(h).expand(2, 5, 3), (h @ likelihood.scale_weight.T + likelihood.log_scale).exp()),
    )
    for found, other in zip((p.loc, p.scale), expected, strict=True):
        torch.testing.assert_close(found, other)
        unused = {"allow_unused": True, "materialize_grads": True, "retain_graph": True}
        parts, inputs = (found.square().sum(), other.square().sum()), [*likelihood.parameters()]
        gradients = [torch.autograd.grad(part, inputs, **unused) for part in parts]
        torch.testing.assert_close(*gradients)


def test_a_masked_density_whose_scale_overflows_has_finite_gradients():
    loc, log_scale = torch.randn(4, 3), torch.zeros(4, 3)
    log_scale[2] = 1e4
    log_scale.requires_grad_()
    seen = torch.tensor([True, True, False, True])
    score = DiagonalNormal(loc, log_scale=log_scale).log_prob(torch.randn(4, 3))
    assert score.isfinite().all()
    gradient = torch.autograd.grad((score * seen).sum(), log_scale)[0]
    assert gradient.isfinite().all()
    assert not gradient[2].any()


@pytest.mark.parametrize("given", ["scale", "log_scale"])
def test_what_was_looked_at_without_a_graph_has_one_when_it_is_asked_for(given):
    """The scale and its logarithm are computed when they are needed, and kept."""
    loc, value = torch.randn(4, 3), torch.rand(4, 3).add(0.5).requires_grad_()
    q = DiagonalNormal(loc, **{given: value})
    with torch.no_grad():
        assert (q.scale > 0).all()
        torch.testing.assert_close(q.log_scale.exp(), q.scale)
    for part in (q.scale, q.log_scale):
        assert torch.autograd.grad(part.sum(), value)[0].all()
    assert q.scale is q.scale
    assert q.log_scale is q.log_scale
    torch.testing.assert_close(q.expand((2, 4)).log_prob(loc + 1), q.log_prob(loc + 1).expand(2, 4))


# --- torch's contract ------------------------------------------------------------------------------------------------

D, K, LEVELS = 3, 2, 6


class Pair(NamedTuple):
    """A density of the house, and torch's that equals it."""

    house: Distribution
    torch: Distribution


def unit(batch):
    shape = (*batch, D)
    return Pair(UnitNormal(D, torch.zeros(()), torch.Size(batch)), Independent(Normal(torch.zeros(shape), 1.0), 1))


def by_scale(batch):
    loc, scale = torch.randn(*batch, D), torch.rand(*batch, D) + 0.5
    return Pair(DiagonalNormal(loc, scale), Independent(Normal(loc, scale), 1))


def by_log_scale(batch):
    loc, log_scale = torch.randn(*batch, D), torch.randn(D)
    return Pair(DiagonalNormal(loc, log_scale=log_scale), exact(loc, log_scale))


def bernoulli(batch):
    logits = torch.randn(*batch, D)
    return Pair(IndependentBernoulli(logits), Independent(Bernoulli(logits=logits), 1))


class Levels(Categorical):
    """With the moments of its numbers, which torch's has not."""

    def moment(self, power):
        return (self.probs * torch.arange(self.probs.shape[-1]) ** power).sum(-1)

    @property
    def mean(self):
        return self.moment(1)

    @property
    def variance(self):
        return self.moment(2) - self.moment(1) ** 2


def logistic(batch):
    loc, log_scale = LEVELS * torch.rand(*batch, D), torch.randn(D)
    edges = torch.arange(1, LEVELS) - 0.5
    below = torch.sigmoid((edges - loc.unsqueeze(-1)) / log_scale.exp().unsqueeze(-1))
    below = torch.cat([torch.zeros(*batch, D, 1), below, torch.ones(*batch, D, 1)], -1)
    return Pair(IndependentDiscretizedLogistic(loc, log_scale, LEVELS), Independent(Levels(below.diff(dim=-1)), 1))


def components(batch):
    logits, loc, scale = torch.randn(*batch, K), torch.randn(*batch, K, D), torch.rand(*batch, K, D) + 0.5
    return (logits, loc, scale), MixtureSameFamily(Categorical(logits=logits), Independent(Normal(loc, scale), 1))


def mixture(batch):
    parts, exactly = components(batch)
    return Pair(MixtureOfNormalsDensity(*parts), exactly)


def mixture_by_log_scale(batch):
    (logits, loc, scale), exactly = components(batch)
    return Pair(MixtureOfNormalsDensity(logits, loc, log_scale=scale.log()), exactly)


def prior_mixture(batch):
    prior = MixturePrior(D, components=K).requires_grad_(False)
    parts = Independent(Normal(prior.loc, prior.log_scale.exp()), 1)
    exactly = MixtureSameFamily(Categorical(logits=prior.logits), parts)
    return Pair(prior().expand(batch), exactly.expand(batch))


def prior_flow(batch):
    prior = FlowPrior(D, num_flows=2, hidden=(4,)).requires_grad_(False)
    exactly = TransformedDistribution(Independent(Normal(torch.zeros(D), 1.0), 1), prior().transforms)
    return Pair(prior().expand(batch), exactly.expand(batch))


def shifted(batch):
    affine = torch.randn(*batch, 2 * D)
    return Pair(Pushforward(affine, [], Diagonal), exact(*affine.chunk(2, -1)))


HOUSE = [unit, by_scale, by_log_scale, bernoulli, logistic, mixture, mixture_by_log_scale, prior_mixture, prior_flow]
HOUSE.append(shifted)
SHAPES = [(), (1,), (5,), (7, 1), (7, 5), (2, 7, 5)]
EXPANDED = [((), (5,)), ((), (7, 5)), ((1,), (5,)), ((5,), (7, 5)), ((7, 1), (7, 5))]
NO_CLOSED_FORM = {
    "logistic": {"entropy"},
    "mixture": {"entropy"},
    "mixture_by_log_scale": {"entropy"},
    "prior_mixture": {"entropy"},
    "prior_flow": {"mean", "variance", "stddev", "entropy"},
    "shifted": {"mean", "variance", "stddev", "entropy"},
}
MADE = pytest.mark.parametrize("make", HOUSE, ids=lambda make: make.__name__)


def same(found, expected, **tolerances):
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, **tolerances)


def each_way(make):
    """Pairs as they are made, and as they come of `expand`."""
    yield from (make(batch) for batch in SHAPES)
    for batch, to in EXPANDED:
        house, exactly = make(batch)
        yield Pair(house.expand(to), exactly.expand(to))


@MADE
def test_values_and_batches_broadcast_as_torch_says(make):
    torch.manual_seed(0)
    for house, exactly in each_way(make):
        assert house.batch_shape == exactly.batch_shape
        assert house.event_shape == (D,)
        for shape in SHAPES:
            z = exactly.sample().new_empty(*shape, D)
            z = torch.randint(LEVELS, z.shape).double() if make is logistic else torch.bernoulli(z.fill_(0.5))
            same(house.log_prob(z), exactly.log_prob(z))
            if make in (unit, by_scale, bernoulli, logistic):  # and so for whole numbers
                same(house.log_prob(z.to(torch.uint8)), exactly.log_prob(z))


@MADE
def test_draws_have_the_shape_that_torch_says(make):
    torch.manual_seed(0)
    for house, exactly in each_way(make):
        for sample_shape in ((), (4,), (1, 2)):
            z = house.sample(sample_shape)
            assert z.shape == exactly.sample(sample_shape).shape
            same(house.log_prob(z), exactly.log_prob(z))


@MADE
def test_moments_have_the_shape_of_the_batch(make):
    torch.manual_seed(0)
    unknown = NO_CLOSED_FORM.get(make.__name__, set())
    for house, exactly in each_way(make):
        for moment in ("mean", "variance", "stddev"):
            if moment not in unknown:
                same(getattr(house, moment), getattr(exactly, moment))
        if "entropy" not in unknown:
            same(house.entropy(), exactly.entropy())


@MADE
def test_a_moment_without_closed_form_is_refused_in_words(make):
    house = make((5,)).house
    name = {"prior_flow": "FlowDensity", "shifted": "Diagonal"}.get(make.__name__, type(house).__name__)
    for moment in NO_CLOSED_FORM.get(make.__name__, set()):
        with pytest.raises(NotImplementedError, match=f"{name}: no closed form of the .*draws"):
            getattr(house, moment)() if moment == "entropy" else getattr(house, moment)


@pytest.mark.parametrize("family", [Planar, Radial, IAF, Spline])
def test_a_flow_without_moments_says_whose_it_is(family):
    q = family(D, 0)(None, torch.zeros(family(D, 0).num_parameters))
    for moment in ("mean", "variance"):
        with pytest.raises(NotImplementedError, match=f"{family.__name__}: no closed form of the {moment}"):
            getattr(q, moment)


@MADE
def test_what_is_no_vector_of_its_length_is_refused(make):
    """Broadcast, one entry would count D times, and a number come out."""
    if make is prior_flow:
        return  # pyro's own around the house's
    house = make((5,)).house
    for wrong in ((5, 1), (5, D + 1), ()):
        with pytest.raises(ValueError, match=rf"expected vectors \(..., {D}\), got a value of shape"):
            house.log_prob(torch.zeros(wrong))


@MADE
def test_batches_that_do_not_expand_are_refused(make):
    for wrong in ((4,), (7, 4), ()):
        with pytest.raises((ValueError, RuntimeError), match=r"does not expand to|[Ss]hape|size"):
            make((5,)).house.expand(wrong)


NORMALS = [unit, by_scale, by_log_scale]


@pytest.mark.parametrize("p", NORMALS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("q", NORMALS, ids=lambda make: make.__name__)
def test_divergences_broadcast_as_torch_says(q, p):
    torch.manual_seed(0)

    def dense(normal):
        return MultivariateNormal(normal.mean, scale_tril=normal.stddev.diag_embed())

    for left in each_way(q):
        for right in (p(()), p((5,)), p((7, 1)), Pair(p(()).house.expand((5,)), None)):
            try:
                torch.broadcast_shapes(left.house.batch_shape, right.house.batch_shape)
            except RuntimeError:
                continue
            exactly = right.torch or exact(right.house.mean, right.house.stddev.log())
            expected = kl_divergence(left.torch, exactly)
            assert expected.shape == torch.broadcast_shapes(left.house.batch_shape, right.house.batch_shape)
            pairs = [
                (left.house, right.house),
                (left.house, exactly),
                (left.torch, right.house),
                (dense(left.torch), right.house),
                (left.house, dense(exactly)),
                (dense(left.torch), exactly),
            ]
            for one, other in pairs:
                same(kl_divergence(one, other), expected)


def test_a_divergence_from_another_density_is_refused_in_words():
    laplace = Independent(torch.distributions.Laplace(torch.zeros(D), 1.0), 1)
    with pytest.raises(NotImplementedError, match=r"no closed-form KL with .*Laplace.*expected Normal"):
        kl_divergence(unit(()).house, laplace)


# --- what else could be wrong without a word -------------------------------------------------------------------------


def test_narrow_values_are_scored_in_the_precision_of_the_parameters():
    """Bytes overflow when squared; torch's cross entropy takes the precision of its target."""
    levels = torch.tensor([[20, 30, 200]], dtype=torch.uint8)
    same(UnitNormal(D, torch.zeros(())).log_prob(levels), unit(()).torch.log_prob(levels.double()))
    logits = torch.randn(1000)
    x = torch.bernoulli(torch.full((1000,), 0.5))
    for dtype in (torch.half, torch.uint8, torch.bool, torch.int64):
        same(IndependentBernoulli(logits).log_prob(x.to(dtype)), Bernoulli(logits=logits).log_prob(x).sum(-1))
    single = IndependentBernoulli(logits.float()).log_prob(x)
    same(single, Bernoulli(logits=logits.float().double()).log_prob(x).sum(-1), rtol=1e-5, atol=0, check_dtype=False)


def test_a_draw_that_was_written_to_is_no_draw():
    loc, log_scale = parameters(4, D)
    iaf = IAF(D, 0, num_flows=1, hidden=(4,), embedding=2)
    affine = torch.randn(4, iaf.num_parameters, requires_grad=True)
    for q in (DiagonalNormal(loc, log_scale=log_scale), iaf(None, affine)):
        z = q.rsample()
        z += 1.0
        same(getattr(q, "log_prob_of_draw", q.log_prob)(z), q.log_prob(z.clone()))
    planar = Planar(D, 0, num_flows=1)
    q = planar(None, torch.randn(4, planar.num_parameters, requires_grad=True))
    z = q.rsample()
    z += 1.0
    with pytest.raises(ValueError, match="Planar has no inverse"):
        q.log_prob(z)


@pytest.mark.parametrize("given", ["scale", "log_scale"])
def test_a_density_of_parameters_that_were_trained_since_is_that_of_the_new_ones(given):
    loc, value = torch.randn(4, D), torch.nn.Parameter(torch.rand(4, D) + 0.5)
    q, z = DiagonalNormal(loc, **{given: value}), torch.randn(4, D)
    assert q.log_prob(z).isfinite().all()
    assert q.entropy().isfinite().all()
    assert q.rsample().isfinite().all()
    with torch.no_grad():
        value += 0.7
    new = exact(loc, value if given == "log_scale" else value.log())
    for _ in range(2):
        same(q.log_prob(z), new.log_prob(z))
        same(q.entropy(), new.entropy())
        same(q.stddev, new.stddev)


@MADE
def test_a_copy_is_the_same_density(make):
    house = make((5,)).house
    z = house.sample()
    torch.manual_seed(1)
    other = copy.deepcopy(house)
    same(other.log_prob(z), house.log_prob(z))


@MADE
def test_a_mask_keeps_rows_out(make):
    house, exactly = make(())
    z, mask = exactly.sample((7, 5)), torch.rand(7, 5) < 0.5
    same(house.expand((5,)).mask(mask).log_prob(z), torch.where(mask, exactly.log_prob(z), 0.0))


@MADE
def test_a_pair_without_latents_weighs_every_datum_under_every_particle(make):
    """ELBO(4) with an empty guide had 4.33 nats for 21.63: a site scored (N,) is a quarter of one scored (4, N)."""
    torch.manual_seed(0)
    house, exactly = make(())
    x = exactly.sample((5,))

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", house, obs=x)

    for particles in (1, 4):
        with pyro.plate("particles", particles, dim=-2):
            trace = pyro.poutine.trace(model).get_trace(x)
        same(trace.nodes["x"]["fn"].log_prob(x), exactly.log_prob(x).expand(particles, 5))
    same(terms(model, lambda x: None, x, num_particles=4).log_likelihood, exactly.log_prob(x).expand(4, 5))


@pytest.mark.parametrize(
    "density", [MixtureOfNormalsDensity, lambda p, m, s: MixtureOfNormalsDensity(p, m, log_scale=s.log())]
)
def test_parts_of_a_mixture_broadcast_or_are_refused(density):
    torch.manual_seed(0)
    loc, scale = torch.randn(5, K, D), torch.rand(D) + 0.5
    shared = torch.randn(K)
    exactly = MixtureSameFamily(Categorical(logits=shared.expand(5, K)), Independent(Normal(loc, scale), 1))
    z = torch.randn(7, 5, D)
    for q in (
        density(shared, loc, scale),
        density(shared, loc[0], scale).expand((5,)),
        density(shared.expand(5, K), loc[0], scale),
    ):
        assert q.batch_shape == (5,)
        assert q.sample((2,)).shape == (2, 5, D)
        assert q.variance.shape == q.mean.shape == (5, D)
    same(density(shared, loc, scale).expand((7, 5)).log_prob(z), exactly.log_prob(z))
    with pytest.raises(ValueError, match=r"\(5, 1\) logits for components of shape \(5, 2, 3\)"):
        density(torch.zeros(5, 1), loc, scale)


def test_levels_of_a_discretised_logistic_sum_to_one_and_have_its_mean():
    """At the edges, of few levels, of scales from a tenth of a level to a hundred; by draws too: |z| < 5 in 30."""
    torch.manual_seed(0)
    for levels in (2, 3, 256):
        q = IndependentDiscretizedLogistic(
            torch.tensor([-3.0, 0.2, levels - 0.7]), torch.tensor([-2.3, 0.0, 4.6]), levels
        )
        every = torch.arange(levels).unsqueeze(-1).expand(-1, 3)
        probs = torch.stack(
            [
                IndependentDiscretizedLogistic(q.loc[i : i + 1], q.log_scale[i : i + 1], levels)
                .log_prob(every[:, :1])
                .exp()
                for i in range(3)
            ],
            -1,
        )
        same(probs.sum(0), torch.ones(3))
        same(q.mean, (probs * every).sum(0))
        drawn = q.sample((100_000,))
        assert drawn.min() >= 0
        assert drawn.max() <= levels - 1
        z = (drawn.mean(0) - q.mean) / (q.variance / len(drawn)).sqrt().clamp(min=1e-6)
        assert z.abs().max() < 5
    for likelihood in (DiscretizedLogistic, CategoricalLikelihood):
        with pytest.raises(ValueError, match="at least 2 levels, got 1"):
            likelihood(4, 3, levels=1)


def test_what_a_density_must_say_is_asked_for():
    class Bare(VectorDistribution):
        pass

    with pytest.raises(TypeError, match=r"Bare does not say how it expands to \(4,\)"):
        Bare(torch.Size(), 2).expand((4,))
    for given in ({}, {"scale": torch.ones(2), "log_scale": torch.zeros(2)}):
        with pytest.raises(ValueError, match="takes `scale` or `log_scale`, one of the two"):
            DiagonalNormal(torch.zeros(2), **given)
