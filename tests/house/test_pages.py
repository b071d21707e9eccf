"""Pages and docstrings: their code runs, their links lead somewhere, their tables are generated."""

import doctest
import importlib
import math
import re
import sys
from pathlib import Path

import pairs
import pytest
import torch

import zoo.infer

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import table  # noqa: E402

LIBRARY = sorted([*ROOT.glob("zoo/**/*.py"), *ROOT.glob("guides/**/*.py")])


def module_of(path):
    return path.relative_to(ROOT).as_posix().removesuffix(".py").replace("/", ".").removesuffix(".__init__")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/sequences.md"])
def test_code_blocks_run(name, tmp_path, monkeypatch):
    """The python blocks of a page, top to bottom, as one script; trainings take one epoch."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / name).read_text(), flags=re.MULTILINE | re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    namespace = {"__name__": "__main__"}
    for number, block in enumerate(blocks, 1):
        quick = re.sub(r"\bepochs=\d+", "epochs=1", block)
        exec(compile(quick, f"{name}, block {number}", "exec"), namespace)


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
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]:
        targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text())
        broken += [f"{path.name}: {target}" for target in targets if not (path.parent / target).exists()]
    assert not broken


def test_tables_are_generated():
    texts = {page: (ROOT / page).read_text() for page in table.PAGES}
    assert not [page for page, text in texts.items() if table.render(page, text) != text], "run `make table`"


def test_the_registry_names_objectives_that_exist_and_serve():
    for pair in pairs.PAIRS.values():
        for system, code in pair.systems.items():
            if not code.startswith("em"):
                objective = eval(code, vars(zoo.infer) | {"math": math})
                assert isinstance(objective, zoo.infer.Objective), system
                assert not {word for word in pair.refused if getattr(objective, word, False)}, system
