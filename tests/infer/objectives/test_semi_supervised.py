"""Objectives that split their batch, on a mixture of two linear-Gaussian models whose labels are partly known."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from tiers import thorough_but
from torch import nn

from zoo.infer import ELBO, IWELBO, MAP, RLOO, VIMCO, Objective, RenyiELBO, Scheduled, SemiSupervised, Tempered, fit
from zoo.infer.training.step.compiled import compiled

Z_MAX = 4.3  # one-sided failure rate below 1e-5

quiet = functools.partial(fit, progress=False)


def picked(table, y):
    """The rows y of a table; zeros for a class that there is not, so that the site itself says so."""
    return (y.unsqueeze(-1) == torch.arange(len(table))).to(table) @ table


class Clusters(PyroModule):
    """p(y) p(z) N(x; m_y + w z, I), z a number; without y the likelihood is the mixture over y."""

    def __init__(self, classes=3, data_dim=2):
        super().__init__("model")
        self.classes = classes
        self.centres = nn.Parameter(2.0 * torch.randn(classes, data_dim))
        self.direction = nn.Parameter(torch.randn(data_dim))

    def class_prior(self):
        return dist.Categorical(logits=self.centres.new_zeros(self.classes))

    def log_prob(self, x, y):
        """log p(x, y), or log p(x) for y = -1; exact."""
        cov = torch.eye(len(self.direction)) + torch.outer(self.direction, self.direction)
        joint = dist.MultivariateNormal(self.centres, cov).log_prob(x.unsqueeze(1)) - math.log(self.classes)
        return torch.where(y < 0, joint.logsumexp(-1), joint.gather(1, y.clamp(min=0)[:, None])[:, 0])

    def forward(self, x, y=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            if y is None:
                each = dist.Normal(self.centres + (z * self.direction).unsqueeze(-2), 1.0).to_event(1)
                logits = self.class_prior().logits.expand(each.batch_shape)
                return pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(logits=logits), each), obs=x)
            y = pyro.sample("y", self.class_prior(), obs=y)
            return pyro.sample("x", dist.Normal(picked(self.centres, y) + z * self.direction, 1.0).to_event(1), obs=x)


class Encoder(PyroModule):
    """q(z | x, y) = N(z; a x + b_y, s^2), b = 0 where y is unknown; and a classifier q(y | x)."""

    def __init__(self, classes=3, data_dim=2, point=False):
        super().__init__("guide")
        self.loc, self.classes = nn.Linear(data_dim, 1), PyroModule[nn.Linear](data_dim, classes)
        self.shifts, self.log_scale = nn.Parameter(torch.randn(classes, 1)), nn.Parameter(torch.tensor(-0.5))
        self.point = point

    def classifier(self, x):
        return dist.Categorical(logits=self.classes(x))

    def forward(self, x, y=None):
        loc = self.loc(x) if y is None else self.loc(x) + picked(self.shifts, y)
        q = dist.Delta(loc) if self.point else dist.Normal(loc, self.log_scale.exp())
        with pyro.plate("data", len(x)):
            return pyro.sample("z", q.to_event(1))


class Summed(Clusters):
    """The same joint density, with y a site where it is unknown too."""

    def forward(self, x, y=None):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", self.class_prior(), obs=y)
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            likelihood = dist.Normal(picked(self.centres, y) + z * self.direction, 1.0)
            return pyro.sample("x", likelihood.to_event(1), obs=x)


class SummingEncoder(Encoder):
    """q(y | x) q(z | x, y), with y summed out, or drawn."""

    def __init__(self, drawn=False):
        super().__init__()
        self.mark = {} if drawn else {"enumerate": "parallel"}

    def forward(self, x, y=None):
        with pyro.plate("data", len(x)):
            if y is None:
                y = pyro.sample("y", self.classifier(x), infer=self.mark)
            loc = self.loc(x) + picked(self.shifts, y)
            return pyro.sample("z", dist.Normal(loc, self.log_scale.exp()).to_event(1))


def pair(point=False):
    torch.manual_seed(0)
    return Clusters(), Encoder(point=point)


def summed_pair(drawn=False):
    torch.manual_seed(0)
    return Summed(), SummingEncoder(drawn)


def drawn_pair():
    return summed_pair(drawn=True)


def data(num=12, known=(1, 4, 5, 9)):
    generator = torch.Generator().manual_seed(1)
    y = torch.full((num,), -1)
    y[[*known]] = torch.randint(3, (len(known),), generator=generator)
    return 2.0 * torch.randn(num, 2, generator=generator), y


def value_and_gradients(loss, *args, seed=5, **kwargs):
    loss.zero_grad()
    torch.manual_seed(seed)
    value = loss(*args, **kwargs)
    value.backward()
    return [value.detach(), *(torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in loss.parameters())]


def by_hand(objective, alpha, x, y, seed=5, of=pair):
    """The same from the wrapped objective alone, on the same draws."""
    model, guide = of()
    loss = objective(model, guide)
    known = y >= 0
    torch.manual_seed(seed)
    value = loss(x[known], y[known]) - alpha * guide.classifier(x[known]).log_prob(y[known]).sum() + loss(x[~known])
    value.backward()
    return [value.detach(), *(torch.zeros_like(p) if p.grad is None else p.grad for p in loss.parameters())]


OBJECTIVES = {
    "ELBO": ELBO,
    "analytic": lambda: ELBO(3, analytic_kl=True),
    "sticking": lambda: ELBO(sticking=True),
    "IWELBO": lambda: IWELBO(3),
    "doubly": lambda: IWELBO(3, gradient="doubly"),
    "Renyi": lambda: RenyiELBO(0.5, 2),
    "Tempered": lambda: Tempered(ELBO(2), kl_weight=0.3, free_bits=0.1),
}


@pytest.mark.parametrize("of", [pair, summed_pair])
@pytest.mark.parametrize("alpha", [0.0, 2.5])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_value_and_gradient_are_those_of_the_two_kinds_and_the_classifier(name, alpha, of, double_precision):
    x, y = data()
    loss, alone = SemiSupervised(OBJECTIVES[name](), alpha)(*of()), OBJECTIVES[name]()
    # q(y | x) cancels in some of the bounds, so that without labels they refuse to train it
    alone.cancels_summed = loss.elbo.cancels_summed = False
    expected = by_hand(alone, alpha, x, y, of=of)
    torch.testing.assert_close(value_and_gradients(loss, x, y), expected, rtol=1e-12, atol=1e-12)


def test_labels_train_what_a_bound_of_importance_weights_cannot():
    x, y = data()
    with pytest.raises(ValueError, match=r"site 'y': summed out, and its q cancels in this bound.*alpha > 0"):
        SemiSupervised(IWELBO(3), 0.0)(*summed_pair())(x, y)
    loss = SemiSupervised(IWELBO(3), 0.1)(*summed_pair())
    loss(x, y).backward()
    assert (loss.guide.classes.weight.grad != 0).any()


@pytest.mark.parametrize("objective", [RLOO, VIMCO])
def test_labels_that_are_drawn_where_unknown(objective, double_precision):
    x, y = data()
    found = value_and_gradients(SemiSupervised(objective(3), 0.7)(*drawn_pair()), x, y)
    torch.testing.assert_close(found, by_hand(objective(3), 0.7, x, y, of=drawn_pair), rtol=1e-12, atol=1e-12)


def test_a_mixture_over_labels_is_what_summing_gives(double_precision):
    x, y = data()
    # the exact posterior of z given y, and of y: both bounds are log p(x) whatever the draws
    model, guide = summed_pair()
    with torch.no_grad():
        variance = 1 / (1 + model.direction.square().sum())
        guide.loc.weight.copy_(variance * model.direction), guide.log_scale.copy_(variance.log() / 2)
        guide.shifts.copy_(-variance * (model.centres @ model.direction)[:, None] - guide.loc.bias)
        for objective in (ELBO(), ELBO(3), IWELBO(2)):
            value = SemiSupervised(objective, 0.0).loss(model, ExactLabels(model, guide), x, y)
            assert -value == pytest.approx(model.log_prob(x, y).sum().item(), abs=1e-10)


class ExactLabels(PyroModule):
    def __init__(self, model, inner):
        super().__init__("exact")
        self._of = (model, inner)

    def forward(self, x, y=None):
        model, inner = self._of
        each = torch.stack([model.log_prob(x, torch.full((len(x),), k)) for k in range(model.classes)], -1)
        with pyro.plate("data", len(x)):
            if y is None:
                y = pyro.sample("y", dist.Categorical(logits=each), infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal(inner.loc(x) + picked(inner.shifts, y), inner.log_scale.exp()).to_event(1))


def test_a_batch_of_one_kind_is_the_wrapped_objective(double_precision):
    x, y = data()
    all_known = y.clamp(min=0)
    model, guide = pair()
    for alpha in (0.0, 3.0):
        loss, wrapped = SemiSupervised(ELBO(2), alpha)(model, guide), ELBO(2)(model, guide)
        for unlabelled in ((x, torch.full_like(y, -1)), (x, None), (x,)):
            assert torch.equal(value_and_gradients(loss, *unlabelled)[0], value_and_gradients(wrapped, x)[0])
        added = alpha * guide.classifier(x).log_prob(all_known).sum()
        found = value_and_gradients(loss, x, all_known)[0]
        torch.testing.assert_close(found, value_and_gradients(wrapped, x, all_known)[0] - added.detach())


def test_labels_by_keyword_and_in_any_place(double_precision):
    x, y = data()
    model, guide = pair()
    expected = value_and_gradients(SemiSupervised(ELBO(), 1.0)(model, guide), x, y)
    assert torch.equal(value_and_gradients(SemiSupervised(ELBO(), 1.0)(model, guide), x, y=y)[0], expected[0])

    class Behind(PyroModule):
        """The program with the label third, under another name, behind an argument of which rows matter."""

        def __init__(self, inner):
            super().__init__("behind")
            self.inner, self.classifier = inner, getattr(inner, "classifier", None)

        def forward(self, x, offset, kind=None):
            return self.inner(x + offset, kind)

    moved = SemiSupervised(ELBO(), 0.0, label="kind")(Behind(model), Behind(guide))
    offset = 0.1 * torch.arange(len(x))[:, None]
    plain = SemiSupervised(ELBO(), 0.0)(model, guide)
    assert torch.equal(
        value_and_gradients(moved, x - offset, offset, y)[0], value_and_gradients(plain, x - offset + offset, y)[0]
    )


def test_the_order_of_the_rows_does_not_matter(double_precision):
    x, y = data()
    # points have no noise, which would go with the place and not with the row
    loss = SemiSupervised(MAP(), 1.5)(*pair(point=True))
    expected = value_and_gradients(loss, x, y)
    for seed in range(3):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(value_and_gradients(loss, x[order], y[order]), expected)


@pytest.mark.parametrize("objective", [ELBO(100), IWELBO(3), Tempered(ELBO(100), 1.0)], ids=["ELBO", "IWELBO", "beta"])
def test_the_value_is_a_lower_bound_that_falls_by_the_classifiers_loss(objective, double_precision):
    x, y = data()
    model, guide = pair()
    with torch.no_grad():
        # the exact posterior of a labelled row; of the others it is a mixture, which the guide does not reach
        variance = 1 / (1 + model.direction.square().sum())
        guide.loc.weight.copy_(variance * model.direction), guide.log_scale.copy_(variance.log() / 2)
        guide.shifts.copy_(-variance * (model.centres @ model.direction)[:, None] - guide.loc.bias)
        labelled = y.clamp(min=0)
        bound = -SemiSupervised(objective, 0.5).loss(model, guide, x, labelled)
        expected = model.log_prob(x, labelled).sum() + 0.5 * guide.classifier(x).log_prob(labelled).sum()
        assert bound == pytest.approx(expected.item(), abs=1e-10)
        torch.manual_seed(3)
        draws = torch.tensor([-SemiSupervised(objective, 0.5).loss(model, guide, x, y) for _ in range(30)])
        assert draws.mean() - model.log_prob(x, y).sum() < Z_MAX * draws.std() / math.sqrt(len(draws))


def test_a_schedule_moves_once_for_each_batch():
    warm = Tempered(ELBO(), kl_weight=lambda step: step / 10)
    objective, (x, y) = SemiSupervised(warm, 1.0), data()
    loss = objective(*pair())
    for step in range(3):
        assert (warm.step, objective.step, objective.kl_weight_now) == (step, step, step / 10)
        loss(x, y)
    objective.loss(loss.model, loss.guide, x, y)  # an evaluation is no step
    assert warm.step == 3
    assert (SemiSupervised(ELBO(), 1.0).step, SemiSupervised(ELBO(), 1.0).kl_weight_now) == (None, None)


def test_a_weight_and_free_bits_of_the_label_are_those_of_the_rows_without_one(double_precision):
    model, guide = summed_pair()
    (x, y), settings = data(), {"kl_weight": {"y": 0.3}, "free_bits": {"y": 0.5}}
    tempered, known = Tempered(ELBO(), **settings), y >= 0
    torch.manual_seed(5)
    expected = ELBO()(model, guide)(x[known], y[known]) + tempered(model, guide)(x[~known])
    torch.manual_seed(5)
    torch.testing.assert_close(SemiSupervised(tempered, 0.0)(model, guide)(x, y), expected)
    SemiSupervised(tempered, 1.0)(model, guide)(x[known], y[known])
    with pytest.raises(ValueError, match=r"kl_weight names \['label'\], the latent sites are \['z'\]"):
        SemiSupervised(Tempered(ELBO(), {"label": 0.3}), 0.0)(model, guide)(x, y)


@pytest.mark.parametrize("of", [pair, summed_pair])
@pytest.mark.parametrize("known", [range(12), (1, 4, 5, 9), ()])
def test_svi_trains_what_each_batch_uses(known, of):
    x, y = data(known=known)
    model, guide = of()
    svi = pyro.infer.SVI(model, guide, pyro.optim.SGD({"lr": 1e-3}), SemiSupervised(ELBO(), 1.0))
    twin = SemiSupervised(ELBO(), 1.0)(*of())
    expected = value_and_gradients(twin, x, y)
    before = [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]
    torch.manual_seed(5)
    assert svi.step(x, y) == pytest.approx(expected[0].item(), rel=1e-6)
    after = [*model.parameters(), *guide.parameters()]
    for old, new, gradient in zip(before, after, expected[1:], strict=True):
        torch.testing.assert_close(new.detach(), old - 1e-3 * gradient)


# --- training --------------------------------------------------------------------------------------------------------


def training(of=pair, **options):
    objective = SemiSupervised(Tempered(ELBO(), kl_weight=lambda step: min(1.0, step / 20)), 0.5)
    loss = objective(*of())
    settings = {"batch_size": 10, "average": 0.9, "seed": 3, "validation": data(9, known=(2, 3))} | options
    return loss, quiet(loss, data(30, known=range(0, 30, 4)), **settings)


@pytest.mark.parametrize("of", thorough_but([pair], [pair, summed_pair]))
def test_a_training_resumes_bit_equal(of, tmp_path):
    straight, _ = training(of, steps=8, out=tmp_path / "straight")
    training(of, steps=4, out=tmp_path / "parts")
    second, result = training(of, steps=8, out=tmp_path / "parts", resume=True)
    assert all(torch.equal(p, q) for p, q in zip(straight.parameters(), second.parameters(), strict=True))
    assert second.elbo.step == result.step == 8
    assert result.history[-1]["beta"] == pytest.approx(8 / 20)


def test_records_and_validation():
    held_out = data(9, known=(2, 3))
    still = {"optimizer": functools.partial(torch.optim.SGD, lr=0.0), "average": None, "epochs": 1}
    _, tempered = training(**still)
    plain = quiet(SemiSupervised(ELBO(), 0.5)(*pair()), data(30, known=range(0, 30, 4)), validation=held_out,
                  batch_size=10, seed=3, epochs=1, optimizer=still["optimizer"])  # fmt: skip
    assert tempered.history[0]["validation"] == plain.history[0]["validation"]
    assert tempered.history[0]["train"] < plain.history[0]["train"]
    assert set(plain.history[0]["kl"]) == {"z"}
    _, summed = training(summed_pair, **still)
    assert summed.history[0]["kl"]["y"] > 0.0


class Extra(PyroModule):
    """A program with one more latent where y is unknown; as model and guide its KL is log 2."""

    def __init__(self, name, width):
        super().__init__(name)
        self.name, self.width, self.scale = name, width, nn.Parameter(torch.tensor(1.0))

    def forward(self, x, y=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), self.scale).to_event(1))
            if y is None:
                pyro.sample("v", dist.Uniform(x.new_zeros(()), self.width))
            if self.name == "model":
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def test_the_kl_is_that_of_the_rows_where_a_site_is_latent():
    loss = SemiSupervised(ELBO(), 0.0)(Extra("model", 2.0), Extra("guide", 1.0))
    record = quiet(loss, data(), epochs=1, batch_size=12).history[0]
    assert record["kl"]["v"] == pytest.approx(math.log(2.0))


class RowsOf:
    """The data as `Rows`, whose values `fit` does not look at one by one."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def batch(self, index, generator):
        return self.x[index], self.y[index]


