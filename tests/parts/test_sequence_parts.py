"""What sequence models are built of: the GRU, the mixture of normals, what guide and model share, rolling forward."""

import copy
from functools import partial

import pytest
import torch
from gaussian_pairs import Z_MAX
from pyro.distributions import MixtureSameFamily
from state_spaces import STATE_SPACES
from torch import nn
from torch.distributions import Categorical, Independent, Normal

from guides import Filter, MeanField, Residual, Smoother
from guides.sequences.sequence_guide import SequenceGuide
from zoo import DMM, SRNN, STORN, VRNN
from zoo.infer import ELBO, IWELBO
from zoo.parts.checks import check_frames
from zoo.parts.conditionals import MixtureOfNormals
from zoo.parts.distributions import MixtureOfNormalsDensity
from zoo.parts.networks import GRU, Dropped
from zoo.parts.once import Once
from zoo.parts.trajectory import Trajectory, rollout, state_space

N, T, DATA, LATENT = 3, 5, 4, 2

pytestmark = pytest.mark.usefixtures("double_precision")


# --- the recurrent network -------------------------------------------------------------------------------------------


def test_the_fused_gru_is_its_steps_and_broadcasts():
    gru = GRU(3, 4)
    v, h = torch.randn(N, T, 3), torch.randn(6, N, 4)  # h with particles, v without
    fused = gru(v, h)
    assert fused.shape == (6, N, T, 4)
    for t in range(T):
        h = gru.step(v[:, t], h)
        torch.testing.assert_close(fused[..., t, :], h)
    assert gru(v[:, :0], h).shape == (6, N, 0, 4)
    alone = torch.zeros(4)
    torch.testing.assert_close(gru(v[0], alone)[0], gru.step(v[0, 0], alone))


def test_dropout_leaves_evaluation_alone_and_drops_each_entry_in_training():
    """Inputs that a network hands on are dropped twice; an entry is kept with (1 - p)^2 and its mean is unbiased."""
    handing_on = lambda size, hidden, batch_first: Constant()  # noqa: E731
    layer, v = Dropped(3, 3, probability=0.2, recurrence=handing_on), torch.ones(200, 50, 3)
    out = layer(v)[0]
    kept = (out != 0).double().mean()
    torch.testing.assert_close(out.unique(), torch.tensor([0.0, 1 / 0.8**2]))
    assert abs(kept - 0.8**2) < Z_MAX * (0.64 * 0.36 / out.numel()) ** 0.5
    assert torch.equal(layer.eval()(v)[0], v)
    model = DMM(DATA, LATENT, hidden=(5,), transition_hidden=(5,))
    guide = Smoother(model, hidden=(5,), recurrent=4, recurrence=partial(Dropped, probability=0.5))
    x, z = torch.bernoulli(torch.full((N, T, DATA), 0.5)), torch.randn(N, T, LATENT)
    scores = [[guide.train(mode).posterior(x).log_prob(z) for _ in range(2)] for mode in (True, False)]
    assert not torch.equal(*scores[0])
    assert torch.equal(*scores[1])


class Constant(nn.Module):
    """Hands on what it is given."""

    def forward(self, v):
        return (v,)


def test_recurrent_weights_start_orthogonal():
    for gate in GRU(3, 4).fused.weight_hh_l0.chunk(3):
        torch.testing.assert_close(gate @ gate.T, torch.eye(4))


# --- the mixture -----------------------------------------------------------------------------------------------------


def mixtures():
    logits, loc, scale = torch.randn(N, 3), torch.randn(N, 3, DATA), 0.2 + torch.rand(N, 3, DATA)
    known = MixtureSameFamily(Categorical(logits=logits), Independent(Normal(loc, scale), 1))
    return MixtureOfNormalsDensity(logits, loc, scale), known


def test_the_mixture_is_torchs():
    ours, known = mixtures()
    x = torch.randn(7, N, DATA)
    torch.testing.assert_close(ours.log_prob(x), known.log_prob(x))
    torch.testing.assert_close(ours.mean, known.mean)
    torch.testing.assert_close(ours.variance, known.variance)
    wide = ours.expand((7, N))
    assert wide.sample().shape == (7, N, DATA)
    torch.testing.assert_close(wide.log_prob(x), known.log_prob(x))


