"""Music or speech under a deep state-space model: one row of the table of sequences, to results/<name>.json.

Model, guide and family are words. Data `<set>_srnn` are trained as SRNN trains: 16 streams, state carried from chunk to
chunk, first frames given and not scored. They are evaluated twice: each song from the model's start, and as SRNN does,
with the state carried from test song to test song. The three averages are printed, each with its convention.
`cadences` is generated (no file needed) and its exact log p(x) is known.

    python examples/music.py --name mine                    # a DMM under a smoother, on cadences
    python examples/music.py --name mine --data jsb --first-weight 0.01 --learning-rate 3e-3 --epochs 300
"""

import time
from functools import partial
from pathlib import Path

import pyro
import torch
import tyro
import words
from music_evaluation import evaluate
from music_pictures import pictures
from record import record

from zoo.data import Buckets, Dataset, Streams, load
from zoo.data.simulated.cadences import cadences_log_prob
from zoo.infer import ELBO, Tempered, fit, load_model


def splits(music: Dataset, rows: int | None, longest: int, *, streams: bool, cut_test: bool, first_given: bool):
    """(train, valid, test): the first two as data for `fit`, test as `Sequences`."""
    cut = (lambda part: Streams(part[:rows], 16)) if streams else (lambda part: Buckets(part[:rows].cut(longest)))
    test = music.test[:rows].cut(longest) if cut_test else music.test[:rows]
    # SRNN's files know the first frames already; other sets give their own away.
    test = test.without_first() if first_given and not streams else test
    return cut(music.train), cut(music.valid), test


def main(
    name: str, *, data: str = "cadences", model: str = "dmm", guide: str = "smoother", family: str = "diagonal",
    likelihood: str = "bernoulli", latent_dim: int = 100, hidden: int = 100, recurrent: int = 300,
    guide_hidden: int = 100, guide_recurrent: int = 600, epochs: int = 100, batch_size: int = 20, longest: int = 200,
    learning_rate: float = 1e-3, last_learning_rate: float = 1e-4, weight_decay: float = 0.0, l2: float = 0.0,
    dropout: float = 0.0, clip: float = 1000.0, warm_up: int = 20, first_weight: float = 0.2,
    patience: int | None = None, resume: bool = False, first_given: bool = False, num_particles: int = 100,
    device: str = "cpu", threads: int = 1, seed: int = 0, rows: int | None = None, cut_test: bool = False,
    note: str = "",
) -> None:  # fmt: skip
    """Trains the pair, evaluates it on the test sequences, writes the row and the picture.

    Args:
        recurrent: units of the model's GRU, if it has one.
        longest: frames of a training piece, with `cut_test` of a test piece too. `<set>_srnn` are chunks of 100 in
            batches of 16, whatever this and `batch_size` say.
        warm_up: epochs in which the KL weight rises from `first_weight` to 1.
        l2: instead of the decoupled `weight_decay`, a penalty of l2/2 |parameters|^2 a piece, in the gradient, as in
            the DMM's published trainings (there for a batch of 20 pieces).
        first_given: the first frame of each test sequence is given and not scored, SRNN's convention.
    """
    if l2 and weight_decay:
        raise ValueError(f"l2 = {l2} and weight_decay = {weight_decay}: give one")
    if dropout and not guide_recurrent:
        raise ValueError(f"dropout = {dropout} is that of the guide's recurrence, and guide_recurrent is 0")
    torch.set_num_threads(threads)
    pyro.set_rng_seed(seed)
    music, streams = load(data), data.endswith("_srnn")
    p, q = words.sequence_pair(
        model, guide, family, likelihood, music.train, latent_dim=latent_dim, hidden=hidden, recurrent=recurrent,
        guide_hidden=guide_hidden, guide_recurrent=guide_recurrent, dropout=dropout,
    )  # fmt: skip
    train, valid, test = splits(music, rows, longest, streams=streams, cut_test=cut_test, first_given=first_given)
    batch_size = 16 if streams else batch_size
    steps = epochs * -(-len(train) // batch_size)
    rise = (1 - first_weight) * epochs / (steps * max(warm_up, 1))
    # The KL weight rises by `rise` a step, from the first weight on: z has time to become of use before its KL is paid.
    bound = ELBO(analytic_kl=family in words.CLOSED_FORM_KL)
    bound = Tempered(bound, (lambda step: min(1.0, first_weight + rise * step)) if warm_up else 1.0)
    loss, folder, began = bound(p, q), Path("runs") / name, time.time()
    kind, decay = (torch.optim.Adam, l2) if l2 else (torch.optim.AdamW, weight_decay)
    result = fit(
        loss, train, epochs=epochs, batch_size=batch_size, clip=clip, validation=valid, patience=patience, seed=seed,
        optimizer=partial(kind, lr=learning_rate, weight_decay=decay, fused=True),
        schedule=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=steps, eta_min=last_learning_rate),
        device=device, out=folder, resume=resume,
    )  # fmt: skip
    # The best epoch by validation.
    load_model(loss, folder)
    file, cut_of = next(iter(music.sha256)).split("/")[0], f", cut to {longest} frames" if cut_test else ""
    value = evaluate(p, q, test, f"{data} test ({file}{cut_of})", streams=streams, num_particles=num_particles,
                     device=device)  # fmt: skip
    row = {
        "data": data, "model": model, "guide": guide, "family": family, "likelihood": likelihood,
        **value,
        "epochs": epochs, "best_epoch": result.best["epoch"], "training_seconds": round(result.seconds),
        "exact": -(cadences_log_prob(test).sum() / test.lengths.sum()).item() if data == "cadences" else None,
    }  # fmt: skip
    record(name, row, seed=seed, device=device, threads=threads, note=note, began=began)
    pictures(folder, music, p.cpu(), q.cpu(), longest)


if __name__ == "__main__":
    tyro.cli(main)
