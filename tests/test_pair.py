"""What is refused about a pair, each with the site's name; and what must go through."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal

import guides
from zoo import VAE
from zoo.infer import ELBO, IWELBO, RenyiELBO, Tempered, terms
from zoo.infer.compiled import compiled
from zoo.parts.conditionals import Normal

X = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))


def normal(loc, scale=1.0):
    return dist.Normal(loc, scale).to_event(1)


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", normal(torch.zeros(2)))
        pyro.sample("x", normal(z), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", normal(0.5 * x, 0.7))


def global_latent(x):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", normal(w.expand(2)), obs=x)


def global_guide(x):
    pyro.sample("w", dist.Normal(0.0, 1.0))


def with_factor(x):
    pyro.factor("regulariser", torch.tensor(0.0))
    model(x)


def misspelt(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z_", normal(0.5 * x))


def silent(x):
    pass


def scaled(x):
    with pyro.poutine.scale(scale=0.1):
        model(x)


def subsampled(x):
    with pyro.plate("data", 100, subsample=torch.arange(len(x))):
        z = pyro.sample("z", normal(torch.zeros(2)))
        pyro.sample("x", normal(z), obs=x)


def enumerated(x):
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(torch.ones(3)), infer={"enumerate": "parallel"})
        pyro.sample("x", normal(k[..., None].expand(*k.shape, 2).float()), obs=x)


def score_function(x):
    with pyro.plate("data", len(x)):
        pyro.sample("k", dist.Categorical(torch.ones(len(x), 3)))


def no_event(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", normal(torch.zeros(2)))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def binary(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", normal(torch.zeros(2)))
        pyro.sample("x", dist.Bernoulli(logits=z).to_event(1), obs=x)


def no_plate(x):
    z = pyro.sample("z", normal(torch.zeros(len(x), 2)).to_event(1))
    pyro.sample("x", normal(z).to_event(1), obs=x)


NAN = X.clone()
NAN[3, 1] = float("nan")

REFUSED = {
    "latent outside the plate": (global_latent, global_guide, X, "site 'w': stands outside the batch plate 'data'"),
    "a zero factor outside the plate": (with_factor, guide, X, "site 'regulariser': stands outside the batch plate"),
    "no plate": (no_plate, no_plate, X, "observes"),
    "no plate at all": (no_plate, lambda x: pyro.sample("z", normal(x).to_event(1)), X, "no site stands in a plate"),
    "misspelt site": (model, misspelt, X, "site 'z_': .* did you mean 'z'"),
    "missing site": (model, silent, X, "site 'z': a latent site of the model that the guide does not sample"),
    "scaled": (scaled, guide, X, "site 'z': scaled by 0.1"),
    "subsampled": (subsampled, guide, X, "site 'z': scaled by 20"),
    "enumerated": (enumerated, silent, X, "site 'k': enumerated in the model"),
    "no event dim": (no_event, guide, X, "site '[zx]': .*to_event|invalid|shape|Shape"),
    "grey pixels": (binary, guide, X.sigmoid(), r"site 'x': Bernoulli .*rows \[0, 1, 2, 3, 4\].*Binarized"),
    "NaN in the data": (model, lambda x: guide(x.nan_to_num()), NAN, r"site 'x': the value is NaN in rows \[3\]"),
    "empty batch": (model, guide, X[:0], "the batch is empty"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_site_and_the_reason(name):
    wrong_model, wrong_guide, x, message = REFUSED[name]
    for objective in (ELBO(), IWELBO(3), RenyiELBO(0.5, 2), Tempered(ELBO(), kl_weight=0.5)):
        with pytest.raises(ValueError, match=message):
            objective.differentiable_loss(wrong_model, wrong_guide, x)


@pytest.mark.parametrize("make", [ELBO, IWELBO, functools.partial(RenyiELBO, 0.5)])
@pytest.mark.parametrize("number", [0, -3, 1.5])
def test_number_of_particles(make, number):
    with pytest.raises(ValueError, match="num_particles must be an integer >= 1"):
        make(num_particles=number)


def test_unknown_gradient_word():
    with pytest.raises(ValueError, match="doubly"):
        IWELBO(3, gradient="double")


def test_score_function_sites_evaluate_but_do_not_train():
    with pytest.raises(ValueError, match="site 'k': Categorical has no reparameterised sample"):
        ELBO().differentiable_loss(enumerated, score_function, X)
    assert ELBO().loss(enumerated, score_function, X) > 0


def test_the_check_does_not_move_the_random_stream():
    torch.manual_seed(0)
    first = [terms(model, lambda x: guide(x), X).log_weights for _ in range(2)]  # checked anew: another guide
    torch.manual_seed(0)
    fixed = functools.partial(guide)
    terms(model, fixed, X)
    torch.manual_seed(0)
    again = [terms(model, fixed, X).log_weights for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_terms_equal_pyros_traces():
    pyro.set_rng_seed(1)
    ours = ELBO().loss(model, guide, X)
    pyro.set_rng_seed(1)
    assert ours == pytest.approx(Trace_ELBO().loss(model, guide, X), rel=1e-6)


def test_plates_inside_the_batch_plate_are_summed():
    def pixels(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0))
            with pyro.plate("pixels", 2, dim=-1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def pixel_guide(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(x.mean(-1, keepdim=True), 0.5))

    found = terms(pixels, pixel_guide, X, num_particles=4)
    z = found.latents["z"]
    expected = dist.Normal(z, 1.0).log_prob(X).sum(-1)
    assert found.log_likelihood.shape == (4, 5)
    torch.testing.assert_close(found.log_likelihood, expected)


def test_masked_sites_count_only_where_the_mask_is_true():
    mask = torch.tensor([True, True, False, True, False])

    def masked(x):
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=mask):
            z = pyro.sample("z", normal(torch.zeros(2)))
            pyro.sample("x", normal(z), obs=x)

    found = terms(masked, guide, X, num_particles=3)
    assert (found.log_likelihood[:, ~mask] == 0).all()
    assert (found.log_likelihood[:, mask] != 0).all()


def bottom_up_model(x):
    with pyro.plate("data", len(x)):
        z_2 = pyro.sample("z_2", normal(torch.zeros(2)))
        z_1 = pyro.sample("z_1", normal(z_2))
        pyro.sample("x", normal(z_1), obs=x)


def bottom_up_guide(x):
    with pyro.plate("data", len(x)):
        z_1 = pyro.sample("z_1", normal(0.5 * x, 0.7))
        pyro.sample("z_2", normal(0.5 * z_1, 0.7))


def top_down_guide(x):
    with pyro.plate("data", len(x)):
        z_2 = pyro.sample("z_2", normal(0.3 * x, 0.7))
        pyro.sample("z_1", normal(0.5 * x + 0.1 * z_2, 0.7))


def mean_field_guide(x):  # in the wrong order, but z_2 does not depend on z_1: the KL is right
    with pyro.plate("data", len(x)):
        pyro.sample("z_1", normal(0.5 * x, 0.7))
        pyro.sample("z_2", normal(0.3 * x, 0.7))


def test_closed_form_kl_is_refused_where_the_order_makes_it_wrong():
    with pytest.raises(ValueError, match="site 'z_1': no closed-form KL, its parent 'z_2'"):
        ELBO(analytic_kl=True).loss(bottom_up_model, bottom_up_guide, X)


@pytest.mark.parametrize("right", [top_down_guide, mean_field_guide])
def test_closed_form_kl_is_the_mean_of_the_sampled_one(right):
    torch.manual_seed(0)
    sampled = terms(bottom_up_model, right, X, num_particles=20_000).log_weights.sum(1)
    objective = ELBO(2000, analytic_kl=True)
    closed = torch.tensor([-objective.loss(bottom_up_model, right, X) for _ in range(10)])
    error = (sampled.var() / 20_000 + closed.var() / 10).sqrt()
    assert abs(sampled.mean() - closed.mean()) / error < 4.5


def test_closed_form_kl_needs_a_closed_form():
    def mixture_guide(x):
        with pyro.plate("data", len(x)):
            base = dist.MixtureOfDiagNormals(torch.zeros(5, 2, 2), torch.ones(5, 2, 2), torch.zeros(5, 2))
            pyro.sample("z", base)

    with pytest.raises(ValueError, match=r"site 'z': no closed-form KL from MixtureOfDiagNormals"):
        ELBO(analytic_kl=True).loss(model, mixture_guide, X)


@pytest.mark.parametrize("auto", [AutoNormal, AutoDelta])
@pytest.mark.parametrize("objective", [ELBO(), IWELBO(4), RenyiELBO(0.5, 4), IWELBO(4, gradient="doubly")])
def test_autoguides_in_the_plate_work_unchanged(auto, objective):
    pyro.set_rng_seed(0)
    loss = objective(model, auto(model))
    loss(X)
    optimiser = torch.optim.Adam(loss.parameters(), lr=0.05)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.99)  # the steps' noise must die out: 0.05 -> 0.0009
    for _ in range(400):
        optimiser.zero_grad()
        loss(X).backward()
        optimiser.step()
        decay.step()
    mean = terms(model, loss.guide, X, num_particles=2000).latents["z"].mean(0)
    assert (mean - X / 2).abs().max() < 0.3  # the exact posterior mean; the start is a prior draw, sd 1


def test_autonormal_counts_its_auxiliary_site_once():
    pyro.set_rng_seed(0)
    auto = AutoNormal(model)
    auto(X)
    pyro.set_rng_seed(1)
    ours = ELBO().loss(model, auto, X)
    pyro.set_rng_seed(1)
    assert ours == pytest.approx(Trace_ELBO().loss(model, auto, X), rel=1e-6)
    assert set(terms(model, auto, X).log_ratios) == {"z"}


def test_joint_autoguides_are_refused_with_a_way_out():
    with pytest.raises(ValueError, match=r"site '_AutoDiagonalNormal_latent': .*use AutoNormal"):
        ELBO().loss(model, AutoDiagonalNormal(model), X)


def test_svi_trains_a_hand_written_guide_with_param_statements():
    def learned(x):
        shift = pyro.param("shift", torch.zeros(2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(0.5 * x + shift, 0.7))

    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    pyro.get_param_store().setdefault("shift", torch.tensor([2.0, -2.0]))
    for objective in (ELBO(5, analytic_kl=True), IWELBO(5), IWELBO(5, gradient="doubly"), ELBO(5, sticking=True)):
        pyro.get_param_store()["shift"] = torch.tensor([2.0, -2.0])
        svi = SVI(model, learned, pyro.optim.Adam({"lr": 0.05}), objective)
        losses = [svi.step(X) for _ in range(150)]
        assert torch.isfinite(torch.tensor(losses)).all()
        assert pyro.param("shift").abs().max() < 0.5
    pyro.clear_param_store()


def test_analytic_kl_equals_pyros_mean_field_elbo():
    pyro.set_rng_seed(3)
    ours = ELBO(analytic_kl=True).loss(model, guide, X)
    pyro.set_rng_seed(3)
    assert ours == pytest.approx(TraceMeanField_ELBO().loss(model, guide, X), rel=1e-6)


def test_free_bits_per_datum_and_batch_mean():
    base = terms(model, guide, X, num_particles=3)
    ratio = base.log_ratios["z"]
    level = -ratio.median().item()
    per_datum = Tempered(ELBO(3), free_bits=level).temper(base).log_ratios["z"]
    torch.testing.assert_close(per_datum, torch.minimum(ratio, torch.tensor(-level)))
    mean = -ratio.mean().item()
    below = Tempered(ELBO(3), free_bits=mean + 0.1, batch_mean=True).temper(base).log_ratios["z"]
    above = Tempered(ELBO(3), free_bits={"z": mean - 0.1}, batch_mean=True).temper(base).log_ratios["z"]
    torch.testing.assert_close(below, torch.full_like(ratio, -mean - 0.1))
    torch.testing.assert_close(above, ratio)


def test_warm_up_moves_with_gradient_evaluations_only():
    objective = Tempered(ELBO(analytic_kl=True), kl_weight=lambda step: min(1.0, step / 4))
    losses = []
    for _ in range(6):
        torch.manual_seed(0)
        with torch.no_grad():
            objective.differentiable_loss(model, guide, X)
        torch.manual_seed(0)
        losses.append(objective.differentiable_loss(model, guide, X).item())
    steps = torch.tensor(losses).diff()
    assert objective.step == 6
    torch.testing.assert_close(steps[:4], steps[:1].expand(4))
    assert steps[4] == 0


def test_compiled_takes_a_pair_that_was_never_run_and_refuses_what_a_graph_does_not_hold(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    model = VAE(2, 1, (3,), likelihood=Normal)
    loss = ELBO(analytic_kl=True)(model, guides.Amortized(model, hidden=(3,)))
    graph = compiled(loss, X)
    torch.manual_seed(0)
    graph(X).backward()
    assert all(p.grad is not None for p in loss.parameters())
    for objective in (ELBO(sticking=True), IWELBO(3, gradient="doubly"), Tempered(ELBO(sticking=True), kl_weight=0.5)):
        with pytest.raises(ValueError, match="shaped outside the graph"):
            compiled(objective(model, loss.guide), X)