def test_draws_of_the_mixture_have_its_moments():
    ours, _ = mixtures()
    draws = ours.sample((40_000,))
    assert ((draws.mean(0) - ours.mean) / (ours.variance / len(draws)).sqrt()).abs().max() < Z_MAX
    squares = (draws - ours.mean) ** 2
    assert ((squares.mean(0) - ours.variance) / (squares.std(0) / len(draws) ** 0.5)).abs().max() < Z_MAX


def test_one_component_is_a_normal():
    part = MixtureOfNormals(2, DATA, num_components=1)
    p, x = part(torch.randn(N, 2)), torch.randn(N, DATA)
    torch.testing.assert_close(p.log_prob(x), Normal(p.mean, p.variance.sqrt()).log_prob(x).sum(-1))
    with pytest.raises(ValueError, match="num_components >= 1, got 0"):
        MixtureOfNormals(2, DATA, num_components=0)


# --- what guide and model share --------------------------------------------------------------------------------------


def shared_pair():
    model = SRNN(DATA, LATENT, recurrent=4, hidden=(5,))
    x = (torch.rand(N, T, DATA) < 0.5).double()
    calls = []
    model.gru.register_forward_hook(lambda *_: calls.append(1))
    return model, Smoother(model, hidden=(5,), recurrent=4), x, calls


@pytest.mark.parametrize("masked", [False, True])
def test_what_the_guide_computed_of_the_model_is_shared_within_one_evaluation(masked):
    model, guide, x, calls = shared_pair()
    mask = torch.arange(T) < torch.tensor([[5], [2], [3]]) if masked else None
    with Once():
        q = guide.posterior(x, None, mask)
        assert len(calls) == 1
        shared, other = (Trajectory(model, model.transition, value, None, mask) for value in (x, x.clone()))
        assert shared.inputs[0] is q.inputs[0]
        assert other.inputs[0] is not q.inputs[0], "equal data are not the same data"
    again = Trajectory(model, model.transition, x, None, mask)
    assert again.inputs[0] is not q.inputs[0], "nothing is remembered after the evaluation"
    torch.testing.assert_close(again.inputs[0], q.inputs[0])


OBJECTIVES = [ELBO(2), ELBO(2, analytic_kl=True), IWELBO(2)]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ["dmm", "dmm-mixture", "storn", "vrnn", "srnn", "srnn-normal"])
def test_no_network_of_the_model_runs_twice_on_the_same_tensors_in_one_evaluation(name, padded, objective):
    """With and without padding, from the start and from a carry."""
    model, x, _ = STATE_SPACES[name].build()
    guide, seen = Filter(model, hidden=(5,), recurrent=4), []
    mask = torch.arange(x.shape[1]) < torch.tensor([[6], [2], [4], [1]]) if padded else None
    carry = model.carry_on(torch.randn(4, 6, LATENT), x)
    loss = objective(model, guide)
    for start in ({}, {"carry": carry}):
        loss(x, None, mask, **start)  # the pair is checked once, which runs it

    def hook(module, inputs, output):
        seen.append((module, *inputs))  # the tensors are kept, so that their identities stay theirs

    for part in model.modules():
        if not [*part.children()]:
            part.register_forward_hook(hook)
    for start in ({}, {"carry": carry}):
        seen.clear()
        loss(x, None, mask, **start)
        # a step of a loop over time has values of T = 1, all steps at once have an axis more
        calls = [(id(module), *((tuple(v.shape), v.flatten().tolist()) for v in values)) for module, *values in seen]
        whole = [str(call) for call, (_, value, *_) in zip(calls, seen, strict=True) if value.shape[-2:-1] == (6,)]
        assert whole
        assert len(whole) == len(set(whole))


def other_data(model, x):
    return x.clone()


def moved(model, x):
    with torch.no_grad():
        model.d_0.add_(1.0)
    return x


def frozen(model, x):
    model.gru.requires_grad_(False)
    return x


@pytest.mark.parametrize("change", [other_data, moved, frozen])
def test_what_has_changed_is_computed_anew(change):
    model, guide, x, _ = shared_pair()
    q = guide.posterior(x)
    x = change(model, x)
    fresh = copy.deepcopy(model)
    p = Trajectory(model, model.transition, x)
    assert p.inputs[0] is not q.inputs[0]
    assert torch.equal(p.inputs[0], fresh.inputs(x)[0])


