"""Pages and docstrings: their code runs, their links lead somewhere, their tables are generated."""

import doctest
import importlib
import importlib.util
import inspect
import math
import re
import sys
import tempfile
import types
from pathlib import Path

import pairs
import pytest
import torch
from tiers import thorough_but

import zoo.infer

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import gallery  # noqa: E402
import table  # noqa: E402

BLOCK = re.compile(r"^```python\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
SCRIPTS = [path.relative_to(ROOT).as_posix() for path in PAGES if BLOCK.search(path.read_text())]
LIBRARY = sorted([*ROOT.glob("zoo/**/*.py"), *ROOT.glob("guides/**/*.py")])


def module_of(path):
    return path.relative_to(ROOT).as_posix().removesuffix(".py").replace("/", ".").removesuffix(".__init__")


@pytest.fixture(scope="module")
def settings():
    """docs/conf.py, as a module; sphinx is not needed for it."""
    spec = importlib.util.spec_from_file_location("conf", ROOT / "docs" / "conf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", thorough_but(["README.md", "CONTRIBUTING.md"], SCRIPTS))
def test_code_blocks_run(name, tmp_path, monkeypatch):
    """The python blocks of a page, top to bottom, as one script; trainings take one epoch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    torch.manual_seed(0)
    # a module of that name, as of a script: the classes of a page can then be found where a folder names them
    script = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", script)
    for number, block in enumerate(BLOCK.findall((ROOT / name).read_text()), 1):
        quick = re.sub(r"\bepochs=\d+", "epochs=1", block)
        exec(compile(quick, f"{name}, block {number}", "exec"), vars(script))


def test_pages_with_code_are_found():
    guide = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/guide/*.md")}
    # own.md shows the code of CONTRIBUTING.md
    pages = {"README.md", "CONTRIBUTING.md", "docs/data.md", "docs/questions.md"}
    assert pages | guide - {"docs/guide/own.md"} == set(SCRIPTS)


def test_questions_have_a_call_each():
    text = (ROOT / "docs" / "questions.md").read_text()
    found = re.findall(r"^\*\*(\d+)\. [^*]+\?\*\*\n\n```python\n", text, flags=re.MULTILINE)
    assert [int(number) for number in found] == list(range(1, text.count("?**\n") + 1))
    assert len(found) >= 42


def test_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert not [line for line in lines if len(line) > 120]


def test_reference_lists_every_public_name(settings):
    """The tables of docs/reference are the public names of the faces and documented paths, each once."""
    listed, face = [], ""
    for line in "\n".join(path.read_text() for path in sorted(ROOT.glob("docs/reference/*.rst"))).splitlines():
        if line.startswith(".. currentmodule:: "):
            face = line.rpartition(" ")[2]
        elif re.fullmatch(r"   \w+", line):
            listed.append(f"{face}.{line.strip()}")
    modules = {face: importlib.import_module(face) for face in settings.FACES}
    own = {face: [n for n, v in vars(m).items() if getattr(v, "__module__", "") == face] for face, m in modules.items()}
    expected = [f"{face}.{name}" for face, m in modules.items() for name in getattr(m, "__all__", own[face])]
    assert sorted(listed) == sorted(expected)


class Recording:
    """A class that takes any arguments before `__init__` does, as one that records them must."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, size: int, *, scale: float = 1.0) -> None:
        self.size, self.scale = size, scale


def test_pages_show_the_signature_of_init(settings):
    assert str(inspect.signature(Recording)) == "(*args, **kwargs)"
    settings.sign(Recording)
    assert str(inspect.signature(Recording)) == "(size: int, *, scale: float = 1.0)"
    # signatures that are right already stay as they are
    settings.sign(zoo.infer.Terms)
    assert "__signature__" not in vars(zoo.infer.Terms)


def test_docstrings_become_restructured_text():
    text = "f(x) = |x|, args and *args, `a*|b|`, of x_ and x_t\n>>> 2 * 3"
    assert gallery.escaped(text) == "f(x) = \\|x\\|, args and \\*args, `a*|b|`, of x\\_ and x_t\n>>> 2 * 3"


def test_the_gallery_has_every_example_and_no_part(tmp_path, monkeypatch):
    gallery.sources(tmp_path)
    made = {path.name for path in tmp_path.glob("*.py")}
    assert made == {path.name for path in gallery.EXAMPLES.glob("*.py")}
    assert {f"{name}.py" for name in gallery.RUN} <= made - set(gallery.parts())
    ball = (tmp_path / "ball.py").read_text()
    assert ball.startswith('r"""\nA thrown ball seen through noise\n====')
    assert ".. code-block:: console\n\n    python examples/ball.py" in ball
    assert "'pictures/nile.png'" in (tmp_path / "nile.py").read_text()
    assert (tmp_path / "report.py").read_text() == (gallery.EXAMPLES / "report.py").read_text()
    monkeypatch.setattr(gallery, "PICTURES", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"run examples/amortization_gap\.py and store its picture"):
        gallery.sources(tmp_path)


def test_docstring_examples_run():
    finder, failed = doctest.DocTestFinder(), []
    modules = [importlib.import_module(module_of(path)) for path in LIBRARY]
    for module in modules:
        torch.manual_seed(0)
        failed += [module.__name__] * bool(doctest.testmod(module).failed)
    assert not failed
    assert len([t for module in modules for t in finder.find(module) if t.examples]) >= 10


def test_links_within_the_repository_lead_somewhere():
    broken = []
    for path in PAGES:
        targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text())
        broken += [f"{path.name}: {target}" for target in targets if not (path.parent / target).exists()]
    assert not broken


def test_tables_are_generated():
    texts = {page: (ROOT / page).read_text() for page in table.PAGES}
    assert not [page for page, text in texts.items() if table.render(page, text) != text], "run `make table`"


def test_the_registry_names_objectives_that_exist_and_serve():
    for pair in pairs.PAIRS.values():
        _, guide, _ = pair.build()
        for system, code in pair.systems.items():
            if not code.startswith("em"):
                objective = eval(code, vars(zoo.infer) | {"math": math, "guide": guide})
                assert isinstance(objective, zoo.infer.Objective), system
                assert not {word for word in pair.refused if getattr(objective, word, False)}, system
