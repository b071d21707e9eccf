"""A model with an auxiliary variable: its bound and its log p(x) against a grid; plates and sites of any name."""

import math

import pyro
import pytest
import torch
from labelled_pairs import DATA, LATENT, N, bits
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule
from torch import nn

import guides
from zoo import M2, VAE, WithAuxiliary
from zoo.infer import ELBO, IWELBO, fit, grid_reference, log_likelihood, terms
from zoo.parts.conditionals import Normal
from zoo.parts.networks import WithHead

pytestmark = pytest.mark.usefixtures("double_precision")

SIZE = 2


def reverse(latent=LATENT):
    return WithHead((DATA, latent), SIZE, Normal, (8,))


def spread(*modules):
    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))


def test_log_weights_are_those_of_the_model_and_of_a():
    model = WithAuxiliary(VAE(DATA, LATENT, (8,)), reverse())
    guide = guides.Auxiliary(model, hidden=(8,))
    x = bits()
    run = terms(model, guide, x, num_particles=3)
    assert {*run.log_ratios} == {"a", "z"}
    a, z = run.latents["a"], run.latents["z"]
    assert a.shape == (3, N, SIZE)
    by_hand = (
        model.inner.prior().log_prob(z)
        + model.inner.likelihood(z).log_prob(x)
        + model.reverse(x, z).log_prob(a)
        - guide.auxiliary(x).log_prob(a)
        - guide.posterior(x, a).log_prob(z)
    )
    torch.testing.assert_close(run.log_weights, by_hand, rtol=1e-12, atol=1e-12)


def test_the_bound_is_below_log_p_and_importance_weighting_reaches_it():
    """Against log p(x) on a grid. z = 6 over 20 numbers, a failure rate of 4e-8."""
    inner = VAE(DATA, 1, (8,))
    model = WithAuxiliary(inner, reverse(1))
    guide = guides.Auxiliary(model, hidden=(8,))
    plain = guides.Amortized(inner, hidden=(8,))
    x = bits()
    spread(model, guide)
    log_p = grid_reference(inner, x).log_evidence
    ours = log_likelihood(model, guide, x, num_particles=20_000)
    theirs = log_likelihood(inner, plain, x, num_particles=20_000)
    assert (ours.elbo < log_p + 6 * ours.elbo_error).all()
    assert (ours.elbo < log_p - 6 * ours.elbo_error).any(), "the bound should be loose here, or the test says nothing"
    assert ((ours.per_datum - log_p).abs() < 6 * ours.per_datum_error).all()
    both = (ours.per_datum_error**2 + theirs.per_datum_error**2).sqrt()
    assert ((ours.per_datum - theirs.per_datum).abs() < 6 * both).all()


class Named(PyroModule):
    """A user's model, whose sites and plate have names of its own."""

    def __init__(self):
        super().__init__("named")
        self.layer = nn.Linear(LATENT, DATA)

    def forward(self, x):
        with pyro.plate("rows", len(x), dim=-1):
            u = pyro.sample("u", dist.Normal(x.new_zeros(LATENT), 1.0).to_event(1))
            pyro.sample("bits", dist.Bernoulli(logits=self.layer(u)).to_event(1), obs=x)


def test_sites_and_plates_of_any_name():
    model = WithAuxiliary(Named(), reverse(), sites=("bits", "u"))
    encoder = nn.Linear(DATA, LATENT)

    def guide(x):
        with pyro.plate("rows", len(x), dim=-1):
            a = pyro.sample("a", dist.Normal(x[:, :SIZE], 1.0).to_event(1))
            pyro.sample("u", dist.Normal(encoder(x) + a.sum(-1, keepdim=True), 1.0).to_event(1))

    x = bits()
    assert terms(model, guide, x, num_particles=3).log_weights.shape == (3, N)
    trace = poutine.trace(model).get_trace(x)
    (frame,) = trace.nodes["a"]["cond_indep_stack"]
    assert frame == trace.nodes["u"]["cond_indep_stack"][0]
    assert math.isfinite(
        SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO(3, vectorize_particles=True)).step(x)
    )


def test_a_plain_function_is_a_model_too():
    inner = Named()
    model = WithAuxiliary(lambda x: inner(x), reverse(), sites=("bits", "u"))
    assert {"a", "u", "bits"} <= {*poutine.trace(model).get_trace(bits()).nodes}


def test_a_has_the_axes_of_the_batch_whatever_r_reads():
    class Constant(nn.Module):
        size = SIZE

        def forward(self, x, z):
            return dist.Normal(torch.zeros(SIZE), 1.0).to_event(1)

    model = WithAuxiliary(VAE(DATA, LATENT, (8,)), Constant())
    assert poutine.trace(model).get_trace(bits()).nodes["a"]["value"].shape == (N, SIZE)
    guide = guides.Auxiliary(model, hidden=(8,))
    assert terms(model, guide, bits(), num_particles=3).log_ratios["a"].shape == (3, N)


def test_a_follows_the_x_that_is_generated():
    class Copy(nn.Module):
        size = DATA

        def forward(self, x, z):
            return dist.Normal(x, 1e-6).to_event(1)

    model = WithAuxiliary(VAE(DATA, LATENT, (8,)), Copy())
    nodes = poutine.trace(poutine.uncondition(model)).get_trace(torch.zeros(20, DATA)).nodes
    assert nodes["x"]["value"].any()
    assert (nodes["a"]["value"] - nodes["x"]["value"]).abs().max() < 1e-4


def test_labels_pass_through_and_families_may_look_at_the_prior():
    model = WithAuxiliary(M2(DATA, LATENT, 3, (8,)), reverse())
    guide = guides.Auxiliary(model, hidden=(8,), family=guides.Residual)
    y = torch.tensor([0, 1, 2, 2, 0])
    run = terms(model, guide, bits(), y, num_particles=2)
    assert {*run.log_ratios} == {"a", "z"}
    assert guide.predict(bits()).shape == (N, 3)


def test_the_pair_trains():
    model = WithAuxiliary(VAE(DATA, LATENT, (8,)), reverse())
    loss = IWELBO(3, gradient="doubly")(model, guides.Auxiliary(model, hidden=(8,)))
    before = {key: p.detach().clone() for key, p in loss.named_parameters()}
    assert any(key.startswith("model.inner.") for key in before)
    assert any(key.startswith("model.reverse.") for key in before)
    fit(loss, bits(), steps=2, batch_size=N, progress=False)
    assert all((p != before[key]).any() for key, p in loss.named_parameters())


def test_bad_arguments():
    x = bits()
    with pytest.raises(
        ValueError, match=r"sites: VAE samples no site 'u', but \['x', 'z'\]: WithAuxiliary\(model, rev"
    ):
        WithAuxiliary(VAE(DATA, LATENT), reverse(), sites=("x", "u"))(x)
    model = WithAuxiliary(VAE(DATA, LATENT), reverse(), sites=("x", "u"))
    with pytest.raises(ValueError, match=r"sites: VAE samples no site 'u'"):
        ELBO()(model, guides.Auxiliary(model))(x)
    with pytest.raises(TypeError, match=r"reverse: expected a module `\(x, z\) -> r\(a \| x, z\)` with `size`"):
        WithAuxiliary(VAE(DATA, LATENT), nn.Linear(3, 2))

    def global_latent(x):
        pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(0.5).expand([N, DATA]).to_event(2), obs=x)

    with pytest.raises(ValueError, match=r"sites: function samples \('x', 'z'\) in no common plate of its own"):
        WithAuxiliary(global_latent, reverse())(x)
