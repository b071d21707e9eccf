"""The bound L_K of a trained row with more particles than its own record has, in pieces that a kill does not lose.

python tools/many_particles.py --name mnist-5-bottom-up-L_5000 --row mnist-5-bottom-up --num-particles 5000 --resume
"""

import argparse
import os
import platform
import shlex
import sys
from pathlib import Path

import pyro
import torch
from cells import RESULTS
from rows import ROWS
from rows.place import Place
from rows.row import Row
from rows.scored import scored

from zoo import load_pair

SEED = 123


def main(name: str, row: str, num_particles: int, resume: bool, results: Path) -> None:
    """Scores the test images of a row and records their mean."""
    torch.set_num_threads(1)
    trained = next(r for r in ROWS if r.name == row)
    place = Place(trained, results)
    if not isinstance(trained, Row) or not place.done:
        raise SystemExit(f"{row}: not trained yet; python tools/runs.py --run --only {row}")
    model, guide = load_pair(place.folder)
    x = trained.data().test
    found, minutes = scored(model, guide, x, num_particles=num_particles, seed=SEED, resume=resume)
    place.record = results / f"{name}.json"
    place.save({
        "name": name,
        "of": row,
        "num_particles": num_particles,
        "log_p": found.mean,
        "error": found.standard_error,
        "monte_carlo_error": found.monte_carlo_error,
        "num_test": len(found.per_datum),
        "cpu_minutes": minutes,
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
