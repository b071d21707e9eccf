"""Data as people have them: each form of one array gives the numbers of the tensor, at every entry point."""

import functools

import numpy as np
import pandas as pd
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

import guides
from zoo import DMM, M2, PPCA, VAE, GaussianMixture
from zoo.infer import (
    ELBO,
    IWELBO,
    active_units,
    classification_error,
    compare,
    em,
    exact_reference,
    fit,
    gaps,
    grid_reference,
    hmc_reference,
    impute,
    kl_per_site,
    kl_per_unit,
    log_likelihood,
    nuts_reference,
    plot_overlay,
    sample_imputation,
    sequence_log_likelihood,
    smc_log_likelihood,
    terms,
)
from zoo.parts.door import casting, entered, wanted_by

BITS = torch.rand(12, 4, generator=torch.Generator().manual_seed(0)) < 0.5
X = BITS.float()
ARRAY = X.numpy()
COLUMNS = ["age", "height", "weight", "income"]
DRAWS = {"num_particles": 3, "seed": 0}


class Named(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, row):
        return {"x": ARRAY[row].astype(np.float64)}


class Chunked:
    """An array as HDF5 has it: rows are read when it is indexed, by rising row numbers; counts the largest read."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.chunks, self.most = array, array.shape, array.dtype, (2, 2), 0

    def __len__(self):
        return len(self.array)

    def __getitem__(self, rows):
        if not isinstance(rows, slice):
            assert (np.diff(rows) > 0).all()
        found = self.array[rows]
        self.most = max(self.most, len(found))
        return found


def mapped(folder, array=ARRAY):
    np.save(folder / "x.npy", array)
    return np.load(folder / "x.npy", mmap_mode="r")


def polars(folder):
    return pytest.importorskip("polars").DataFrame(dict(zip(COLUMNS, ARRAY.T.astype(np.int16), strict=True)))


def hdf5(folder):
    file = pytest.importorskip("h5py").File(folder / "x.h5", "w")
    return file.create_dataset("x", data=ARRAY.astype(np.uint8), chunks=(2, 2))


def frozen(folder):
    array = ARRAY.copy()
    array.flags.writeable = False
    return array


FORMS = {
    "bool": lambda folder: BITS,
    "int64": lambda folder: BITS.long(),
    "float64": lambda folder: X.double(),
    "float16": lambda folder: X.half(),
    "bfloat16": lambda folder: X.bfloat16(),
    "uint32": lambda folder: X.to(torch.uint32),
    "numpy": lambda folder: ARRAY,
    "numpy, float64": lambda folder: ARRAY.astype(np.float64),
    "numpy, uint16": lambda folder: ARRAY.astype(np.uint16),
    "numpy, uint64": lambda folder: ARRAY.astype(np.uint64),
    "numpy, longdouble": lambda folder: ARRAY.astype(np.longdouble),
    "numpy, big-endian": lambda folder: ARRAY.astype(">f8"),
    "numpy, Fortran's order": lambda folder: np.asfortranarray(ARRAY),
    "numpy, negative strides": lambda folder: ARRAY[::-1].copy()[::-1],
    "numpy, a field of records": lambda folder: np.array(
        [(tuple(row), 1) for row in ARRAY], dtype=[("x", "f4", (4,)), ("y", "i1")]
    )["x"],
    "numpy, read-only": frozen,
    "numpy, masked nowhere": lambda folder: np.ma.masked_array(ARRAY, mask=False),
    "lists": lambda folder: X.tolist(),
    "pandas": lambda folder: pd.DataFrame(ARRAY, columns=COLUMNS, index=range(7, 19)),
    "pandas, bool": lambda folder: pd.DataFrame(BITS.numpy()),
    "pandas, nullable": lambda folder: pd.DataFrame(ARRAY.astype(int)).astype("Int64"),
    "pandas, mixed": lambda folder: pd.DataFrame(ARRAY).astype({0: "float64", 1: "Int8", 2: "boolean", 3: "uint8"}),
    "memory map": mapped,
    "memory map of bytes": lambda folder: mapped(folder, ARRAY.astype(np.uint8)),
    "memory map, reshaped": lambda folder: mapped(folder, ARRAY.astype(">f4").reshape(6, 8)).reshape(12, 4),
    "like hdf5": lambda folder: Chunked(ARRAY.astype(np.float64)),
    "TensorDataset": lambda folder: TensorDataset(X.double()),
    "Dataset of dictionaries": lambda folder: Named(),
    "Subset": lambda folder: Subset(TensorDataset(BITS), range(12)),
    "ConcatDataset": lambda folder: ConcatDataset([TensorDataset(X[:5]), TensorDataset(X[5:])]),
    "DataLoader": lambda folder: DataLoader(TensorDataset(X), batch_size=12),
}


# one of each way through the door, for what takes longer
SOME = ("numpy, float64", "lists", "pandas, mixed", "memory map of bytes", "like hdf5", "Dataset of dictionaries")


# of packages that may be absent
OPTIONAL = {"polars": polars, "hdf5": hdf5}


@pytest.fixture(params=[*FORMS, *OPTIONAL])
def form(request, tmp_path):
    return (FORMS | OPTIONAL)[request.param](tmp_path)


def vae():
    torch.manual_seed(0)
    model = VAE(4, 2, (3,))
    return model, guides.Amortized(model, hidden=(3,))


def gaussian():
    torch.manual_seed(0)
    return PPCA(4, 2)


def trained(x):
    model, guide = vae()
    return fit(ELBO()(model, guide), x, steps=2, validation=x, progress=False).history[-1]


def same(found, wanted):
    found, wanted = (torch.as_tensor(value).detach() for value in (found, wanted))
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_training_and_validation(form, wanted):
    found = trained(form)
    if isinstance(form, DataLoader):
        # its own order, of one batch here
        assert found["train"] == pytest.approx(wanted["train"], rel=0.2)
    else:
        assert found["train"] == wanted["train"]
    assert found["validation"] == pytest.approx(wanted["validation"], rel=0.2)


@pytest.fixture(scope="module")
def wanted():
    return trained(X)


EVALUATIONS = {
    "log_likelihood": lambda x: log_likelihood(*vae(), x, **DRAWS).per_datum,
    "kl_per_site": lambda x: kl_per_site(*vae(), x, **DRAWS)["z"],
    "kl_per_unit": lambda x: kl_per_unit(*vae(), x, **DRAWS)["z"],
    "active_units": lambda x: active_units(vae()[1], x, seed=0)["z"].variance,
    "exact_reference": lambda x: exact_reference(gaussian(), x).mean,
    "compare": lambda x: compare(guides.Exact(m := gaussian()), exact_reference(m, X), x, seed=0).gap,
    "gaps": lambda x: gaps(m := gaussian(), guides.Amortized(m), x, steps=2, num_particles=3, seed=0).elbo,
    "em": lambda x: em(gaussian(), x, max_iterations=2).trajectory[-1],
    "terms": lambda x: terms(*vae(), x).log_ratios["z"].shape,
    "log_prob": lambda x: gaussian().log_prob(x),
    "posterior": lambda x: gaussian().posterior(x).mean,
    "of a guide": lambda x: vae()[1].posterior(x).mean,
    "e_step": lambda x: gaussian().e_step(x)[1],
    "maximum_likelihood": lambda x: gaussian().maximum_likelihood(x).log_scale,
    "responsibilities": lambda x: (torch.manual_seed(0), GaussianMixture(4, 2))[1].responsibilities(x),
}


@pytest.mark.parametrize("kind", OPTIONAL)
def test_methods_take_optional_forms(kind, tmp_path):
    same(EVALUATIONS["log_prob"](OPTIONAL[kind](tmp_path)), EVALUATIONS["log_prob"](X))


# the others share their door with these
QUICK = ("log_likelihood", "active_units", "em", "log_prob", "of a guide", "maximum_likelihood")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.thorough) for name in EVALUATIONS]
)
def test_every_evaluation_takes_every_form(name, tmp_path):
    wanted = EVALUATIONS[name](X)
    for kind in FORMS if name == "log_prob" else SOME:
        same(EVALUATIONS[name](FORMS[kind](tmp_path)), wanted)


def panels(model, x):
    return len(plot_overlay(guides.Exact(model), exact_reference(model, X), x, num_draws=99).axes)


SLOWER = {
    "grid_reference": lambda x: grid_reference(gaussian(), x, points=33).mean,
    "plot_overlay": lambda x: panels(gaussian(), x),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", SLOWER)
def test_grids_and_pictures_take_tables(name):
    same(SLOWER[name](pd.DataFrame(ARRAY)), SLOWER[name](X))


@pytest.mark.thorough
@pytest.mark.parametrize("sample", [hmc_reference, nuts_reference])
def test_samplers_take_tables(sample):
    found = [
        sample(gaussian(), x, num_samples=40, warmup=30, seed=0, max_rhat=99.0, min_ess=0.0, max_divergences=9999)
        for x in (X[:2], pd.DataFrame(ARRAY[:2].astype(float)))
    ]
    assert (found[0]["posterior"]["z"].values == found[1]["posterior"]["z"].values).all()


def test_tensors_that_are_right_pass_through_untouched():
    model, seen = gaussian(), []
    kept = model.__class__._posterior
    try:
        model.__class__._posterior = lambda self, x, mask: (seen.append(x), kept(self, x, mask))[1]
        model.posterior(X)
    finally:
        model.__class__._posterior = kept
    assert seen[0] is X


def test_nothing_that_is_passed_is_changed(tmp_path):
    for make in (FORMS["numpy, float64"], FORMS["pandas"], FORMS["float64"]):
        form = make(tmp_path)
        before = form.copy() if hasattr(form, "copy") else form.clone()
        trained(form)
        assert np.array_equal(np.asarray(form), np.asarray(before))


def test_a_gradient_goes_through_the_door():
    x = X.double().requires_grad_()
    gaussian().log_prob(x).sum().backward()
    assert x.grad.shape == x.shape


def wrapped(kind, model):
    """A program that runs the model and is none of its attributes."""
    if kind == "handler":
        return poutine.block(model, hide=["nothing"])
    if kind == "handlers":
        return poutine.mask(poutine.block(model.forward, hide=["nothing"]), mask=True)
    if kind == "handler's class":
        return poutine.messenger.Messenger()(model)
    return functools.partial(model) if kind == "partial" else AutoNormal(model).model


@pytest.mark.parametrize("kind", ["handler", "handlers", "handler's class", "partial", "autoguide's"])
def test_programs_within_handlers_take_every_form(kind):
    model, guide = gaussian(), guides.Exact(gaussian())
    program, mask = wrapped(kind, model), np.ones((12, 4), bool)
    plain = log_likelihood(model, guide, X, mask=mask, **DRAWS)
    data = ARRAY if kind == "partial" else ARRAY.astype(np.float64)
    assert torch.equal(log_likelihood(program, guide, data, mask=mask, **DRAWS).per_datum, plain.per_datum)


def test_an_autoguide_is_compared_under_the_model_that_it_wraps():
    model = gaussian()
    guide = AutoNormal(model)
    terms(model, guide, X)
    found, given = (compare(guide, exact_reference(model, X), ARRAY, seed=0, **more) for more in ({}, {"model": model}))
    assert str(found) == str(given)


# --- several arguments, labels, masks ---------------------------------------------------------------------------------


def test_labels_and_masks_keep_their_kind():
    torch.manual_seed(0)
    model = M2(4, 2, num_classes=3, hidden=(3,))
    guide = guides.Labelled(model, hidden=(3,))
    y = torch.arange(12) % 3
    table = pd.DataFrame(ARRAY).assign(y=y.numpy().astype(np.int8))
    x, labels = table.drop(columns="y"), table["y"]
    wanted = log_likelihood(model, guide, X, y, **DRAWS).per_datum
    for found in ((x, labels), (x, y.tolist()), (TensorDataset(X, y.int()),), (x, labels.astype("Int64"))):
        same(log_likelihood(model, guide, *found, **DRAWS).per_datum, wanted)
        assert classification_error(guide, *found) == classification_error(guide, X, y)
    losses = [
        fit(ELBO()(model, guide).requires_grad_(), data, steps=1, progress=False).history[-1]["kl"].keys()
        for data in ((x, labels), TensorDataset(X, y))
    ]
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match="y: missing, and x yields none"):
        classification_error(guide, X)
    model, mask = gaussian(), BITS.clone()
    same(model.impute(pd.DataFrame(ARRAY), pd.DataFrame(mask.numpy())), model.impute(X, mask))
    with pytest.raises(ValueError, match=r"mask: expected torch\.bool"):
        model.impute(X, mask.numpy().astype(int))
    with pytest.raises(TypeError, match="mask: given twice, by its place and by its name"):
        log_likelihood(model, guides.Exact(model), X, mask, mask=mask)


def conditional(name):
    torch.manual_seed(0)
    model = VAE(4, 2, (8,), condition_dim=3) if name == "y" else M2(4, 2, 2, (8,), condition_dim=3)
    guide = guides.Amortized(model, hidden=(8,)) if name == "y" else guides.Labelled(model, hidden=(8,))
    return model, guide


CLASS = pd.Series(torch.arange(12).numpy() % 3)
CLASSES = {
    "series": CLASS, "list": CLASS.tolist(), "bytes": CLASS.astype("int8"), "nullable": CLASS.astype("Int64"),
    "int32": torch.tensor(CLASS.values).int(), "dummies": pd.get_dummies(CLASS),
    "one-hot": torch.nn.functional.one_hot(torch.tensor(CLASS.values), 3), "codes": CLASS.astype("category").cat.codes,
}  # fmt: skip


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("name", ["y", "c"])
def test_conditions_come_in_every_form(name, kind):
    model, guide = conditional(name)
    right, given = {name: torch.tensor(CLASS.values)}, {name: CLASSES[kind]}
    found = (log_likelihood(model, guide, X, **DRAWS, **some).per_datum for some in (given, right))
    same(*found)
    drawn = []
    for some in (given, right):
        torch.manual_seed(1)
        drawn.append(model.generate(num=12, **some)[1])
    same(*drawn)
    if name == "y":
        same(guide.posterior(X, **given).mean, guide.posterior(X, **right).mean)
        same(guide.posterior(X.numpy(), None, given["y"]).mean, guide.posterior(X, **right).mean)
    if name == "c":
        same(guide.predict(X, c=CLASSES[kind]), guide.predict(X, c=right["c"]))
        labels = guide.predict(X, c=right["c"]).argmax(-1)
        assert classification_error(guide, X, labels, c=CLASSES[kind]) == 0.0


def test_gaps_of_tables_are_imputed():
    model, guide = vae()
    mask = torch.arange(48).reshape(12, 4) % 3 > 0
    table = pd.DataFrame(ARRAY.astype(float), columns=COLUMNS).where(mask.numpy())
    for call in (impute, sample_imputation):
        found, right = (call(model, guide, *some, num_particles=5, seed=0).x
                        for some in ((table, table.notna()), (X, mask)))  # fmt: skip
        same(found, right)


def test_tables_in_another_order_are_refused():
    model, guide = vae()
    table = pd.DataFrame(ARRAY, columns=COLUMNS)
    seen = table.notna()
    other = {"columns": seen[COLUMNS[::-1]], "index": seen.iloc[::-1]}
    calls = (
        lambda mask: log_likelihood(model, guide, table, mask=mask, **DRAWS),
        lambda mask: trained((table, mask)),
        lambda mask: gaussian().log_prob(table, mask),
    )
    for axis, mask in other.items():
        for call in calls:
            with pytest.raises(ValueError, match=rf"^(mask|data\[1\]): {axis} with the labels of .* in another order"):
                call(mask)
    # other labels altogether are none of x's
    for mask in (seen, seen.set_axis(range(12, 24)), seen.to_numpy(), seen.set_axis(range(4), axis=1)):
        for call in calls:
            call(mask)


def test_a_model_is_no_data():
    model, guide = vae()
    with pytest.raises(TypeError, match=r"^x: expected a torch.Tensor, got Amortized$"):
        active_units(model, guide, X, mask=BITS)


def test_collections_that_yield_several_arguments():
    model, guide = gaussian(), guides.Exact(gaussian())
    both = TensorDataset(X, BITS)
    wanted = log_likelihood(model, guide, X, BITS, **DRAWS)
    same(log_likelihood(model, guide, both, **DRAWS).per_datum, wanted.per_datum)
    same(model.log_prob(both), model.log_prob(X, BITS))
    with pytest.raises(ValueError, match="x: yields 2 arguments, and 1 more were given"):
        log_likelihood(model, guide, both, BITS)
    with pytest.raises(ValueError, match="x: TensorDataset yields no rows"):
        log_likelihood(model, guide, TensorDataset(X[:0]))


def test_missing_entries_of_tables_are_nan():
    table = pd.DataFrame(ARRAY.astype(int), columns=COLUMNS).astype("Int64")
    table.iloc[3, 1] = pd.NA
    with pytest.raises(ValueError, match=r"data: NaN or infinite values in 1 of 12 rows: 3"):
        trained(table)
    with pytest.raises(ValueError, match=r"x: NaN or infinite values in 1 of 12 rows \(rows 3\)"):
        gaussian().log_prob(table)
    same(gaussian().log_prob(table, table.notna()), gaussian().log_prob(X, torch.tensor(table.notna().to_numpy())))
    masked = np.ma.masked_array(ARRAY, mask=False)
    masked[5, 0] = np.ma.masked
    with pytest.raises(ValueError, match="rows: 5"):
        trained(masked)
    nulls = pytest.importorskip("polars").DataFrame({"a": [1, None], "b": [True, False], "c": [0.0, 1.0], "d": [0, 1]})
    with pytest.raises(ValueError, match="rows: 1"):
        trained(nulls)


# --- one series -------------------------------------------------------------------------------------------------------


def deep():
    torch.manual_seed(0)
    model = DMM(1, 2)
    return model, guides.Smoother(model, recurrent=3)


def forecast(model, guide, x):
    torch.manual_seed(0)
    return model.sample_forecast(x, 3, 2, guide)[0]


def drawn(guide, x):
    torch.manual_seed(0)
    return guide.posterior(x).sample()


SERIES = X.reshape(1, -1, 1)[:, :20]
ONE = {
    "sequence_log_likelihood": lambda x: sequence_log_likelihood(*deep(), x, data="bits", **DRAWS).log_p,
    "smc_log_likelihood": lambda x: smc_log_likelihood(*deep(), x, num_particles=40, seed=0),
    "log_likelihood": lambda x: log_likelihood(*deep(), x, **DRAWS).per_datum,
    "forecast": lambda x: forecast(*deep(), x),
    "posterior": lambda x: drawn(deep()[1], x),
    "fit": lambda x: fit(ELBO()(*deep()), x, steps=2, progress=False).history[-1]["train"],
}


@pytest.mark.parametrize("name", ONE)
def test_a_single_series_needs_no_batch_axis(name):
    wanted = ONE[name](SERIES)
    for series in (SERIES[0], SERIES.flatten(), pd.Series(SERIES.flatten().numpy()), SERIES.numpy()[0].astype(bool),
                   SERIES.flatten().tolist()):  # fmt: skip
        same(ONE[name](series), wanted)


def test_a_mask_of_a_single_series():
    model, guide = deep()
    mask = torch.arange(20) % 3 > 0
    for x, observed in ((SERIES[0], mask), (SERIES.flatten(), mask.numpy())):
        found = sequence_log_likelihood(model, guide, x, None, observed, data="bits", **DRAWS)
        same(found.log_p, sequence_log_likelihood(model, guide, SERIES, None, mask[None], data="bits", **DRAWS).log_p)


def test_shapes_that_are_no_single_series_are_refused():
    with pytest.raises(ValueError, match=r"x: expected shape \(N, T, 1\), got \(6, 8\); x\[..., None\] makes"):
        deep()[0].check(X.reshape(6, 8))
    with pytest.raises(ValueError, match=r"x: expected shape \(N, T, 1\), got \(6, 8\)"):
        fit(ELBO()(*deep()), X.reshape(6, 8), steps=1, progress=False)


# --- files ------------------------------------------------------------------------------------------------------------


def test_data_on_file_are_read_in_pieces(monkeypatch):
    """A training and an evaluation of 120 rows never ask for more than a block or a batch of them."""
    monkeypatch.setattr(casting, "BLOCK", 8 * 4 * 20)
    file = Chunked(np.tile(ARRAY.astype(np.float64), (10, 1)))
    model, guide = vae()
    fit(IWELBO(2)(model, guide), file, epochs=1, batch_size=16, validation=file, progress=False)
    log_likelihood(model, guide, file, num_particles=10, max_bytes=9000)
    assert 0 < file.most <= 20


def test_sequences_on_file_are_read_in_pieces(monkeypatch):
    monkeypatch.setattr(casting, "BLOCK", 8 * 4 * 3)
    file = Chunked(np.tile(ARRAY[:, :, None].astype(np.int32), (3, 1, 1)))
    model, guide = deep()
    found = sequence_log_likelihood(model, guide, file, data="bits", batch_size=5, **DRAWS)
    assert 0 < file.most <= 5
    wanted = sequence_log_likelihood(model, guide, X[:, :, None].repeat(3, 1, 1), data="bits", batch_size=5, **DRAWS)
    same(found.log_p, wanted.log_p)
    file.array = file.array.astype(float)
    file.array[30, 2] = np.nan
    with pytest.raises(ValueError, match="sequence 30, frame 2"):
        sequence_log_likelihood(model, guide, file, data="bits", batch_size=5, **DRAWS)


def test_a_memory_map_is_not_copied(tmp_path):
    """Rows of a sparse file of 4 GB, 16 GB as floats: to read it whole would fail or take minutes."""
    rows = 2**20
    file = np.lib.format.open_memmap(tmp_path / "large.npy", mode="w+", dtype=np.uint8, shape=(rows, 4096))
    model = VAE(4096, 1, (2,))
    guide = guides.Amortized(model, hidden=(2,))
    held = wanted_by(model, guide).tensor(file, "x", "x", on_file=True)
    assert held.shape == (rows, 4096)
    assert held[torch.tensor([5, rows - 1])].equal(torch.zeros(2, 4096))
    assert active_units(guide, file[:40], num_particles=2)["z"].active.shape == (1,)


# --- refusals ---------------------------------------------------------------------------------------------------------

DATE = pd.to_datetime(["2020-01-01"] * 12)
WRONG = {
    "complex": (lambda: X.to(torch.complex64), TypeError, "expected real numbers, got torch.complex64"),
    "complex, numpy": (lambda: ARRAY.astype(complex), TypeError, "an array of dtype complex128; give real and imagi"),
    "words": (lambda: ARRAY.astype(str), TypeError, "an array of dtype <U"),
    "objects": (lambda: ARRAY.astype(object), TypeError, r"dtype object; astype\(float\)"),
    "dates": (lambda: np.full((12, 4), np.datetime64("2020-01-01")), TypeError, r"datetime64.*t - t\[0\]"),
    "records": (lambda: np.zeros(3, dtype=[("a", "f4"), ("b", "i1")]), TypeError, "its fields 'a', 'b' as columns"),
    "a column of words": (
        lambda: pd.DataFrame(ARRAY, columns=COLUMNS).assign(height="tall"), TypeError, "column 'height' has dtype str"),
    "a column of objects": (
        lambda: pd.DataFrame(ARRAY, columns=COLUMNS).astype({"age": object}), TypeError,
        r"column 'age' has dtype object, expected numbers; astype\(float\)"),
    "a column of dates": (
        lambda: pd.DataFrame(ARRAY, columns=COLUMNS).assign(age=DATE), TypeError, "column 'age' has dtype datetime64"),
    "a column of categories": (
        lambda: pd.DataFrame(ARRAY, columns=COLUMNS).astype({"age": "category"}), TypeError,
        "column 'age' has dtype category, expected numbers; take its cat.codes"),
    "whole numbers": (
        lambda: np.full((12, 4), 2**24 + 1), ValueError,
        "16777217 in row 0, column 0.*counts one by one up to 16777216"),
    "a large column": (
        lambda: pd.DataFrame(ARRAY.astype(int), columns=COLUMNS).assign(income=10**9), ValueError,
        "1000000000 in row 0, column 'income'"),
    "seconds since 1970": (
        lambda: pd.DataFrame(ARRAY, columns=COLUMNS).assign(age=1.7e9 + np.arange(12.0)), ValueError,
        "column 'age' would lose its differences in torch.float32: numbers from 1700000000 to 1700000011"),
    "too large": (lambda: ARRAY.astype(float) * 1e300, ValueError, "column 0 would lose its differences"),
    "beyond 2^63": (lambda: np.full((12, 4), 2**64 - 1, np.uint64), ValueError, "beyond 2\\^63 - 1"),
    "ragged": (lambda: [[1.0, 0.0], [1.0]], ValueError, r"a list of 2 rows of unequal shapes \(lengths 2, 1\)"),
    "sparse": (lambda: X.to_sparse(), TypeError, r"expected a dense tensor, .* to_dense\(\)"),
    "none": (lambda: None, TypeError, "got NoneType"),
    "no columns": (lambda: pd.DataFrame(index=range(3)), ValueError, r"got \([23], 0\)"),
    "a word": (lambda: "x.csv", TypeError, "got str"),
    "nothing": (lambda: {"x": X}, TypeError, "got dict"),
    "no rows": (lambda: ARRAY[:0], ValueError, "empty|at least one row"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_data_is_refused_by_name(kind, tmp_path):
    make, error, said = WRONG[kind]
    for door, name in ((trained, "data"), (EVALUATIONS["log_likelihood"], "x"), (EVALUATIONS["log_prob"], "x")):
        with pytest.raises(error, match=rf"^(data: )?{name}.*({said})"):
            door(make())


def test_on_file_too(tmp_path):
    large = mapped(tmp_path, np.full((12, 4), 2**25))
    with pytest.raises(ValueError, match="x: 33554432 in row 0, column 0"):
        EVALUATIONS["log_likelihood"](large)
    with pytest.raises(TypeError, match="expected numbers, got an array of dtype <U1"):
        trained(mapped(tmp_path, np.full((12, 4), "a")))


def test_lists_of_sequences_of_unequal_lengths():
    ragged = [np.zeros((length, 1), np.float32) for length in (3, 4, 5, 3)]
    with pytest.raises(ValueError, match=r"equal lengths, got \[3, 4, 5, 3\]; are they sequences\? zoo.data.Sequences"):
        fit(ELBO()(*deep()), ragged, steps=1, progress=False)
    with pytest.raises(ValueError, match=r"x: a list of 4 rows of unequal shapes .* zoo.data.Sequences"):
        sequence_log_likelihood(*deep(), ragged, data="bits")


def test_rows_of_one_number():
    with pytest.raises(ValueError, match=r"x: expected shape \(..., 1\), got \(12,\); x\[:, None\] makes rows of one"):
        PPCA(1, 1).log_prob(pd.Series(ARRAY[:, 0]))


def test_wide_models_take_what_narrow_ones_refuse():
    model = gaussian().double()
    seconds = 1.7e9 + np.random.default_rng(0).random((5, 4))
    assert model.log_prob(seconds).dtype == torch.float64
    assert model.log_prob(np.full((2, 4), 2**24 + 1)).shape == (2,)
    # a constant column differs by the rounding of a float64 alone
    assert gaussian().log_prob(np.full((3, 4), 0.1) * [[1.0], [1.0 + 1e-16], [1.0]]).shape == (3,)


class Whole(VAE):
    """A model that reads whole numbers as such."""

    of_integers = True


def test_a_model_may_keep_whole_numbers():
    for kind, dtype in ((Whole, torch.int64), (VAE, torch.float32)):
        x, _, _ = entered((kind(4, 2, (3,)),), ARRAY.astype(int))
        assert x.dtype == dtype