def test_what_is_under_no_grad_is_not_taken_for_a_graph():
    model, guide, x, _ = shared_pair()
    with torch.no_grad():
        q = guide.posterior(x)
        assert not q.inputs[0].requires_grad
    p = Trajectory(model, model.transition, x)
    assert p.inputs[0].requires_grad


@pytest.mark.parametrize("drawn_with_graph", [True, False])
@pytest.mark.parametrize("name", ["dmm", "storn", "vrnn", "srnn"])
def test_what_was_computed_without_a_graph_is_computed_again_with_one(name, drawn_with_graph):
    """Scores of a draw have the same gradients whether or not it was looked at under no_grad before."""
    model, x, _ = STATE_SPACES[name].build()
    guide, found = Filter(model, hidden=(5,), recurrent=4), []
    for looked in (False, True):
        q, p = guide.posterior(x), Trajectory(model, model.transition, x)
        torch.manual_seed(1)
        with torch.set_grad_enabled(drawn_with_graph):
            z = q.rsample()
        if looked:
            with torch.no_grad():
                assert (p.log_prob(z) - q.log_prob(z)).isfinite().all()
        score = q.log_prob(z).sum() + p.log_prob(z).sum()
        parameters = [*model.parameters(), *guide.parameters()]
        found.append(torch.autograd.grad(score, parameters, allow_unused=True))
    torch.testing.assert_close(*found)


def by(z, density):
    """The gradient of a score by the trajectory alone."""
    return torch.autograd.grad(density.log_prob(z).sum(), z, retain_graph=True)[0]


@pytest.mark.parametrize("kind", [Filter, MeanField])
@pytest.mark.parametrize("name", ["dmm", "vrnn", "srnn"])
def test_the_score_of_a_draw_has_the_gradient_of_any_other_value(name, kind):
    model, x, _ = STATE_SPACES[name].build()
    guide = kind(model, hidden=(5,), recurrent=4)

    def prior(x):
        return Trajectory(model, model.transition, x)

    for source in (guide.posterior, prior):
        drawn = source(x)
        z = drawn.rsample()
        value = z.detach().requires_grad_()
        torch.testing.assert_close(by(z, drawn), by(value, source(x)))
        torch.testing.assert_close(by(z, prior(x)), by(value, prior(x)))


def test_independent_steps_need_a_family_without_a_prior():
    class Each(SequenceGuide):
        markov = False

        def read(self, values, observed):
            return values

    model, x, _ = STATE_SPACES["dmm"].build()
    q = Each(model, hidden=(5,), recurrent=0, family=Residual).posterior(x)
    z = q.rsample()
    torch.testing.assert_close(q.log_prob_of_draw(z), q.log_prob(z.clone()))


@pytest.mark.parametrize("objective", [ELBO(2), ELBO(2, analytic_kl=True), ELBO(2, sticking=True), IWELBO(2, "doubly")])
@pytest.mark.parametrize("name", ["dmm", "storn", "vrnn", "srnn"])
def test_sharing_changes_no_value_and_no_gradient(name, objective, monkeypatch):
    model, x, _ = STATE_SPACES[name].build()
    guide = Filter(model, hidden=(5,), recurrent=4)
    mask = torch.arange(x.shape[1]) < torch.tensor([[6], [2], [4], [1]])
    loss, found = objective(model, guide), []
    loss(x, None, mask)  # the pair is checked once, which draws
    for share in (True, False):
        if not share:
            monkeypatch.setattr("zoo.parts.once.Once.answer", lambda _, fn, args, kwargs: fn(*args, **kwargs))
        torch.manual_seed(1)
        value = loss(x, None, mask)
        found.append((value, torch.autograd.grad(value, list(loss.parameters()))))
    torch.testing.assert_close(found[0], found[1])


# --- rolling forward -------------------------------------------------------------------------------------------------

MODELS = {
    "dmm": lambda: DMM(DATA, LATENT, hidden=(5,), transition_hidden=(5,)),
    "storn": lambda: STORN(DATA, LATENT, 4, (5,)),
    "vrnn": lambda: VRNN(DATA, LATENT, 4, (5,)),
    "srnn": lambda: SRNN(DATA, LATENT, 4, (5,)),
}


