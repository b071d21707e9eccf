"""The runs behind the tables of sequences: starts those whose results/<name>.json is not there yet.

    python tools/runs.py                     # names and commands of those, nothing is run
    python tools/runs.py --run --jobs 2      # all of them, about five hours on two cores
    python tools/runs.py --run --only jsb-   # those whose names begin so

Each is a call of examples/music.py; a run that was stopped goes on where it was. Files are looked for as
`zoo.data.load` says. Sizes and epochs of all but the long ones fit into a few minutes of one core: a tenth, or
less, of the papers' training.
"""

import argparse
import fcntl
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# No Residual on Nottingham: of nottingham_srnn, over 92 chunks, its z was a random walk, log p -inf at once.
CHAINS = {
    "dmm-smoother-residual": "--model dmm --guide smoother --family residual",
    "dmm-smoother": "--model dmm --guide smoother",
    "dmm-filter": "--model dmm --guide filter",
    "dmm-mean-field": "--model dmm --guide mean-field",
}
# With a GRU of their own; --guide-recurrent 0 as in the papers of VRNN and of SRNN's filter.
RECURRENT = {
    "srnn-smoother-residual": "--model srnn --guide smoother --family residual --guide-recurrent 128",
    "srnn-smoother": "--model srnn --guide smoother --guide-recurrent 128",
    "srnn-filter-residual": "--model srnn --guide filter --family residual --guide-recurrent 0",
    "srnn-filter": "--model srnn --guide filter --guide-recurrent 0",
    "vrnn": "--model vrnn --guide filter --guide-recurrent 0",
    "storn": "--model storn --guide filter --guide-recurrent 128",
}
SIZES = "--latent-dim 64 --hidden 200 --guide-hidden 200"
# From 0.2 on, as SRNN's, z stays unused for long.
RISE = "--learning-rate 3e-3 {} --first-weight 0.01"
DECAY = "--weight-decay 0.1"
# Epochs of the chains and of the recurrent models, and the arguments of both.
SETS = {
    "cadences": (40, 40, ""),
    "jsb": (70, 35, ""),
    "jsb_srnn": (50, 30, ""),
    "nottingham": (3, 2, "--longest 100 --num-particles 5"),
    "nottingham_srnn": (6, 3, "--num-particles 30"),
}
# The papers' best: the argument in place of DECAY, and the budget.
LONGER = {
    "jsb-dmm-smoother": ("--l2 0.01", "--epochs 1400 --warm-up 200 --dropout 0.1 --num-particles 500"),
    "jsb-dmm-smoother-residual": (DECAY, "--epochs 300 --warm-up 60 --dropout 0.1"),
    "nottingham_srnn-srnn-smoother-residual": ("--l2 0.03", "--epochs 70 --warm-up 5 --dropout 0.2"),
}
# The reading is cut to half a second, 40 frames, as SRNN cuts Blizzard's; digits are whole.
SPEECH = {
    "spoken_digits": (10, "--batch-size 16"),
    "ljspeech_32": (30, "--batch-size 8 --longest 40 --cut-test"),
}
SPOKEN = (
    "--likelihood normal --latent-dim 32 --hidden 128 --recurrent 128 --guide-hidden 128 --first-weight 0 "
    "--learning-rate 2e-3"
)
SEEDS = range(3)


def music(data: str) -> dict[str, str]:
    """Name -> arguments of the runs of a set of music."""
    chain, recurrent, rest = SETS[data]
    systems = {name: (f"{line} --guide-recurrent 200", chain) for name, line in CHAINS.items()
               if not (data.startswith("nottingham") and "residual" in name)}  # fmt: skip
    systems |= {name: (f"{line} --recurrent 200", recurrent) for name, line in RECURRENT.items()}
    found = {}
    for system, (arguments, epochs) in systems.items():
        name, line = f"{data}-{system}", f"--data {data} {arguments} {SIZES} {RISE} {rest}".strip()
        found[name] = f"{line.format(DECAY)} --epochs {epochs} --warm-up {-(-epochs // 5)}"
        if name in LONGER:
            decay, budget = LONGER[name]
            found[f"long-{name}"] = f"{line.format(decay)} {budget}"
    return found


def speech(data: str) -> dict[str, str]:
    """Name -> arguments of the runs of a set of speech, a run for each seed."""
    epochs, rest = SPEECH[data]
    budget = f"{SPOKEN} {rest} --epochs {epochs} --warm-up {epochs // 3}"
    return {
        f"{data}-{system}-{seed}": f"--data {data} {RECURRENT[system]} {budget} --seed {seed}"
        for seed in SEEDS
        for system in ("srnn-smoother-residual", "srnn-smoother", "srnn-filter", "vrnn")
    }


def runs() -> dict[str, str]:
    """Name -> arguments of examples/music.py."""
    parts = [*(music(data) for data in SETS), *(speech(data) for data in SPEECH)]
    return {name: line for part in parts for name, line in part.items()}


def start(name: str, line: str) -> int:
    """Starts or resumes a run; 0 if it ended well, is recorded already, or runs in another process.

    A run that was begun with other arguments is refused: 1.
    """
    folder, command = ROOT / "runs" / name, [sys.executable, "examples/music.py", "--name", name, *shlex.split(line)]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log:
        try:
            # The child inherits the file, so that the lock lives as long as the run, even if this process is killed.
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        # Again, under the lock: another process may have ended the run since the list was made.
        if (ROOT / "results" / f"{name}.json").exists():
            return 0
        # Resuming under other arguments would mix two trainings in one row.
        begun = folder / "line.txt"
        if begun.exists() and begun.read_text() != line:
            print(f"{name}: begun with other arguments ({begun}): move {folder} away", flush=True)
            return 1
        begun.write_text(line)
        code = subprocess.run([*command, "--resume"], cwd=ROOT, stdout=log, stderr=log, check=False,
                              env={**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}).returncode  # fmt: skip
    print(name, "done" if code == 0 else f"ended with {code}: {folder / 'log.txt'}", flush=True)
    return code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=[""], metavar="PREFIX")
    args = parser.parse_args()
    commands = runs()
    # A dict keeps the order and drops a name that two prefixes choose.
    chosen = dict.fromkeys(name for prefix in args.only for name in commands if name.startswith(prefix))
    todo = {name: commands[name] for name in chosen if not (ROOT / "results" / f"{name}.json").exists()}
    if not args.run:
        for name, line in todo.items():
            print(f"python examples/music.py --name {name} {line}")
        return
    # Threads: each waits for a process of its own.
    with ThreadPoolExecutor(args.jobs) as pool:
        codes = list(pool.map(start, todo, todo.values()))
    sys.exit(any(codes))


if __name__ == "__main__":
    main()
