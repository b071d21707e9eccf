"""Values at the sites: looked at in every run, each error the first call's, and the weight 0 where that is right."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.transforms import AffineTransform, ExpTransform
from pyro.infer import SVI
from pyro.nn import PyroModule
from torch import nn
from torch.distributions import constraints

import guides
from zoo import VAE
from zoo.infer import ELBO, IWELBO, MAP, RenyiELBO, Tempered, log_likelihood, terms
from zoo.infer.sites.supports import differ, same_support
from zoo.infer.sites.values import holds
from zoo.parts.conditionals import DiscretizedLogistic, Normal

BITS = (torch.rand(7, 6, generator=torch.Generator().manual_seed(0)) < 0.5).float()


def vae(**options):
    torch.manual_seed(0)
    model = VAE(6, 2, (4,), **options)
    return model, guides.Amortized(model, hidden=(4,))


def message(call):
    with pytest.raises(ValueError, match=r"site|x: NaN") as caught:
        call()
    return str(caught.value)


def changed(x, row, value):
    x = x.clone()
    x[row, 2] = value
    return x


@pytest.mark.parametrize("objective", [ELBO(), ELBO(analytic_kl=True), IWELBO(3), IWELBO(3, gradient="doubly"),
                                       ELBO(sticking=True), RenyiELBO(0.5, 2), Tempered(ELBO(), 0.5)])  # fmt: skip
@pytest.mark.parametrize(
    ("value", "said"),
    [(0.5, "lie outside in rows 4 (values between 0 and 1). Grey pixels"), (math.nan, "x: NaN in rows 4; say which"),
     (2.0, "lie outside in rows 4 (values between 0 and 2)"), (math.inf, "lie outside in rows 4")],
)  # fmt: skip
def test_later_batches_have_the_first_calls_error(objective, value, said):
    model, guide = vae()
    wrong = changed(BITS, 4, value)
    loss = objective(model, guide)
    first = message(lambda: objective(*vae())(wrong))  # a pair that was never run
    assert ("site 'x': IndependentBernoulli has support " in first) != math.isnan(value)
    assert said in first
    assert ("Grey" in first) == (value == 0.5)
    loss(BITS).backward()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), objective)
    svi.step(BITS)
    for later in (lambda: loss(wrong), lambda: svi.step(wrong), lambda: objective.loss(model, guide, wrong)):
        assert message(later) == first
        loss(BITS)


def test_rows_are_counted_in_all_the_data_and_only_scored_values_count():
    model, guide = vae()
    x = torch.cat([BITS] * 60)
    x[301, 1] = 0.25
    with pytest.raises(ValueError, match=r"rows 301( |$)"):
        log_likelihood(model, guide, x, num_particles=3, max_bytes=10**5)

    def masked(x, mask):
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=mask):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z.expand(*z.shape[:-1], 6)).to_event(1), obs=x)

    def its_guide(x, mask):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.mean(-1, keepdim=True).nan_to_num(), 1.0).to_event(1))

    mask = torch.ones(7, dtype=torch.bool)
    assert ELBO().loss(masked, its_guide, BITS, mask) > 0
    mask[4] = False
    with pyro.validation_enabled(False):  # Bernoulli itself would refuse
        assert terms(masked, its_guide, changed(BITS, 4, 0.5), mask).log_weights.isfinite().all()


def test_values_are_not_looked_at_where_validation_is_off():
    model, guide = vae()
    loss = ELBO()(model, guide)
    loss(BITS)
    with pyro.validation_enabled(False):
        assert loss(changed(BITS, 4, 0.5)).isfinite()


def test_training_modes_belong_to_what_is_remembered():
    class Moody(PyroModule):
        def __init__(self):
            super().__init__("moody")
            self.part = nn.Identity()

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z" if self.part.training else "zz", dist.Normal(x.new_zeros(2), 1.0).to_event(1))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    moody, x = Moody(), torch.randn(5, 2)
    ELBO().loss(model, moody, x)
    moody.part.eval()  # of a part alone
    with pytest.raises(ValueError, match="site 'zz'"):
        ELBO().loss(model, moody, x)


def test_the_check_leaves_buffers_alone_in_either_mode():
    model, guide = vae()
    model.decoder = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU())
    norm = model.decoder[1]
    ELBO()(model, guide)(BITS)
    assert norm.num_batches_tracked == 1
    ELBO()(model, guide)(BITS[:5])
    assert norm.num_batches_tracked == 2
    model.eval()
    ELBO()(model, guide)(BITS[:4])
    assert norm.num_batches_tracked == 2


# --- supports ---------------------------------------------------------------------------------------------------------


VALUES = {
    "bits": torch.tensor([0.0, 1.0, 1.0]), "a grey": torch.tensor([0.0, 0.5]), "tiny": torch.tensor([1e-40]),
    "nearly one": torch.tensor([1 - 6e-8]), "negative": torch.tensor([-1.0, 1.0]), "two": torch.tensor([2.0]),
    "NaN": torch.tensor([math.nan, 1.0]), "inf": torch.tensor([math.inf, 0.0]), "huge": torch.tensor([3e38, 3e38]),
    "levels": torch.tensor([0.0, 3.0]), "too high": torch.tensor([0.0, 4.0]), "between": torch.tensor([1.5, 2.0]),
    "bool": torch.tensor([True, False]), "long": torch.tensor([0, 3]), "wrong long": torch.tensor([0, 7]),
    "double": torch.tensor([0.0, 1.0], dtype=torch.float64),
}  # fmt: skip
SUPPORTS = {
    "boolean": constraints.boolean, "real": constraints.real, "levels": constraints.integer_interval(0, 3),
    "vector": constraints.independent(constraints.boolean, 1), "positive": constraints.positive,
    "bounds": constraints.interval(torch.zeros(2), torch.tensor([1.0, 2.0])),
    "integers": constraints.integer_interval(torch.zeros(2), torch.tensor([1.0, 3.0])),
    "simplex": constraints.simplex, "count": constraints.nonnegative_integer,
}  # fmt: skip


FIT = [(s, v) for s in SUPPORTS for v in VALUES if s not in ("bounds", "integers") or len(VALUES[v]) == 2]


@pytest.mark.parametrize(("support", "value"), FIT)
def test_the_quick_look_at_values_is_torchs_own(support, value):
    support, value = SUPPORTS[support], VALUES[value]
    assert holds(support, value) == bool(support.check(value).all())


def test_supports_are_compared_by_kind_and_bounds():
    one, two = torch.ones(3), torch.full((3,), 2.0)
    assert same_support(constraints.real_vector, constraints.independent(constraints.real, 1))
    assert same_support(constraints.interval(0.0, one), constraints.interval(0.0, one.clone()))
    assert not same_support(constraints.interval(0.0, one), constraints.interval(0.0, two))
    assert not same_support(constraints.interval(0.0, 1.0), constraints.interval(0.0, one))
    assert not same_support(constraints.real, constraints.positive)
    nested = [constraints.cat([constraints.real, constraints.interval(0.0, v)]) for v in (one, two)]
    assert differ(*(constraints.independent(constraints.greater_than(v), 1) for v in (one, two)))
    assert differ(constraints.independent(constraints.real, 1), constraints.independent(constraints.positive, 1))
    assert differ(*nested)


def below(x):
    """log z ~ N(0, 1), x ~ U(0, z): p(x) = E[1/z; z > x] = e^(1/2) Phi(-1 - log x)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.LogNormal(0.0, 1.0))
        pyro.sample("x", dist.Uniform(torch.zeros_like(z), z), obs=x)