class Careful(Encoder):
    """An encoder that reads NaN as 0."""

    def classifier(self, x):
        return super().classifier(x.nan_to_num())

    def forward(self, x, y=None):
        return super().forward(x.nan_to_num(), y)


def test_errors_name_the_rows_of_the_data():
    x, y = data(30, known=range(0, 30, 4))
    wrong = y.clone()
    wrong[[12, 20]] = 3
    loss = SemiSupervised(ELBO(), 0.5)(Clusters(), Careful())
    with pytest.raises(ValueError, match=r"^data: site 'y'.* in rows 12\b"):
        quiet(loss, (x, wrong), epochs=1, batch_size=15)
    missing = x.clone()
    missing[[17, 22]] = torch.nan
    with pytest.raises(ValueError, match=r"^data: site 'x': the value is NaN in rows 17, 22"):
        quiet(loss, RowsOf(missing, y), epochs=1, batch_size=30)


class Late(RowsOf):
    """Rows of which some are spoilt once the training has begun."""

    def __init__(self, x, y, spoilt, looks):
        super().__init__(x, y)
        self.spoilt, self.looks = spoilt, looks

    def batch(self, index, generator):
        self.looks -= 1
        x, y = super().batch(index, generator)
        return x.masked_fill(torch.isin(index, self.spoilt)[:, None] & (self.looks < 0), 1e30), y


