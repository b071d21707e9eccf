"""Latents outside the batch plate: exact evidence, batches, gradients, autoguides, the refusals of `fit`."""

import math
from functools import partial

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule
from torch import nn

import guides
from zoo.infer import (
    ELBO,
    MAP,
    RLOO,
    Objective,
    Scheduled,
    SemiSupervised,
    Tempered,
    active_units,
    fit,
    gaps,
    kl_per_site,
    kl_per_unit,
    log_likelihood,
    terms,
)

N, SD = 12, 2.0
X = 1 + torch.randn(N, generator=torch.Generator().manual_seed(0), dtype=torch.double)
VARIANCE = 1 / (1 / SD**2 + N)
LOG_P = dist.MultivariateNormal(
    torch.zeros(N, dtype=torch.double), torch.eye(N, dtype=torch.double) + SD**2
).log_prob(X)  # fmt: skip
SCHOOLS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]), torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18])


def mean_of_all(x):
    """N(m; 0, 4) prod_n N(x_n; m, 1)."""
    m = pyro.sample("m", dist.Normal(torch.zeros((), dtype=x.dtype), SD))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(m, 1.0), obs=x)


def exact(x):
    pyro.sample("m", dist.Normal(VARIANCE * X.sum(), VARIANCE**0.5))


def schools(y, scale):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, scale), obs=y)


class Regression(PyroModule):
    """N(w; 0, I) prod_n N(z_n; 0, 1) N(x_n; w + b z_n, 1), groups of w in a plate of their own."""

    data_dim, latent_dim = 3, 1

    def __init__(self):
        super().__init__("regression")
        self.b = nn.Parameter(torch.ones(3))

    def forward(self, x):
        with pyro.plate("groups", 4):
            w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(w.mean(-2, keepdim=True) + self.b * z, 1.0).to_event(1), obs=x)


class MeanField(PyroModule):
    """q(w) q(z | x), both Normal."""

    def __init__(self, model):
        super().__init__("mean_field")
        self.loc, self.log_scale = nn.Parameter(torch.zeros(4, 3)), nn.Parameter(torch.zeros(4, 3))
        self.encoder = nn.Linear(3, 1)

    def forward(self, x):
        with pyro.plate("groups", 4):
            pyro.sample("w", dist.Normal(self.loc, self.log_scale.exp()).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))


@pytest.mark.parametrize("particles", [1, 3, 8])
@pytest.mark.parametrize("make", [ELBO, partial(ELBO, sticking=True), lambda k: Tempered(ELBO(k), kl_weight=1.0)])
def test_the_exact_guide_gives_the_log_evidence_of_the_data_set(make, particles):
    pyro.set_rng_seed(particles)
    assert -make(particles).loss(mean_of_all, exact, X) == pytest.approx(LOG_P.item(), abs=1e-10)


def test_terms_hold_a_site_outside_apart_and_once():
    found = terms(mean_of_all, exact, X, num_particles=5)
    m = found.latents["m"].squeeze(-1)
    ratio = dist.Normal(0.0, SD).log_prob(m) - dist.Normal(VARIANCE * X.sum(), VARIANCE**0.5).log_prob(m)
    assert not found.log_ratios
    assert found.log_likelihood.shape == (5, N)
    torch.testing.assert_close(found.outside["m"], ratio)
    torch.testing.assert_close(found.log_weights.sum(-1) + found.outside_weights, LOG_P.expand(5))
    shared = found.shared_out(N)
    torch.testing.assert_close(shared.log_weights.sum(-1), LOG_P.expand(5))
    assert shared.shares == {"m": 1 / N}
    assert not shared.outside


def test_an_observed_site_outside_counts_once():
    def with_factor(x):
        pyro.factor("f", torch.tensor(2.5, dtype=torch.double))
        mean_of_all(x)

    assert -ELBO(3).loss(with_factor, exact, X) == pytest.approx(LOG_P.item() + 2.5, abs=1e-10)
    assert terms(with_factor, exact, X, num_particles=2).outside_likelihood.tolist() == [2.5, 2.5]


