"""The README of a folder: the pair, its data, figure and command, as a hub of models shows it."""

import json
import math
from collections.abc import Mapping
from typing import Any

CARD = "README.md"
#: the line by which a card is told from a README that somebody wrote
MARK = "<!-- written by zoo.save_pair from config.json -->"

# facts of `about` in the order of the table, and the words for them; others follow under their own names
_WORDS = {"data": "data", "figure": "figure", "value": "value", "convention": "convention", "command": "command"}
# facts that the value's row has, or the title
_ELSEWHERE = ("error", "name", "license")
_HALVES = ("model.", "guide.")


def card(config: Mapping[str, Any], sentences: Mapping[str, str] | None = None) -> str:
    """The text of README.md, from the contents of config.json.

    Args:
        config: the contents; `about` has what is known of the training. Its `data`, `figure`, `value`, `error`,
            `convention` and `command` are said first, `name` makes the title, and `license` tells hubs the terms.
        sentences: "model" and "guide" -> the first sentence of the class's docstring.
    """
    about, pair = dict(config.get("about", {})), config.get("pair", {})
    classes = {half: pair[half]["class"] for half in ("model", "guide") if isinstance(pair.get(half), Mapping)}
    title = str(about.get("name") or " with ".join(name.rpartition(".")[2] for name in classes.values()) or "A pair")
    rows = {half: f"`{name}`" for half, name in classes.items()}
    for half, sentence in (sentences or {}).items():
        rows[half] = f"{rows.get(half, '')}: {_cell(sentence)}"
    facts = {name: about[name] for name in _WORDS if about.get(name) is not None}
    facts |= {name: value for name, value in about.items() if name not in facts and name not in _ELSEWHERE}
    for name, value in facts.items():
        shown = f"{value:.6g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
        if name == "value" and isinstance(about.get("error"), int | float):
            shown += f" ± {about['error']:.2g}"
        rows[_WORDS.get(name, name)] = f"`{_cell(shown)}`" if name == "command" else _cell(shown)
    count = sum(math.prod(shape) for key, shape in config.get("parameters", {}).items() if key.startswith(_HALVES))
    rows["numbers stored"] = f"{count:,}"
    rows["made with"] = ", ".join(f"{name} {version}" for name, version in config.get("versions", {}).items())
    head = ["---", "library_name: pyro-latent-zoo", "tags: [pyro, pytorch, latent-variable-model]"]
    head += [f"license: {json.dumps(about['license'])}"] if "license" in about else []
    table = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items() if value)]
    return "\n".join([*head, "---", MARK, "", f"# {title}", "", *table, "", _USE])


_USE = """```python
import zoo

model, guide = zoo.load_pair("FOLDER")  # this folder; of a hub, huggingface_hub.snapshot_download("OWNER/NAME")
```

config.json has the arguments of both constructors, model.safetensors the parameters. Nothing in it is unpickled. The
Python package is called pyro-latent-zoo.
"""


def _cell(text: str) -> str:
    """The text in one line, without a bar that would end a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
