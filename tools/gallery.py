"""The gallery of examples: scripts as sphinx-gallery wants them, with a title in reStructuredText, and their pictures.

The scripts themselves stay as they are, to be read and run from a shell. docs/conf.py calls `sources`.
"""

import re
import shutil
from pathlib import Path
from typing import Any

from cells import ROOT

EXAMPLES, PICTURES = ROOT / "examples", ROOT / "docs" / "pictures"
# A script is an example if it has a `main`; the others are parts that examples import.
MAIN = "\nif __name__ == "
# Run when the site is built; the rest takes minutes, or data that are not in the package, and shows a stored picture.
RUN = ("airline", "ball", "co2", "mixture_em", "ppca", "pretrained")

# Code, as it is, or a mark of reStructuredText that our plain text means literally.
LITERAL = re.compile(r"``.*?``|`[^`]*`|^ *>>> .*?$|([*|]|(?<=\w)_(?!\w))", re.DOTALL | re.MULTILINE)
# The first sentence up to a colon, a comma, or its full stop, outside of parentheses.
TITLE = re.compile(r"(?:\([^)]*\)|[^(:,.]|\.(?=\S))+")


def escaped(text: str) -> str:
    """Plain text with `code` in it as reStructuredText: asterisks, bars and final underscores lose their meaning."""
    return LITERAL.sub(lambda found: "\\" + found[0] if found[1] else found[0], text)


def rst(docstring: str, name: str) -> str:
    """A script's docstring with a title; indented lines, equations and commands, become literal blocks."""
    found = TITLE.match(docstring)
    title = found[0] if found else name
    parts = []
    for part in docstring.strip().split("\n\n"):
        if part.startswith("    "):
            kind = "console" if part.lstrip().startswith("python ") else "text"
            parts.append(f".. code-block:: {kind}\n\n{part}")
        else:
            parts.append(escaped(part))
    if name not in RUN:
        parts.append(f".. image:: /pictures/{name}.png\n   :alt: {title}")
    return "\n\n".join([f"{title}\n{'=' * len(title)}", *parts])


def sources(folder: Path) -> None:
    """Writes the examples to a folder, their docstrings as `rst` has them, and the parts that they import beside them.

    Raises:
        FileNotFoundError: an example is not run, and no picture of it is stored.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in sorted(EXAMPLES.glob("*.py")):
        text = path.read_text()
        if MAIN in text:
            name = path.stem
            _, docstring, code = text.split('"""', 2)
            if name not in RUN:
                stored = PICTURES / f"{name}.png"
                if not stored.exists():
                    raise FileNotFoundError(f"{stored}: run examples/{name}.py and store its picture there")
                code = f"\n# sphinx_gallery_thumbnail_path = 'pictures/{name}.png'{code}"
            text = f'r"""\n{rst(docstring, name)}\n"""{code}'
        (folder / path.name).write_text(text)
    shutil.copy(ROOT / "docs" / "gallery.rst", folder / "GALLERY_HEADER.rst")


def parts() -> list[str]:
    """Names of the files that examples import, which are no examples themselves."""
    return [path.name for path in sorted(EXAMPLES.glob("*.py")) if MAIN not in path.read_text()]


def pictures(block: Any, variables: dict[str, Any], settings: dict[str, Any]) -> str:
    """The pictures that a script has written to its folder of runs/, as figures of its page (a scraper)."""
    from sphinx_gallery.scrapers import figure_rst

    shown, folder = [], Path(variables["src_file"]).parent / "runs" / Path(variables["src_file"]).stem
    for made, place in zip(sorted(folder.glob("*.png")), variables["image_path_iterator"], strict=False):
        shutil.move(made, place)
        shown.append(place)
    return figure_rst(shown, settings["src_dir"])