@pytest.mark.parametrize("make", [ELBO, lambda num_data: Tempered(ELBO(num_data=num_data), kl_weight={"m": 0.5})])
def test_batches_add_up_to_the_whole_for_the_same_draw(make):
    def at(x):
        pyro.sample("m", dist.Normal(torch.tensor(0.3, dtype=torch.double), 1e-3))

    def loss(x):
        pyro.set_rng_seed(1)
        return make(num_data=N).loss(mean_of_all, at, x)

    assert sum(loss(batch) for batch in X.split(5)) == pytest.approx(loss(X), rel=1e-12)


@pytest.mark.parametrize(
    "make", [ELBO, partial(ELBO, sticking=True), partial(ELBO, analytic_kl=True), partial(RLOO, 2)]
)  # fmt: skip
def test_the_gradients_of_all_batches_add_up_to_that_of_the_whole(make):
    model = Regression().double()
    guide, x = MeanField(model).double(), torch.randn(N, 3, dtype=torch.double)
    loss = make(num_data=N)(model, guide)
    # the same draw of w, and of the z of each row, in every batch
    guide.forward = partial(_with_fixed_noise, guide)

    def gradient(rows):
        loss.zero_grad()
        pyro.set_rng_seed(0)
        loss(rows).backward()
        return torch.cat([p.grad.flatten() for p in loss.parameters()])

    total = sum(gradient(rows) for rows in x.split(5))
    torch.testing.assert_close(total, gradient(x), rtol=1e-6, atol=1e-6)


class NoiseOfTheRow(dist.Normal):
    """A Normal whose draw has the same noise for a row in whatever batch the row comes."""

    def __init__(self, loc, scale, noise):
        super().__init__(loc, scale)
        self.noise = noise

    def expand(self, batch_shape, _instance=None):
        return NoiseOfTheRow(*(part.expand(batch_shape) for part in (self.loc, self.scale, self.noise)))

    def rsample(self, sample_shape=torch.Size()):  # noqa: B008
        return self.loc + self.scale * self.noise


def _with_fixed_noise(guide, x):
    with pyro.plate("groups", 4):
        pyro.sample("w", dist.Normal(guide.loc, guide.log_scale.exp()).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("z", NoiseOfTheRow(guide.encoder(x), 0.5, (50 * x[:, :1]).sin()).to_event(1))


def test_free_bits_of_a_site_outside_are_nats_of_the_data_set():
    at_prior = lambda x: pyro.sample("m", dist.Normal(torch.zeros((), dtype=torch.double), SD))  # noqa: E731
    pyro.set_rng_seed(0)
    plain = ELBO(num_data=100).loss(mean_of_all, at_prior, X)
    pyro.set_rng_seed(0)
    free = Tempered(ELBO(num_data=100), free_bits=3.0).loss(mean_of_all, at_prior, X)
    assert free - plain == pytest.approx(3.0 * N / 100, rel=1e-9)


class Halves(Objective):
    """The ELBO of a batch in two parts."""

    linear = True

    def parts(self, guide, args, kwargs):
        return [((half,), kwargs) for half in args[0].chunk(2)]

    def bound(self, terms):
        return terms.expectation(terms.log_weights)


@pytest.mark.parametrize("num_data", [None, 40])
def test_the_parts_of_a_batch_bear_one_term_together(num_data):
    at = lambda x: pyro.sample("m", dist.Normal(torch.tensor(0.3, dtype=torch.double), 1e-12))  # noqa: E731
    whole = ELBO(num_data=num_data).loss(mean_of_all, at, X)
    pyro.set_rng_seed(0)
    # the two parts have draws of their own, a few scales of 1e-12 apart, and log q is known up to their squares
    found = torch.tensor([Halves(num_data=num_data).loss(mean_of_all, at, X) for _ in range(200)]).mean()
    assert abs(found - whole) < 3.0 * (N / (num_data or N))
    assert abs(whole) > 20 * N / (num_data or N)


def test_a_draw_without_a_path_moves_all_data():
    """The score gradient of a global coin, against the derivative of its exact ELBO, at five standard errors."""
    logit = torch.zeros((), requires_grad=True, dtype=torch.double)

    def coin(x):
        k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.3, dtype=torch.double)))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(k, 2.0), obs=x)

    def guide(x):
        pyro.sample("k", dist.Bernoulli(logits=logit))

    q = torch.sigmoid(logit)
    log_p = [dist.Normal(float(k), 2.0).log_prob(X).sum() + math.log(p) for k, p in ((0, 0.7), (1, 0.3))]
    elbo = (1 - q) * (log_p[0] - (1 - q).log()) + q * (log_p[1] - q.log())
    (expected,) = torch.autograd.grad(-elbo, logit)
    pyro.set_rng_seed(0)
    found = torch.stack(
        [torch.autograd.grad(RLOO(4).differentiable_loss(coin, guide, X), logit)[0] for _ in range(300)]
    )
    assert abs(found.mean() - expected) < 5 * found.std() / 300**0.5


