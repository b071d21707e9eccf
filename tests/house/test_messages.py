"""Errors that no other test meets on its way, each reached once."""

import math
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import nn

import guides
from zoo import DMM, VAE, MixedDynamics
from zoo.data import Streams, load, sources
from zoo.infer import (
    ELBO,
    IWELBO,
    RenyiELBO,
    Tempered,
    carry,
    fit,
    gaps,
    log_likelihood,
    sequence_log_likelihood,
    smc_log_likelihood,
    terms,
)
from zoo.infer.training import checkpoint
from zoo.infer.training.parallel import Parallel
from zoo.infer.training.step.batches import rows_of
from zoo.parts import kalman
from zoo.parts.conditionals import Normal

X = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))


def normal(loc, scale=1.0):
    return dist.Normal(loc, scale).to_event(1)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", normal(0.5 * x))


def pair():
    torch.manual_seed(0)
    model = VAE(2, 1, (3,), likelihood=Normal)
    return model, guides.Amortized(model, hidden=(3,))


def dmm():
    torch.manual_seed(0)
    model = DMM(2, 1, hidden=(3,), transition_hidden=(3,), likelihood=Normal)
    return model, guides.Smoother(model, hidden=(3,), recurrent=4)


class Own:
    """Rows that make their own batches, without any."""

    def __len__(self):
        return 0

    def batch(self, index, generator):
        return (index,)


def test_data_that_are_none():
    with pytest.raises(ValueError, match="validation is empty"):
        rows_of(Own(), "validation")
    with pytest.raises(ValueError, match=r"data: the tensors are on different devices, \['cpu', 'meta'\]"):
        rows_of((X, X.to("meta")))


def test_streams_of_nothing():
    with pytest.raises(ValueError, match=r"Streams: expected at least one stream .* num = 0, length = 5"):
        Streams.joined(load("cadences").train, 0, 5)


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path):
    class Source:
        sha256: dict = {}  # noqa: RUF012

        def read(self, path):
            raise PermissionError("not yours")

    with pytest.raises(PermissionError, match="not yours"):
        sources.read_checked(Source(), tmp_path / "digits.npz")


def test_what_cannot_be_carried():
    model, _ = dmm()
    with pytest.raises(ValueError, match=r"site 'z': nothing was drawn there, .* sites are \['y'\]"):
        carry.after(model, {"y": X}, (X,), None, 5)
    with pytest.raises(ValueError, match=r"carry: expected trajectories of 5 sequences, got shape \(4, 3, 1\)"):
        carry.after(model, {"z": torch.zeros(4, 3, 1)}, (X,), None, 5)


def test_a_writer_that_fails_is_an_error_of_the_disk(tmp_path):
    def full(file):
        raise RuntimeError("unexpected pos 64 vs 0")

    with pytest.raises(OSError, match=r"model\.pt: unexpected pos"):
        checkpoint.write(tmp_path / "model.pt", full)


class Strange(torch.optim.SGD):
    """An optimiser whose state `torch.load` would not read safely."""

    def state_dict(self):
        return super().state_dict() | {"strange": Strange}


def test_a_state_that_cannot_be_read_back_is_found_before_the_training(tmp_path):
    with pytest.raises(ValueError, match=r"optimizer: its state can be saved, but not .* because of .*\.Strange"):
        fit(ELBO()(*pair()), X, steps=1, batch_size=5, progress=False, out=tmp_path,
            optimizer=lambda p: Strange(p, lr=0.1))  # fmt: skip


def test_a_checkpoint_cut_in_a_way_that_zip_does_not_see(tmp_path):
    options = {"batch_size": 5, "progress": False, "out": tmp_path}
    fit(ELBO()(*pair()), X, steps=1, **options)
    torch.save({"loss": Strange}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"last\.pt: cannot be read as a checkpoint of zoo\.infer\.fit"):
        fit(ELBO()(*pair()), X, steps=2, resume=True, **options)


def broken():
    """A pair whose likelihood is NaN though no value is."""
    model, guide = pair()
    with torch.no_grad():
        model.emission.loc.bias[0] = math.nan
    return model, guide