@pytest.mark.parametrize("row", [17, 20])  # one without a label, one with
def test_a_loss_that_is_not_finite_names_rows_of_the_data(row):
    x, y = data(30, known=range(0, 30, 4))
    with pytest.raises(FloatingPointError, match=rf"site 'z' \(latent\): log p is -inf in rows {row}$"):
        quiet(SemiSupervised(ELBO(), 0.5)(*pair()), Late(x, y, torch.tensor([row]), 3), epochs=1, batch_size=15)


class RulesOut(Encoder):
    """A classifier that gives probability 0 to class 0 in the half-plane of x_1 > 3."""

    def classifier(self, x):
        logits = self.classes(x).clone()
        logits[..., 0] = torch.where(x[..., 0] > 3.0, -math.inf, logits[..., 0])
        return dist.Categorical(logits=logits)


def test_a_classifier_that_rules_a_label_out_is_named():
    x, y = data(30, known=range(0, 30, 4))
    x, y = x.clamp(max=2.9), y.clone()
    x[[8, 17]], y[8] = 3.5, 0
    torch.manual_seed(0)
    loss = SemiSupervised(ELBO(), 0.5)(Clusters(), RulesOut())
    with pytest.raises(FloatingPointError, match=r"the term that SemiSupervised adds to the bound is -inf in rows 8$"):
        quiet(loss, (x, y), epochs=1, batch_size=15)


