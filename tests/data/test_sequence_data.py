"""Music, speech and motion: exact facts of the sets; pieces, buckets and streams; refusals."""

import io
import math
import os
import wave
import zipfile
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
from ragged import ragged

from zoo.data import Buckets, Sequences, Streams, load
from zoo.data.loaders import motion, music, speech
from zoo.data.piano_roll import KEYS
from zoo.data.simulated import cadences
from zoo.data.sources import Remote, fetch

REAL = os.environ.get("ZOO_DATA")
real_files = pytest.mark.skipif(not REAL, reason="needs the real data sets: set ZOO_DATA to their folder")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache for every test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


# The sets

SONGS = {  # songs and frames of train, valid, test, as published for the standard sets and as SRNN's code reads its own
    "jsb": ((229, 76, 77), (13_807, 4_602, 4_725)),
    "nottingham": ((694, 173, 170), (176_561, 45_513, 44_463)),
    "piano_midi": ((87, 12, 25), (75_911, 8_540, 19_036)),
    "muse_data": ((524, 135, 124), (245_202, 82_755, 64_339)),
    "jsb_srnn": ((272, 80, 77), (27_200, 8_000, 9_396)),
    "nottingham_srnn": ((1472, 368, 170), (147_200, 36_800, 37_062)),
    "piano_midi_srnn": ((704, 96, 25), (70_400, 9_600, 17_328)),
    "muse_data_srnn": ((2480, 784, 124), (248_000, 78_400, 67_391)),
}


@real_files
@pytest.mark.parametrize("name", SONGS)
def test_music_has_the_published_sizes(name):
    data = load(name)
    splits = (data.train, data.valid, data.test)
    assert (tuple(map(len, splits)), tuple(int(s.lengths.sum()) for s in splits)) == SONGS[name]
    assert data.data_dim == 88
    assert data.num_levels == 2
    assert all(set(s.frames.unique().tolist()) == {0, 1} for s in splits)


# "Note 1-gram" test figures, per frame: Boulanger-Lewandowski et al. 2012 print -11.06, -10.25, -11.05, -11.51
UNIGRAMS = {"jsb": 11.06, "nottingham": 10.25, "piano_midi": 11.05, "muse_data": 11.51}


@real_files
@pytest.mark.parametrize("name", UNIGRAMS)
def test_independent_notes_cost_what_is_published(name):
    data = load(name)
    p = data.train.frames.double().mean(0).clamp(min=1e-8)
    frames = data.test.frames.double()
    nats = -(frames * p.log() + (1 - frames) * (1 - p).log()).sum() / len(frames)
    assert abs(nats.item() - UNIGRAMS[name]) < 0.006


@real_files
def test_srnn_chunks_go_on_where_the_sixteenth_before_ended():
    for name in ("jsb_srnn", "piano_midi_srnn"):
        data = load(name)
        for split in (data.train, data.valid):
            assert torch.equal(split.first[16:], split.values[:-16, -1])
            assert (split.lengths == 100).all()


@real_files
def test_srnn_jsb_is_the_standard_set_twice_as_fast():
    """So that its numbers are never put beside the standard ones: every second frame of a song, from the first scored
    one, is the standard song, up to transposition."""
    srnn, standard = load("jsb_srnn").test, load("jsb").test
    found = set()
    for row, (x, length) in enumerate(zip(srnn.values, srnn.lengths, strict=True)):
        half = x[:length][::2]
        same = standard.values[standard.lengths == len(half), : len(half)]
        if any((half.roll(shift, -1) == same).flatten(1).all(-1).any() for shift in range(-12, 13)):
            found.add(row)
    assert len(found) == 77


def test_cadences_are_drawn_from_their_own_density():
    """Under the true model -log p(x) is the entropy in expectation: train and test must agree within their errors."""
    data = load("cadences")
    scores = [-cadences.cadences_log_prob(s) / s.lengths for s in (data.train, data.test)]
    gap = scores[0].mean() - scores[1].mean()
    assert abs(gap) < 4.5 * sum(s.var() / len(s) for s in scores).sqrt()
    assert load("cadences").sha256.keys() == {"cadences/train", "cadences/valid", "cadences/test"}