def prior_of_below(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.LogNormal(torch.zeros(len(x)), 1.0))


def test_a_value_outside_a_support_that_depends_on_the_latents_has_weight_zero():
    x = torch.tensor([0.5, 1.0, 2.0])
    found = log_likelihood(below, prior_of_below, x, num_particles=200_000, seed=0)
    exact = 0.5 + torch.special.log_ndtr(-1 - x.double().log())
    assert ((found.per_datum - exact).abs() < 5 * found.per_datum_error).all()  # 5 sd: 2e-6
    assert (found.elbo == -math.inf).all()


@pytest.mark.parametrize("event", [False, True])
def test_a_bound_that_a_transform_moves_with_the_latent_is_one_too(event):
    """z ~ Gamma(2, 1), x - z ~ Exp(1): p(x) = int_0^x z e^-z e^-(x - z) dz = e^-x x^2 / 2."""

    def shifted(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(2.0 * torch.ones(()), 1.0))
            if event:
                z = z.unsqueeze(-1)
            p = dist.TransformedDistribution(dist.Exponential(torch.ones_like(z)), [AffineTransform(z, 1.0)])
            pyro.sample("x", p.to_event(1) if event else p, obs=x)

    def prior(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Gamma(2.0 * torch.ones(len(x)), 1.0))

    x = torch.tensor([0.5, 1.0, 3.0])
    found = log_likelihood(shifted, prior, x.unsqueeze(-1) if event else x, num_particles=100_000, seed=0)
    exact = 2 * x.log() - math.log(2.0) - x
    assert ((found.per_datum - exact).abs() < 5 * found.per_datum_error).all()


