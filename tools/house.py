"""Counts of the house: files, lines, memory, prose, long functions, and the files that one loss runs through.

python tools/house.py               # the counts of zoo and guides
python tools/house.py --list        # besides, every place that breaks a rule
python tools/house.py --list zoo/infer/training     # of some folders or files
python tools/house.py --runs        # besides, the files in which a line runs during one loss
python tools/house.py --sample 10   # besides, ten docstrings, drawn by random.Random(0)
"""

import argparse
import ast
import io
import random
import re
import sys
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OPENINGS = ("What", "Where", "Whether", "How", "Of", "Its")
# Comments for tools, which give no reason.
MARKS = re.compile(r"#\s*(noqa|type:|fmt:|:)")
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
BLOCKS = ast.If | ast.For | ast.While | ast.With | ast.Try | ast.Match
LONGEST, DEEPEST, MOST = 60, 3, 8


@dataclass
class Counts:
    """The counts of some files, and the places that break a rule."""

    files: int = 0
    lines: int = 0
    code: int = 0
    comments: int = 0
    raises: int = 0
    getattrs: int = 0
    ignores: int = 0
    words: int = 0
    whats: int = 0
    docstrings: int = 0
    state: list[str] = field(default_factory=list)
    openings: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)


def docstrings(tree: ast.Module) -> Iterator[tuple[int, int, str]]:
    """First line, last line and text of every docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | FUNCTIONS) and ast.get_docstring(node) is not None:
            statement = node.body[0]
            yield statement.lineno, statement.end_lineno or statement.lineno, ast.get_docstring(node) or ""


def depth(node: ast.AST) -> int:
    """The levels of blocks in a function; `elif` is no level of its own, and inner functions count for themselves."""
    # `elif` stands inside the `else` of the tree, one level deeper than on the page.
    deepest = 0
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, FUNCTIONS | ast.ClassDef | ast.Lambda):
                continue
            chained = isinstance(node, ast.If) and name == "orelse" and isinstance(child, ast.If) and len(value) == 1
            deepest = max(deepest, depth(child) + (isinstance(child, BLOCKS) and not chained))
    return deepest


def count(paths: list[Path]) -> Counts:
    """The counts of the files, added up."""
    found = Counts()
    for path in paths:
        count_file(path, found)
    return found


def count_file(path: Path, found: Counts) -> None:
    """Adds a file to the counts."""
    text, name = path.read_text(), path.relative_to(ROOT).as_posix()
    tree, lines = ast.parse(text), text.splitlines()
    prose: set[int] = set()
    said: list[str] = []
    for first, last, doc in docstrings(tree):
        prose |= set(range(first, last + 1))
        said.append(doc)
        found.docstrings += 1
        if doc.split()[0].strip(",.:`") in OPENINGS:
            found.openings.append(f"{name}:{first}: {doc.splitlines()[0]}")
    # Of the tokens, not of the lines: a line that begins with # may stand inside a string.
    comments = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.COMMENT]
    own = {token.start[0]: token.string for token in comments if token.line.strip().startswith("#")}
    found.comments += sum(not MARKS.match(string) or string.startswith("#:") for string in own.values())
    said += [token.string for token in comments]
    code = {n for n, line in enumerate(lines, 1) if line.strip() and n not in prose and n not in own}
    words = re.findall(r"[A-Za-z][A-Za-z'-]*", " ".join(said))
    found.words += len(words)
    found.whats += sum(word.lower() == "what" for word in words)
    found.files += 1
    found.lines += len(lines)
    found.code += len(code)
    nodes = list(ast.walk(tree))
    found.raises += sum(isinstance(node, ast.Raise) for node in nodes)
    calls = [node.func for node in nodes if isinstance(node, ast.Call)]
    found.getattrs += sum(isinstance(function, ast.Name) and function.id == "getattr" for function in calls)
    found.ignores += text.count("# type: ignore")
    found.state += [f"{name}:{node.lineno}: {lines[node.lineno - 1]}" for node in tree.body if is_state(node)]
    for node in nodes:
        if isinstance(node, FUNCTIONS):
            found.functions += [f"{name}:{node.lineno}: {node.name} has {size}" for size in sizes_over(node, code)]


def sizes_over(node: ast.FunctionDef | ast.AsyncFunctionDef, code: set[int]) -> Iterator[str]:
    """The sizes of a function that are over their budget; `code` has the numbers of the file's lines of code."""
    yield from over(len(code & set(range(node.lineno, (node.end_lineno or node.lineno) + 1))), LONGEST, "lines")
    yield from over(depth(node), DEEPEST, "levels")
    arguments = [a.arg for a in (*node.args.posonlyargs, *node.args.args) if a.arg not in ("self", "cls")]
    # Keyword-only arguments of a public function are its settings and free; those of a private one are a habit.
    if node.name.startswith("_") and node.name != "__init__":
        arguments += [a.arg for a in node.args.kwonlyargs]
    yield from over(len(arguments), MOST, "parameters")


