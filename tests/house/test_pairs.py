"""The grid: what must hold for every pair of the registry (`tests/pairs.py`), whatever it is made of."""

import copy
import io
import itertools
import math

import pyro
import pytest
import torch
from pairs import BATCH, OBJECTIVES, PAIRS, PARTICLES
from pyro import poutine
from pyro.infer import SVI
from pyro.poutine.util import site_is_subsample

from zoo.infer import terms
from zoo.infer.training.step.compiled import compiled

TRAINABLE = [name for name, pair in PAIRS.items() if pair.valid]
GRID = [(name, word) for name, pair in PAIRS.items() for word in OBJECTIVES if word in pair.valid]
REFUSED = [(name, word) for name, pair in PAIRS.items() for word in OBJECTIVES if word not in pair.valid]

EVALUATED = [(name, word) for name, pair in PAIRS.items() for word in OBJECTIVES if word in pair.evaluated]
#: score-function estimators, which need more than terms, and the objective whose value they have
VALUES = {"rloo": "elbo", "vimco": "iwelbo"}

every_pair = pytest.mark.parametrize("name", PAIRS)
every_trainable_pair = pytest.mark.parametrize("name", TRAINABLE)

pytestmark = pytest.mark.usefixtures("double_precision")


def latents_of(model, x, given):
    """The names of the model's latent sites."""
    return {n for n, s in sites(poutine.trace(model).get_trace(x, **given)).items() if not s["is_observed"]}


def loss_of(name, seed=0, word=None):
    """The loss of an objective by its word; without, of the first that serves the pair."""
    model, guide, x = PAIRS[name].build(seed)
    word = word or next(iter(PAIRS[name].valid), "elbo")
    return OBJECTIVES[word]()(model, guide), x, PAIRS[name].keywords


def value_of(loss, x, keywords, seed=7):
    torch.manual_seed(seed)
    return loss(x, **keywords)


def sites(trace):
    return {n: s for n, s in trace.nodes.items() if s["type"] == "sample" and not site_is_subsample(s)}


@pytest.mark.parametrize(("name", "word"), GRID)
def test_loss_is_the_bound_and_its_gradient_reaches_every_parameter(name, word):
    loss, x, keywords = loss_of(name, word=word)
    value = value_of(loss, x, keywords)
    value.backward()
    for key, parameter in loss.named_parameters():
        if key.startswith(PAIRS[name].idle):
            continue
        assert parameter.grad is not None, f"{key} has no gradient"
        assert parameter.grad.isfinite().all(), f"the gradient of {key} is not finite"
        assert (parameter.grad != 0).any(), f"the gradient of {key} is zero"
    if word != "analytic_kl":  # whatever estimates the gradient, the value is the functional of the same draws
        torch.manual_seed(7)
        with torch.no_grad():
            run = terms(loss.model, loss.guide, x, num_particles=PARTICLES, **keywords)
        bound = OBJECTIVES[VALUES.get(word, word)]().bound
        torch.testing.assert_close(-value.detach(), bound(run).sum())


@pytest.mark.parametrize(("name", "word"), REFUSED)
def test_objectives_that_do_not_serve_a_pair_say_so(name, word):
    loss, x, keywords = loss_of(name, word=word)
    sites = "|".join(latents_of(loss.model, x, PAIRS[name].model_keywords))
    with pytest.raises(ValueError, match=f"site '({sites})"):
        loss(x, **keywords)


@pytest.mark.parametrize(("name", "word"), EVALUATED)
def test_objectives_refused_in_training_alone_are_bounds(name, word):
    loss, x, keywords = loss_of(name, word=word)
    with torch.no_grad():
        value = value_of(loss, x, keywords)
        torch.manual_seed(7)
        run = terms(loss.model, loss.guide, x, num_particles=PARTICLES, **keywords)
    torch.testing.assert_close(-value, loss.elbo.bound(run).sum())


