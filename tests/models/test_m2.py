"""Models with classes against densities written out by hand; broadcasting over classes, generation, bad input."""

import math
from functools import partial

import pyro
import pytest
import torch
from labelled_pairs import BUILDS, CLASSES, DATA, LATENT, N, bits, build, log_p, log_q
from pyro import poutine
from pyro.infer import SVI, Predictive, TraceEnum_ELBO
from pyro.infer.mcmc.util import initialize_model
from sklearn.linear_model import LogisticRegression
from tiers import thorough_but
from torch import nn

import guides
from zoo import ADGM, M1M2, M2, VAE, WithAuxiliary
from zoo.data import binarize, load
from zoo.infer import ELBO, SemiSupervised, fit, terms
from zoo.infer.pair import look_at
from zoo.parts.conditionals import Bernoulli, ClassPrior, Normal
from zoo.parts.labels import one_hot
from zoo.parts.networks import WithHead

pytestmark = pytest.mark.usefixtures("double_precision")

every = pytest.mark.parametrize("name", BUILDS)


def close(left, right):
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


@every
@pytest.mark.parametrize("K", [1, 3])
def test_labelled_terms_equal_densities_by_hand(name, K):
    model, guide, x, y = build(name)
    run = terms(model, guide, x, y, num_particles=K)
    assert "y" not in run.latents
    p, q = log_p(model, x, y, run.latents), log_q(guide, x, y, run.latents)
    close(run.log_likelihood, (p["x"] + p["y"]).expand(K, N))
    assert {*run.log_ratios} == {*q} - {"y"}
    for site, ratio in run.log_ratios.items():
        close(ratio, p[site] - q[site])


@every
def test_classes_stand_on_an_axis_of_their_own(name):
    """With y of shape `(C, 1, 1)`, sites drawn before y have one draw for all classes, later ones one for each."""
    model, guide, x, _ = build(name)
    y = torch.arange(CLASSES).reshape(-1, 1, 1)
    trace = poutine.trace(poutine.condition(guide, {"y": y})).get_trace(x)
    drawn = {n: s["value"] for n, s in trace.nodes.items() if s["type"] == "sample" and n not in ("data", "y")}
    shared, own = {"m2": ("", "z"), "m1m2": ("z_1", "z_2")}.get(name, ("a", "z"))
    assert drawn[own].shape == (CLASSES, 1, N, LATENT)
    assert not shared or drawn[shared].shape[:-1] == (N,)
    replayed = poutine.trace(poutine.replay(poutine.condition(model, {"y": y}), trace=trace)).get_trace(x)
    replayed.compute_log_prob()
    trace.compute_log_prob()
    for c in range(CLASSES):
        one = {site: value[c] if value.dim() == 4 else value for site, value in drawn.items()}
        labels = torch.full((N,), c)
        for densities, found in ((log_p(model, x, labels, one), replayed), (log_q(guide, x, labels, one), trace)):
            for site, score in densities.items():
                close(found.nodes[site]["log_prob"].expand(CLASSES, 1, N)[c], score.expand(1, N))


@every
def test_guide_samples_y_in_plain_calls_and_in_pyros_own_bound(name):
    model, guide, x, y = build(name)
    trace = poutine.trace(guide).get_trace(x)
    assert trace.nodes["y"]["value"].shape == (N,)
    assert trace.nodes["y"]["infer"] == {"enumerate": "parallel"}
    assert "y" not in poutine.trace(guide).get_trace(x, y).nodes
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), TraceEnum_ELBO(max_plate_nesting=1))
    before = {key: p.clone() for part in (model, guide) for key, p in part.named_parameters()}
    assert math.isfinite(svi.step(x))
    assert all((p != before[key]).any() for part in (model, guide) for key, p in part.named_parameters())
    drawn = Predictive(model, guide=guide, num_samples=7)(torch.zeros(N, DATA))
    assert drawn["y"].shape[:1] == (7,)
    assert {*drawn["y"].flatten().tolist()} <= {*range(CLASSES)}