@pytest.mark.parametrize("autoguide", [AutoNormal, AutoMultivariateNormal])
def test_autoguides_give_pyros_elbo(autoguide):
    guide = autoguide(schools)
    guide(*SCHOOLS)
    pyro.set_rng_seed(0)
    ours = ELBO().loss(schools, guide, *SCHOOLS)
    pyro.set_rng_seed(0)
    assert ours == pytest.approx(Trace_ELBO().loss(schools, guide, *SCHOOLS), rel=1e-5)
    assert terms(schools, guide, *SCHOOLS, num_particles=3).log_weights.shape == (3, 8)


def test_what_a_joint_guide_draws_has_one_term():
    guide = AutoGuideList(schools)
    guide.append(AutoNormal(pyro.poutine.block(schools, expose=["eta"])))
    guide.append(AutoMultivariateNormal(pyro.poutine.block(schools, expose=["mu", "tau"])))
    kl = kl_per_site(schools, guide, *SCHOOLS, num_particles=10)
    assert {name: value.shape for name, value in kl.items()} == {"eta": (8,), "mu, tau": ()}
    record = fit(ELBO()(schools, guide), SCHOOLS, steps=1, batch_size=8, progress=False).history[-1]
    assert [*record["kl"]] == ["eta", "mu, tau"]


def test_a_joint_guide_whose_parts_are_no_parts_is_refused():
    def guide(y, scale):
        a = pyro.sample("_own_latent", dist.Normal(torch.zeros(2), 1.0).to_event(1), infer={"is_auxiliary": True})
        pyro.sample("mu", dist.Delta(2 * a[..., 0]))
        pyro.sample("tau", dist.Delta(a[..., 1].exp(), log_density=-a[..., 1]))
        with pyro.plate("schools", len(y)):
            pyro.sample("eta", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="site '_own_latent': auxiliary, and the Deltas that follow it are not its"):
        ELBO().loss(schools, guide, *SCHOOLS)


def test_map_of_a_global_latent_climbs_to_the_maximum():
    guide = AutoDelta(mean_of_all)
    guide(X)
    guide.m = torch.tensor(float(VARIANCE * X.sum()), dtype=torch.double)
    highest = -MAP().loss(mean_of_all, guide, X)
    at = VARIANCE * X.sum()
    expected = dist.Normal(0.0, SD).log_prob(at) + dist.Normal(at, 1.0).log_prob(X).sum()
    assert highest == pytest.approx(expected.item(), rel=1e-6)


def test_kl_of_a_site_outside_is_that_of_the_data_set():
    kl = kl_per_site(mean_of_all, exact, X, num_particles=4000, seed=0)["m"]
    q, p = dist.Normal(VARIANCE * X.sum(), VARIANCE**0.5), dist.Normal(0.0, SD)
    ratio = q.log_prob(draws := q.sample((4000,))) - p.log_prob(draws)
    error = (ratio.std() / 4000**0.5).item()
    assert kl.shape == ()
    assert abs(kl - torch.distributions.kl_divergence(q, p)) < 5 * error


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="num_data is 5, and the batch has 12 rows"):
        ELBO(num_data=5).loss(mean_of_all, exact, X)
    with pytest.raises(ValueError, match="num_data"):
        ELBO(num_data=0)


