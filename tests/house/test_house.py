"""The rules of the house: who imports whom, what an import may do, budgets; pages run, tables are generated."""

import ast
import doctest
import importlib
import json
import math
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pairs
import pytest
import torch

import zoo.infer

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import table  # noqa: E402

LIBRARY = sorted([*ROOT.glob("zoo/**/*.py"), *ROOT.glob("guides/**/*.py")])
SCRIPTS = sorted([*ROOT.glob("examples/*.py"), *ROOT.glob("benchmarks/**/*.py"), *ROOT.glob("tools/*.py")])
TESTS = sorted(ROOT.glob("tests/**/*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def module_of(path):
    return name_of(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def imports(path):
    """Every module that a file imports, at its top or later; imports that only a type checker sees are left out."""

    class Visitor(ast.NodeVisitor):
        def __init__(self):
            self.found = []

        def visit_If(self, node):
            if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
                self.generic_visit(node)

        def visit_Import(self, node):
            self.found += [alias.name for alias in node.names]

        def visit_ImportFrom(self, node):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: relative import"
            for alias in node.names:  # `from zoo import data` imports the module zoo.data
                inner = f"{node.module}.{alias.name}"
                file = ROOT / inner.replace(".", "/")
                self.found.append(inner if file.is_dir() or file.with_suffix(".py").exists() else node.module)

    visitor = Visitor()
    visitor.visit(ast.parse(path.read_text()))
    return visitor.found


def inside(module, packages):
    return any(module == package or module.startswith(f"{package}.") for package in packages)


# --- the arrow of dependence -----------------------------------------------------------------------------------------

PARTS = ["zoo.parts"]
TERMS = [*PARTS, "zoo.infer.pair", "zoo.infer.sites", "zoo.infer.store", "zoo.infer.closed_form"]
PATH = [*TERMS, "zoo.infer.terms", "zoo.infer.path"]
PIECES = [*PATH, "zoo.infer.pieces", "zoo.infer.carry", "zoo.infer.objectives"]
ARROW = [  # folder -> our own packages that it may import; the first match counts
    ("zoo/parts/", PARTS),
    ("zoo/infer/__init__.py", ["zoo.infer", "zoo.plots"]),
    ("zoo/infer/sites/", [*PARTS, "zoo.infer.sites"]),
    ("zoo/infer/pair.py", [*PARTS, "zoo.infer.sites"]),
    ("zoo/infer/store.py", PARTS),
    ("zoo/infer/terms.py", TERMS),
    ("zoo/infer/path.py", [*TERMS, "zoo.infer.terms"]),
    ("zoo/infer/objectives/", [*PATH, "zoo.infer.objectives"]),
    ("zoo/infer/training/", [*PIECES, "zoo.infer.training"]),
    ("zoo/infer/evaluation/", [*PIECES, "zoo.infer.evaluation"]),
    ("zoo/infer/reference/", [*PIECES, "zoo.infer.evaluation", "zoo.infer.reference"]),
    ("zoo/infer/", PIECES),
    ("zoo/plots/", ["zoo.plots", "zoo.infer", "zoo.parts"]),
    ("zoo/data/", ["zoo.data"]),
    ("zoo/__init__.py", ["zoo"]),
    ("zoo/", ["zoo.parts"]),
    ("guides/", ["guides", "zoo.parts"]),
    ("examples/", ["zoo", "guides", "words"]),
    ("benchmarks/", ["zoo", "guides", "benchmarks"]),
    ("tools/", ["pairs"]),
]
OWN = ["zoo", "guides", "examples", "benchmarks", "tools", "tests", "words", "pairs"]
OWN += [path.stem for path in ROOT.glob("tools/*.py")]


@pytest.mark.parametrize("path", [*LIBRARY, *SCRIPTS], ids=name_of)
def test_the_arrow_of_dependence(path):
    allowed = next(packages for folder, packages in ARROW if name_of(path).startswith(folder))
    siblings = [p.stem for p in path.parent.glob("*.py")] if path in SCRIPTS else []
    for module in imports(path):
        if inside(module, OWN):
            assert inside(module, [*allowed, *siblings]), f"{name_of(path)} imports {module}"


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_the_library_imports_what_the_project_declares(path):
    extras = [name for group in PROJECT["optional-dependencies"].values() for name in group]
    distributions = {re.split(r"[\[<>=]", name)[0] for name in [*PROJECT["dependencies"], *extras]}
    renamed = {"pyro-ppl": "pyro", "scikit-learn": "sklearn", "lightning-fabric": "lightning_fabric", "pillow": "PIL"}
    allowed = {renamed.get(name, name) for name in distributions} | {"zoo", "guides"} | sys.stdlib_module_names
    assert {module.split(".")[0] for module in imports(path)} <= allowed


@pytest.mark.parametrize("path", [*LIBRARY, *SCRIPTS, *TESTS], ids=name_of)
def test_torchvision_nowhere_and_arviz_behind_its_adapter(path):
    found = imports(path)
    assert not any(inside(module, ["torchvision"]) for module in found)
    if path in LIBRARY and name_of(path) != "zoo/infer/reference/inference_data.py":
        assert not any(inside(module, ["arviz"]) for module in found)


def test_importing_has_no_side_effect():
    """In a process of its own, warnings being errors: nothing global is touched that a user may have set."""
    script = """
import random, sys, warnings
import numpy, pyro, torch
import pyro.distributions as dist
from pyro.infer.util import is_validation_enabled
from torch.distributions import Distribution

def state():
    return {
        "validation": (Distribution._validate_args, dist.is_validation_enabled(), is_validation_enabled()),
        "numbers": (torch.get_rng_state().tolist(), random.getstate(), numpy.random.get_state()[1].tolist()),
        "defaults": (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()),
        "store": dict(pyro.get_param_store()),
        "settings": dict(pyro.settings.get()),
        "filters": list(warnings.filters),
    }

before = state()
import guides, zoo, zoo.data, zoo.infer
after = state()
changed = [key for key in before if before[key] != after[key]]
assert not changed, changed
slow = {"arviz", "pandas", "sklearn", "matplotlib"} & set(sys.modules)
assert not slow, slow

import matplotlib
before = dict.__getitem__(matplotlib.rcParams, "backend"), state()
zoo.infer.plot_overlay  # loads the figures
assert "zoo.plots" in sys.modules
assert before == (dict.__getitem__(matplotlib.rcParams, "backend"), state())
assert "matplotlib.pyplot" not in sys.modules
"""
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr


# --- budgets and names -----------------------------------------------------------------------------------------------


def budget(path):
    name = name_of(path)
    if name.startswith("examples/"):
        return 120
    if name.startswith("guides/") and path.stem not in ("families", "flows"):
        return 120
    return 350


@pytest.mark.parametrize("path", [*LIBRARY, *SCRIPTS], ids=name_of)
def test_budgets(path):
    assert len(path.read_text().splitlines()) <= budget(path)
    assert path.stem not in ("utils", "common", "helpers", "base")


def test_contributing_is_short():
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) < 120


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_public_names_have_docstrings(path):
    tree = ast.parse(path.read_text())
    public = [
        node for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]  # fmt: skip
    bare = [node.name for node in public if not ast.get_docstring(node)]
    assert not bare, f"no docstring: {bare}"
    assert ast.get_docstring(tree) or not tree.body, "no docstring for the module"


@pytest.mark.parametrize("package", ["zoo", "zoo.infer", "zoo.data", "guides"])
def test_public_names_exist_once(package):
    module = importlib.import_module(package)
    assert sorted(set(module.__all__)) == sorted(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


def test_no_path_of_the_makers():
    """Folders of the machine it was made on stand in the runner's script and nowhere else."""
    own = re.compile("/" + r"work/|\.\./" + "shared")
    files = [p for pattern in ("*.md", "*.toml", "Makefile", "docs/*.md", "results/*.json") for p in ROOT.glob(pattern)]
    for path in [*LIBRARY, *SCRIPTS, *TESTS, *files]:
        assert not own.search(path.read_text()), name_of(path)


def test_versions_agree():
    citation, changes = (ROOT / "CITATION.cff").read_text(), (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {PROJECT['version']}\n" in citation
    assert f"## [{PROJECT['version']}]" in changes
    ruff = next(name for name in PROJECT["optional-dependencies"]["dev"] if name.startswith("ruff=="))
    assert f"[{ruff}]" in (ROOT / ".pre-commit-config.yaml").read_text()


def test_the_runner_can_be_run():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


# --- documentation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_code_blocks_run(name, tmp_path, monkeypatch):
    """The python blocks of a page, top to bottom, as one script."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / name).read_text(), flags=re.MULTILINE | re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    namespace = {"__name__": "__main__"}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"{name}, block {number}", "exec"), namespace)


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_docstring_examples_run(path):
    torch.manual_seed(0)
    failed, _ = doctest.testmod(importlib.import_module(module_of(path)))
    assert failed == 0


def test_examples_in_docstrings_are_found():
    finder = doctest.DocTestFinder()
    tests = [t for path in LIBRARY for t in finder.find(importlib.import_module(module_of(path))) if t.examples]
    assert len(tests) >= 10


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/notation.md"])
def test_links_within_the_repository_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert ((ROOT / page).parent / target).exists(), target


def test_readme_tables_are_generated():
    readme = (ROOT / "README.md").read_text()
    assert table.render(readme) == readme, "run `make table`"


RUN = {
    "name": "x",
    "data": "mnist",
    "objective": "iwelbo-doubly(50)",
    "family": "diagonal",
    "log_p": -84.13,
    "log_p_error": 0.25,
    "elbo": -86.5,
    "active_units": 24,
    "num_test": 1000,
    "epochs": 40,
    "training_seconds": 7260,
    "hardware": "2 abaci",
    "command": "python examples/mnist.py --name x",
    "note": "fewer epochs",
}
TIMING = {
    "command": "python -m benchmarks.vae_step",
    "hardware": "an abacus",
    "versions": {"torch": "2.10"},
    "sizes": {
        "toy": {
            "data": 2,
            "hidden": 32,
            "latent": 2,
            "batch": 128,
            "particles": 50,
            "rows": {
                "zoo, compiled": {
                    "cpu_ms": 0.25,
                    "cpu / by hand": {"median": 0.5},
                    "cpu / by hand, compiled": {"median": 1.5},
                    "peak_bytes": 2_000_000,
                }
            },
        }
    },
}


def test_tables_show_what_the_results_say(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(RUN))
    (tmp_path / "speed.json").write_text(json.dumps(TIMING))
    shown = table.results_table(tmp_path)
    own = ["-84.13 ± 0.25", "-86.50", "| 24 |", "40 (3,280)", "2 h 1 min", "2 abaci", "fewer epochs", RUN["command"]]
    for part in [*own, "-84.78 (25 units), reported, unverified", "1,000 of the test images"]:
        assert part in shown, part
    (tmp_path / "x.json").write_text(json.dumps(RUN | {"data": "binarized_mnist"}))
    assert "reported" not in table.results_table(tmp_path), "another data set has another number"
    shown = table.speed_table(tmp_path)
    for part in ("2-32-2, batch 128, IWELBO(50)", "0.25 ms, 1.50 ×, 2.0 MB", "an abacus", "torch 2.10"):
        assert part in shown, part
    with pytest.raises(ValueError, match="pairs:begin"):
        table.render("no markers here")


def test_steps_of_sequences_and_their_lengths_are_tabled(tmp_path):
    timed = {"cpu_ms": 1384.0, "ratio": 1.01, "quartiles": [1.0, 1.1], "peak_bytes": 42_000_000}
    record = {"command": "c", "hardware": "an abacus", "versions": {}}
    record |= {"sequence_steps": {}, "lengths": {}, "titles": {}}
    rows = {"dmm": {"zoo": timed, "Pyro's own dmm.py": timed}, "srnn": {"zoo": timed}}
    steps = {"sequence_steps": rows, "titles": {"dmm": "DMM, T 9", "srnn": "SRNN, T 8"}}
    (tmp_path / "a.json").write_text(json.dumps(record | steps))
    (tmp_path / "b.json").write_text(json.dumps(record | {"lengths": {"2000": {"zoo": timed}}}))
    shown = table.sequence_speed_table(tmp_path)
    for part in (
        "| one training step | DMM, T 9 | SRNN, T 8 |",
        "| zoo | 1,384 ms, 42 MB, 1.01 × | 1,384 ms, 42 MB, 1.01 × |",
        "| Pyro's own dmm.py | 1,384 ms, 42 MB, 1.01 × |  |",
        "| 2,000 | 1,384 ms, 42 MB |",
    ):
        assert part in shown, part
    assert "No timing" in table.sequence_speed_table(tmp_path / "none")


SONGS = {
    "name": "y",
    "data": "jsb",
    "model": "dmm",
    "guide": "smoother",
    "family": "diagonal",
    "likelihood": "bernoulli",
    "evaluated": "jsb test (polyphonic_music.npz)",
    "convention": "first frame scored, each sequence from its own start",
    **{name: value for average, cost in zip("abc", (6.4, 6.9, 6.8), strict=True)
       for name, value in {average: cost, f"{average}_error": 0.05}.items()},
    "bound_per_sequence": -424.4,
    "log_p_per_sequence": -392.1,
    "num_sequences": 77,
    "num_frames": 4725,
    "num_particles": 100,
    "epochs": 300,
    "best_epoch": 250,
    "training_seconds": 7260,
    "hardware": "2 abaci",
    "command": "python examples/music.py --name y",
    "note": "",
    "seed": 0,
    "versions": {"torch": "2.10"},
}  # fmt: skip


def test_sequences_are_tabled_under_their_convention(tmp_path):
    assert "No run" in table.sequences_table(tmp_path)
    (tmp_path / "y.json").write_text(json.dumps(SONGS))
    other = {"name": "z", "data": "jsb_srnn", "evaluated": "jsb_srnn test (x.npz)", "convention": "first frame given"}
    (tmp_path / "z.json").write_text(json.dumps(SONGS | other))
    shown = table.sequences_table(tmp_path)
    heads = ["**jsb test (polyphonic_music.npz)**: 77 sequences, 4,725 frames; first frame scored, each sequence",
             "**jsb_srnn test (x.npz)**: 77 sequences, 4,725 frames; first frame given"]  # fmt: skip
    cells = ["6.400 ± 0.050 | 6.900 ± 0.050 | 6.800 ± 0.050", "| 100 |", "300 (best 250)", "2 h 1 min"]
    for part in [*heads, *cells, "| a 6.388, b 6.926, c 6.856 |"]:
        assert part in shown, part
    assert shown.count("6.388") == 1, "other data have another number"
    assert "reported" not in shown, "that of DMM's paper was read again"
    assert "carried" not in shown
    assert "resampled" not in shown
    recalled = {"name": "s", "data": "jsb_srnn", "model": "srnn", "family": "residual"}
    carried = {"carried": {"c": 6.7, "c_error": 0.04}, "resampled": {"a": 6.2, "a_error": 0.06}}
    (tmp_path / "s.json").write_text(json.dumps(SONGS | other | recalled | carried))
    shown = table.sequences_table(tmp_path)
    assert "| 6.800 ± 0.050 | 6.700 ± 0.040 | 100 | c 4.74, reported, unverified |" in shown
    assert "| 6.800 ± 0.050 | – | 100 |" in shown
    assert "| a | a, resampled | b |" in shown
    assert "| 6.400 ± 0.050 | 6.200 ± 0.060 | 6.900 ± 0.050 |" in shown
    assert "| 6.400 ± 0.050 | – | 6.900 ± 0.050 |" in shown
    assert shown.count("c, state carried") == 1
    assert table.results_table(tmp_path).startswith("No run"), "images have a table of their own"
    assert table.speech_table(tmp_path).startswith("No run"), "speech too"


def test_speech_is_tabled_over_seeds_and_its_order_told(tmp_path):
    """Welch's interval by hand: differences of means of 3 and 3, standard errors of both, their degrees of freedom."""
    spoken = SONGS | {"data": "spoken_digits", "evaluated": "spoken_digits test", "likelihood": "normal"}
    bounds = {
        ("srnn", "smoother", "residual"): (10.0, 11.0, 12.0),
        ("srnn", "smoother", "diagonal"): (5.0, 6.0, 7.0),
        ("srnn", "filter", "diagonal"): (5.0, 9.0, 4.0),
        ("vrnn", "filter", "diagonal"): (20.0, 21.0, 22.0),
    }
    for (model, guide, family), values in bounds.items():
        for seed, value in enumerate(values):
            row = {"model": model, "guide": guide, "family": family, "bound_per_sequence": value, "seed": seed}
            (tmp_path / f"{model}-{guide}-{family}-{seed}.json").write_text(json.dumps(spoken | row))
    shown = table.speech_table(tmp_path)
    half = 4.302653 / 3**0.5  # Student's with 2 degrees of freedom, s.d. 1
    ends = 5 - 2.776445 * (2 / 3) ** 0.5, 5 + 2.776445 * (2 / 3) ** 0.5  # equal variances: 4 degrees of freedom
    wide = 3.515 * (1 / 3 + 7 / 3) ** 0.5  # variances 1 and 7: (8/3)^2 / ((1/3)^2 / 2 + (7/3)^2 / 2) = 2.56 of them
    for part in (
        f"| 11.0 ± {half:.1f} |",
        f"as in SRNN's table; difference 5.0 nats a sequence, 95 % from {ends[0]:.1f} to {ends[1]:.1f}",
        f"srnn + filter + diagonal: undecided; difference 0.0 nats a sequence, 95 % from {-wide:.1f} to {wide:.1f}",
        "srnn + smoother + residual above vrnn + filter + diagonal: the other way",
        "the best first: vrnn + filter + diagonal > srnn + smoother + residual > srnn + ",
        "| 3 |",
    ):
        assert part in shown, part
    assert shown.index("| vrnn |") < shown.index("| srnn |"), "the best first"
    assert table.sequences_table(tmp_path).startswith("No run"), "music has a table of its own"
    (tmp_path / "again.json").write_text(json.dumps(spoken | row))
    with pytest.raises(ValueError, match="are not seeds of one run"):
        table.speech_table(tmp_path)


def test_the_registry_names_objectives_that_exist_and_serve():
    for pair in pairs.PAIRS.values():
        for system, code in pair.systems.items():
            if not code.startswith("em"):
                objective = eval(code, vars(zoo.infer) | {"math": math})
                assert isinstance(objective, zoo.infer.Objective), system
                assert not {word for word in pair.refused if getattr(objective, word, False)}, system