@every
def test_pyros_bound_is_the_sum_over_classes_by_hand(name):
    """At one draw of all sites: the noise of the sites is that of the guide run with the classes as an axis."""
    model, guide, x, _ = build(name)
    torch.manual_seed(3)
    loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, guide, x)
    torch.manual_seed(3)
    y = torch.arange(CLASSES).reshape(-1, 1)
    trace = poutine.trace(poutine.condition(guide, {"y": y})).get_trace(x)
    bound = 0.0
    for c in range(CLASSES):
        drawn = {n: s["value"] for n, s in trace.nodes.items() if s["type"] == "sample" and n not in ("data", "y")}
        drawn = {n: z[c] if z.dim() == 3 else z for n, z in drawn.items()}
        labels = torch.full((N,), c)
        p, q = log_p(model, x, labels, drawn), log_q(guide, x, labels, drawn)
        bound = bound + (q["y"].exp() * (sum(p.values()) - sum(q.values()))).sum()
    close(-loss, bound)
    parameters = [*model.parameters(), *guide.parameters()]
    for left, right in zip(*(torch.autograd.grad(v, parameters) for v in (-loss, bound)), strict=True):
        close(left, right)


@every
def test_labelled_models_are_ready_for_nuts_as_they_are(name):
    """Pyro's potential is minus the log joint, and no site of it is discrete."""
    model, guide, x, y = build(name)
    start, potential, _, _ = initialize_model(model, model_args=(x, y))
    assert {*start} == {*terms(model, guide, x, y).latents}
    drawn = {site: z.unsqueeze(0) for site, z in start.items()}
    close(potential(start), -sum(score.expand(1, N).sum() for score in log_p(model, x, y, drawn).values()))


@every
def test_generate_draws_the_classes_asked_for(name):
    model, _, _, _ = build(name)
    y = torch.tensor([3, 0, 3])
    latents, x = model.generate(y)
    assert torch.equal(latents["y"], y)
    assert x.shape == (3, DATA)
    assert not x.requires_grad
    assert set(latents) == {"y"} | ({"z_1", "z_2"} if name == "m1m2" else {"z"} if name == "m2" else {"z", "a"})
    drawn, x = model.generate(num=1000)
    # each count within z = 5 of its binomial mean: a failure rate below 1e-5 for the four of them
    p = model.class_prior().probs
    counts = drawn["y"].bincount(minlength=CLASSES) / 1000
    assert ((counts - p).abs() < 5 * (p * (1 - p) / 1000).sqrt()).all()
    style = next(site for site in ("z", "z_2") if site in latents)
    again, _ = model.generate(y, fixed={style: latents[style]})
    assert torch.equal(again[style], latents[style])
    one, _ = model.generate(y, fixed={style: latents[style][0]})
    assert torch.equal(one[style], latents[style][:1].expand(3, -1))


@every
def test_generated_x_follows_the_classes(name):
    """The mean of x by class is that of the conditionals one by one, where the decoder tells the classes apart."""
    model, _, _, _ = build(name)
    with torch.no_grad():
        (model.m2 if name == "m1m2" else model).decoder.stage.inputs.layers[1].weight.mul_(20)  # the classes far apart
    num = 4000
    y = torch.arange(CLASSES).repeat_interleave(num)
    means = model.generate(y)[1].unflatten(0, (CLASSES, num)).mean(1)
    for c in range(CLASSES):
        labels = torch.full((num,), c)
        z = torch.randn(num, LATENT)
        if name == "m1m2":
            drawn = model.conditional(labels, z).sample()
            expected = model.likelihood(drawn).mean
        elif name == "sdgm":
            expected = model.likelihood(labels, z, model.auxiliary(labels, z).sample()).mean
        else:
            expected = model.likelihood(labels, z).mean
        # two independent means of 4000 values in [0, 1]: z = 5.5 over 96 numbers, a failure rate of 4e-6
        assert ((means[c] - expected.mean(0)).abs() < 5.5 * (0.25 * 2 / num) ** 0.5).all()
    assert (means[0] - means[1]).abs().max() > 0.05