def test_fit_refuses_a_wrong_weight_and_takes_the_right_one():
    model = Regression()
    x = torch.randn(N, 3)
    for objective, settings, said in (
        (ELBO(), {"batch_size": 5}, "num_data is not given"),
        (ELBO(num_data=7), {"batch_size": 5}, "num_data is 7, and the data have 12 rows"),
        (Tempered(ELBO()), {"batch_size": N, "validation": x[:3]}, "num_data is not given"),
    ):
        with pytest.raises(ValueError, match=f"site 'w': stands outside the batch plate 'data'.*{said}.*num_data=12"):
            fit(objective(model, MeanField(model)), x, steps=1, progress=False, **settings)
    for objective in (ELBO(num_data=N), Tempered(RLOO(2, num_data=N), kl_weight={"w": 0.5})):
        guide = MeanField(model)
        found = fit(objective(model, guide), x, epochs=1, batch_size=5, validation=x[:3], progress=False)
        assert set(found.history[0]["kl"]) == {"z", "w"}
        assert found.history[0]["validation"] is not None
    fit(ELBO()(model, MeanField(model)), x, steps=1, batch_size=N, progress=False)


def test_a_validation_bound_bears_the_share_of_the_training_data():
    model, x, held_out = Regression(), torch.randn(N, 3), torch.randn(4, 3)
    guide = MeanField(model)
    loss = ELBO(num_data=N)(model, guide)
    found = fit(loss, x, epochs=1, batch_size=6, validation=held_out, progress=False).history[0]["validation"]
    pyro.set_rng_seed(0)
    run = terms(model, guide, held_out)
    expected = -(run.log_weights.mean() + run.outside_weights / N).item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_an_autoguide_without_rows_trains_on_batches():
    def shared(x):
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 1.0).to_event(1), obs=x)

    x = torch.randn(N, 3)
    found = fit(ELBO(num_data=N)(shared, AutoNormal(shared)), x, steps=3, batch_size=5, progress=False)
    assert found.step == 3
    with pytest.raises(ValueError, match="AutoNormal has parameters for each row of the data, in order"):
        fit(ELBO(num_data=N)(Regression(), AutoNormal(Regression())), x, steps=1, batch_size=5, progress=False)


def test_the_name_of_a_global_site_whose_density_is_not_finite():
    model = Regression()
    guide = MeanField(model)
    with torch.no_grad():
        guide.log_scale[0, 0] = 200.0
    with pytest.raises(FloatingPointError, match="site 'w'"):
        fit(ELBO(num_data=N)(model, guide), torch.randn(N, 3), steps=1, batch_size=5, progress=False)


@pytest.mark.parametrize(
    "call", [log_likelihood, kl_per_unit, partial(gaps, best=nn.Linear(1, 1)), partial(gaps, log_p=torch.zeros(N))]
)
def test_values_of_each_datum_are_refused(call):
    model = Regression()
    guide = MeanField(model)
    guide.per_datum = lambda x: guide
    if isinstance(call, partial) and "best" in call.keywords:
        call = partial(gaps, best=guide)
    with pytest.raises(ValueError, match="site 'w': stands outside the batch plate 'data'"):
        call(model, guide, torch.randn(N, 3), num_particles=5)


def test_active_units_leave_global_sites_out():
    model = Regression()
    assert [*active_units(MeanField(model), torch.randn(N, 3))] == ["z"]


def test_scheduled_hands_the_number_of_data_on():
    model = Regression()
    guide = MeanField(model)
    guide.register_buffer("temperature", torch.ones(()))
    objective = Scheduled(ELBO(num_data=N), guide.temperature, lambda step: 1.0)
    assert objective.num_data == N
    assert objective.linear
    objective(model, guide)(torch.randn(4, 3)).backward()


def test_the_closed_form_kl_of_an_autoguide_is_that_of_its_draw():
    guide = AutoNormal(mean_of_all, init_scale=0.5)
    guide(X)
    loc, scale = guide._get_loc_and_scale("m")
    kl = torch.distributions.kl_divergence(dist.Normal(loc, scale), dist.Normal(0.0, SD))
    pyro.set_rng_seed(0)
    found = terms(mean_of_all, guide, X, num_particles=3)
    pyro.set_rng_seed(0)
    loss = ELBO(3, analytic_kl=True).loss(mean_of_all, guide, X)
    assert -loss == pytest.approx((found.log_likelihood.sum(-1).mean() - kl).item())