class EachRow(Encoder):
    """A guide with a mean for each row of the data."""

    def __init__(self, num):
        super().__init__()
        self.means = nn.Parameter(torch.zeros(num, 1))

    def forward(self, x, y=None, index=None):
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Normal(self.means[index], 1.0).to_event(1))


def test_row_numbers_are_cut_with_the_rows():
    torch.manual_seed(0)
    x, y = data()
    model, guide = Clusters(), EachRow(len(x))
    rows = torch.tensor([9, 2, 4])
    torch.manual_seed(4)
    model.zero_grad()
    SemiSupervised(ELBO(), 0.0)(model, guide)(x[rows], y[rows], index=rows).backward()
    assert guide.means.grad.nonzero()[:, 0].tolist() == [2, 4, 9]
    quiet(SemiSupervised(ELBO(), 1.0)(model, guide), (x, y), epochs=1, batch_size=5)


class Outside(Encoder):
    """A classifier whose parameters no one holds."""

    def classifier(self, x):
        return dist.Categorical(logits=x @ STRAY)


STRAY = nn.Parameter(torch.randn(2, 3))


def test_parameters_of_the_classifier_must_be_held():
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"parameters that the loss does not hold, of shapes \[2, 3\]"):
        quiet(SemiSupervised(ELBO(), 1.0)(Clusters(), Outside()), data(), epochs=1, batch_size=12)


