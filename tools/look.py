"""A look at the site of `make docs` in a headless Chromium: screenshots, and faults that a picture shows too late.

Every page is opened at three widths: a picture that did not load, and a page wider than the window, are faults. The
search has to find a class. Screenshots of the pages named in SHOTS go to runs/site, to be looked at.

    apt-get install chromium; pip install playwright
    python tools/look.py
"""

import functools
import http.server
import sys
import threading
from pathlib import Path
from typing import Any

from cells import ROOT

SITE, OUT, CHROMIUM = ROOT / "build" / "docs", ROOT / "runs" / "site", "/usr/bin/chromium"
WIDTHS = (1440, 1280, 400)
SHOTS = (
    "index", "guide/contract", "guide/own", "questions", "results", "deck", "speed", "pairs", "notation",
    "gallery/index", "gallery/ball", "reference/infer", "reference/generated/guides.Amortized",
    "reference/generated/zoo.infer.fit",
)  # fmt: skip
SOUGHT = ("Smoother", "reference/generated/guides.Smoother.html")

FAULTS = """() => {
  const pictures = [...document.images].filter(image => !image.complete || image.naturalWidth === 0);
  const page = document.documentElement;
  const wide = page.scrollWidth > page.clientWidth ? [`${page.scrollWidth} px wide`] : [];
  return pictures.map(image => `no picture ${image.src}`).concat(wide);
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """The files of the site, without a line for each request."""

    def log_message(self, format: str, *args: Any) -> None:
        return


def serve(folder: Path) -> str:
    """Serves the folder from a thread of this process, on a free port; the address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def faults(tab: Any, address: str, width: int, names: list[str]) -> list[str]:
    """Opens the pages at a width; the faults found, and screenshots of SHOTS."""
    found = []
    tab.set_viewport_size({"width": width, "height": 900})
    for name in names:
        tab.goto(f"{address}/{name}.html")
        found += [f"{name} at {width} px: {fault}" for fault in tab.evaluate(FAULTS)]
        if name in SHOTS:
            # Long pages are cut: what is wrong with a table shows in its first rows.
            height = min(tab.evaluate("document.documentElement.scrollHeight"), 2600)
            area = {"x": 0, "y": 0, "width": width, "height": height}
            tab.screenshot(path=OUT / f"{name.replace('/', '-')}-{width}.png", full_page=True, clip=area)
    return found


def search(tab: Any, address: str) -> list[str]:
    """Seeks a class as a reader does; a fault unless its page is among the first five results."""
    word, page = SOUGHT
    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.goto(f"{address}/search.html?q={word}")
    tab.wait_for_selector("#search-results li a", timeout=20_000)
    tab.wait_for_function("document.querySelector('#search-results .search-summary')?.innerText.includes('ound')")
    links = tab.eval_on_selector_all("#search-results li a", "links => links.map(link => link.href)")
    tab.screenshot(path=OUT / "search.png")
    return [] if any(page in link for link in links[:5]) else [f"search for {word}: {page} is not among {links[:5]}"]


def main() -> None:
    from playwright.sync_api import sync_playwright

    OUT.mkdir(parents=True, exist_ok=True)
    names = sorted(path.relative_to(SITE).with_suffix("").as_posix() for path in SITE.glob("**/*.html"))
    names = [name for name in names if not name.startswith("_") and name not in ("search", "genindex")]
    address, found = serve(SITE), []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page()
        for width in WIDTHS:
            found += faults(tab, address, width, names)
        found += search(tab, address)
        browser.close()
    print("\n".join([*found, f"{len(names)} pages, {len(found)} faults; screenshots: {OUT}"]))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
