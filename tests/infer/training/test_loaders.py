"""`Dataset`s and `DataLoader`s of torch as the data of a training; batches where the rows are few."""

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import guides
from zoo import PPCA, VAE
from zoo.infer import ELBO, fit
from zoo.infer.training.step.batches import rows_of
from zoo.infer.training.step.parts import wanted_of

X = (torch.rand(20, 4, generator=torch.Generator().manual_seed(0)) < 0.5).float()


def pair():
    torch.manual_seed(0)
    model = VAE(4, 2, (3,))
    return ELBO()(model, guides.Amortized(model, hidden=(3,)))


def quiet(data, loss=None, **options):
    return fit(loss or pair(), data, progress=False, **options)


def rows(data, loss=None, **options):
    return rows_of(data, wanted=wanted_of(loss or pair()), **options)


class Stream(IterableDataset):
    """Rows one after the other; endless where `num` is None."""

    def __init__(self, num=20):
        self.num = num

    def __iter__(self):
        row = 0
        while self.num is None or row < self.num:
            yield X[row % 20]
            row += 1


class Once(Stream):
    """A stream that can be read once."""

    def __init__(self):
        super().__init__()
        self.rows = super().__iter__()

    def __iter__(self):
        return self.rows


class Noisy(Dataset):
    """Rows that are drawn anew at each visit."""

    def __len__(self):
        return 20

    def __getitem__(self, row):
        return (torch.rand(4) < 0.5).float()


class Pictures(Dataset):
    """Pictures of Pillow with their names, as folders of images give them."""

    def __len__(self):
        return 20

    def __getitem__(self, row):
        image = pytest.importorskip("PIL.Image")
        return image.fromarray(X[row].reshape(2, 2).byte().numpy())


def test_a_loader_gives_every_row_once_an_epoch_in_an_order_of_its_own():
    source = rows(DataLoader(TensorDataset(torch.arange(20.0).unsqueeze(1)), 6, shuffle=True))
    epochs = [source.batches(128, 0, epoch) for epoch in (0, 1, 0)]
    assert [len(b) for b in epochs[0]] == [6, 6, 6, 2]
    assert all(sorted(torch.cat(batches).tolist()) == [*range(20)] for batches in epochs)
    first, second, again = (torch.cat(batches).tolist() for batches in epochs)
    assert first == again != second
    assert torch.cat(source.batches(128, 0, None)).tolist() == [*range(20)]


LOADERS = {
    "shuffled": lambda: DataLoader(TensorDataset(X), 6, shuffle=True),
    "with a generator": lambda: DataLoader(TensorDataset(X), 6, shuffle=True, generator=torch.Generator()),
    "last batch dropped": lambda: DataLoader(TensorDataset(X), 6, shuffle=True, drop_last=True),
    "weighted": lambda: DataLoader(TensorDataset(X), 6, sampler=WeightedRandomSampler(torch.ones(20), 15)),
    "batch sampler": lambda: DataLoader(X, batch_sampler=BatchSampler(RandomSampler(X), 7, False)),
    "drawn anew": lambda: DataLoader(Noisy(), 6),
    "a stream": lambda: DataLoader(Stream(), 6),
    "a stream of batches": lambda: DataLoader(TensorDataset(X.reshape(5, 4, 4)), batch_size=None),
}


QUICK = ("with a generator", "a stream")


@pytest.mark.parametrize("kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.thorough)
                                  for kind in LOADERS])  # fmt: skip