@pytest.mark.parametrize("name", MODELS)
def test_generation_is_linear_in_time(name):
    """The networks that read x see each frame once, however long the sequence."""
    model, seen = MODELS[name](), []
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.GRU):
            module.register_forward_hook(lambda m, inputs, _: seen.append(inputs[0].shape[:-1].numel()))
    counts = []
    for length in (4, 8, 16):
        seen.clear()
        model.generate(N, length)
        counts.append(sum(seen))
    assert counts[2] - counts[1] == 2 * (counts[1] - counts[0])


def test_an_evaluation_of_a_pair_looks_at_x_once(monkeypatch):
    """Guide and model both check x; of videos a look at all entries is a tenth of a training step."""
    looks = []
    looking = state_space.check_frames
    monkeypatch.setattr(state_space, "check_frames", lambda *args: looks.append(looking(*args)))
    model = MODELS["dmm"]()
    loss, x = ELBO()(model, Smoother(model, hidden=(4,), recurrent=3)), torch.zeros(N, T, DATA)
    loss(x)
    looks.clear()
    loss(x)
    assert len(looks) == 1
    loss(x + 1)
    assert len(looks) == 2


def test_finite_frames_whose_sum_overflows_are_taken():
    large = torch.full((2, 3, 4), 3e38)
    check_frames(large)
    large[1, 2, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite in 1 observed frames, the first of them sequence 1, frame 2"):
        check_frames(large)


@pytest.mark.parametrize("name", MODELS)
def test_a_first_frame_that_is_given_is_fed_and_not_scored(name):
    model = MODELS[name]()
    x, z = (torch.rand(N, T, DATA) < 0.5).double(), torch.randn(N, T, LATENT)
    p = Trajectory(model, model.transition, x[:, 1:], carry=model.given(x[:, 0]))
    s = p.states(z[:, 1:])
    other = Trajectory(model, model.transition, x[:, 1:], carry=model.given(1 - x[:, 0])).states(z[:, 1:])
    assert model.features(s).shape == (N, T - 1, model.state_dim)
    fed_back = name != "dmm"
    assert (model.features(s)[:, 0] != model.features(other)[:, 0]).any() == fed_back


def test_what_is_known_stays_and_what_is_drawn_is_fed_back():
    model = MODELS["vrnn"]()
    x, z = (torch.rand(N, T, DATA) < 0.5).double(), torch.randn(N, T, LATENT)
    known = torch.rand(N, T) < 0.5
    known_z = torch.arange(T) < torch.tensor([[5], [2], [0]])
    z_new, x_new = rollout.roll(model, z, x, known_z, known)
    assert torch.equal(x_new[known], x[known])
    assert torch.equal(z_new[known_z], z[known_z])
    assert (z_new[~known_z] != z[~known_z]).all()
    assert ((x_new == 0) | (x_new == 1)).all()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_precisions(name, dtype):
    model = MODELS[name]().to(dtype)
    guide = Smoother(model, hidden=(5,), recurrent=4).to(dtype)
    x = (torch.rand(N, T, DATA) < 0.5).to(dtype)
    mask = torch.arange(T) < torch.tensor([[5], [2], [3]])
    assert ELBO(analytic_kl=True)(model, guide)(x, None, mask).dtype == dtype
    assert model.generate(N, T)[1].dtype == dtype
    draws = model.sample_forecast(x, 2, 3, guide, None, mask)
    assert draws.x.dtype == draws.z.dtype == dtype
    assert model.sample_imputation(x, mask, guide).x.dtype == dtype


def test_forecast_continues_each_sequence_after_its_own_end():
    """A sequence in a padded batch, or alone: the same draws from the same noise, where the model is certain."""
    model = MODELS["srnn"]()
    with torch.no_grad():
        model.likelihood.logits.weight.mul_(0.0)
        model.likelihood.logits.bias.copy_(torch.tensor([50.0, -50.0, 50.0, -50.0]))
    guide = Smoother(model, hidden=(5,), recurrent=4)
    x = torch.zeros(N, T, DATA)
    lengths = torch.tensor([[5], [2], [3]])
    draws = model.sample_forecast(x, 2, 3, guide, None, torch.arange(T) < lengths)
    assert torch.equal(draws.x, torch.tensor([1.0, 0.0, 1.0, 0.0]).expand_as(draws.x))


@pytest.mark.parametrize("name", ["storn", "vrnn", "srnn"])
def test_a_hole_before_the_end_is_drawn_and_fed_on(name):
    model = MODELS[name]()
    guide, mask = Smoother(model, hidden=(5,), recurrent=4), torch.ones(N, T, dtype=torch.bool)
    mask[1, 2] = False
    x = torch.zeros(N, T, DATA).masked_fill(~mask.unsqueeze(-1), float("nan"))
    assert model.sample_forecast(x, 3, 2, guide, None, mask).x.isfinite().all()
    assert model.sample_imputation(x, mask, guide, 2).x.isfinite().all()


def test_what_is_drawn_is_drawn_without_dropout():
    """`fit` leaves a pair in training mode; one dropout would be common to all draws of a forecast."""
    model = MODELS["srnn"]()
    guide = Smoother(model, hidden=(5,), recurrent=4, recurrence=partial(Dropped, probability=0.9))
    x, found = torch.ones(N, T, DATA), []
    mask = torch.arange(T) < torch.tensor([[5], [2], [3]])
    for mode in (True, False):
        guide.train(mode)
        torch.manual_seed(0)
        found.append((model.sample_forecast(x, 2, 3, guide, None, mask), model.sample_imputation(x, mask, guide)))
        assert guide.training is mode
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.z, other.z)


