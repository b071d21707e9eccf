"""What is refused about a pair, each with the site's name; and what must go through."""

import functools
import threading

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import lgssm
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroModule
from torch import nn

import guides
from zoo import DMM, VAE
from zoo.infer import (
    ELBO,
    IWELBO,
    VIMCO,
    RenyiELBO,
    Tempered,
    Terms,
    fit,
    grid_reference,
    log_likelihood,
    nuts_reference,
    terms,
)
from zoo.infer.pieces import pieces
from zoo.infer.training.step.compiled import compiled
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
        pyro.sample("x", normal(w.unsqueeze(-1).expand(*w.shape, 2)), obs=x)


def global_guide(x):
    pyro.sample("w", dist.Normal(0.0, 1.0))


def data_outside(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", normal(torch.zeros(2)))
    pyro.sample("x", normal(z).to_event(1), obs=x)


def outside_there(x):
    pyro.sample("z", normal(0.5 * x, 0.7).to_event(1))


def with_factor(x):
    pyro.factor("regulariser", torch.tensor(0.0))
    model(x)


def misspelt(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z_", normal(0.5 * x))


def knows_more(x):
    with pyro.plate("data", len(x)):
        pyro.sample("code", normal(x))
        pyro.sample("z", normal(0.5 * x))


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


def with_auxiliary(name, of):
    def auxiliary(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample(name, normal(0.5 * x), infer={"is_auxiliary": True})
            pyro.sample("z", of(a))

    return auxiliary


def observing(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", normal(0.5 * x), obs=x)


def of_the_data(x):
    guide(x)
    with pyro.plate("others", len(x)):
        pyro.sample("x", normal(x))


def half(x, name):
    with pyro.plate("data", len(x)):
        pyro.sample(name, normal(0.5 * x))


def two_plates(x):
    half(x, "z")
    half(x, "y")


def twice(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", normal(0.5 * x))
        pyro.sample("z", normal(0.5 * x))


def over_the_simplex(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Dirichlet(torch.ones(len(x), 2)))


NAN = X.clone()
NAN[3, 1] = float("nan")

REFUSED = {
    "data outside the plate": (data_outside, guide, X, "site 'x': stands outside the batch plate 'data'"),
    "a latent in the plate of one program": (
        model,
        outside_there,
        X,
        "site 'z': stands outside the batch plate 'data'.* in no plate: model and guide must",
    ),
    "no plate": (no_plate, no_plate, X, "observes"),
    "no plate at all": (no_plate, lambda x: pyro.sample("z", normal(x).to_event(1)), X, "no site stands in a plate"),
    "misspelt site": (model, misspelt, X, "site 'z_': .* did you mean 'z'"),
    "a site of the guide alone": (model, knows_more, X, "site 'code': sampled by the guide .*a reverse model: `With"),
    "missing site": (model, silent, X, "site 'z': a latent site of the model that the guide does not sample"),
    "scaled": (scaled, guide, X, "site 'z': scaled by 0.1"),
    "subsampled": (subsampled, guide, X, "site 'z': scaled by 20"),
    "enumerated": (enumerated, silent, X, "site 'k': enumerated in the model"),
    "no event dim": (no_event, guide, X, "site '[zx]': .*to_event|invalid|shape|Shape"),
    "grey pixels": (binary, guide, X.sigmoid(), r"site 'x': Bernoulli .*rows 0, 1, 2, 3, 4 .*Binarized"),
    "an auxiliary site of nothing": (
        model,
        with_auxiliary("a", normal),
        X,
        "site 'a': auxiliary.* variable needs a reverse model: `WithAuxiliary`",
    ),
    "an auxiliary site of a density": (
        model,
        with_auxiliary("z_unconstrained", normal),
        X,
        "site 'z_unconstrained': auxiliary, sampled by the guide",
    ),
    "an observation in the guide": (model, observing, X, "site 'z': the guide observes a value"),
    "a site of both kinds": (model, of_the_data, X, "site 'x': sampled by the guide but observed in the model"),
    "no site": (silent, silent, X, "the model has no sample site"),
    "two plates of one name": (model, two_plates, X, "plate 'data': opened twice in one program, by half and by half"),
    "a site twice": (model, twice, X, "site 'z': sampled twice in one program, by twice and by twice"),
    "a density over fewer numbers": (
        model,
        over_the_simplex,
        X,
        r"site 'z': the guide's Dirichlet is a density over 1 free numbers, .*Normal over 2",
    ),
    "NaN in the data": (model, lambda x: guide(x.nan_to_num()), NAN, r"site 'x': the value is NaN in rows 3$"),
    "empty batch": (model, guide, X[:0], "the batch is empty"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_site_and_the_reason(name):
    wrong_model, wrong_guide, x, message = REFUSED[name]
    for objective in (ELBO(), IWELBO(3), RenyiELBO(0.5, 2), Tempered(ELBO(), kl_weight=0.5)):
        with pytest.raises(ValueError, match=message):
            objective.differentiable_loss(wrong_model, wrong_guide, x)


@pytest.mark.parametrize("of", [(global_latent, global_guide, "w"), (with_factor, guide, "regulariser")])
def test_importance_weights_refuse_a_site_outside_the_plate(of):
    shared, its_guide, site = of
    for objective in (IWELBO(3), RenyiELBO(0.5, 2), VIMCO(2), Tempered(IWELBO(2), kl_weight=0.5)):
        with pytest.raises(ValueError, match=f"site '{site}': stands outside the batch plate 'data'.*ELBO, RLOO"):
            objective.differentiable_loss(shared, its_guide, X)


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


OTHERS = (IWELBO(4), RenyiELBO(0.5, 4), IWELBO(4, gradient="doubly"))


@pytest.mark.parametrize("objective", [ELBO(), *(pytest.param(o, marks=pytest.mark.thorough) for o in OTHERS)])
def test_autoguides_in_the_plate_work_unchanged(objective):
    pyro.set_rng_seed(0)
    loss = objective(model, AutoNormal(model))
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
    pyro.clear_param_store()  # Pyro's own loss goes by the store, autoguides by the name of their class
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


@pytest.mark.thorough
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


# --- what a review found: each of these once gave a number instead of an error, or an error instead of a number -----


class Scaled(PyroModule):
    """q(z) = N(w x, s^2), as a Module; `as_function` hides it behind a lambda."""

    def __init__(self, dropout=0.0):
        super().__init__("guide")
        self.weight = nn.Parameter(torch.tensor(0.3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(self.dropout(self.weight * x), 0.7))


class Noise(nn.Module):
    def forward(self, x):
        return x + 0.01 * torch.randn_like(x)


@pytest.mark.parametrize("objective", [ELBO(sticking=True), IWELBO(5, gradient="doubly")])
def test_path_derivatives_need_parameters_that_can_be_frozen_and_one_density(objective):
    module = Scaled()
    objective.differentiable_loss(model, module, X).backward()
    with pytest.raises(ValueError, match="site 'z': the guide's parameters cannot be held constant"):
        objective.differentiable_loss(model, lambda x: module(x), X)
    for probability in (0.5, 1e-6):
        with pytest.raises(ValueError, match="guide: dropout drops entries at random, so it is another density"):
            objective.differentiable_loss(model, Scaled(dropout=probability), X)
    objective.differentiable_loss(model, Scaled(dropout=0.5).eval(), X)
    noisy = Scaled()
    noisy.dropout = Noise()
    with pytest.raises(ValueError, match="site 'z': the guide is another density"):
        objective.differentiable_loss(model, noisy, X)


def test_values_that_would_blow_up_the_plate_are_refused():
    def scalar(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def scalar_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0] / 2, 0.7))

    with pytest.raises(ValueError, match=r"site 'x': expected values of shape \(5,\), got \(5, 1\)"):
        ELBO().loss(scalar, scalar_guide, X[:, :1])
    with pytest.raises(ValueError, match=r"site 'z': expected values of shape \(5, 2\), got \(5, 1\)"):
        ELBO().loss(model, lambda x: guide(x[:, :1]), X)


def test_a_switch_or_another_keyword_is_checked_anew():
    def deep(x, extra=False):
        with pyro.plate("data", len(x)):
            if extra:
                pyro.sample("h", dist.Normal(0.0, 1.0))
            z = pyro.sample("z", normal(torch.zeros(2)))
            pyro.sample("x", normal(z), obs=x)

    def its_guide(x, extra=False):
        guide(x)

    ELBO().loss(deep, its_guide, X, extra=False)
    with pytest.raises(ValueError, match="site 'h'"):
        ELBO().loss(deep, its_guide, X, extra=True)


def test_bound_methods_and_callables_without_hash_work():
    module, unhashable = Scaled(), type("G", (), {"__eq__": lambda *_: False, "__call__": lambda self, x: guide(x)})()
    assert ELBO().loss(model, module.forward, X) > 0
    assert ELBO().loss(model, unhashable, X) > 0


def test_a_model_with_an_index_of_its_own_is_given_it():
    offset = torch.tensor([0.0, 0.0, 0.0, 0.0, 100.0])

    def indexed(x, index=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(torch.zeros(2)))
            pyro.sample("x", normal(z + offset[index, None]), obs=x)

    found = terms(indexed, lambda x, index=None: guide(x), X, index=torch.arange(5)).log_likelihood
    assert found[0, 4] < -1000 < found[0, 3]


def test_masks_that_broadcast_and_masks_that_differ():
    def masked(x):
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=torch.tensor(True)):
            z = pyro.sample("z", normal(torch.zeros(2)))
            pyro.sample("x", normal(z), obs=x)

    torch.manual_seed(0)
    plain = ELBO().loss(model, guide, X)
    torch.manual_seed(0)
    assert ELBO().loss(masked, guide, X) == pytest.approx(plain)
    with pytest.raises(ValueError, match="site 'z': masked differently"):
        ELBO(analytic_kl=True).loss(masked, guide, X)


def test_stock_guides_and_plain_normals_have_a_closed_form_kl_with_each_other():
    class Own(PyroModule):
        data_dim = latent_dim = 2

        def forward(self, x):
            model(x)

    for family in (guides.Diagonal, guides.FullRank):
        own = Own("model")
        pair = own, guides.Amortized(own, hidden=(4,), family=family)
        sampled = terms(*pair, X, num_particles=40_000).log_ratios["z"].sum(1)
        closed = -terms_with_kl(*pair)
        assert abs(sampled.mean() + closed) < 4.5 * sampled.std() / 200
    stock = VAE(2, 2, (3,), likelihood=Normal)
    assert ELBO(analytic_kl=True).loss(stock, guide, X) > 0


def terms_with_kl(own, its_guide):
    torch.manual_seed(0)
    with_kl = -ELBO(analytic_kl=True).loss(own, its_guide, X)
    torch.manual_seed(0)
    return with_kl - terms(own, its_guide, X).log_likelihood.sum().item()


def test_deterministic_sites_in_a_guide_are_left_alone():
    def noted(x):
        with pyro.plate("data", len(x)):
            loc = pyro.deterministic("loc", 0.5 * x, event_dim=1)
            pyro.sample("z", normal(loc, 0.7))

    torch.manual_seed(0)
    plain = ELBO().loss(model, guide, X)
    torch.manual_seed(0)
    assert ELBO().loss(model, noted, X) == pytest.approx(plain)


def test_plates_of_different_names_are_named():
    def batch_guide(x):
        with pyro.plate("batch", len(x)):
            pyro.sample("z", normal(0.5 * x, 0.7))

    with pytest.raises(ValueError, match="model and guide must give the batch plate one name"):
        ELBO().loss(model, batch_guide, X)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"free_bits": {"zz": 1.0}}, "free_bits names"),
        ({"free_bits": -1.0}, "finite and >= 0"),
        ({"free_bits": float("nan")}, "finite and >= 0"),
        ({"kl_weight": float("nan")}, "kl_weight must be finite"),
        ({"kl_weight": lambda step: -1.0}, "at step 0"),
        ({"kl_weight": {"zz": 1.0}}, r"kl_weight names \['zz'\], the latent sites are \['z'\]"),
        ({"kl_weight": {"z": -1.0}}, r"kl_weight\['z'\] must be finite and >= 0, got -1.0 at step 0"),
    ],
)
def test_tempered_refuses_numbers_and_sites_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        Tempered(ELBO(), **settings).loss(model, guide, X)


def test_renyi_near_one_does_not_overflow():
    far = Terms(torch.tensor([[0.0], [-30_000.0]]), {}, {})
    for alpha in (0.989, 0.991, 0.995, 1.005):
        assert RenyiELBO(alpha, 2).bound(far).isfinite().all()


def test_words_in_place_of_objects():
    with pytest.raises(TypeError, match=r"family: expected a constructor such as guides.Diagonal, got .iaf."):
        guides.Amortized(VAE(2, 1, (3,)), family="iaf")
    with pytest.raises(TypeError, match=r"conditionals.Bernoulli"):
        VAE(2, 1, (3,), likelihood="bernoulli")


def test_fit_looks_at_every_row_and_at_every_parameter():
    stock = VAE(2, 1, (3,))
    loss = ELBO()(stock, guides.Amortized(stock, hidden=(3,)))
    x = torch.ones(300, 2)
    x[250] = 0.37
    with pytest.raises(ValueError, match=r"data: site 'x': .* rows 250 "):
        fit(loss, x, epochs=1, batch_size=100, progress=False)
    with pytest.raises(ValueError, match=r"validation: site 'x'.* rows 0, 1, 2, 3, 4 and 45 more "):
        fit(loss, torch.ones(100, 2), validation=torch.full((50, 2), 0.5), epochs=1, batch_size=50, progress=False)
    with pytest.raises(ValueError, match="site 'x': IndependentBernoulli"):
        log_likelihood(stock, loss.guide, x, num_particles=3)

    encoder = nn.Linear(2, 1)

    def closure(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(encoder(x), 0.7))

    with pytest.raises(ValueError, match="parameters that the loss does not hold"):
        fit(ELBO()(stock, closure), torch.ones(100, 2), epochs=1, batch_size=50, progress=False)


# --- what sends the user the right way --------------------------------------------------------------------------------


def test_an_auxiliary_site_that_is_the_draw_of_a_point_counts_once():
    """As Pyro's autoguides have it: z = f(a) is a Delta with the log-determinant of f, a carries the density."""

    def by_hand(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("z_unconstrained", normal(0.2 * x, 0.5), infer={"is_auxiliary": True})
            log_det = -torch.tensor(2.0).log() * 2
            pyro.sample("z", dist.Delta(2 * a, log_density=log_det.expand(a.shape[:-1]), event_dim=1))

    torch.manual_seed(0)
    found = terms(model, by_hand, X, num_particles=4)
    torch.manual_seed(0)
    expected = terms(model, lambda x: half(0.8 * x, "z"), X, num_particles=4)
    torch.testing.assert_close(found.log_weights, expected.log_weights)
    assert set(found.log_ratios) == {"z"}


def served(draws, make):
    """A guide whose z is a Delta that `make` gives, of auxiliary draws of these sizes."""

    def serving(x):
        with pyro.plate("data", len(x)):
            a = [
                pyro.sample(f"z_{i}", normal(torch.zeros(len(x), size)), infer={"is_auxiliary": True})
                for i, size in enumerate(draws)
            ]
            pyro.sample("z", make(x, *a))

    return serving


def point(value, log_density=0.0):
    return dist.Delta(value, log_density=torch.as_tensor(log_density).expand(value.shape[:-1]), event_dim=1)


@pytest.mark.parametrize(
    ("draws", "make", "said"),
    [
        ([2], lambda x, a: point(x / 2), "'z_0': auxiliary, and 'z' is no one-to-one function of it"),
        ([2], lambda x, a: point(2 * a), "'z_0': auxiliary, and 'z' is no one-to-one"),
        ([1], lambda x, a: point(a.expand(*a.shape[:-1], 2)), "'z_0': auxiliary, and 'z' is no one-to-one"),
        ([2], lambda x, a: point(torch.stack([a.sum(-1), a.sum(-1)], -1)), "'z_0': auxiliary"),
        ([2, 2], lambda x, a, b: point(a + b), "'z': made of several auxiliary sites"),
    ],
)
def test_an_auxiliary_mark_alone_makes_no_density(draws, make, said):
    for objective in (ELBO(), IWELBO(3)):
        with pytest.raises(ValueError, match=f"site {said}"):
            objective.differentiable_loss(model, served(draws, make), X)


def test_any_map_with_its_own_determinant_serves():
    shear = torch.tensor([[2.0, 0.0], [1.5, 0.5]])  # det 1
    found = terms(model, served([2], lambda x, a: point(a @ shear.T)), X, num_particles=3)
    assert set(found.log_ratios) == {"z"}
    z = found.latents["z"]
    q = dist.MultivariateNormal(torch.zeros(2), shear @ shear.T)
    torch.testing.assert_close(found.log_ratios["z"], normal(torch.zeros(2)).log_prob(z) - q.log_prob(z))


def test_autoguides_over_constrained_latents_serve_theirs():
    def constrained(x):
        with pyro.plate("data", len(x)):
            s = pyro.sample("s", dist.Gamma(2.0 * torch.ones(2), 1.0).to_event(1))
            p = pyro.sample("p", dist.Dirichlet(torch.ones(3)))
            pyro.sample("x", normal(s * p[..., :2]), obs=x)

    assert terms(constrained, AutoNormal(constrained), X, num_particles=3).log_weights.isfinite().all()


class Two(PyroModule):
    """Two stock guides side by side, each of which opens the plate."""

    def __init__(self, own):
        super().__init__("two")
        self.first = guides.Amortized(own, site="z_1", hidden=(3,))
        self.second = guides.Amortized(own, site="z_2", hidden=(3,))

    def forward(self, x):
        self.first(x)
        self.second(x)


class Written(Two):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z_1", self.first.posterior(x))
            pyro.sample("z_2", self.second.posterior(x))


def test_two_stock_guides_in_one_program_are_named_with_the_way_to_write_it():
    stock = VAE(2, 2, (3,), likelihood=Normal)
    said = r"plate 'data': opened twice .* Amortized\(site='z_1'\) and by Amortized\(site='z_2'\)\. .*posterior\(x\)"
    with pytest.raises(ValueError, match=said):
        ELBO()(bottom_up_model, Two(stock))(X)
    assert ELBO()(bottom_up_model, Written(stock))(X).isfinite()


class Convolutional(PyroModule):
    """A decoder that takes one batch axis, with and without the care that particles ask for."""

    data_dim, latent_dim = 16, 2

    def __init__(self, careful):
        super().__init__("convolutional")
        self.linear, self.layer, self.careful = nn.Linear(2, 16), nn.Conv2d(1, 1, 3, padding=1), careful

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(x.new_zeros(2)))
            h = self.linear(z).unflatten(-1, (1, 4, 4))
            h = self.layer(h.flatten(0, -4)).unflatten(0, h.shape[:-3]) if self.careful else self.layer(h)
            pyro.sample("x", normal(h.flatten(-3)), obs=x)


def test_a_decoder_that_takes_no_particles_is_named_before_they_come():
    x = torch.randn(5, 16)
    for careful in (True, False):
        own = Convolutional(careful)
        pair = own, guides.Amortized(own, hidden=(3,))
        ELBO()(*pair)(x).backward()  # one particle
        if careful:
            assert log_likelihood(*pair, x, num_particles=10).per_datum.isfinite().all()
            continue
        for call in (lambda: log_likelihood(*pair, x, num_particles=10), lambda: IWELBO(3)(*pair)(x)):  # noqa: B023
            with pytest.raises(ValueError, match=r"site 'x' with \d+ particles: the program fails .*Runtime.*flatten"):
                call()


def test_a_guide_that_does_not_broadcast_particles_is_named():
    def narrow(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(torch.zeros(2)))
            wrong = torch.cat([z.reshape(-1, 2)[: len(x)]])
            pyro.sample("x", normal(wrong).expand((len(x),)).mask(True), obs=x)

    ELBO().loss(narrow, guide, X)
    assert terms(narrow, guide, X, num_particles=3).log_weights.shape == (3, 5)


def test_two_threads_at_once_are_an_error_and_no_wrong_number():
    entered, released, found = threading.Event(), threading.Event(), []

    def slow(x):
        entered.set()
        assert released.wait(30)
        guide(x)

    thread = threading.Thread(target=lambda: found.append(ELBO().loss(model, slow, X)))
    thread.start()
    assert entered.wait(30)
    with pytest.raises(RuntimeError, match=r"another thread is running a model and a guide.*one stack"):
        ELBO().loss(model, guide, X)
    released.set()
    thread.join()
    assert len(found) == 1
    assert ELBO().loss(model, guide, X) > 0


def by_aot(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))


