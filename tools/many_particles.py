"""The bound L_K of a trained row with more particles than its own record has, in pieces that a kill does not lose.

    python tools/many_particles.py --name mnist-5-bottom-up-L_5000 --row mnist-5-bottom-up --num-particles 5000 --resume
"""

import argparse
import os
import platform
import shlex
import sys
import time
from pathlib import Path

import pyro
import torch
from cells import RESULTS
from rows import ROWS
from rows.place import Place, cache
from rows.row import Row

from zoo import load_pair
from zoo.infer import log_likelihood
from zoo.infer.evaluation.likelihood import standard_error

SEED, IMAGES = 123, 200


def main(name: str, row: str, num_particles: int, resume: bool, results: Path) -> None:
    """Scores the test images of a row, `IMAGES` at a time, and records their mean."""
    torch.set_num_threads(1)
    trained = next(r for r in ROWS if r.name == row)
    place = Place(trained, results)
    if not isinstance(trained, Row) or not place.done:
        raise SystemExit(f"{row}: not trained yet; python tools/runs.py --run --only {row}")
    model, guide = load_pair(place.folder)
    x = trained.data().test
    partial = cache() / name / "pieces.pt"
    partial.parent.mkdir(parents=True, exist_ok=True)
    pieces = torch.load(partial) if resume and partial.exists() else {"log_p": [], "error": [], "seconds": 0.0}
    for index, images in enumerate(x.split(IMAGES)):
        if index < len(pieces["log_p"]):
            continue
        began = time.process_time()
        found = log_likelihood(model, guide, images, num_particles=num_particles, seed=SEED + index)
        pieces["log_p"].append(found.per_datum)
        pieces["error"].append(found.per_datum_error)
        pieces["seconds"] += time.process_time() - began
        saved = partial.with_suffix(".new")
        torch.save(pieces, saved)
        saved.replace(partial)
    log_p, error = (torch.cat(pieces[which]) for which in ("log_p", "error"))
    place.record = results / f"{name}.json"
    place.save({
        "name": name,
        "of": row,
        "num_particles": num_particles,
        "log_p": log_p.mean().item(),
        "error": standard_error(log_p),
        "monte_carlo_error": (error.square().sum().sqrt() / len(error)).item(),
        "num_test": len(log_p),
        "cpu_minutes": pieces["seconds"] / 60,
        "command": shlex.join(["python", *sys.argv]),
        "seed": SEED,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "pyro": pyro.__version__},
        "hardware": f"cpu, 1 thread(s) of {os.cpu_count()}, {platform.machine()}",
        "note": "",
    })  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--name", required=True, help="of results/NAME.json")
    parser.add_argument("--row", required=True)
    parser.add_argument("--num-particles", type=int, default=5000)
    parser.add_argument("--resume", action="store_true", help="go on from the pieces that are there")
    parser.add_argument("--results", type=Path, default=RESULTS)
    main(**vars(parser.parse_args()))
