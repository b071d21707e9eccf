"""Makes a trained pair ready to ship: zoo/weights/NAME, of a row of results and the folder of its training.

    python tools/ship.py results/mnist-short.json runs/mnist-short
    python tools/ship.py results/mnist-5-ladder.json          # a row of tools/rows: its folder is in the user's cache

The pair is scored on the row's test data, and must give the row's figure, or for a row of tools/rows that of its
`check`. It is stored in half precision if that moves the score by less than the figure's error. Then the stored pair is
scored on a few test rows by importance sampling, the figure that `python -m zoo NAME` finds again: score.json says
which rows, how many particles, the seed and the figure. The rows themselves ship where the terms of the data allow it.
A pair without its training ships again from its own folder: `python tools/ship.py results/NAME.json zoo/weights/NAME`.
"""

import argparse
import inspect
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rows import ROWS
from rows.place import cache
from rows.row import Row, Splits
from torch import Tensor, nn

import zoo
from zoo.data import Sequences, Split, binarize, load
from zoo.data.catalogue import DATASETS
from zoo.infer import log_likelihood, sequence_log_likelihood
from zoo.parts.recorded.files import json_of, read_config, write
from zoo.shipped.rescore import ERRORS, scored
from zoo.shipped.shelf import FORMAT, SCORE, WEIGHTS
from zoo.shipped.subset import FORMS, entries_of, from_data, keep_subset, of_sequences
from zoo.shipped.sums import seal

#: bytes of all that ships
MOST = 40e6
#: the seed of bits, rows and draws
SEED = 123
#: Monte Carlo errors between two estimates of one pair: draws change with versions, and with the size of a piece
OTHER_DRAWS = ERRORS * math.sqrt(2)


class Subset(NamedTuple):
    """The rows on which anyone can score a pair again.

    Attributes:
        arguments: of model and guide by name, x the first.
        data: the description that `from_data` reads, or a `source` in words where the rows are those of a script.
        terms, source: of the data.
        picture: `(height, width)` of a row or a frame that is an image; None: it is none.
    """

    arguments: dict[str, Tensor]
    data: dict[str, Any]
    terms: str
    source: str
    picture: tuple[int, int] | None = None

    @property
    def may_ship(self) -> bool:
        """Tells whether the terms of the data let others hand them on."""
        # the set of fixed bits states none of its own, and says whose they are
        return not self.terms.startswith("none stated") or "MNIST's terms apply" in self.terms


class Figure(NamedTuple):
    """The figure of a row, and the score by which a pair is told to be that of the row.

    Attributes:
        name, convention, value, error: of the figure.
        score: of a pair, and the number that it must give, within `tolerance`.
    """

    name: str
    convention: str
    value: float
    error: float
    score: Callable[[nn.Module, nn.Module], float]
    expected: float
    tolerance: float


def of_images(row: dict[str, Any]) -> Figure:
    """log p of test images, as `examples/mnist.py` evaluates it."""
    test = load(row["data"]).test.shuffled(SEED)[: row["num_test"]]
    x = test.images if test.num_levels == 2 else binarize(test, seed=123)
    return Figure(
        "log p, nats per image",
        f"5000 importance samples, {len(x)} test images, bits drawn once with seed 123",
        row["log_p"], row["log_p_error"],
        lambda model, guide: log_likelihood(model, guide, x, num_particles=5000, seed=123).mean,
        row["log_p"], OTHER_DRAWS * row["monte_carlo_error"],
    )  # fmt: skip


def of_songs(row: dict[str, Any]) -> Figure:
    """Minus log p of test sequences by frame, average a, as `examples/music.py` evaluates whole sequences."""
    if row["convention"] != "first frame scored, each sequence from its own start" or "cut" in row["evaluated"]:
        raise SystemExit(f"{row['name']}: evaluated as {row['evaluated']}, {row['convention']}: not known here")
    test = load(row["data"]).test
    return Figure(
        "-log p, nats per frame, averaged over all frames of a sequence and then over sequences",
        f"{row['convention']}; {row['num_particles']} importance samples", row["a"], row["a_error"],
        lambda model, guide: sequence_log_likelihood(
            model, guide, test.values, None, test.mask, data=row["data"], num_particles=row["num_particles"], seed=123
        ).a,
        row["a"], OTHER_DRAWS * row["monte_carlo_error"],
    )  # fmt: skip