def test_a_bound_that_a_transform_leaves_where_it_is_refuses():
    def fixed(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LogNormal(torch.zeros(len(x)), 1.0))
            p = dist.TransformedDistribution(dist.Exponential(torch.ones(len(x))), [AffineTransform(2.0, 1.0)])
            pyro.sample("x", p, obs=x)

    with pytest.raises(ValueError, match=r"site 'x': TransformedDistribution has support .* in rows 1 "):
        ELBO().loss(fixed, prior_of_below, torch.tensor([2.5, 1.5, 3.0]))


def test_its_gradient_is_that_of_the_draws_within():
    class Wide(PyroModule):
        def __init__(self):
            super().__init__("wide")
            self.log_scale = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.LogNormal(self.log_scale * torch.ones(len(x)).double(), 0.5))

    x, guide = torch.full((200,), 1.5, dtype=torch.float64), Wide()
    torch.manual_seed(0)
    loss = IWELBO(20)(below, guide)(x)
    loss.backward()
    torch.manual_seed(0)
    z = terms(below, guide, x, num_particles=20).latents["z"]
    noise = (z.detach().log() - 0.5) / 0.5
    m = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    z = (m + 0.5 * noise).exp()
    log_w = dist.LogNormal(0.0, 1.0).log_prob(z) - z.log() - dist.LogNormal(m, 0.5).log_prob(z)
    expected = -(torch.where(z > x, log_w, -math.inf).logsumexp(0) - math.log(20)).sum()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(guide.log_scale.grad, m.grad)


def test_a_fixed_support_is_no_excuse():
    def fixed(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(0.0, 1.0))
            pyro.sample("x", dist.Uniform(torch.zeros_like(z), torch.ones_like(z)), obs=x)

    with pytest.raises(ValueError, match=r"site 'x': Uniform has support .* in rows 1, 2 \(values .* and 2\)$"):
        ELBO().loss(fixed, prior_of_below, torch.tensor([0.5, 1.5, 2.0]))


def test_discrete_latents_may_move_a_support():
    def counted(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.ones(3) / 3))
            pyro.sample("x", dist.Binomial(k.float(), 0.5 * torch.ones(len(x))), obs=x)

    def its_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(torch.ones(len(x), 3) / 3))

    found = log_likelihood(counted, its_guide, torch.tensor([0.0, 1.0, 2.0]), num_particles=100_000, seed=0)
    exact = (torch.tensor([[1, 0, 0], [0.5, 0.5, 0], [0.25, 0.5, 0.25]]).sum(0) / 3).log()
    assert ((found.per_datum - exact).abs() < 5 * found.per_datum_error).all()