def test_adgms_auxiliary_follows_the_x_that_was_generated():
    model = ADGM(
        DATA, LATENT, CLASSES, (8,), auxiliary_dim=DATA, conditional=lambda d, size: Normal(d, size, scale=1e-6)
    )
    with torch.no_grad():
        # a repeats x, up to noise of 1e-6
        stage, head = model.reverse.stage, model.reverse.head
        for layer in stage.inputs.layers:
            layer.weight.zero_()
        stage.inputs.layers[2].weight[:DATA] = torch.eye(DATA)
        head.loc.weight.zero_()
        head.loc.weight[:, :DATA] = torch.eye(DATA)
        head.loc.bias.zero_()
    latents, x = model.generate(torch.zeros(20, dtype=torch.int64))
    assert (x != 0).any()
    assert (latents["a"] - x).abs().max() < 1e-4


def test_the_prior_of_classes():
    prior = ClassPrior(3, probs=[2.0, 0.0, 6.0])
    close(prior().probs, torch.tensor([0.25, 0.0, 0.75]))
    close(ClassPrior(4)().probs, torch.full((4,), 0.25))
    assert prior().sample((100,)).unique().tolist() == [0, 2]
    assert prior.to(torch.float32)().logits.dtype == torch.float32


def test_one_hot_follows_dtype_and_axes():
    y = torch.tensor([[2], [0]])
    coded = one_hot(y, 3, torch.zeros((), dtype=torch.float32))
    assert coded.dtype == torch.float32
    assert torch.equal(coded, torch.nn.functional.one_hot(y, 3).float())


@pytest.mark.parametrize("name", thorough_but(["m2"], BUILDS))
@pytest.mark.parametrize(
    ("labels", "error", "said"),
    [
        (
            torch.tensor([0.0, 1, 2, 3, 0]),
            ValueError,
            r"y: expected torch.int64 of shape \(5,\), .*got torch.float32 of",
        ),
        (torch.eye(5, CLASSES).long(), ValueError, r"got torch.int64 of shape \(5, 4\); y.argmax\(-1\) makes classes"),
        (torch.eye(5, CLASSES), ValueError, r"got torch.float32 of shape \(5, 4\); y.argmax\(-1\) makes classes"),
        (torch.zeros(4, dtype=torch.int64), ValueError, r"shape \(5,\), one of the classes 0 to 3 .*got .*\(4,\)"),
        (torch.tensor([0, 1, 4, 0, 7]), ValueError, r"y: expected classes 0 to 3, got 4 at datum 2, .*\(2 such\)$"),
        (torch.tensor([0, 1, 2, -1, 0]), ValueError, r"got -1 at datum 3, .*without a label go without y, .*SemiSuper"),
        ([0, 1, 2, 3, 0], TypeError, r"y: expected a torch.Tensor of classes 0 to 3, got list; torch.as_tensor"),
    ],
)
def test_bad_labels_are_refused_at_the_door_of_model_and_guide(name, labels, error, said):
    model, guide, x, _ = build(name)
    for program in (model, guide, lambda x, y: ELBO()(model, guide)(x, y)):
        with pytest.raises(error, match=said):
            program(x, labels)
    if isinstance(labels, torch.Tensor) and len(labels) == N:
        with pytest.raises(error, match=said):
            model.generate(labels)


def test_labels_are_counted_as_the_data_are():
    model, guide, x, y = build("m2")
    y[3] = 9
    with pytest.raises(ValueError, match=r"y: expected classes 0 to 3, got 9 at datum 1003, "):
        look_at(model, guide, (x, y), {}, 1000)
    with pytest.raises(ValueError, match=r"y: expected classes 0 to 3, got 9 at datum 17, "):
        look_at(model, guide, (x, y), {}, torch.tensor([4, 8, 2, 17, 3]))


def test_labels_are_looked_at_unless_validation_is_off():
    model, _, x, y = build("m2")
    y[3] = 9
    with pyro.validation_enabled(False):
        model(x, y)
    with pytest.raises(ValueError, match="y: expected classes"):
        model(x, y)


def small(**options):
    return M2(DATA, LATENT, CLASSES, (8,), **options)