@pytest.mark.thorough
@pytest.mark.parametrize("of", [pair, summed_pair])
def test_a_captured_graph_is_split_outside(of, monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    x, y = data()
    order = torch.arange(len(x)).flip(0)
    warm = functools.partial(Tempered, ELBO(), lambda step: (step + 1) / 10)
    eager, captured = (SemiSupervised(warm(), 1.5)(*of()) for _ in range(2))
    graph = compiled(captured, x, y)
    for batch in ((x, y), (x[order], y[order]), (x[:5], y[:5]), (x, torch.full_like(y, -1))):
        torch.testing.assert_close(value_and_gradients(graph, *batch), value_and_gradients(eager, *batch))
    assert captured.elbo.step == eager.elbo.step == 4
    wrong = y.clone()
    wrong[4] = 3
    with pytest.raises(ValueError, match=r"site 'y'.*in rows 4"):
        graph(x, wrong)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [-0.1, math.nan, math.inf])
def test_alpha_is_no_negative_number(alpha):
    with pytest.raises(ValueError, match="SemiSupervised: alpha must be finite and >= 0"):
        SemiSupervised(ELBO(), alpha)


def test_objectives_that_cannot_be_wrapped():
    labelled = SemiSupervised(ELBO(), 1.0)
    for other in (labelled, pyro.infer.Trace_ELBO(), 3):
        with pytest.raises(ValueError, match="SemiSupervised: expected an objective of the zoo that knows no labels"):
            SemiSupervised(other, 1.0)
    with pytest.raises(ValueError, match=r"SemiSupervised, which goes around it: SemiSupervised\(Tempered\(\.\.\.\)"):
        Tempered(labelled, 0.5)