def test_the_density_of_cadences_is_a_sum_over_all_paths():
    """By brute force over key and chords, for the first four frames of a sequence."""
    x = load("cadences").test[:1].frames[:4]
    short = Sequences(x, torch.tensor([4]), KEYS)
    sounds = torch.tensor(cadences.chords())
    move = torch.tensor(cadences.HOLD * np.eye(7) + (1 - cadences.HOLD) * cadences.FOLLOW)
    assert torch.allclose(move.sum(-1), torch.ones(7, dtype=torch.float64))
    total = 0.0
    for tonic, *path in product(range(12), range(7), range(7), range(7)):
        degrees = [0, *path]
        p = math.prod(move[a, b].item() for a, b in pairwise(degrees)) / 12
        if p > 0:
            keys = sounds[tonic, degrees]
            total += p * torch.where(x == 1, keys, 1 - keys).prod().item()
    assert abs(cadences.cadences_log_prob(short).item() - math.log(total)) < 1e-9


@real_files
@pytest.mark.parametrize(
    ("name", "rows", "rate"), [("spoken_digits", (2400, 300, 300), 8000), ("ljspeech_32", (24, 4, 4), 16_000)]
)
def test_speech_is_z_scored_by_training_statistics_and_can_be_undone(name, rows, rate):
    data = load(name)
    assert tuple(len(s) for s in (data.train, data.valid, data.test)) == rows
    assert data.sample_rate == rate
    assert data.data_dim == 200
    assert abs(data.train.frames.double().mean()) < 0.01  # the ends of clips, left out of the frames, are quiet
    assert abs(data.train.frames.double().std() - 1) < 0.02
    source = speech.FREE_SPOKEN_DIGITS if name == "spoken_digits" else speech.LJSPEECH_32
    parts = fetch(source)
    raw = np.split(parts["audio"], parts["length"].cumsum()[:-1])[np.flatnonzero(parts["test"] if name[0] == "s" else
                                                                                parts["split"] == 2)[0]]  # fmt: skip
    clip = data.test[:1].frames.double().flatten() * data.sd + data.mean
    assert np.abs(clip.numpy() - raw[: len(clip)]).max() < 0.01
    assert 0 <= len(raw) - len(clip) < 200


@real_files
def test_spoken_digits_keep_labels_and_the_official_test():
    data = load("spoken_digits")
    for split, each in ((data.train, 240), (data.valid, 30), (data.test, 30)):
        assert split.labels.bincount().tolist() == [each] * 10


@real_files
def test_walks():
    data = load("mocap_cmu35")
    assert [tuple(s.values.shape) for s in (data.train, data.valid, data.test)] == [
        (16, 300, 50), (3, 300, 50), (4, 300, 50)
    ]  # fmt: skip
    with np.load(Path(REAL, "mocap_cmu35.npz")) as file:
        assert np.array_equal(data.test.values.numpy(), file["test"])


@real_files
def test_exercises_keep_the_label_of_every_frame():
    trials = load("mocap6").train
    assert trials.lengths.tolist() == [382, 205, 251, 446, 387, 387]
    assert trials.frame_labels.bincount(minlength=12).tolist() == [187, 180, 203, 382, 304, 352, 48, 72, 76, 99, 66, 89]
    assert len(motion.EXERCISES) == 12
    some = trials[torch.tensor([4, 1])]
    assert torch.equal(some.frame_labels, torch.cat([part.frame_labels for part in (trials[4:5], trials[1:2])]))
    assert torch.equal(some.without_first().frame_labels[:386], some.frame_labels[1:387])
    assert torch.equal(some.cut(50).frame_labels, some.frame_labels)


# Builds from the files of the public places, made here from this project's copies