@pytest.mark.parametrize(("make", "local"), [(AutoNormal, False), (AutoNormal, True), (AutoMultivariateNormal, False)])
def test_an_autoguide_that_maps_its_draw_has_no_closed_form_kl(make, local):
    def positive(x):
        if not local:
            s = pyro.sample("s", dist.Gamma(2.0, 2.0))
        with pyro.plate("data", len(x)):
            s = pyro.sample("s", dist.Gamma(2.0, 2.0)) if local else s
            pyro.sample("x", dist.Normal(0.0, s), obs=x)

    guide = make(positive)
    guide(X.float())
    with pytest.raises(ValueError, match=r"site 's': no closed-form KL, the guide makes it of its site '.*analytic_kl"):
        ELBO(analytic_kl=True).loss(positive, guide, X.float())


def test_the_refusal_of_a_site_outside_names_the_models_own():
    for make in (AutoNormal, AutoMultivariateNormal):
        guide = make(mean_of_all)
        guide(X)
        with pytest.raises(ValueError, match="site 'm': stands outside the batch plate 'data'"):
            log_likelihood(mean_of_all, guide, X)
        with pytest.raises(ValueError, match="site 'm': stands outside the batch plate 'data', and num_data is not"):
            fit(ELBO()(mean_of_all, guide), X, epochs=1, batch_size=5, progress=False)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("particles", [1, 3])
def test_a_summed_site_beside_a_site_outside_the_plate(first, particles):
    means, prior = dist.Normal(torch.zeros(2), SD).to_event(1), dist.Categorical(torch.tensor([0.3, 0.7]))
    q_means, q_y = dist.Normal(torch.tensor([-1.0, 1.0]), 0.5).to_event(1), dist.Categorical(torch.tensor([0.6, 0.4]))

    def mixture(x):
        w = pyro.sample("w", means)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", prior)
            pyro.sample("x", dist.Normal(torch.where(y == 0, w[..., 0], w[..., 1]), 1.0), obs=x)

    def classes(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", q_y, infer={"enumerate": "parallel"})

    def guide(x):
        if first:
            classes(x)
        pyro.sample("w", q_means)
        if not first:
            classes(x)

    x = X.float()
    pyro.set_rng_seed(0)
    found = terms(mixture, guide, x, num_particles=particles)
    w = found.latents["w"].reshape(particles, 2)
    log_p = dist.Normal(w[:, None, :], 1.0).log_prob(x[:, None]) + prior.logits - q_y.logits
    bound = (log_p * q_y.probs).sum([1, 2]) + means.log_prob(w) - q_means.log_prob(w)
    pyro.set_rng_seed(0)
    assert -ELBO(particles).loss(mixture, guide, x) == pytest.approx(bound.mean().item(), rel=1e-5)


class Classes(PyroModule):
    """N(w; 0, I) prod_n p(y_n) N(z_n; 0, 1) N(x_n; w[y_n] + b z_n, 1)."""

    data_dim, latent_dim, num_classes = 3, 1, 2

    def __init__(self):
        super().__init__("classes")
        self.b = nn.Parameter(torch.ones(3))

    def forward(self, x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(2, 3), 1.0).to_event(2))
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.tensor([0.3, 0.7])), obs=y)
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            means = torch.where((y == 0).unsqueeze(-1), w[..., 0, :], w[..., 1, :])
            pyro.sample("x", dist.Normal(means + self.b * z, 1.0).to_event(1), obs=x)


def test_semi_supervised_training_beside_an_autoguide():
    model = Classes()
    guide = guides.Factorised(guides.Labelled(model, hidden=(4,)), AutoNormal(model))
    x, y = torch.randn(6, 3), torch.tensor([0, -1, 1, -1, 1, -1])
    loss = SemiSupervised(ELBO(2, num_data=6), alpha=0.0)(model, guide)
    fit(loss, (x, y), epochs=1, batch_size=3, progress=False)
    assert all(p.grad is not None for p in guide.parts[1].parameters())