@pytest.mark.parametrize(
    "change",
    [lambda y: y.float(), lambda y: nn.functional.one_hot(y.clamp(min=0)), lambda y: y[:5], lambda y: y[0], list],
    ids=["floats", "one-hot", "too few", "one", "a list"],
)
def test_labels_are_one_integer_for_each_row(change):
    x, y = data()
    with pytest.raises(
        ValueError, match=r"^y: expected an int64 class for each row, -1 where the label is unknown, shape \(12,\)"
    ):
        SemiSupervised(ELBO(), 1.0)(*pair())(x, change(y))


def test_a_schedule_goes_around_it():
    buffer = torch.tensor(1.0)
    with pytest.raises(ValueError, match=r"goes around it: Scheduled\(SemiSupervised\(\.\.\.\), \.\.\.\)"):
        SemiSupervised(Scheduled(ELBO(), buffer, lambda step: 0.5), 1.0)


def test_data_and_labels_may_come_by_name():
    (x, y), loss = data(), SemiSupervised(ELBO(), 0.5)(*pair())
    by_place, by_name = value_and_gradients(loss, x, y), value_and_gradients(loss, x=x, y=y)
    for one, other in zip(by_place, by_name, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_call_without_data_is_named():
    with pytest.raises(TypeError, match=r"expected the data, by position or as 'x', got \['y'\]"):
        SemiSupervised(ELBO(), 0.5)(*pair())(y=data()[1])


class Wide(Encoder):
    """An encoder whose classifier leaves an axis of one in front of the classes."""

    def classifier(self, x):
        return dist.Categorical(logits=self.classes(x).unsqueeze(1))


def test_a_classifier_that_would_count_labels_several_times_is_refused():
    x, y = data(known=range(12))
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"classifier\(x\) to give .* batch shape \(12,\), got \(12, 12\)"):
        SemiSupervised(ELBO(), 0.5)(Clusters(), Wide())(x, y)


