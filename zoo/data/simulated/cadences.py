"""Chord progressions drawn from a hidden Markov model, and their exact log p(x)."""

import numpy as np
import torch
from torch import Tensor

from zoo.data import manifest
from zoo.data.dataset import Dataset
from zoo.data.piano_roll import piano_roll
from zoo.data.sequences import Sequences
from zoo.data.sources import Root, check_content

# Probabilities: that a frame holds the chord, that a note of the chord sounds, that any other key does. STRAY is not 0,
# so that every roll has a finite log p(x), those that a trained model makes too.
HOLD, SOUND, STRAY = 0.6, 0.95, 0.002
# Probability of the next chord where the present one is not held. Row: the present chord, I to vii; column: the next.
FOLLOW = np.array([
    [0, 1, 0, 4, 3, 2, 0], [0, 0, 0, 0, 8, 0, 2], [0, 0, 0, 5, 0, 5, 0], [4, 2, 0, 0, 4, 0, 0],
    [7, 0, 0, 0, 0, 3, 0], [0, 4, 1, 4, 1, 0, 0], [9, 0, 1, 0, 0, 0, 0],
]) / 10.0  # fmt: skip
SCALE = (0, 2, 4, 5, 7, 9, 11)


def chords() -> np.ndarray:
    """`(12 keys, 7 degrees, 88)`: the probability of each key to sound; root in the bass, a triad above."""
    sounds = np.full((12, 7, 88), STRAY)
    for tonic in range(12):
        for degree in range(7):
            triad = [(tonic + SCALE[(degree + step) % 7]) % 12 for step in (0, 2, 4)]
            for midi in (36 + triad[0], *(60 + note for note in triad)):
                sounds[tonic, degree, midi - 21] = SOUND
    return sounds


def cadences(root: Root = None) -> Dataset[Sequences]:
    """Generated chord progressions on 88 keys: made by this package at each load, in well under a second.

    p(x) = Σ p(key) Π_t p(chord_t | chord_{t-1}) Π_i Bernoulli(x_ti | key, chord_t): a key is drawn for the whole
    sequence, the first chord is I; each frame holds the chord with probability 0.6, else goes on to another degree.
    Each of the chord's four notes sounds with probability 0.95, each other with 0.002. 200/50/50 sequences of 20 to 60
    frames.

    The set of the examples: it may be given away, while the real sets state no licence. It has their shape: chords are
    held, and all frames tell of the key, so that a `Smoother` gains from later ones. Its log p(x) is known exactly
    (`cadences_log_prob`).
    """
    random, sounds = np.random.RandomState(0), chords()
    train, valid, test = (_progressions(random, sounds, size) for size in (200, 50, 50))
    sha256 = manifest.SETS["cadences"]["sha256"]
    # The stream of RandomState is the same everywhere, but the comparisons are of floats: equal digests say that this
    # machine draws the set whose numbers are printed.
    frames = {"train": train.frames.numpy(), "valid": valid.frames.numpy(), "test": test.frames.numpy()}
    check_content(frames, sha256, "cadences()")
    digests = {f"cadences/{part}": value for part, value in sha256.items()}
    return manifest.dataset("cadences", (train, valid, test), (88,), digests)


def _progressions(random: np.random.RandomState, sounds: np.ndarray, size: int) -> Sequences:
    lengths = random.randint(20, 61, size)
    frames = np.concatenate([_progression(random, sounds, length) for length in lengths])
    return piano_roll(np.packbits(frames, axis=-1), lengths)


def _progression(random: np.random.RandomState, sounds: np.ndarray, length: int) -> np.ndarray:
    tonic, degree, frames = random.randint(12), 0, []
    for _ in range(length):
        frames.append(random.uniform(size=88) < sounds[tonic, degree])
        if random.uniform() >= HOLD:
            # The inverse of the cumulative distribution; without its last entry, which rounding may leave below 1.
            degree = int((random.uniform() >= FOLLOW[degree].cumsum()[:-1]).sum())
    return np.array(frames)


def cadences_log_prob(sequences: Sequences) -> Tensor:
    """The exact log p(x) of each sequence under the model that generates `cadences`, in nats, float64 `(N,)`.

    The forward algorithm over (key, chord); frames that the mask leaves out count as missing.
    """
    x, mask = sequences.values.double(), sequences.mask
    sounds = torch.tensor(chords()).reshape(84, 88)
    # Σ_i log Bernoulli(x_i | p_i), as one matrix product over all frames and states.
    scores = x @ (sounds.log() - (1 - sounds).log()).mT + (1 - sounds).log().sum(-1)
    # A missing frame has likelihood 1 under every state: chords go on, nothing is learned.
    scores = scores.masked_fill(~mask.unsqueeze(-1), 0.0).unflatten(-1, (12, 7))
    move = torch.tensor(HOLD * np.eye(7) + (1 - HOLD) * FOLLOW).log()
    begin = torch.full((7,), -torch.inf, dtype=torch.float64).index_fill(0, torch.tensor(0), 0.0)
    ahead = begin - np.log(12) + scores[:, 0]
    # In logarithms: under a wrong key 60 frames have a probability below the smallest float64.
    for score in scores.unbind(1)[1:]:
        ahead = (ahead.unsqueeze(-1) + move).logsumexp(-2) + score
    return ahead.flatten(1).logsumexp(-1)
