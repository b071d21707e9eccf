"""The evaluation of examples/music.py: a trained pair on the test sequences, printed and as a row of results."""

from dataclasses import replace
from functools import partial
from typing import Any

from zoo.data import Sequences
from zoo.infer import sequence_log_likelihood, smc_log_likelihood


def evaluate(
    model: Any, guide: Any, test: Sequences, data: str, *, streams: bool, num_particles: int, device: str
) -> dict[str, Any]:
    """The row of the three averages of log p, nats per frame, and of average a by a particle filter.

    With `streams` the row has all three once more, with the state carried from song to song, as SRNN evaluates.
    """
    x, mask, first = (None if v is None else v.to(device) for v in (test.values, test.mask, test.first))
    given = {"first": first, "seed": 123}
    averages = partial(sequence_log_likelihood, model, guide, x, None, mask, data=data, **given)
    value = averages(num_particles=num_particles)
    # Importance weights of whole songs degenerate; a filter resamples on the way and loses less.
    filtered = smc_log_likelihood(model, guide, x, None, mask, num_particles=num_particles, **given)
    resampled = replace(value, log_p=filtered)
    # SRNN prints the bound of carried songs, for which few particles do: more would sharpen log p alone.
    carried = averages(streams=16, num_particles=min(num_particles, 5)) if streams else None
    print(value)
    print(f"a, resampled, {num_particles} particles: {resampled.a:.3f} +- {resampled.errors[0]:.3f}")
    if carried is not None:
        print(carried)
    return {
        **value.row(),
        "resampled": {"a": resampled.a, "a_error": resampled.errors[0]},
        "carried": None if carried is None else carried.row(),
    }
