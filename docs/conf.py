"""Settings of the documentation site: `make docs`. Nothing is read from the network."""

import importlib
import inspect
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import gallery  # noqa: E402

FACES = [
    "zoo", "zoo.infer", "zoo.data", "guides", "zoo.parts.conditionals", "zoo.parts.networks", "zoo.parts.transitions",
    "zoo.parts.trajectory", "zoo.parts.kalman", "zoo.parts.markov", "zoo.parts.structural",
    "zoo.parts.mixed_dynamics", "zoo.parts.walking", "zoo.parts.distributions",
    "zoo.parts.hierarchy", "zoo.parts.recorded",
]  # fmt: skip

project, author = "pyro-latent-zoo", "The pyro-latent-zoo developers"
project_copyright = author
html_title = project
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["gallery.rst", "_build", "gallery/sg_execution_times.rst", "sg_execution_times.rst"]
templates_path = ["templates"]

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source, html_show_sphinx = False, False
html_theme_options = {"navigation_with_keys": True}
# a name in single backticks becomes a link where the site has a page of it, and code where not
default_role = "py:obj"
pygments_style = "friendly"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
# code without a word for its language is a shape, a formula or a command
highlight_language = "none"

autodoc_typehints, autodoc_typehints_format = "description", "short"
autodoc_preserve_defaults = True
# `Raises`, `Returns` and arguments of which the docstring says nothing get no line of their own
autodoc_typehints_description_target = "documented_params"
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "inherited-members": True}
napoleon_numpy_docstring, napoleon_use_ivar = False, True
# names that differ by a capital alone would share a file where the file system does not tell capitals apart
ALIKE = ["zoo.infer.Fit", "zoo.infer.Gaps", "zoo.infer.Terms", "zoo.parts.structural.ARIMA",
         "zoo.parts.structural.Seasonal", "zoo.parts.structural.Trigonometric", "zoo.parts.structural.Components",
         "zoo.parts.structural.TimeVaryingRegression"]  # fmt: skip
autosummary_filename_map = {name: f"{name}-class" for name in ALIKE}

EXAMPLES = ROOT / "build" / "examples"
sphinx_gallery_conf = {
    "examples_dirs": str(EXAMPLES),
    "gallery_dirs": "gallery",
    "filename_pattern": rf"/({'|'.join(gallery.RUN)})\.py$",
    "ignore_pattern": rf"^({'|'.join(gallery.parts())})$",
    "within_subsection_order": "FileNameSortKey",
    "image_scrapers": ("gallery.pictures",),
    "reset_modules": (),
    "capture_repr": (),
    "abort_on_example_error": True,
    "remove_config_comments": True,
    "notebook_extensions": set(),
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "doc_module": ("zoo", "guides"),
}


def plain_text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Lets a docstring's asterisks and bars stand as they are; a constant gets a line, not its class's docstring."""
    text = f"The constant ``{obj!r}``.\n" if what == "data" else gallery.escaped("\n".join(lines))
    lines[:] = text.split("\n")


def foreign(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out members that Pyro or torch define, and fields of tuples, which stand among the attributes already."""
    # this class of the standard library has no public name
    if type(obj).__name__ == "_tuplegetter":
        return True
    member = getattr(obj, "fget", obj)
    return True if callable(member) and not _is_ours(member) else None


def _is_ours(member: Any) -> bool:
    return (getattr(member, "__module__", None) or "").partition(".")[0] in ("zoo", "guides")


def sign(cls: type) -> None:
    """Gives a class the signature of its `__init__`, where its `__new__` takes anything."""
    # a class that records its arguments does so in `__new__(cls, *args, **kwargs)`, and autodoc would show that
    if isinstance(cls.__new__, FunctionType) and isinstance(cls.__init__, FunctionType):
        _, *others = inspect.signature(cls.__init__).parameters.values()
        cls.__signature__ = inspect.Signature(others)  # type: ignore[attr-defined]


def sign_all(app: Any) -> None:
    """Calls `sign` on every public class."""
    for face in map(importlib.import_module, FACES):
        for value in (getattr(face, name) for name in getattr(face, "__all__", dir(face))):
            if inspect.isclass(value) and _is_ours(value):
                sign(value)


def setup(app: Any) -> None:
    gallery.sources(EXAMPLES)
    app.connect("builder-inited", sign_all, priority=1)
    # before napoleon (500), which writes asterisks of its own
    app.connect("autodoc-process-docstring", plain_text, priority=400)
    app.connect("autodoc-skip-member", foreign)