# --- draws of the guide -----------------------------------------------------------------------------------------------


class Positive(PyroModule):
    data_dim = latent_dim = 2

    def __init__(self):
        super().__init__("positive")

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(torch.ones(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def test_draws_outside_the_models_support_name_both():
    model, x = Positive(), torch.rand(5, 2)
    guide = guides.Amortized(model, hidden=(3,))
    said = r"site 'z': the guide's DiagonalNormal has support .*Real.*, the model's Gamma has .*GreaterThan"
    with pytest.raises(ValueError, match=said):
        ELBO()(model, guide)(x)
    with torch.no_grad():
        guide.family.head.weight.zero_()
        guide.family.head.bias.copy_(torch.tensor([3.0, 3.0, -8.0, -8.0]))
    loss = ELBO()(model, guide)
    assert loss(x).isfinite()  # all draws within, as it happens
    with torch.no_grad():
        guide.family.head.bias[0] = -3.0
    with pytest.raises(ValueError, match=said):  # looked at again in every run
        loss(x)


def test_a_draw_that_is_nan_is_named_in_every_run():
    model, guide = vae(likelihood=Normal)
    loss, x = IWELBO(3)(model, guide), torch.randn(7, 6)
    loss(x)
    with torch.no_grad():
        guide.encoder[0].weight[0, 0] = math.nan
    first = message(lambda: IWELBO(3)(model, guides.Amortized(model, encoder=guide.encoder, context=4))(x))
    assert first == message(lambda: loss(x)) == "site 'z': the value is NaN in rows 0, 1, 2, 3, 4 and 2 more"


def scaled(scale):
    def model(x):
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=scale[0]):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    return model


def test_a_scale_that_comes_later_is_refused_as_an_early_one():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    scale, x = [1.0], torch.randn(5, 2)
    model = scaled(scale)
    ELBO().loss(model, guide, x)
    scale[0] = 0.5
    with pytest.raises(ValueError, match=r"site 'z': scaled by 0\.5"):
        ELBO().loss(model, guide, x)


def test_levels_between_the_levels_are_refused():
    model, guide = vae(likelihood=lambda h, d: DiscretizedLogistic(h, d, levels=4))
    x = torch.randint(4, (7, 6)).float()
    loss = ELBO()(model, guide)
    loss(x)
    for value in (0.5, 4.0, -1.0):
        with pytest.raises(ValueError, match=r"IndependentDiscretizedLogistic .* rows 4 "):
            loss(changed(x, 4, value))


# --- points -----------------------------------------------------------------------------------------------------------


def linear(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


class Encoder(PyroModule):
    """A point for each datum, and a density where `density` says so."""

    def __init__(self, density=False):
        super().__init__("encoder")
        self.linear, self.density = nn.Linear(2, 2), density

    def forward(self, x):
        point = self.linear(x)
        fn = dist.Normal(point, 1.0) if self.density else dist.Delta(point)
        with pyro.plate("data", len(x)):
            pyro.sample("z", fn.to_event(1))


def test_a_point_is_no_density_and_has_an_objective_of_its_own():
    torch.manual_seed(0)
    x, guide = torch.randn(50, 2), Encoder()
    for objective in (ELBO(), IWELBO(3), RenyiELBO(0.5, 2), ELBO(sticking=True), Tempered(ELBO(), 0.5)):
        with pytest.raises(ValueError, match=r"site 'z': the guide's Delta is a point .*zoo\.infer\.MAP\(\)"):
            objective(linear, guide)(x)
    with pytest.raises(ValueError, match="site 'z': the guide's Delta is a point"):
        log_likelihood(linear, guide, x, num_particles=3)
    with pytest.raises(ValueError, match="site 'z': MAP wants a point"):
        MAP()(linear, Encoder(density=True))(x)
    z = guide.linear(x)
    joint = dist.Normal(0.0, 1.0).log_prob(z).sum() + dist.Normal(z, 1.0).log_prob(x).sum()
    torch.testing.assert_close(MAP()(linear, guide)(x), -joint)
    torch.testing.assert_close(Tempered(MAP(), 0.0)(linear, guide)(x), -dist.Normal(z, 1.0).log_prob(x).sum())
    optimiser = torch.optim.LBFGS(guide.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = MAP()(linear, guide)(x)
        loss.backward()
        return loss

    optimiser.step(closure)
    torch.testing.assert_close(guide.linear(x), x / 2, atol=1e-3, rtol=1e-3)  # the posterior's mode


DISGUISES = {
    "transformed": lambda loc: dist.TransformedDistribution(dist.Delta(loc), [ExpTransform()]).to_event(1),
    "subclass": lambda loc: type("Own", (dist.Delta,), {})(loc).to_event(1),
    "masked mixture": lambda loc: dist.MaskedMixture(loc > 0, dist.Delta(loc), dist.Delta(loc)).to_event(1),
    "mixture": lambda loc: dist.MixtureSameFamily(
        dist.Categorical(torch.ones(len(loc), 2)), dist.Delta(torch.stack([loc, -loc], 1)).to_event(1)
    ),
}


@pytest.mark.parametrize("kind", DISGUISES)
def test_a_point_in_other_clothes_is_a_point(kind):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", DISGUISES[kind](0.5 * x))

    x = torch.randn(5, 2)
    for call in (lambda: ELBO().loss(linear, guide, x), lambda: log_likelihood(linear, guide, x, num_particles=3)):
        with pytest.raises(ValueError, match="site 'z': the guide's Delta is a point"):
            call()


@pytest.mark.parametrize("fn", [dist.Bernoulli(0.5), dist.Poisson(1.0)])
def test_a_discrete_guide_has_no_density_over_a_continuous_latent(fn):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", fn.expand([len(x), 2]).to_event(1))

    x = torch.randn(5, 2)
    for objective in (IWELBO(3), MAP()):
        with pytest.raises(ValueError, match=f"site 'z': the guide's {type(fn).__name__} is discrete"):
            objective.loss(linear, guide, x)


def test_a_point_over_a_discrete_latent_is_a_probability():
    def mixture(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.25, 0.75])))
            pyro.sample("x", dist.Normal(k.to(x.dtype), 1.0), obs=x)

    def first(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Delta(torch.ones(len(x), dtype=torch.long)))

    x = torch.randn(5)
    expected = math.log(0.75) + dist.Normal(1.0, 1.0).log_prob(x)
    torch.testing.assert_close(terms(mixture, first, x).log_weights[0], expected)