@every_pair
def test_guide_samples_the_latents_of_the_model(name):
    model, guide, x = PAIRS[name].build()
    given = PAIRS[name].model_keywords
    drawn = sites(poutine.trace(guide).get_trace(x, **PAIRS[name].keywords))
    stated = sites(poutine.trace(model).get_trace(x, **given))
    latents = {n for n, s in stated.items() if not s["is_observed"]}
    assert {n for n, s in drawn.items() if not s["infer"].get("is_auxiliary")} == latents
    # a label is a site, a condition is not; the mask of a model of masks is
    beside = {"u", "mask"} | ({"y"} if getattr(model, "condition_dim", 0) else set())
    assert stated.keys() - latents - {"m"} == {"x", *given} - beside


def full_draws(name, run, guide, x):
    """The draws of a run, `(K, N, ...)`, with the axes of all summed sites in front."""
    drawn = sites(poutine.trace(guide).get_trace(x, **PAIRS[name].keywords))
    events = {site: drawn[site]["fn"].event_shape for site in run.latents}
    return {site: z.expand(*run.log_weights.shape, *events[site]) for site, z in run.latents.items()}


@every_pair
def test_terms_equal_pyros_own_traces_particle_by_particle(name):
    """With a summed site also value by value."""
    model, guide, x = PAIRS[name].build_scored()
    keywords, given = PAIRS[name].keywords, PAIRS[name].model_keywords
    with torch.no_grad():
        run = terms(model, guide, x, num_particles=PARTICLES, **keywords)
        shape = run.log_weights.shape
        assert shape[-2:] == (PARTICLES, BATCH)
        assert len(shape) == 2 + len(run.summed)
        assert terms(model, guide, x, **keywords).log_weights.shape == (*shape[:-2], 1, BATCH)
        draws = full_draws(name, run, guide, x)
        for site, z in draws.items():
            first, second = z.movedim(len(shape) - 2, 0)[:2]
            assert site in run.summed or (first != second).any(), f"particles share their draw of {site}"
        log_ratio = sum(run.log_ratios.values(), torch.zeros(shape))
        for k in itertools.product(*map(range, shape[:-1])):
            values = {f"{site}{end}": z[k] for site, z in draws.items() for end in ("", "_unconstrained")}
            p = poutine.trace(poutine.condition(model, values)).get_trace(x, **given)
            p.compute_log_prob()
            observed = [s for n, s in sites(p).items() if n not in run.latents]
            log_likelihood = sum(s["log_prob"] for s in observed)
            torch.testing.assert_close(run.log_likelihood.expand(shape)[k], log_likelihood)
            if PAIRS[name].scores_foreign_values:
                q = poutine.trace(poutine.condition(guide, values)).get_trace(x, **keywords)
                q.compute_log_prob()
                log_q = sum(s["log_prob"] for s in sites(q).values())
                log_p = sum(p.nodes[site]["log_prob"] for site in run.latents)
                torch.testing.assert_close(log_ratio[k], log_p - log_q)


@every_pair
def test_data_and_particles_are_independent(name):
    """The weight of particle k of datum n depends on the row x_n and on its own latent, and on no other."""
    model, guide, x = PAIRS[name].build_scored()
    x.requires_grad_()
    run = terms(model, guide, x, num_particles=PARTICLES, **PAIRS[name].keywords)
    k, n = 1, 2
    (gradient,) = torch.autograd.grad(run.log_weights[..., n].sum(), x, retain_graph=True)
    assert (gradient[n] != 0).any()
    assert (gradient[torch.arange(BATCH) != n] == 0).all()
    draws = full_draws(name, run, guide, x)
    reached = set()
    for site, latent in run.latents.items():
        if latent.requires_grad:
            elsewhere = torch.ones(PARTICLES, BATCH, dtype=torch.bool)
            elsewhere[k, n] = False
            # axes of summed sites in front, the event behind
            size = draws[site].shape[run.log_weights.dim() :].numel()
            (gradient,) = torch.autograd.grad(run.log_weights[..., k, n].sum(), latent, retain_graph=True)
            assert (gradient.reshape(-1, PARTICLES, BATCH, size)[:, elsewhere] == 0).all()
            # the weight of an exact guide is constant; a likelihood may see the lowest level alone,
            # or a part of a trajectory's steps
            likelihood = run.log_likelihood[..., k, n].sum()
            (gradient,) = torch.autograd.grad(likelihood, latent, retain_graph=True, allow_unused=True)
            assert gradient is None or (gradient.reshape(-1, PARTICLES, BATCH, size)[:, k, n] != 0).any()
            reached |= set() if gradient is None else {site}
    assert reached or not any(latent.requires_grad for latent in run.latents.values())


