"""The results of an example: one page of HTML with nothing outside the file, or one picture."""

import base64
import html
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 60rem; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
img { max-width: 100%; background: white; border-radius: 6px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .25rem .9rem .25rem 0; text-align: left; border-bottom: 1px solid #8884; }
pre { overflow-x: auto; padding: .8rem 1rem; border: 1px solid #8884; border-radius: 6px; font-size: .85rem; }
p.quiet { opacity: .7; }
"""


class Report:
    """The parts of a page, in order; `write` makes the page. Figures are saved beside it as PNG too."""

    def __init__(self, folder: Path, title: str, subtitle: str = "") -> None:
        self.folder, self.title = folder, title
        self.parts = [f"<h1>{html.escape(title)}</h1><p class='quiet'>{html.escape(subtitle)}</p>"]
        folder.mkdir(parents=True, exist_ok=True)

    def heading(self, text: str) -> None:
        self.parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        self.parts.append(f"<p>{html.escape(text)}</p>")

    def preformatted(self, text: str) -> None:
        """Adds a text as it would be printed, and prints it."""
        print(text)
        self.parts.append(f"<pre>{html.escape(text)}</pre>")

    def table(self, rows: dict[str, str]) -> None:
        """Adds a table of names and their values, and prints it."""
        width = max(map(len, rows))
        print("\n".join(f"{name:{width}}  {value}" for name, value in rows.items()))
        cells = "".join(f"<tr><th>{html.escape(n)}</th><td>{html.escape(v)}</td></tr>" for n, v in rows.items())
        self.parts.append(f"<table>{cells}</table>")

    def figure(self, name: str, figure: Figure, caption: str) -> None:
        figure.savefig(self.folder / f"{name}.png", dpi=150)
        picture = BytesIO()
        figure.savefig(picture, format="png", dpi=150)
        # Inside the page: a report that is sent or moved keeps its figures.
        data = base64.b64encode(picture.getvalue()).decode()
        self.parts.append(f"<img alt='{html.escape(caption, quote=True)}' src='data:image/png;base64,{data}'>")
        self.parts.append(f"<p class='quiet'>{html.escape(caption)}</p>")

    def write(self) -> Path:
        path = self.folder / "report.html"
        page = "<meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
        page += f"<title>{html.escape(self.title)}</title><style>{STYLE}</style>" + "\n".join(self.parts)
        path.write_text("<!doctype html>\n<html lang='en'>" + page + "</html>\n")
        return path


def save(figure: Figure, path: Path, axes: Iterable[Axes] = ()) -> None:
    """Saves a figure and prints the path; the `axes` lose their upper and right spines."""
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")