def built(source, pack, tmp_path, contents):
    paths = []
    for name, content in contents.items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(content)
    target = tmp_path / source.file
    pack(paths, target)
    with np.load(target) as file, np.load(Path(REAL, source.file)) as real:
        for part in source.sha256:
            assert np.array_equal(file[part], real[part]), part
            assert file[part].dtype == real[part].dtype, part


@pytest.mark.thorough
@real_files
def test_songs_build_from_the_mat_files(tmp_path):
    from scipy.io import savemat

    contents = {}
    for name in music.SETS:
        data = load(name)
        cells = {}
        for part in music.PARTS:
            split = getattr(data, part)
            cell = np.empty((1, len(split)), object)
            for row, song in enumerate(np.split(split.frames.numpy(), split.lengths.cumsum(0)[:-1].numpy())):
                cell[0, row] = song
            cells[f"{part}data"] = cell
        stream = io.BytesIO()
        savemat(stream, cells)
        contents[name] = stream.getvalue()
    built(music.POLYPHONIC_MUSIC, music._pack_songs, tmp_path, contents)


@pytest.mark.thorough
@real_files
def test_streams_build_from_srnns_files(tmp_path):
    contents = {}
    for name in music.SETS:
        data = load(f"{name}_srnn")
        arrays = {}
        for part in music.PARTS:
            split = getattr(data, part)
            x = split.values.numpy().astype(np.uint8)
            arrays[f"x_{part}"] = x
            arrays[f"u_{part}"] = np.concatenate([split.first.numpy().astype(np.uint8)[:, None], x[:, :-1]], 1)
        arrays["mask_test"] = data.test.mask.numpy().astype(np.float32)
        stream = io.BytesIO()
        np.savez_compressed(stream, **arrays)
        contents[name] = stream.getvalue()
    built(music.POLYPHONIC_MUSIC_SRNN, music._pack_streams, tmp_path, contents)


@pytest.mark.thorough
@real_files
def test_digits_build_from_the_archive(tmp_path):
    parts = fetch(speech.FREE_SPOKEN_DIGITS)
    with np.load(Path(REAL, "free_spoken_digits.npz")) as file:
        speakers = file["speaker_names"]
    clips, stream = np.split(parts["audio"], parts["length"].cumsum()[:-1]), io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for row in np.random.default_rng(0).permutation(len(clips)):
            sound = io.BytesIO()
            with wave.open(sound, "wb") as file:
                file.setparams((1, 2, 8000, 0, "NONE", ""))
                file.writeframes(clips[row].astype("<i2").tobytes())
            name = f"{parts['digit'][row]}_{speakers[parts['speaker'][row]]}_{parts['index'][row]}.wav"
            archive.writestr(f"fsdd/recordings/{name}", sound.getvalue())
    built(speech.FREE_SPOKEN_DIGITS, speech._pack_clips, tmp_path, {"a.zip": stream.getvalue()})


@real_files
def test_walks_build_from_the_mat_file(tmp_path):
    from scipy.io import savemat

    parts = fetch(motion.MOCAP_CMU35)
    stream = io.BytesIO()
    names = {"train": "Xtr", "valid": "Xval", "test": "Xtest"}
    savemat(stream, {names[part]: value.astype(np.float64) for part, value in parts.items()})
    built(motion.MOCAP_CMU35, motion._pack_walks, tmp_path, {"mocap35.mat": stream.getvalue()})


@real_files
def test_exercises_build_from_the_mat_file(tmp_path):
    from scipy.io import savemat

    parts = fetch(motion.MOCAP6)
    kind = np.dtype([("X", object), ("TrueZ", object)])
    ends = parts["length"].cumsum()
    trials = np.array(
        [(parts["x"][end - n : end], parts["action"][end - n : end, None].astype(np.float64))
         for end, n in zip(ends, parts["length"], strict=True)], kind
    )  # fmt: skip
    stream = io.BytesIO()
    savemat(stream, {"DataBySeq": trials[:, None]})
    built(motion.MOCAP6, motion._pack_exercises, tmp_path, {"mocap6.mat": stream.getvalue()})