def normed():
    torch.manual_seed(0)
    stock = VAE(2, 1, (3,), likelihood=Normal)
    stock.decoder = nn.Sequential(nn.Linear(1, 3), nn.BatchNorm1d(3), nn.ReLU())
    return ELBO()(stock, guides.Amortized(stock, hidden=(3,)))


@pytest.mark.thorough
def test_a_capture_leaves_buffers_alone_and_training_on_it_moves_them_as_without(monkeypatch):
    by_aot(monkeypatch)
    losses, x = [normed(), normed()], torch.randn(20, 2)
    before = [b.clone() for b in losses[1].buffers()]
    compiled(losses[1], x)
    assert all(torch.equal(b, old) for b, old in zip(losses[1].buffers(), before, strict=True))
    for loss, compile in zip(losses, (False, True), strict=True):
        fit(loss, x, steps=5, batch_size=20, progress=False, compile=compile)
    for (name, one), two in zip(losses[0].named_buffers(), losses[1].buffers(), strict=True):
        torch.testing.assert_close(one, two, msg=name)


def test_a_captured_graph_looks_at_values_too(monkeypatch):
    by_aot(monkeypatch)
    stock = VAE(2, 1, (3,))
    loss, bits = ELBO()(stock, guides.Amortized(stock, hidden=(3,))), (X > 0).float()
    graph = compiled(loss, bits)
    graph(bits).backward()
    with pytest.raises(ValueError, match=r"site 'x': IndependentBernoulli .* rows 0, 1, 2, 3, 4 "):
        graph(X.sigmoid())


