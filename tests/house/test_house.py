"""The rules of the house: who imports whom, budgets, prose, and imports without side effects.

Each test lists all offenders at once. `tools/house.py` prints the same counts.
"""

import ast
import functools
import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import house  # noqa: E402

LIBRARY = sorted([*ROOT.glob("zoo/**/*.py"), *ROOT.glob("guides/**/*.py")])
SCRIPTS = sorted(p for folder in ("examples", "benchmarks", "tools") for p in ROOT.glob(f"{folder}/**/*.py"))
TESTS = sorted(ROOT.glob("tests/**/*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def name_of(path):
    return path.relative_to(ROOT).as_posix()


@functools.cache  # parsing the house takes a second, and four tests read the same files
def tree_of(path):
    return ast.parse(path.read_text())


@functools.cache
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
    visitor.visit(tree_of(path))
    return visitor.found


def inside(module, packages):
    return any(module == package or module.startswith(f"{package}.") for package in packages)


# --- arrows ----------------------------------------------------------------------------------------------------------

PARTS = ["zoo.parts"]
PAIR = [*PARTS, "zoo.infer.sites", "zoo.infer.pair", "zoo.infer.store", "zoo.infer.owned", "zoo.infer.per_datum"]
TERMS = [*PAIR, "zoo.infer.call", "zoo.infer.terms"]
PATH = [*TERMS, "zoo.infer.path", "zoo.infer.closed_form"]
OBJECTIVES = [*PATH, "zoo.infer.objectives", "zoo.infer.pieces", "zoo.infer.carry"]
ARROWS = [  # place -> our own packages that it may import; the first match counts
    ("zoo/parts/", PARTS),
    ("zoo/infer/__init__.py", ["zoo.infer", "zoo.plots"]),
    ("zoo/infer/call.py", PAIR),
    ("zoo/infer/terms.py", [*PAIR, "zoo.infer.call"]),
    ("zoo/infer/path.py", TERMS),
    ("zoo/infer/closed_form.py", TERMS),
    ("zoo/infer/pieces.py", TERMS),
    ("zoo/infer/carry.py", PARTS),
    ("zoo/infer/em.py", PARTS),
    ("zoo/infer/objectives/", [*PATH, "zoo.infer.objectives"]),
    ("zoo/infer/training/", [*OBJECTIVES, "zoo.infer.training"]),
    # arviz is known by one module alone, which estimates k-hat too
    ("zoo/infer/evaluation/", [*OBJECTIVES, "zoo.infer.evaluation", "zoo.infer.reference.inference_data"]),
    ("zoo/infer/reference/", [*OBJECTIVES, "zoo.infer.evaluation", "zoo.infer.reference"]),
    ("zoo/infer/calibration/", [*OBJECTIVES, "zoo.infer.reference", "zoo.infer.calibration"]),
    ("zoo/infer/factors/", ["zoo.infer.factors", *PARTS]),
    ("zoo/infer/", PAIR),
    ("zoo/plots/", ["zoo.plots", "zoo.infer", "zoo.parts"]),
    ("zoo/data/", ["zoo.data"]),
    ("zoo/__init__.py", ["zoo"]),
    # what ships is loaded, scored and shown, by all that there is
    ("zoo/shipped/", ["zoo.shipped", "zoo.folders", "zoo.data", "zoo.infer", "zoo.plots", *PARTS]),
    ("zoo/__main__.py", ["zoo.shipped"]),
    ("zoo/", PARTS),
    ("guides/", ["guides", *PARTS]),
    ("examples/", ["zoo", "guides"]),
    ("benchmarks/", ["zoo", "guides", "benchmarks"]),
    ("tools/", ["zoo", "guides", "pairs"]),
]
OWN = ["zoo", "guides", "examples", "benchmarks", "tools", "tests", "pairs", *(p.stem for p in ROOT.glob("tools/*.py"))]


def test_arrows():
    wrong = []
    for path in [*LIBRARY, *SCRIPTS]:
        allowed = next(packages for place, packages in ARROWS if name_of(path).startswith(place))
        siblings = [p.stem for p in path.parent.glob("*.py")] if path in SCRIPTS else []
        found = [module for module in imports(path) if inside(module, OWN)]
        wrong += [f"{name_of(path)} imports {m}" for m in found if not inside(m, [*allowed, *siblings])]
    assert not wrong


def test_no_circles():
    """No file of the library imports itself through others; a package's face counts as the files it hands on."""
    files = {name_of(p).removesuffix(".py").replace("/", ".").removesuffix(".__init__"): p for p in LIBRARY}
    below = {module: {m for m in imports(path) if m in files} for module, path in files.items()}
    done: set = set()

    def visit(module, trail):
        assert module not in trail, " -> ".join([*trail, module])
        if module not in done:
            for inner in below[module]:
                visit(inner, (*trail, module))
            done.add(module)

    for module in files:
        visit(module, ())


def test_the_library_imports_what_the_project_declares():
    extras = [name for group in PROJECT["optional-dependencies"].values() for name in group]
    distributions = {re.split(r"[\[<>=]", name)[0] for name in [*PROJECT["dependencies"], *extras]}
    renamed = {"pyro-ppl": "pyro", "scikit-learn": "sklearn", "lightning-fabric": "lightning_fabric", "pillow": "PIL",
               "huggingface-hub": "huggingface_hub"}  # fmt: skip
    allowed = {renamed.get(name, name) for name in distributions} | {"zoo", "guides"} | sys.stdlib_module_names
    assert not {name_of(p): found for p in LIBRARY if (found := {m.split(".")[0] for m in imports(p)} - allowed)}


def test_torchvision_nowhere_and_arviz_behind_its_adapter():
    adapter = ROOT / "zoo/infer/reference/inference_data.py"
    assert not [name_of(p) for p in [*LIBRARY, *SCRIPTS, *TESTS] if any(inside(m, ["torchvision"]) for m in imports(p))]
    assert not [name_of(p) for p in LIBRARY if p != adapter and any(inside(m, ["arviz"]) for m in imports(p))]


def test_importing_has_no_side_effect():
    """In a process of its own, warnings being errors: nothing global is touched that a user may have set.

    Figures choose no backend.
    """
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
slow = {"arviz", "pandas", "sklearn", "matplotlib", "numba"} & set(sys.modules)
assert not slow, slow

import matplotlib
before = dict.__getitem__(matplotlib.rcParams, "backend")
import zoo.plots
from zoo.infer import plot_overlay
assert before == dict.__getitem__(matplotlib.rcParams, "backend")
assert "matplotlib.pyplot" not in sys.modules
"""
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr


# --- budgets and names -----------------------------------------------------------------------------------------------

NAMELESS = ("utils", "common", "helpers", "base")
# functions over the budget -> reason
LOOPS = {"_fill_group": "compiled loops over matrix entries; split, a pass of a small model takes 10 to 20 % longer"}


@functools.cache
def counts():
    return house.count(LIBRARY)


def budget(path):
    name = name_of(path)
    return 120 if name.startswith(("examples/", "guides/")) and path.stem != "flows" else 350


def test_files_keep_their_budgets():
    sizes = {name_of(p): len(p.read_text().splitlines()) for p in [*LIBRARY, *SCRIPTS]}
    assert not {n: size for n, size in sizes.items() if size > budget(ROOT / n)}
    assert not [name_of(p) for p in [*LIBRARY, *SCRIPTS] if p.stem in NAMELESS]
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) < 120


def test_folders_hold_at_most_twelve_files():
    folders = {p.parent for p in LIBRARY} - {ROOT / "zoo"}  # which holds as many as there are models
    counts = {name_of(f): len([p for p in f.glob("*.py") if p.stem != "__init__"]) for f in folders}
    assert not {name: count for name, count in counts.items() if count > 12}


def test_functions_keep_their_budgets():
    assert not [place for place in counts().functions if place.split(": ")[1].split(" has")[0] not in LOOPS]


def test_no_override_is_hidden_from_the_type_checker():
    assert not [name_of(p) for p in LIBRARY if "type: ignore[override]" in p.read_text()]


def test_names_have_docstrings():
    bare = []
    for path in LIBRARY:
        tree = tree_of(path)
        public = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
        bare += [f"{name_of(path)}: {node.name}" for node in public if not ast.get_docstring(node)]
        bare += [name_of(path)] if tree.body and not ast.get_docstring(tree) else []
    assert not bare


def test_prose():
    """Docstrings begin with a thing or a verb; "what" is rare; reasons stand above the code that they explain."""
    found = counts()
    assert not found.openings
    assert 1000 * found.whats / found.words <= 0.5
    assert 1000 * found.comments / found.code >= 40


def test_public_names_exist_once():
    wrong = []
    for package in ("zoo", "zoo.infer", "zoo.data", "guides"):
        module = importlib.import_module(package)
        names = module.__all__
        wrong += [f"{package}.{n}" for n in set(names) if names.count(n) > 1 or not hasattr(module, n)]
    assert not wrong


def test_a_public_name_is_defined_once():
    """Engines of one interface aside: two functions of one name are two meanings of one word."""
    places: dict[str, list[str]] = {}
    for path in LIBRARY:
        if "engines" not in path.parts:
            for node in tree_of(path).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                    places.setdefault(node.name, []).append(name_of(path))
    assert not {name: found for name, found in places.items() if len(found) > 1}


def test_no_path_of_the_makers():
    """Folders of the machine it was made on stand in the runner's script and nowhere else."""
    own = re.compile("/" + r"work/|\.\./" + "shared")
    patterns = ("*.md", "*.toml", "Makefile", "docs/**/*.md", "results/*.json")
    files = [path for pattern in patterns for path in ROOT.glob(pattern)]
    assert not [name_of(p) for p in [*LIBRARY, *SCRIPTS, *TESTS, *files] if own.search(p.read_text())]


def test_versions_agree():
    citation, changes = (ROOT / "CITATION.cff").read_text(), (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {PROJECT['version']}\n" in citation
    assert f"## [{PROJECT['version']}]" in changes
    ruff = next(name for name in PROJECT["optional-dependencies"]["dev"] if name.startswith("ruff=="))
    assert f"[{ruff}]" in (ROOT / ".pre-commit-config.yaml").read_text()


def test_the_runner_can_be_run():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