def of_runner(record: dict[str, Any], row: Row) -> Figure:
    """The main figure of a row of tools/rows, told by its cheaper `check`."""
    if row.check is None:
        raise SystemExit(f"{row.name}: the row states no check, by which its pair could be told")
    splits, found = row.data(), record["figures"]
    name, score = row.check
    return Figure(
        f"{row.figure}, {row.unit}", f"{row.system}; {record['data']}, {found['num_test']} test data",
        found[row.figure], found["error"], lambda model, guide: score(model, guide, splits),
        found[name], found["error"],
    )  # fmt: skip


def named_subset(data: Mapping[str, Any], arguments: Mapping[str, Tensor] | None = None) -> Subset:
    """The rows of a description, those of a data set of `zoo.data`; `arguments` spares reading them again."""
    found = load(data["set"])
    image = found.shape if len(found.shape) == 2 else None
    return Subset(dict(arguments or from_data(data)), dict(data), found.licence, found.source, image)


def subset_of_record(row: Mapping[str, Any], num: int) -> Subset:
    """The first rows on which a script has evaluated its row, images or whole sequences."""
    data = {"set": row["data"], "split": "test", "rows": list(range(num))}
    if "log_p" in row:
        images = load(row["data"])
        data |= {"shuffled": SEED, "form": "images" if images.num_levels == 2 else "bits", "seed": SEED}
    return named_subset(data)


def test_data(splits: Splits) -> Any:
    """The test data of a row, as arguments in order or as `Sequences`, out of what its figures need besides."""
    test = splits.test
    # rows that are judged by more than x hold it beside that (`Held`), walks with noise beside those without (`Trial`)
    for name in ("test", "seen"):
        test = getattr(test, name, test)
    if isinstance(test, Split):
        return test.images if test.num_levels == 2 else binarize(test, seed=SEED)
    return test


def subset_of_row(record: Mapping[str, Any], row: Row, model: nn.Module, num: int, terms: str | None) -> Subset:
    """Rows of a row's own test data, chosen at random, with the description that gives the same ones if there is one.

    Args:
        terms: of data that no data set of `zoo.data` has.
    """
    test = test_data(row.data())
    parts = test if isinstance(test, tuple) else (test,)
    # test sets may be ordered by class
    rows = torch.randperm(len(parts[0]), generator=torch.Generator().manual_seed(SEED))[:num].sort().values
    if isinstance(test, Sequences):
        arguments = of_sequences(test[rows])
    else:
        names = inspect.signature(model.forward).parameters
        arguments = {name: t[rows] for name, t in zip(names, parts, strict=False) if t is not None}
    name = str(record["data"]).partition(",")[0]
    data = {"set": name, "split": "test", "rows": rows.tolist()}
    forms = [{}] if isinstance(test, Sequences) else [{"form": form, "seed": SEED} for form in FORMS]
    for form in forms if name in DATASETS else []:
        # the form is the one that gives the row's own numbers
        if entries_of(from_data(data | form)) == entries_of(arguments):
            return named_subset(data | form, arguments)
    if terms is None:
        raise SystemExit(
            f"{record['name']}: {record['data']}: no data set of zoo.data gives its test rows: say --terms"
        )
    return Subset(arguments, {"source": str(record["data"])}, terms, str(record["data"]))


def score(folder: Path, subset: Subset, num_particles: int, unit: str) -> dict[str, Any]:
    """Scores a folder's pair on the rows, and writes score.json, the rows where they may ship, and SHA256SUMS."""
    model, guide = zoo.load_pair(folder)
    found = scored(model.eval(), guide.eval(), subset.arguments, num_particles, SEED)
    error = None if math.isnan(found.standard_error) else found.standard_error
    facts = {
        "format": FORMAT, "value": found.mean, "monte_carlo_error": found.monte_carlo_error, "error": error,
        "unit": unit, "estimator": "zoo.infer.log_likelihood", "num_particles": num_particles, "seed": SEED,
        "data": subset.data, "terms": subset.terms, "source": subset.source, "ships": subset.may_ship,
        "arguments": entries_of(subset.arguments), "picture": subset.picture and list(subset.picture),
    }  # fmt: skip
    if subset.may_ship:
        keep_subset(folder, subset.arguments)
    write(folder / SCORE, json_of(facts))
    seal(folder)
    return facts