def test_ljspeech_cannot_be_built_and_says_so(tmp_path, monkeypatch):
    (tmp_path / "LJ001-0001.wav").write_bytes(b"")
    monkeypatch.setattr(
        speech, "LJSPEECH_32", replace(speech.LJSPEECH_32, remotes=(Remote("http://127.0.0.1/LJ001-0001.wav"),))
    )
    with pytest.raises(FileNotFoundError, match="resampled by its maker"):
        load("ljspeech_32", tmp_path)


# Pieces, buckets, streams


def test_pieces_know_the_frame_before_them():
    whole = ragged(labels=torch.tensor([7, 8, 9]), first=torch.tensor([[-1.0, -1], [-2, -2], [-3, -3]]))
    pieces = whole.cut(3)
    assert pieces.lengths.tolist() == [2, 3, 1, 1]
    assert pieces.labels.tolist() == [7, 8, 8, 9]
    assert pieces.first.tolist() == [[-1, -1], [-2, -2], [8, 9], [-3, -3]]
    assert torch.equal(pieces.frames.nan_to_num(-1), whole.frames.nan_to_num(-1))
    assert ragged().cut(3).first is None
    with pytest.raises(ValueError, match="longest"):
        whole.cut(0)


def test_without_first_frames():
    whole = ragged()[:2]
    rest = whole.without_first()
    assert rest.lengths.tolist() == [1, 3]
    assert torch.equal(rest.first, whole.values[:, 0])
    assert torch.equal(rest.values.nan_to_num(-1), whole.values[:, 1:].nan_to_num(-1))
    with pytest.raises(ValueError, match="sequence 2 has one frame only"):
        ragged().without_first()