def test_weights_that_are_nan_though_no_value_is():
    said = "the log weights of rows 0, 1, 2, 3, 4 are NaN: look at these rows of x"
    with pytest.raises(ValueError, match=said), pyro.validation_enabled(False):
        log_likelihood(*broken(), X, num_particles=3)
    model, guide = dmm()
    with torch.no_grad():
        model.likelihood.loc.bias[0] = math.nan
    for score in (sequence_log_likelihood, smc_log_likelihood):
        named = {"data": "noise"} if score is sequence_log_likelihood else {}
        said = "the log weights of sequences 0, 1, 2 are NaN"
        with pytest.raises(ValueError, match=said), pyro.validation_enabled(False):
            score(model, guide, torch.randn(3, 4, 2), num_particles=3, **named)


def test_gaps_whose_search_breaks_down():
    model, guide = pair()
    said = r"gaps: at step \d+ the ELBO is not finite in rows 0, 1, 2, 3, 4"
    with pytest.raises(ValueError, match=said), pyro.validation_enabled(False):
        gaps(model, guide, X, learning_rate=1e30, steps=5, num_particles=5)


def test_tensorboard_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"tensorboard=True needs the extra: .*'pyro-latent-zoo\[tensorboard\]'"):
        fit(ELBO()(*pair()), X, steps=1, batch_size=5, progress=False, out=tmp_path, tensorboard=True)


def test_a_device_and_a_fabric():
    with pytest.raises(ValueError, match="give a device or a fabric, not both"):
        Parallel(nn.Linear(1, 1), "cpu", fabric=object())


def test_objectives_of_nothing():
    with pytest.raises(ValueError, match="RenyiELBO: alpha is NaN"):
        RenyiELBO(math.nan, 3)
    for wrong in (Tempered(ELBO()), nn.Linear(1, 1)):
        with pytest.raises(ValueError, match=f"Tempered: expected an untempered .* got {type(wrong).__name__}"):
            Tempered(wrong)


@pytest.mark.parametrize("number", [0, 2.5])
def test_particles_of_terms(number):
    with pytest.raises(ValueError, match=f"num_particles must be an integer >= 1, got {number}"):
        terms(*pair(), X, num_particles=number)


def test_an_autoguide_wants_all_of_its_rows():
    model, _ = pair()
    loss = ELBO()(model, AutoNormal(model))
    for options in ({"batch_size": 3}, {"batch_size": 5, "validation": X}):
        with pytest.raises(ValueError, match=r"AutoNormal has parameters for each row .* give batch_size=5 \(not \d\)"):
            fit(loss, X, steps=1, progress=False, **options)


def test_the_path_needs_the_batch_outside_all_other_plates():
    def model(x):
        with pyro.plate("inner", 2, dim=-2), pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    class Guide(PyroModule):
        def __init__(self):
            super().__init__("inner_guide")
            self.shift = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            with pyro.plate("inner", 2, dim=-2), pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(0.5 * x.T + self.shift, 0.7))

    assert terms(model, Guide(), X, num_particles=3).log_weights.shape == (3, 5)
    for objective in (ELBO(sticking=True), IWELBO(3, gradient="doubly")):
        with pytest.raises(ValueError, match="plate 'data': `sticking` and `doubly` need it outside all other plates"):
            objective(model, Guide())(X)


def test_a_latent_that_appears_later():
    more = []

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(x.new_zeros(2)))
            if more:
                pyro.sample("y", normal(x.new_zeros(2)))
            pyro.sample("x", normal(z), obs=x)

    terms(model, guide, X)
    more.append(True)
    with pytest.raises(ValueError, match="site 'y': a latent site of the model that the guide does not sample"):
        terms(model, guide, X)


def test_a_batch_that_its_plates_do_not_explain():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(x.new_zeros(3, 5, 2)))
            pyro.sample("x", normal(z), obs=x)

    with pytest.raises(ValueError, match=r"site 'z': batch shape \(3, 5\) does not match its plates \(5,\)"):
        terms(model, guide, X)