@pytest.mark.parametrize(
    ("row", "said"), [(3, "y: expected classes 0 to 3, got 7 at datum 3"), (None, "x: NaN in rows 4")]
)
def test_errors_number_the_rows_of_the_batch_and_not_those_of_its_labelled_part(row, said):
    model = small()
    objective, guide, x = SemiSupervised(ELBO(), 0.5), guides.Labelled(model, hidden=(8,)), bits()
    y = torch.tensor([-1, 2, -1, 0, -1])
    if row is None:
        x[4] = torch.nan
    else:
        y[row] = 7
    for call in (objective(model, guide), partial(objective.loss, model, guide)):
        with pytest.raises(ValueError, match=said):
            call(x, y)


class ManyRows(nn.Module):
    """A classifier whose logits have an axis too many, along which they would broadcast."""

    def forward(self, x):
        return x.new_zeros(len(x), 1, 4)


@pytest.mark.parametrize(
    ("made", "error", "said"),
    [
        (lambda: M2(DATA, LATENT, 1), ValueError, "num_classes: expected a whole number, at least 2, got 1"),
        (lambda: ADGM(DATA, LATENT, 0), ValueError, "num_classes: expected a whole number, at least 2, got 0"),
        (lambda: ClassPrior(1), ValueError, "num_classes: expected a whole number, at least 2, got 1"),
        (lambda: M2(DATA, 0, 3), ValueError, "latent_dim: expected a whole number, at least 1, got 0"),
        (lambda: ADGM(DATA, 2, 3, auxiliary_dim=0), ValueError, "auxiliary_dim: expected a whole number, at least 1"),
        (lambda: small(likelihood=Bernoulli(8, DATA)), TypeError, "head: expected a constructor such as"),
        (lambda: M2(DATA, LATENT, 3, ()), ValueError, "hidden: .*at least one width"),
        (lambda: M2(DATA, LATENT, 3, nn.Linear(2, 2)), TypeError, "hidden: expected widths such as"),
        (
            lambda: small(class_prior=ClassPrior(3)),
            ValueError,
            r"class_prior: expected .* of 4 classes, got shape \(3,\)",
        ),
        (
            lambda: ClassPrior(3, probs=[0.5, 0.5]),
            ValueError,
            r"probs: expected 3 probabilities >= 0, .*got \[0.5, 0.5\]",
        ),
        (lambda: ClassPrior(2, probs=[-1.0, 2.0]), ValueError, "probs: expected 2 probabilities >= 0"),
        (lambda: ClassPrior(2, probs=[0.0, 0.0]), ValueError, "probs: .*not all of them 0"),
        (lambda: ClassPrior(2, probs=[math.nan, 1.0]), ValueError, "probs: expected 2 probabilities"),
        (lambda: M1M2(VAE(DATA, 4), small()), ValueError, "m2: expected data_dim = 4, .*got 6"),
        (
            lambda: M1M2(VAE(DATA, 4), small(), kept=[0, 4]),
            ValueError,
            r"kept: expected different places in 0 to 3, got",
        ),
        (
            lambda: M1M2(VAE(DATA, 4), small(), kept=[1, 1]),
            ValueError,
            r"kept: expected different places in 0 to 3, got",
        ),
        (
            lambda: M1M2(VAE(DATA, 4), M2(1, 2, 3), kept=[2]).generate(num=2),
            ValueError,
            "kept: takes an M2 with likelihood=Normal, got IndependentBernoulli",
        ),
        (
            lambda: small().generate(),
            ValueError,
            "generate: expected y or num, one of the two, got y = None and num = None",
        ),
        (lambda: small().generate(torch.tensor([1]), num=1), ValueError, "generate: expected y or num, one of the two"),
        (
            lambda: small().generate(torch.tensor(3)),
            ValueError,
            r"y: expected torch.int64 of shape \(1,\), .*got .* of shape \(\)",
        ),
        (lambda: small().generate(3), TypeError, "y: expected a torch.Tensor of classes 0 to 3, got int"),
        (
            lambda: small().generate(torch.zeros(0).long()),
            ValueError,
            "num: expected a whole number, at least 1, got 0",
        ),
        (
            lambda: guides.Labelled(small(), classifier=nn.Linear(DATA, 3)).predict(bits()),
            ValueError,
            r"classifier: expected logits of shape \(5, 4\), one for each class, got \(5, 3\)",
        ),
        (lambda: small().generate(num=0), ValueError, "num: expected a whole number, at least 1, got 0"),
        (
            lambda: small().generate(num=2, fixed={"a": torch.zeros(3)}),
            ValueError,
            r"fixed: 'a' is no latent site of M2, which has \['z'\]",
        ),
        (
            lambda: small().generate(num=2, fixed={"z": torch.zeros(4)}),
            ValueError,
            r"fixed\['z'\]: expected shape \(2, 3\) or \(3,\), got \(4,\)",
        ),
        (
            lambda: small().generate(num=2, fixed={"z": torch.zeros(3, dtype=torch.float16)}),
            ValueError,
            r"fixed\['z'\]: expected torch.float\d\d, as the model's parameters, got torch.float16",
        ),
        (lambda: small().generate(num=2, fixed={"z": [0.0] * 3}), TypeError, r"fixed\['z'\]: expected a torch.Tensor"),
        (lambda: small(condition_dim=2).generate(num=2, c=1), TypeError, "c: expected a torch.Tensor, got int"),
        (
            lambda: guides.Labelled(small(), classifier=ManyRows()).predict(bits()),
            ValueError,
            r"classifier: expected logits of shape \(5, 4\), one for each class, got \(5, 1, 4\)",
        ),
        *(
            (call, ValueError, f"num_draws: expected a whole number, at least 1, got {num}")
            for num in (0, -1, 2.5)
            for call in (
                lambda num=num: guides.Auxiliary(ADGM(DATA, LATENT, CLASSES)).predict(bits(), num_draws=num),
                lambda num=num: guides.Auxiliary(ADGM(DATA, LATENT, CLASSES)).classifier(bits(), num),
            )
        ),
        (
            lambda: guides.StackedLabelled(
                model := M1M2(VAE(DATA, 3), M2(3, 2, 4)),
                guides.Amortized(model.m1),
                guides.Labelled(model.m2, flags=True),
            ),
            ValueError,
            "m2: expected a guide without flags",
        ),
        (lambda: small()(torch.zeros(2, 5)), ValueError, r"x: expected shape \(\.\.\., 6\), got \(2, 5\)"),
        (
            lambda: guides.Auxiliary(small()),
            ValueError,
            r"Auxiliary: M2 has no auxiliary_dim; it needs an auxiliary variable: zoo.WithAuxiliary\(model",
        ),
        (
            lambda: guides.Auxiliary(ADGM(DATA, LATENT, CLASSES), auxiliary_family=guides.Residual),
            ValueError,
            "auxiliary_family: Residual reads the prior, and that of a depends on z",
        ),
        (lambda: guides.Labelled(VAE(6, 2)), ValueError, "Labelled: VAE has no num_classes; it serves models"),
        (lambda: guides.Labelled(small()).predict(torch.zeros(2, 5)), ValueError, r"x: expected shape \(\.\.\., 6\)"),
        (lambda: guides.Labelled(small())(torch.zeros(2, 5)), ValueError, r"x: expected shape \(\.\.\., 6\)"),
    ],
)
def test_bad_arguments(made, error, said):
    with pytest.raises(error, match=said):
        made()