@pytest.mark.parametrize("objective", [ELBO(4), IWELBO(1), IWELBO(4), RenyiELBO(0.5, 4), RenyiELBO(-math.inf, 3),
                                       ELBO(3, analytic_kl=True), ELBO(3, sticking=True),
                                       IWELBO(3, gradient="doubly"), Tempered(ELBO(4), 0.5)])  # fmt: skip
@pytest.mark.parametrize("house", [True, False])
def test_without_latents_every_objective_is_the_log_likelihood(objective, house):
    class Regression(PyroModule):
        def __init__(self):
            super().__init__("regression")
            self.likelihood = Normal(3, 2)

        def forward(self, x, h):
            p = self.likelihood(h)
            with pyro.plate("data", len(x)):
                pyro.sample("x", p if house else dist.Normal(p.loc, p.scale).to_event(1), obs=x)

    model, x, h = Regression(), torch.randn(5, 2), torch.randn(5, 3)
    p = model.likelihood(h)
    expected = dist.Normal(p.loc, p.scale).log_prob(x).sum(-1)
    torch.testing.assert_close(objective(model, empty)(x, h), -expected.sum())
    found = log_likelihood(model, empty, x, h, num_particles=7)
    torch.testing.assert_close(found.per_datum.to(x.dtype), expected)
    assert torch.equal(found.elbo, found.per_datum)
    assert found.num_particles == 1
    assert found.monte_carlo_error == found.elbo_error.sum() == 0.0
    assert (found.effective_sample_size == 1).all()