def over(value: int, most: int, unit: str) -> Iterator[str]:
    if value > most:
        yield f"{value} {unit}"


def is_state(node: ast.stmt) -> bool:
    """Tells whether a statement binds a module-level name to an empty container or a lock: memory to be filled."""
    value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
    if isinstance(value, ast.Dict | ast.List | ast.Set):
        return not (value.keys if isinstance(value, ast.Dict) else value.elts)
    called = getattr(value, "func", None)
    word = getattr(called, "id", getattr(called, "attr", ""))
    return word in ("count", "RLock", "Lock", "WeakKeyDictionary", "WeakTensorKeyDictionary", "defaultdict", "dict",
                    "list", "set", "WeakValueDictionary", "WeakSet")  # fmt: skip


def files_run(call: Callable[[], object]) -> dict[str, int]:
    """File of zoo or guides in which a line runs -> its number of lines."""
    seen: set[str] = set()

    def trace(frame, event, _):
        file = frame.f_code.co_filename
        if not file.startswith((f"{ROOT}/zoo/", f"{ROOT}/guides/")):
            return None
        if event == "line":
            seen.add(file)
        return trace

    # Lines, not imports: a file counts if it takes part in the call, however early it was loaded.
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(None)
    return {str(Path(f).relative_to(ROOT)): len(Path(f).read_text().splitlines()) for f in seen}


def show_runs() -> None:
    """Prints the files that one loss runs through: at a pair's first call, which checks it, and at every later one."""
    sys.path.insert(0, str(ROOT))
    import torch

    import guides
    import zoo
    from zoo.infer import ELBO

    vae, srnn = zoo.VAE(20, 4), zoo.SRNN(5, 3)
    pairs = {
        "VAE + Amortized": (ELBO()(vae, guides.Amortized(vae)), torch.rand(8, 20).round()),
        "SRNN + Smoother + Residual": (
            ELBO()(srnn, guides.Smoother(srnn, family=guides.Residual)), torch.rand(4, 7, 5).round()
        ),
    }  # fmt: skip
    for name, (loss, x) in pairs.items():
        # The first call checks the pair; every later one is the hot path, whose size has a budget.
        for which in ("first", "every later"):
            sizes = files_run(lambda loss=loss, x=x: loss(x))
            print(f"{name}, {which} loss: {sum(sizes.values()):,} lines in {len(sizes)} files")
        for file, lines in sorted(sizes.items(), key=lambda item: -item[1]):
            print(f"    {lines:4d} {file}")


def show_sample(paths: list[Path], number: int) -> None:
    """Prints docstrings with their places, drawn by `random.Random(0)` among all in the order of files and lines."""
    every = [(path, *found) for path in paths for found in sorted(docstrings(ast.parse(path.read_text())))]
    for path, line, _, text in random.Random(0).sample(every, number):
        print(f"\n--- {path.relative_to(ROOT)}:{line}\n{text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("places", nargs="*", default=["zoo", "guides"], help="folders or files")
    parser.add_argument("--list", action="store_true", help="list the places that break a rule")
    parser.add_argument("--runs", action="store_true", help="list the files that one loss runs through")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="print N docstrings")
    chosen = parser.parse_args()
    places = [ROOT / place for place in chosen.places]
    paths = sorted(p for place in places for p in ([place] if place.is_file() else place.rglob("*.py")))
    found = count(paths)
    print(
        f"{found.files} files, {found.lines:,} lines, {found.code:,} lines of code, {found.raises} raises, "
        f"{found.getattrs} getattr, {found.ignores} type: ignore, {len(found.state)} names of module-level state"
    )
    rate = 1000 * found.comments / found.code
    print(f"{found.comments} comment lines of their own: {rate:.1f} in 1,000 lines of code")
    print(
        f"'what' {found.whats} times in {found.words:,} words of docstrings and comments: "
        f"{1000 * found.whats / found.words:.2f} in 1,000"
    )
    print(f"{len(found.openings)} of {found.docstrings} docstrings open with {', '.join(OPENINGS)}")
    print(f"{len(found.functions)} functions over {LONGEST} code lines, {DEEPEST} levels or {MOST} parameters")
    if chosen.list:
        print(*found.state, *found.openings, *found.functions, sep="\n")
    if chosen.runs:
        show_runs()
    if chosen.sample:
        show_sample(paths, chosen.sample)


if __name__ == "__main__":
    main()