def test_a_stack_takes_the_guides_of_its_own_parts():
    model, guide, _, _ = build("m1m2")
    with pytest.raises(ValueError, match=r"m2: expected a guide of model.m2, got Labelled, a guide of another"):
        guides.StackedLabelled(model, guide.m1, guides.Labelled(small()))
    with pytest.raises(ValueError, match=r"m1: expected a guide of model.m1, got Amortized, a guide of another"):
        guides.StackedLabelled(model, guides.Amortized(VAE(DATA, 4)), guide.m2)


def test_a_model_without_classes_takes_no_labels():
    model = WithAuxiliary(VAE(DATA, LATENT), WithHead((DATA, LATENT), 2, Normal, (8,)))
    guide = guides.Auxiliary(model, hidden=(8,))
    with pytest.raises(ValueError, match=r"y: WithAuxiliary was built without a condition"):
        guide(bits(), y=torch.zeros(N).long())
    with pytest.raises(ValueError, match=r"Auxiliary: WithAuxiliary has no classes \(num_classes\), so there is no y"):
        guide.predict(bits())


@every
def test_predictions_are_probabilities(name):
    _, guide, x, _ = build(name)
    found = guide.predict(x)
    assert found.shape == (N, CLASSES)
    assert not found.requires_grad
    close(found.sum(-1), torch.ones(N))
    if name == "m2":
        close(found, guide.classifier(x).probs.detach())