class Masked(nn.Module):
    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, x, mask):
        return self.loss(x, None, mask)


def test_what_cannot_be_captured_is_named():
    kalman, x = lgssm(), torch.randn(3, 4, 6)
    with pytest.raises(ValueError, match=r"compiled: \w+ of zoo\.parts\.kalman\S* cannot be captured, since"):
        compiled(ELBO()(kalman, guides.Exact(kalman)), x)
    deep = DMM(6, 2, hidden=(3,), transition_hidden=(3,))
    loss = ELBO()(deep, guides.Smoother(deep, hidden=(3,), recurrent=4))
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[0, 3] = False
    with pytest.raises(ValueError, match=r"compiled: \w+ of \S+ cannot be captured, since Python looks at values"):
        compiled(Masked(loss), (x > 0).float(), mask)


def test_no_cache_keeps_a_tensor_of_inference_mode():
    stock = VAE(2, 1, (3,), likelihood=Normal)
    with torch.inference_mode():
        ELBO()(stock, guides.Amortized(stock, hidden=(3,)))(X)
        log_likelihood(stock, guides.Amortized(stock, hidden=(3,)), X, num_particles=3)
    later = VAE(2, 1, (3,), likelihood=Normal)
    IWELBO(3, gradient="doubly")(later, guides.Amortized(later, hidden=(3,)))(X).backward()
    assert all(p.grad is not None for p in later.parameters())


