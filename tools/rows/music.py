"""Rows of music and speech: each is a call of examples/music.py.

Sizes and epochs of all but the long ones fit into a few minutes of one core: a tenth, or less, of the papers' training.
"""

from rows.row import Script

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


ROWS = [
    Script(name=name, script="examples/music.py", line=line)
    for part in (*(music(data) for data in SETS), *(speech(data) for data in SPEECH))
    for name, line in part.items()
]
