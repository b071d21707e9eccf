"""The importance-sampled log p of many images, in pieces that a kill does not lose: an hour of particles is common.

The pieces stand in the user's cache under a digest of the trained tensors, the images, K and the seed, so that no other
pair, data or number of particles goes on from them.
"""

import hashlib
import time
from typing import Any

import torch
from torch import Tensor, nn

from rows.place import cache
from zoo.infer import LogLikelihood, log_likelihood

#: images of a piece: about half a minute of the dearest rows at K = 1000
IMAGES = 200


def scored(
    model: nn.Module, guide: nn.Module, x: Tensor, *, num_particles: int, seed: int, resume: bool = True
) -> tuple[LogLikelihood, float]:
    """`log_likelihood` of x, `IMAGES` rows at a time, and its CPU minutes in all, those before a kill among them.

    Piece n starts its random stream at `seed` + n.

    Args:
        resume: goes on from the pieces that are there.
    """
    states = [*model.state_dict().items(), *guide.state_dict().items(), ("x", x)]
    path = cache() / "scores" / f"{_digest(states, num_particles, seed)}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    pieces: list[dict[str, Any]] = torch.load(path) if resume and path.exists() else []
    for index, images in enumerate(x.split(IMAGES)[len(pieces) :], len(pieces)):
        began = time.process_time()
        found = log_likelihood(model, guide, images, num_particles=num_particles, seed=seed + index)
        pieces.append(vars(found) | {"seconds": time.process_time() - began})
        saved = path.with_suffix(".new")
        torch.save(pieces, saved)
        saved.replace(path)
    minutes = sum(piece.pop("seconds") for piece in pieces) / 60
    # the data are the last axis of every tensor; what is none is the same for all pieces
    whole = {name: torch.cat([p[name] for p in pieces], -1) if isinstance(value, Tensor) else value
             for name, value in pieces[0].items()}  # fmt: skip
    return LogLikelihood(**whole), minutes


def _digest(states: list[tuple[str, Any]], *numbers: int) -> str:
    """A digest of named tensors and of numbers."""
    found = hashlib.sha256(repr(numbers).encode())
    for name, value in states:
        found.update(name.encode())
        if isinstance(value, Tensor):
            found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:32]