def test_truth_and_controls_go_with_their_frames():
    beside = {"truth": torch.arange(21.0).reshape(7, 3), "controls": torch.arange(7.0).reshape(7, 1)}
    whole = ragged(**beside)
    some = whole[torch.tensor([2, 1])]
    assert torch.equal(some.controls.flatten(), torch.tensor([6.0, 2, 3, 4, 5]))
    assert some.padded(some.truth)[0].tolist() == [[18, 19, 20], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert some.u[1].flatten().tolist() == [2, 3, 4, 5]
    assert torch.equal(whole[:2].without_first().truth, beside["truth"][[1, 3, 4, 5]])
    assert whole.cut(3).u[1].flatten().tolist() == [2, 3, 4]
    assert ragged().u is None
    x, u, mask = Buckets(whole, multiple=3).batch(torch.tensor([1]), torch.Generator())
    assert u.flatten().tolist() == [2, 3, 4, 5, 0, 0]
    same = whole.batch(torch.tensor([1]), torch.Generator())
    assert all(torch.equal(a[:, :4], b) for a, b in zip((x, u, mask), same, strict=True))
    assert torch.isfinite(same[0]).all(), "a missing frame is NaN"


def test_sequences_of_one_length_with_nothing_missing_come_without_a_mask():
    whole = Sequences(torch.arange(8, dtype=torch.uint8).reshape(4, 2), torch.tensor([2, 2]), ("a", "b"))
    x, u, mask = whole.batch(torch.tensor([1]), torch.Generator())
    assert (x.tolist(), x.dtype, u, mask) == ([[[4, 5], [6, 7]]], torch.float32, None, None)
    # whatever the rows of a batch are: a pair should see masks in all batches or in none
    assert ragged().batch(torch.tensor([2]), torch.Generator())[2].tolist() == [[True]]


def many(lengths):
    total = sum(lengths)
    return Sequences(torch.arange(2.0 * total).reshape(-1, 2), torch.tensor(lengths), ("a", "b"))


def test_buckets_visit_every_row_once_with_little_padding():
    lengths = torch.randint(1, 200, (101,), generator=torch.Generator().manual_seed(0)).tolist()
    rows = Buckets(many(lengths), multiple=1)
    seen = []
    for epoch in (0, 1, None):
        batches = rows.batches(10, 3, epoch)
        assert len(batches) == 11
        assert torch.cat(batches).sort().values.tolist() == list(range(101))
        computed = sum(len(b) * max(lengths[i] for i in b) for b in batches)
        assert computed < 1.3 * sum(lengths), epoch  # unsorted batches of ten of these lengths compute 1.8 x
        seen.append([b.tolist() for b in batches])
    assert seen[0] != seen[1]
    assert seen[0] == [b.tolist() for b in rows.batches(10, 3, 0)]


def test_buckets_pad_to_a_multiple_and_fill_what_is_missing():
    x, u, mask = Buckets(ragged(), multiple=3).batch(torch.tensor([1, 2]), torch.Generator())
    assert u is None
    assert x.shape == (2, 6, 2)
    assert mask.tolist() == [[True, False, True, True, False, False], [True] + 5 * [False]]
    assert (x[~mask] == 0).all()
    assert torch.equal(x[0, 2:4], ragged().frames[4:6])


def test_joined_streams_keep_what_stands_beside_the_frames():
    whole = many([5, 9, 1, 12])
    places = torch.arange(27.0).unsqueeze(1)
    whole = replace(whole, controls=places, truth=2 * places, frame_labels=torch.arange(27))
    streams = Streams.joined(whole, num=2, length=3)
    _, u, _ = streams.batch(torch.tensor([3]), torch.Generator())
    # the second chunk of the second stream, whose frames begin at 1 + 12 + 3
    assert u.flatten().tolist() == [16, 17, 18]
    assert torch.equal(streams.sequences.truth, 2 * streams.sequences.controls)
    assert torch.equal(streams.sequences.frame_labels, streams.sequences.controls.flatten().long())


def test_sequences_are_shown_in_a_line():
    assert repr(many([5, 9])).startswith("Sequences(2 sequences, 14 frames of ")


def test_joined_streams_are_laid_out_as_srnns_files():
    whole = many([5, 9, 1, 12])
    streams = Streams.joined(whole, num=2, length=3)  # 26 frames after the first: 2 streams of 4 chunks
    assert len(streams) == 8
    batches = [streams.batch(index, torch.Generator())[0] for index in streams.batches(2, 0, 0)]
    firsts = [streams.first(index) for index in streams.batches(2, 0, 5)]
    for stream in range(2):
        told = torch.cat([firsts[0][stream : stream + 1], *(x[stream] for x in batches)])
        assert torch.equal(told, whole.frames[12 * stream :][:13])
    for before, first in zip(batches, firsts[1:], strict=False):
        assert torch.equal(before[:, -1], first)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Streams(many([3, 3, 3]), num=2), "3 chunks cannot be 2 streams"),
        (lambda: Streams(many([3, 4]), num=2), "one length"),
        (lambda: Streams.joined(many([3, 4]), num=2), "too few"),
        (lambda: Streams(many([3, 3]), num=2).batches(1, 0, 0), "batch_size 1: these are 2 parallel streams"),
        (lambda: Buckets(many([3, 3])[:0]), "no sequences"),
        (lambda: Buckets(many([3, 3]), multiple=0), "multiple"),
        (lambda: Buckets(ragged(first=torch.zeros(2, 2))), r"first: expected shape \(3, 2\), got \(2, 2\)"),
    ],
)
def test_batches_that_cannot_be_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_bad_frames_are_named_by_sequence_and_frame():
    frames = ragged().frames.clone()
    frames[4, 1] = float("inf")
    with pytest.raises(ValueError, match="sequence 1, frame 2: infinite"):
        Buckets(ragged(frames=frames))
    frames = ragged().frames.clone()
    frames[6] = float("nan")
    with pytest.raises(ValueError, match="sequence 2: all of its frames are missing"):
        Buckets(ragged(frames=frames))