class Masked(nn.Module):
    """A classifier as a module, which reads a mask; `seen` holds those that it was given."""

    def __init__(self):
        super().__init__()
        self.logits, self.seen = nn.Linear(2, 3), []

    def forward(self, x, mask=None):
        self.seen.append(mask)
        return dist.Categorical(logits=self.logits(x if mask is None else x.masked_fill(~mask, 0.0)))


class AnyKeywords(Masked):
    def forward(self, x, **beside):
        return super().forward(x, **beside)


@pytest.mark.parametrize("kind", [Masked, AnyKeywords])
def test_a_classifier_that_is_a_module_is_given_the_mask(kind):
    class MaskedClusters(Clusters):
        def forward(self, x, y=None, mask=None):
            return super().forward(x if mask is None else x.masked_fill(~mask, 0.0), y)

    class MaskedEncoder(Encoder):
        def forward(self, x, y=None, mask=None):
            return super().forward(x if mask is None else x.masked_fill(~mask, 0.0), y)

    guide = MaskedEncoder()
    del guide.classes
    # in place of the method
    object.__setattr__(guide, "classifier", kind())
    x, y = data(known=range(12))
    mask = torch.rand(x.shape) < 0.6
    loss = SemiSupervised(ELBO(), 0.5)(MaskedClusters(), guide)
    losses = []
    for filled in (0.0, 9.0):
        torch.manual_seed(1)
        losses.append(loss(torch.where(mask, x, filled), y, mask=mask).item())
    assert losses[0] == losses[1]
    assert all(torch.equal(seen, mask) for seen in guide.classifier.seen)


class NoLabels(PyroModule):
    def __init__(self):
        super().__init__("guide")
        self.loc = nn.Linear(2, 1)

    def forward(self, x, *args):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc(x), 1.0).to_event(1))


class NoClassifier(NoLabels):
    def forward(self, x, y=None):
        super().forward(x)


def test_guides_that_cannot_take_labels():
    model, (x, y) = Clusters(), data()
    with pytest.raises(ValueError, match=r"NoLabels has no argument of the name 'y', but \['x', 'args'\]"):
        SemiSupervised(ELBO(), 1.0)(model, NoLabels())(x, y)
    with pytest.raises(ValueError, match=r"NoClassifier has no method classifier\(x\), the q\(y \| x\)"):
        SemiSupervised(ELBO(), 1.0)(model, NoClassifier())(x, y)
    assert SemiSupervised(ELBO(), 0.0)(model, NoClassifier())(x, y).isfinite()


class Halves(Objective):
    """A user's objective that splits its batch in two: its bound is that of the whole."""

    def parts(self, guide, args, kwargs):
        half = len(args[0]) // 2
        ranges = (slice(half), slice(half, None))
        return [(tuple(a[r] for a in args), {n: v[r] for n, v in kwargs.items()}) for r in ranges]

    def bound(self, terms):
        return terms.log_weights.mean(0)


def test_a_users_objective_may_split_its_batch():
    x, y = data()
    loss = Halves()(*pair())
    known = y.clamp(min=0)
    assert torch.allclose(value_and_gradients(loss, x, known)[0], value_and_gradients(ELBO()(*pair()), x, known)[0])
    spoilt = known.clone()
    spoilt[10] = 7
    with pytest.raises(ValueError, match=r"site 'y'.*in rows 10"):
        quiet(loss, (x, spoilt), epochs=1, batch_size=12)