def empty(x, h):
    """A guide of a pair without latents."""


class OfDictionaries(PyroModule):
    """Data by other ways than tensors: in a dictionary, or an attribute."""

    def __init__(self, data=None):
        super().__init__("of_dictionaries")
        self.data = data

    def forward(self, batch=None):
        x = (batch if self.data is None else self.data)["x"]
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def exact_of(model):
    def guide(batch=None):
        x = (batch if model.data is None else model.data)["x"]
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5).to_event(1))

    return guide


@pytest.mark.parametrize("sizes", [(8, 1), (1, 8), (8, 4)])
@pytest.mark.parametrize("by_attribute", [True, False])
@pytest.mark.parametrize("objective", [ELBO(), IWELBO(3)])
def test_the_number_of_data_is_that_of_each_run(sizes, by_attribute, objective):
    first, second = ({"x": torch.randn(n, 2)} for n in sizes)
    model = OfDictionaries(first if by_attribute else None)
    guide = exact_of(model)
    for data in (first, second):
        model.data = data if by_attribute else None
        exact = dist.Normal(0.0, 2**0.5).log_prob(data["x"]).sum().item()
        args = () if by_attribute else (data,)
        assert objective.loss(model, guide, *args) == pytest.approx(-exact, rel=1e-5)


def test_sites_and_shapes_that_come_later_are_refused_as_early_ones():
    late = []

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z[..., :1] if "model" in late else z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, 0.7).to_event(1))
            if "guide" in late:
                pyro.sample("y", dist.Normal(0.5 * x, 0.7).to_event(1))

    x = torch.randn(8, 2)
    ELBO().loss(model, guide, x)
    late.append("model")
    with pytest.raises(ValueError, match=r"site 'x': expected values of shape \(8, 1\), got \(8, 2\)"):
        ELBO().loss(model, guide, x)
    late[:] = ["guide"]
    with pytest.raises(ValueError, match="site 'y': sampled by the guide but not a latent site of the model"):
        ELBO().loss(model, guide, x)
    late.clear()

    def other(x):
        guide(x[: 1 if late else 8])

    ELBO().loss(model, other, x)
    late.append("size")
    with pytest.raises(ValueError, match="plate 'data': model and guide give it different sizes"):
        ELBO().loss(model, other, x)


@pytest.mark.parametrize("inner", [True, False])
@pytest.mark.parametrize(
    ("value", "label", "pixel"),
    [(0.5, "", "Grey pixels"), (-1.0, "Labels of which some are unknown, -1", ""), (2.0, "", "")],
)
def test_the_cause_is_that_of_labels_or_of_pixels(value, label, pixel, inner):
    def model(x):
        with pyro.plate("data", len(x), dim=-2 if inner else -1):
            if not inner:
                return pyro.sample("x", dist.Bernoulli(0.5), obs=x)
            with pyro.plate("pixels", x.shape[1], dim=-1):
                return pyro.sample("x", dist.Bernoulli(0.5), obs=x)

    x = torch.tensor([[0.0, 1.0], [value, 1.0]])
    said = message(lambda: ELBO().loss(model, lambda x: None, x if inner else x[:, 0]))
    assert said.partition("lie outside in rows 1 ")[2].partition("). ")[2].startswith(pixel if inner else label)
    assert ("). " in said) == bool(pixel if inner else label)
