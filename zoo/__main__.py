"""The pairs that ship, from a shell: `python -m zoo` lists them, `python -m zoo NAME` scores one and draws from it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from zoo.shipped.draws import new_data, plot_beside, reconstructed
from zoo.shipped.rescore import FAILURES, report, rescore
from zoo.shipped.shelf import Shelf, Shipped


def main(given: Sequence[str] | None = None, shelf: Shelf | None = None) -> int:
    """Runs the command; returns 0, or 1 where a figure differs from the recorded one."""
    parser = argparse.ArgumentParser(
        prog="python -m zoo",
        description="The pairs that ship: without a name their list; of a name its figure, scored again on its fixed "
        "rows, and draws. Ends with 1 if a figure differs by more than its error, or a folder was changed.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="of the list")
    parser.add_argument("--all", action="store_true", help="score every pair again, without draws")
    parser.add_argument("--num", type=int, default=12, help="number of draws (12)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (0)")
    parser.add_argument("--out", type=Path, help="a picture of draws beside data; of one name")
    chosen = parser.parse_args(given)
    if chosen.num < 1:
        parser.error(f"--num: expected at least 1, got {chosen.num}")
    if chosen.out and len(chosen.names) != 1:
        parser.error(f"--out: expected one name, got {len(chosen.names)}")
    if chosen.all and chosen.names:
        parser.error("--all: expected no names beside it")
    shelf = Shelf() if shelf is None else shelf
    try:
        if not (chosen.all or chosen.names):
            print(shelf)
            return 0
        pairs = [shelf[name] for name in chosen.names or shelf]
    except ValueError as error:
        parser.error(str(error))
    found = [rescore(pair) for pair in pairs]
    print(report(found))
    for pair, at in zip(pairs, found, strict=True):
        if chosen.names and not at.reason:
            _draw(pair, chosen.num, chosen.seed, chosen.out)
    return int(any(at.verdict in FAILURES for at in found))


def _draw(shipped: Shipped, num: int, seed: int, out: Path | None) -> None:
    """Draws from a pair, prints how far draws and data agree, and writes the picture."""
    model, guide = shipped.load()
    arguments = shipped.data()
    x, new = arguments["x"], new_data(model, arguments, num, seed)
    print(f"\n{shipped.name}: {shipped.pair}; {shipped.about.get('data', '')}; {shipped.figure}")
    # the mean in words: a picture is for eyes, a line for a log
    count = f"{len(new)} draw{'s' if len(new) > 1 else ''}"
    print(f"{count} of shape {tuple(new.shape[1:])}: mean {new.float().mean():.3f}, data {x.float().nanmean():.3f}")
    if out:
        parts = {"data": x[:num], "decoded": reconstructed(model, guide, arguments, num, seed), "draws": new}
        out.parent.mkdir(parents=True, exist_ok=True)
        shape = shipped.score.get("picture")
        figure = plot_beside({name: part for name, part in parts.items() if part is not None}, shape and tuple(shape))
        figure.savefig(out, dpi=150)
        print(f"wrote {out}")


if __name__ == "__main__":
    # small networks: more threads wait for each other
    torch.set_num_threads(1)
    sys.exit(main())