@every_pair
def test_uncondition_generates_data(name):
    model, _, x = PAIRS[name].build()
    # not a label, which would be drawn
    kept = {"u", "mask"} | ({"y"} if getattr(model, "condition_dim", 0) else set())
    given = {n: value for n, value in PAIRS[name].model_keywords.items() if n in kept}
    observed = poutine.trace(model).get_trace(x, **PAIRS[name].model_keywords).nodes["x"]["value"]
    first, second = (poutine.trace(poutine.uncondition(model)).get_trace(x, **given).nodes["x"] for _ in range(2))
    assert first["value"].shape == observed.shape
    assert not first["is_observed"]
    assert first["fn"].support.check(first["value"]).all()
    assert (first["value"] != observed).any()
    assert (first["value"] != second["value"]).any()


@every_pair
def test_parameters_are_held_once_under_model_and_guide(name):
    loss, _, _ = loss_of(name)
    assert {key.split(".")[0] for key in loss.state_dict()} <= {"model", "guide"}
    assert sum(p.numel() for p in loss.parameters()) == sum(
        p.numel() for part in (loss.model, loss.guide) for p in part.parameters()
    )
    assert not {id(p) for p in loss.model.parameters()} & {id(p) for p in loss.guide.parameters()}


@every_trainable_pair
def test_copy_move_and_save_keep_the_pair(name):
    loss, x, keywords = loss_of(name)
    value = value_of(loss, x, keywords)
    before = {key: tensor.clone() for key, tensor in loss.state_dict().items()}

    twin = copy.deepcopy(loss)
    assert torch.equal(value_of(twin, x, keywords), value)
    value_of(twin, x, keywords).backward()
    assert all(p.grad is None for p in loss.parameters()), "the copy's guide still sees the original model"
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(tensor, before[key]) for key, tensor in loss.state_dict().items())

    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    other, _, _ = loss_of(name, seed=1)
    assert not torch.equal(value_of(other, x, keywords), value)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(value_of(other, x, keywords), value)

    single = {name: value.float() if value.is_floating_point() else value for name, value in keywords.items()}
    assert loss.to(torch.float32)(x.float(), **single).dtype == torch.float32


@every_trainable_pair
def test_svi_trains_model_and_guide(name):
    """With the same root name, one of two PyroModules under `pyro.infer.SVI` would never be trained, silently."""
    loss, x, keywords = loss_of(name)
    parameters = list(loss.named_parameters())
    before = [p.detach().clone() for _, p in parameters]
    value = SVI(loss.model, loss.guide, pyro.optim.Adam({"lr": 0.01}), loss.elbo).step(x, **keywords)
    assert math.isfinite(value)
    for (key, parameter), old in zip(parameters, before, strict=True):
        assert key.startswith(PAIRS[name].idle) or (parameter != old).any(), f"{key} was not trained"


@pytest.mark.thorough
@every_trainable_pair
def test_a_captured_graph_has_the_gradient_of_the_loss(name, monkeypatch):
    """Pairs that cannot be captured say so."""
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)
    loss, x, keywords = loss_of(name)
    value_of(loss, x, keywords)
    try:
        graph = compiled(loss, x, **keywords)
    except ValueError as error:
        if "captured" not in str(error):
            raise
        return
    trained = [p for p in loss.parameters() if p.requires_grad]
    for seed in (7, 8):
        found, expected = (
            torch.autograd.grad(value_of(call, x, keywords, seed), trained, allow_unused=True) for call in (graph, loss)
        )
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(torch.zeros(()) if a is None else a, torch.zeros(()) if b is None else b)