@pytest.mark.parametrize("name", ["adgm", "m1m2"])
def test_predictions_average_over_draws(name):
    """20,000 draws against the mean over 20,000 draws by hand, within six standard errors: a failure rate of 4e-8."""
    _, guide, x, _ = build(name)
    with torch.no_grad():
        if name == "adgm":
            each = guide.classes(x, guide.auxiliary(x).rsample((20_000,))).probs
        else:
            each = guide.classes(guide.posterior(x).rsample((20_000,))).probs
        error = each.std(0) * (2 / 20_000) ** 0.5
        found = torch.stack([guide.predict(x, 1000) for _ in range(20)]).mean(0)
    assert (error > 0).all()
    assert ((found - each.mean(0)).abs() < 6 * error).all()
    # one draw in training, whose probabilities are those of one draw of the auxiliary; a hundred in evaluation
    spread = [
        torch.stack([guide.train(mode).classifier(x).probs.detach() for _ in range(200)]).std(0)
        for mode in (True, False)
    ]
    assert (spread[1] < 0.5 * spread[0]).all()


def test_a_classifier_of_ones_own():
    model = small()
    guide = guides.Labelled(model, hidden=(8,), classifier=nn.Linear(DATA, CLASSES))
    x = bits()
    close(guide.classifier(x).probs, guide.logits(x).softmax(-1))
    assert math.isfinite(ELBO()(model, guide)(x, torch.zeros(N).long()).item())


def test_many_rows_are_predicted_in_pieces():
    _, guide = BUILDS["adgm"]()
    x = bits(250)
    torch.manual_seed(0)
    found = guide.predict(x, 100)  # 100 rows at once
    torch.manual_seed(0)
    with torch.no_grad():
        pieces = [guide.eval().classifier(rows).probs for rows in x.split(100)]
    close(found, torch.cat(pieces))


def test_fit_trains_on_labels():
    model, guide, x, y = build("m2")
    loss = ELBO()(model, guide)
    before = {key: p.detach().clone() for key, p in loss.named_parameters()}
    fit(loss, (x, y), steps=2, batch_size=3, progress=False)
    same = {key for key, p in loss.named_parameters() if torch.equal(p, before[key])}
    # labels leave the encoder alone: the classifier learns by `SemiSupervised`
    assert same == {key for key in before if key.startswith("guide.logits.")}


@pytest.mark.slow
def test_a_classifier_of_real_digits_reads_the_classes_asked_for():
    """On the means of the pixels, as the classifier has seen grey images; 500 digits, of which 99 % are read right."""
    digits = load("digits").train
    x, y = binarize(digits, seed=0).double(), digits.labels
    model = M2(64, 8, 10, (128,))
    guide = guides.Labelled(model, hidden=(128,))
    fit(ELBO(analytic_kl=True)(model, guide), (x, y), epochs=150, progress=False)
    reader = LogisticRegression(max_iter=3000).fit(digits.images.numpy(), y.numpy())
    asked = torch.arange(10).repeat(50)
    drawn, _ = model.generate(asked)
    with torch.no_grad():
        means = model.likelihood(drawn["y"], drawn["z"]).mean
    assert (torch.from_numpy(reader.predict(means.float().numpy())) == asked).double().mean() >= 0.95