def place(made: Path, target: Path, shelf: Path = WEIGHTS, most: float = MOST) -> None:
    """Puts a finished folder where it ships, if all that ships then has fewer than `most` bytes."""
    others = [p for p in shelf.rglob("*") if p.is_file() and target not in p.parents]
    size = sum(p.stat().st_size for p in [*others, *made.iterdir()])
    if size >= most:
        raise SystemExit(f"{target.name}: with it {size / 1e6:.1f} MB would ship, of at most {most / 1e6:g}")
    shutil.rmtree(target, ignore_errors=True)
    # file by file: a temporary folder is its maker's alone, and so would its copy be
    target.mkdir(parents=True)
    for path in made.iterdir():
        shutil.copy(path, target)


def ship(row: dict[str, Any], trained: Path, target: Path, subset: Subset, figure: Figure | None = None,
         num_particles: int = 100) -> dict[str, Any]:  # fmt: skip
    """Scores the pair in full and in half precision, and writes it; returns the facts that it wrote."""
    figure = figure or (of_images(row) if "log_p" in row else of_songs(row))
    model, guide = zoo.load_pair(trained)
    before = figure.score(model, guide)
    # The same draws on the same machine give the same number; another machine may differ in the last digits.
    if abs(before - figure.expected) > figure.tolerance:
        raise SystemExit(f"{row['name']}: the row has {figure.expected}, the pair in {trained} gives {before}")
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary)
        # a pair that ships already was rounded when it was first shipped
        moved = read_config(trained).get("about", {}).get("moved_by_half_precision")
        if moved is None:
            zoo.save_pair(made, model, guide, stored=torch.float16)
            moved = figure.score(*zoo.load_pair(made)) - before
        stored = torch.float16 if abs(moved) < figure.error else None
        kept = {name: row[name] for name in ("name", "data", "command", "note", "seed", "versions", "date")}
        about = kept | {
            "figure": figure.name, "convention": figure.convention, "value": figure.value, "error": figure.error,
            "moved_by_half_precision": moved, "stored": "float16" if stored else "float32",
        }  # fmt: skip
        finish(made, target, model, guide, about, subset, num_particles, stored)
    return about


def finish(made: Path, target: Path, model: nn.Module, guide: nn.Module, about: dict[str, Any], subset: Subset,
           num_particles: int, stored: torch.dtype | None) -> None:  # fmt: skip
    """Writes a pair with its facts and its score to the folder `made`, and puts it where it ships."""
    about |= {"again": f"python -m zoo {about['name']}", "data_terms": subset.terms, "data_source": subset.source}
    zoo.save_pair(made, model, guide, about=about, stored=stored)
    score(made, subset, num_particles, "nats per sequence" if subset.arguments["x"].dim() == 3 else "nats per datum")
    place(made, target)


def main() -> None:
    """Ships the row of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("row", type=Path, help="a file of results")
    parser.add_argument("trained", type=Path, nargs="?", help="the folder of the training")
    parser.add_argument("--rows", type=int, default=200, help="test rows to score again (200)")
    parser.add_argument("--particles", type=int, default=100, help="importance samples of each (100)")
    parser.add_argument("--terms", help="of data that no data set of zoo.data has")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    record = json.loads(chosen.row.read_text())
    row = next((row for row in ROWS if row.name == record["name"] and isinstance(row, Row)), None)
    if row is None and chosen.trained is None:
        parser.error(f"{record['name']} is no row of tools/rows: say the folder of its training")
    trained = chosen.trained or cache() / record["name"]
    figure = row and of_runner(record, row)
    subset = subset_of_row(record, row, zoo.load_pair(trained)[0], chosen.rows, chosen.terms) if row else (
        subset_of_record(record, chosen.rows)
    )  # fmt: skip
    print(json.dumps(ship(record, trained, WEIGHTS / record["name"], subset, figure, chosen.particles), indent=1))


if __name__ == "__main__":
    main()