def test_a_resumed_training_is_bit_equal(kind, tmp_path):
    """Stopped within an epoch; the caller's generators are as they were."""
    loader = LOADERS[kind]()
    own = getattr(loader.sampler, "generator", None)
    states = [torch.get_rng_state(), None if own is None else own.get_state()]
    whole, parts = pair(), pair()
    done = quiet(loader, whole, steps=7)
    assert torch.equal(states[0], torch.get_rng_state()) or own is None
    assert own is None or torch.equal(states[1], own.get_state())
    quiet(LOADERS[kind](), parts, steps=5, out=tmp_path)
    resumed = quiet(LOADERS[kind](), parts, steps=7, out=tmp_path, resume=True)
    assert resumed.step == done.step == 7
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.thorough
def test_workers_give_what_the_loader_gives_without():
    alone, together = pair(), pair()
    quiet(DataLoader(TensorDataset(X), 6, shuffle=True), alone, epochs=2)
    quiet(DataLoader(TensorDataset(X), 6, shuffle=True, num_workers=2), together, epochs=2)
    for one, other in zip(alone.parameters(), together.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_a_row_is():
    mask = X > 0
    torch.manual_seed(0)
    model = PPCA(4, 2)
    loss = ELBO()(model, guides.Exact(model))
    wanted = quiet((X, mask), loss, steps=1).history[-1]["train"]
    items = [{"mask": m, "x": x} for x, m in zip(X.double(), mask, strict=True)]
    for data in (TensorDataset(X, mask), items_of(items), items_of([(i["x"], i["mask"]) for i in items])):
        assert quiet(data, model_of(PPCA), steps=1).history[-1]["train"] == pytest.approx(wanted, rel=0.2)
        x, observed = rows(data, model_of(PPCA)).batch(torch.tensor([3, 1]), torch.Generator())
        assert x.equal(X[[3, 1]])
        assert observed.equal(mask[[3, 1]])
    assert rows(Pictures()).batch(torch.tensor([0]), torch.Generator())[0].equal(X[:1].reshape(1, 2, 2))
    flat = DataLoader(Pictures(), 5, collate_fn=lambda items: np.stack([np.array(i).ravel() for i in items]))
    assert rows(flat).batch(torch.tensor([7, 2]), torch.Generator())[0].equal(X[[7, 2]])


def model_of(kind):
    torch.manual_seed(0)
    model = kind(4, 2)
    return ELBO()(model, guides.Exact(model))


def items_of(items):
    class Items(Dataset):
        def __len__(self):
            return len(items)

        def __getitem__(self, row):
            return items[row]

    return Items()


REFUSED = {
    "labels": (lambda: TensorDataset(X, X[:, 0]), "data: mask: expected torch.bool .* a label or a condition goes by"),
    "too many": (
        lambda: DataLoader(TensorDataset(X, X, X, X), 5), "data: yields 4 tensors for a row, the model takes 3"),
    "other names": (
        lambda: items_of([{"image": x} for x in X]), r"data: yields \['image'\], the model takes \['x', 'mask', 'y'\]"),
    "unequal shapes": (lambda: items_of([X[0], X[1, :3]]), "rows have unequal shapes; a collate_fn can pad them"),
    "pictures": (Pictures, r"x: expected shape \(..., 4\), got \(20, 2, 2\); x.flatten\(1\) makes vectors of pictures"),
    "whole numbers": (lambda: items_of([torch.full((4,), 2**25)] * 3), "data: x: 33554432 in row 0, column 0"),
    "nothing": (lambda: DataLoader(Stream(0), 5), "data is empty"),
    "no second pass": (lambda: DataLoader(Once(), 5), "data: the data set ended after 0 batches, .* it had 4"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_rows_that_cannot_be(kind):
    make, said = REFUSED[kind]
    with pytest.raises(ValueError, match=said):
        quiet(make(), epochs=1)


def test_words_in_a_row():
    with pytest.raises(TypeError, match="the data set's rows hold words, such as 'a'; expected numbers"):
        quiet(items_of(["a", "b"]), epochs=1)


def test_a_stream():
    assert quiet(DataLoader(Stream(), 6), epochs=2).step == 8
    assert quiet(Stream(), epochs=2).step == 2
    assert quiet(Stream(), epochs=2, batch_size=5).step == 8
    # one without an end is counted as far as the training goes
    done = quiet(DataLoader(Stream(None), 6), steps=9, validation=Stream())
    assert (done.step, done.epochs) == (9, 1)
    assert done.history[-1]["validation"] == pytest.approx(done.history[-1]["train"], rel=0.5)


def test_fewer_rows_than_the_default_batch_are_one_batch():
    assert quiet(X, epochs=3).step == 3
    assert quiet(X[:1], epochs=3).step == 3
    assert quiet(X.repeat(10, 1), epochs=3).step == 6
    with pytest.raises(ValueError, match="batch_size 128 is larger than the data, 20 rows"):
        quiet(X, epochs=1, batch_size=128)
    with pytest.raises(ValueError, match="drop_last: the data, 20 rows, are fewer than a batch of 128"):
        quiet(X, epochs=1, drop_last=True)
    with pytest.raises(ValueError, match="batch_size 4: the DataLoader makes its batches itself, of 6 rows"):
        quiet(LOADERS["shuffled"](), epochs=1, batch_size=4)
    with pytest.raises(ValueError, match="drop_last: LoaderRows chooses its batches itself"):
        quiet(LOADERS["shuffled"](), epochs=1, drop_last=True)