class Moody:
    """Data whose bits turn grey after the first look."""

    def __init__(self):
        self.visits = 0

    def __len__(self):
        return 6

    def batch(self, index, generator):
        self.visits += 1
        bits = torch.ones(len(index), 2)
        return (bits / 2 if self.visits > 5 else bits,)


def test_values_that_go_wrong_within_a_training_name_the_batch():
    torch.manual_seed(0)
    model = VAE(2, 1, (3,))
    loss = ELBO()(model, guides.Amortized(model, hidden=(3,)))
    with pytest.raises(ValueError, match="site 'x': IndependentBernoulli has support") as caught:
        fit(loss, Moody(), steps=20, batch_size=3, progress=False)
    assert "The batch has the data in rows" in caught.value.__notes__[0]


def test_nan_under_a_mask_of_ones_own_wants_a_filler():
    def model(x, mask):
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=mask):
            z = pyro.sample("z", normal(x.new_zeros(2)))
            pyro.sample("x", normal(z), obs=x)

    def guide(x, mask):
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(x.new_zeros(5, 2)))

    x, mask = X.clone(), torch.tensor([True, True, False, True, True])
    x[2] = math.nan
    with pytest.raises(ValueError, match=r"(?s)site 'x': .* cannot score this value .*Fill missing values"):
        ELBO().loss(model, guide, x, mask)
    assert math.isfinite(ELBO().loss(model, guide, x.nan_to_num(), mask))


def test_a_site_that_leaves_its_plate_later():
    out = []

    def model(x):
        with pyro.plate("others" if out else "data", len(x)):
            z = pyro.sample("z", normal(x.new_zeros(2)))
            pyro.sample("x", normal(z), obs=x)

    terms(model, guide, X)
    out.append(True)
    with pytest.raises(ValueError, match="site 'z': has left the batch plate 'data' since the pair was checked"):
        terms(model, guide, X)


def test_rows_of_a_later_piece_are_told_to_be_counted_from_its_start():
    visits = []

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(x.new_zeros(2)))
            pyro.sample("x", normal(z), obs=x)

    def guide(x):
        marked = bool((x == X[4]).all())
        visits.append(marked)
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(0.5 * x * (math.nan if marked and visits.count(True) > 1 else 1.0)))

    with pytest.raises(ValueError, match="Expected parameter loc") as caught:
        log_likelihood(model, guide, X, num_particles=1, max_bytes=1)
    assert caught.value.__notes__ == ["The error is that of rows 4 to 4 of x; row 0 above is row 4 of x."]


def test_rollouts_of_other_sizes():
    model, _ = dmm()
    guide = guides.Smoother(model, hidden=(3,), recurrent=4, entry_masks=True)
    x = torch.randn(3, 4, 2)
    controlled = MixedDynamics(2, 2, control_dim=1, recurrent=3)
    with pytest.raises(ValueError, match=r"u: expected the controls of 4 \+ 2 frames, got 4"):
        controlled.sample_forecast(x, 2, 1, guides.Exact(controlled), u=torch.zeros(3, 4, 1))
    with pytest.raises(ValueError, match="u: missing, MixedDynamics takes controls of size 1"):
        controlled.sample_forecast(x, 2, 1, guides.Exact(controlled))
    with pytest.raises(ValueError, match=r"mask: .*whole"):
        model.sample_imputation(x, torch.ones(3, 4, 2, dtype=torch.bool), guide)


def test_kalman_parameters_without_a_joint_density_and_sums_of_two_controls():
    one = torch.eye(2)
    p = kalman.Parameters(torch.zeros(2), one, one, one, one, 0 * one)
    z = torch.randn(3, 4, 2)
    with pytest.raises(ValueError, match="emission_covariance: singular, so z and x have no joint density"):
        kalman.log_joint(p, z, z)
    first, second = (p._replace(transition_input=torch.ones(2, size)) for size in (1, 2))
    with pytest.raises(ValueError, match="u: a sum needs one size of controls, got 1 and 2"):
        first + second