@pytest.mark.parametrize(
    ("k", "num", "message"),
    [(2.0, 1, "k: expected a whole number"), (0, 1, "k: expected"), (1, True, "num: expected a whole")],
)
def test_counts_are_whole_numbers(k, num, message):
    model = MODELS["srnn"]()
    with pytest.raises(ValueError, match=message):
        model.sample_forecast(torch.zeros(N, T, DATA), k, num, Smoother(model, hidden=(5,), recurrent=4))


def test_a_guide_of_another_models_sizes_is_refused():
    model, x = MODELS["srnn"](), torch.zeros(N, T, DATA)
    wider = Smoother(SRNN(DATA, LATENT, 9, (5,)), hidden=(5,), recurrent=4)
    message = r"guide: Smoother was built for a SRNN of state_dim = 11; this SRNN has \d"
    for use in (
        lambda: ELBO()(model, wider)(x),
        lambda: model.sample_forecast(x, 2, 1, wider),
        lambda: model.sample_imputation(x, torch.ones(N, T, dtype=torch.bool), wider),
    ):
        with pytest.raises(ValueError, match=message):
            use()


def test_a_carry_of_another_model_or_batch_is_refused():
    model, x = MODELS["srnn"](), torch.zeros(N, T, DATA)
    guide, carry = Smoother(model, hidden=(5,), recurrent=4), model.given(x[:, 0])
    loss, wider, dmm = ELBO()(model, guide), SRNN(DATA, LATENT, 9, (5,)), MODELS["dmm"]()
    few = carry._replace(s=type(carry.s)(*(v[:2] if v.dim() > 1 else v for v in carry.s)))
    for wrong, message in (
        (few, rf"carry.s: expected the states of {N} sequences, of size {model.state_dim}, got shape \(2, "),
        (wider.given(x[:, 0]), r"carry.s: expected the states of .* got shape \(.*11\)"),
        (dmm.given(x[:, 0]), r"carry.s: expected the states of .* got shape \(2,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            loss(x, carry=wrong)
    with pytest.raises(ValueError, match=r"mask: expected \(3, 5\) as x has it, got \(3, 4\)"):
        model.carry_on(torch.zeros(N, T, LATENT), x, None, torch.ones(N, T - 1, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"z: expected shape \(\.\.\., 3, 5, 2\) as x has it, got \(2, 5, 2\)"):
        dmm.carry_on(torch.zeros(2, T, LATENT), x)


@pytest.mark.parametrize("model", [STORN, VRNN, SRNN])
def test_recurrent_models_refuse_controls(model):
    x = torch.zeros(N, T, DATA)
    with pytest.raises(ValueError, match=f"u: {model.__name__} takes no controls"):
        model(DATA, LATENT, 4, (5,))(x, x)