def test_pieces_have_no_gradient_and_leave_the_callers_mode_alone():
    shift = torch.zeros(2, requires_grad=True)

    def learned(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(0.5 * x + shift, 0.7))

    for piece in pieces(model, learned, X, (), {}, num_particles=3, max_bytes=1):
        assert torch.is_grad_enabled()
        assert not piece.terms.log_weights.requires_grad
    assert piece.rows == slice(4, 5)


@pytest.mark.parametrize(
    "call",
    [
        lambda model, guide, x: ELBO()(model, guide)(x, masc=x > 0),
        lambda model, guide, x: log_likelihood(model, guide, x, masc=x > 0),
        lambda model, guide, x: nuts_reference(model, x, masc=x > 0),
        lambda model, guide, x: grid_reference(model, x, masc=x > 0),
    ],
)
def test_a_misspelt_argument_is_named_with_those_that_the_model_takes(call):
    model = VAE(3, 2, (4,))
    with pytest.raises(TypeError, match="masc: no argument of VAE, which takes x, mask, y"):
        call(model, guides.Amortized(model, hidden=(4,)), torch.randn(2, 3))


def test_a_model_that_takes_any_keywords_is_given_them():
    def scaled(x, **options):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(torch.zeros(2), options["scale"]))
            pyro.sample("x", normal(z), obs=x)

    def reader(x, **options):
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(torch.zeros(2)))

    assert terms(scaled, reader, torch.zeros(3, 2), scale=2.0).log_weights.shape == (1, 3)
