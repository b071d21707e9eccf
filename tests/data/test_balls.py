"""Videos of a ball: the motion is exact, the pictures show it, and the sets are those that are named."""

import math
import time

import numpy as np
import pytest
import torch
from tiers import thorough_but

from zoo.data import load
from zoo.data.simulated import balls
from zoo.data.simulated.balls import ROOMS, STEP, Room, videos

BOX = ROOMS["box"]
every = pytest.mark.parametrize("name", ROOMS)
lossless = pytest.mark.parametrize("name", ["box", "box_gravity", "polygon", "box_pushed"])


def started(name, num=300, seed=0):
    random = np.random.RandomState(seed)
    start = ROOMS[name].starts(num, random)
    return *start, random.standard_normal((num, 60, 2))


def path(room, x, y, vx, vy, push=(0.0, 0.0)):
    return room.path(np.array([[x, y]]), np.array([[vx, vy]]), np.array([[(9.0, 9.0), push]]))[0, -1]


# The motion


@pytest.mark.parametrize("name", ["box", "box_gravity", "polygon"])
def test_no_energy_is_lost(name):
    states = ROOMS[name].path(*started(name))
    # y points down, so a ball that falls has less to fall
    energy = (states[..., 2:] ** 2).sum(-1) / 2 - ROOMS[name].gravity * states[..., 1]
    np.testing.assert_allclose(energy, energy[:, :1].repeat(60, 1), rtol=1e-11)
    assert (np.abs(np.diff(states[..., 2], axis=1)) > 1).any(1).mean() > 0.8, "most have bounced"


def test_a_bounce_off_floor_and_paddle_takes_a_tenth_of_the_speed_across():
    room = ROOMS["pong"]
    np.testing.assert_allclose(path(room, 26, 16, 10, 3), [27 - 0.891, 16.6, -8.91, 3], atol=1e-12)
    np.testing.assert_allclose(path(room, 16, 5, 2, -10), [16.4, 4 + 0.891, 2, 8.91], atol=1e-12)
    states = room.path(*started("pong"))
    assert (np.diff((states[..., 2:] ** 2).sum(-1), axis=1) < 1e-9).all()


@every
def test_no_centre_is_outside(name):
    states = ROOMS[name].path(*started(name))
    gaps = ROOMS[name].gaps(states[..., :2].reshape(-1, 2))
    assert gaps.min() > -1e-11
    # the time is a maximum over 300 balls: some come close to a wall
    assert gaps.min() < 0.01


@lossless
def test_time_runs_backwards(name):
    """A ball whose velocity is turned round goes back the way it came; pushes act in the reverse order."""
    room, (position, velocity, controls) = ROOMS[name], started(name)
    there = room.path(position, velocity, controls)
    back = room.path(there[:, -1, :2], -there[:, -1, 2:], np.concatenate([controls[:, :1], controls[:, :0:-1]], 1))
    np.testing.assert_allclose(back[:, -1, :2], position, atol=1e-8)
    np.testing.assert_allclose(back[:, -1, 2:], -velocity, atol=1e-8)


def test_bounces_are_where_a_line_meets_the_wall():
    """A corner in one step, by hand; under gravity the drop, and the parabola through the floor."""
    np.testing.assert_allclose(path(BOX, 26, 26.5, 10, 10), [26, 25.5, -10, -10], atol=1e-12)
    room = ROOMS["box_gravity"]
    np.testing.assert_allclose(path(room, 16, 16, 1, 0), [16.2, 16.1, 1, 1], atol=1e-12)
    # from 0.5 above the floor with speed 4: 4 t + 2.5 t^2 = 0.5
    t = (-4 + 21**0.5) / 5
    speed, rest = 4 + 5 * t, STEP - t
    expected = [16, 27 - speed * rest + 2.5 * rest**2, 0, -speed + 5 * rest]
    np.testing.assert_allclose(path(room, 16, 26.5, 0, 4), expected, atol=1e-12)
    # one that turns before the floor is never there
    np.testing.assert_allclose(path(room, 16, 6.5, 0, -3), [16, 6.5 - 0.6 + 0.1, 0, -2], atol=1e-12)


def test_a_push_acts_from_the_frame_before():
    np.testing.assert_allclose(path(ROOMS["box_pushed"], 16, 16, 5, 0, (0.5, -1.0)), [17.1, 15.8, 6, -2], atol=1e-12)
    pushed = videos(ROOMS["box_pushed"], 500)
    (position, velocity), u = pushed.padded(pushed.truth).split(2, -1), pushed.u
    gain = 10 * STEP * u[:, 1:]
    # frames that are left too far from any wall to come there before the next
    reach = STEP * (velocity[:, :-1].norm(dim=-1) + gain.norm(dim=-1))
    free = (position[:, :-1] - 16).abs().amax(-1) + reach < 11
    assert free.double().mean() > 0.5
    torch.testing.assert_close(velocity[:, 1:][free], (velocity[:, :-1] + gain)[free], atol=1e-4, rtol=0)
    # 500 x 20 x 2 standard normal numbers, 4.5 standard errors
    assert abs(u.mean()) < 4.5 / 20_000**0.5
    assert abs(u.var() - 1) < 4.5 * (2 / 20_000) ** 0.5


def test_from_frame_to_frame_the_ball_goes_its_speed_or_less():
    states = BOX.path(*started("box", 2000))
    distance = np.linalg.norm(np.diff(states[..., :2], axis=1), axis=-1)
    speed = np.linalg.norm(states[..., 2:], axis=-1)[:, 1:]
    free = (np.abs(np.diff(states[..., 2:], axis=1)) < 1e-9).all(-1)
    assert 0.5 < free.mean() < 0.95
    np.testing.assert_allclose(distance[free], STEP * speed[free], rtol=1e-9)
    assert (distance <= STEP * speed + 1e-9).all()
    # speeds are uniform from 10 to 15: 4.5 standard errors of 2,000
    assert abs(speed[:, 0].mean() - 12.5) < 4.5 * 5 / 12**0.5 / 2000**0.5
    assert 10 < speed.min() < speed.max() < 15


def test_no_ball_starts_on_a_wall():
    """One that lay on the floor would fall through it; starts are clipped at 26, where balls of this room touch it."""
    room = Room(balls.square_room(3, 29), 10, (0, 0), gravity=5)
    states = room.path(*room.starts(200, np.random.RandomState(0)), np.zeros((200, 20, 2)))
    assert room.gaps(states[..., :2].reshape(-1, 2)).min() > -1e-11
    # let go at rest, they have fallen for a frame, but for those that have bounced in it
    assert np.abs(states[:, 1, 3] - 5 * STEP).min() < 1e-12


def test_a_spread_that_finds_no_start_is_named(monkeypatch):
    monkeypatch.setattr(balls, "TRIALS", 50)
    room = Room(((16, 1), (31, 30), (1, 30)), 10**9, (1, 2))
    with pytest.raises(ValueError, match=r"spread: expected starts .* of which 50 draws .* got 1000000000"):
        videos(room, 2)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "room",
    [
        *ROOMS.values(),
        Room(((16, 1), (31, 30), (1, 30)), 2, (5, 15), gravity=3),
        Room(((1, 30), (31, 30), (16, 1)), 2, (5, 15), push=10),
        Room(((16, 1), (31, 30), (1, 30)), 2, (5, 15), elasticity=0.3),
    ],
)
def test_the_motion_is_that_of_tiny_steps(room):
    """A simulator of its own, whose error is of the order of its step."""
    random, errors = np.random.RandomState(1), []
    position, velocity = room.starts(30, random)
    controls = random.standard_normal((30, 8, 2)) * (room.push > 0)
    states = room.path(position, velocity, controls)
    for num in (250, 2000):
        walked = [steps(room, position, velocity, controls, num) - states]
        errors.append(np.abs(walked).max())
    # half as much as the ratio of the steps; without pull or loss there is no error at all
    assert errors[1] < max(errors[0] / 4, 1e-9), errors
    assert errors[1] < 0.1


def steps(room, position, velocity, controls, num):
    """States by `num` steps a frame: a ball that comes through a wall is put back, and turned round."""
    states, dt, corners = [np.concatenate([position, velocity], 1)], STEP / num, np.array(room.corners, float)
    for push in controls.swapaxes(0, 1)[1:]:
        pull = np.array([0.0, room.gravity]) + room.push * push
        for _ in range(num):
            position, velocity = position + velocity * dt + pull * dt**2 / 2, velocity + pull * dt
            for corner, after in zip(corners, np.roll(corners, -1, 0), strict=True):
                normal = np.array([after[1] - corner[1], corner[0] - after[0]]) / np.linalg.norm(after - corner)
                normal *= np.sign(normal @ (16 - corner))
                through, rate = (position - corner) @ normal - 3, velocity @ normal
                hit = (through < 0) & (rate < 0)
                position = position - np.outer(hit * (1 + room.elasticity) * through, normal)
                velocity = velocity - np.outer(hit * (1 + room.elasticity) * rate, normal)
        states.append(np.concatenate([position, velocity], 1))
    return np.stack(states, 1)


# The pictures


def test_mirrored_states_give_mirrored_pictures():
    position, velocity, controls = started("box", 50)
    mirror, turn = np.array([32.0, 0.0]), np.array([-1.0, 1.0])
    pictures = BOX.frames(BOX.path(position, velocity, controls)[..., :2])
    mirrored = BOX.frames(BOX.path(mirror + turn * position, turn * velocity, controls)[..., :2])
    # the room is 2 to 30, so pixel j has its mirror at 32 - j, and pixel 0 has none
    assert np.array_equal(mirrored[..., 1:], pictures[..., :0:-1])
    upright = BOX.frames(BOX.path(position[:, ::-1], velocity[:, ::-1], controls)[..., :2])
    assert np.array_equal(upright, pictures.swapaxes(2, 3)), "x and y change places"


def test_the_white_share_is_that_of_walls_and_ball():
    """Walls of one pixel, 4 x 28, and a ball of area 9 pi that never covers them: 13.7 %."""
    some = videos(BOX, 1000)
    # without the first frame: clipped starts stand on whole pixels, where a ball has 29
    white = some.values[:, 1:].sum(-1).double() - 4 * 28
    mean = white.mean(1)
    assert abs(mean.mean() - 9 * math.pi) < 4.5 * mean.std() / 1000**0.5
    assert white.min() >= 24
    assert white.max() <= 32
    assert BOX.walls.sum() == 4 * 28


@pytest.mark.parametrize(("name", "white"), [("polygon", None), ("pong", 2 * 29)])
def test_walls_are_drawn(name, white):
    walls = ROOMS[name].walls
    if white is None:
        corners = np.array(ROOMS[name].corners)
        assert walls[corners[:, 1], corners[:, 0]].all()
        length = np.linalg.norm(np.roll(corners, -1, 0) - corners, axis=1).sum()
        # a line of width 1 covers its length, give or take a pixel at each corner
        assert abs(walls.sum() - length) < len(corners)
    else:
        assert walls.sum() == white, "floor and roof alone"


def test_paddles_meet_the_ball():
    pong = videos(ROOMS["pong"], 500)
    frames, truth = pong.values.unflatten(-1, (32, 32)), pong.padded(pong.truth)
    for column in (2, 30):
        # rows 2 to 30, between roof and floor
        drawn = frames[:, :, 2:31, column]
        rows = torch.arange(2.0, 31.0)
        high = (drawn * rows).sum(-1) / drawn.sum(-1)
        assert drawn.sum(-1).min() >= 4
        assert drawn.sum(-1).max() <= 7
        assert (high - truth[..., 1]).abs().max() <= 2.5
        assert (high[:, 1:] - high[:, :-1]).abs().max() <= 2


# The sets


@pytest.mark.parametrize("name", thorough_but(["box_pushed"], ROOMS))
def test_sets_are_bytes_with_the_true_states(name):
    began = time.process_time()
    data = load(name)
    assert time.process_time() - began < 5, "all 6,500 videos"
    assert [len(split) for split in (data.train, data.valid, data.test)] == [5000, 500, 1000]
    assert (data.shape, data.data_dim, data.num_levels) == ((32, 32), 1024, 2)
    assert (data.train.frames.dtype, data.train.frames.max()) == (torch.uint8, 1)
    assert data.train.truth.shape == (100_000, 4)
    assert (data.train.u is None) == (name != "box_pushed")
    # the centre of a disc of pixels lies within half a pixel of the ball's
    test = data.test[:200]
    ball = (test.values.unflatten(-1, (32, 32)) - torch.from_numpy(ROOMS[name].walls).float()).clamp(min=0)
    ball[..., :3] = ball[..., 30:] = 0
    place = torch.stack([(ball.sum(axis) * torch.arange(32.0)).sum(-1) / ball.sum((-1, -2)) for axis in (-2, -1)], -1)
    assert (place - test.padded(test.truth)[..., :2]).abs().max() < 0.6


def test_batches_are_floats_and_the_set_stays_in_bytes():
    train = videos(ROOMS["box_pushed"], 50)
    index = torch.tensor([7, 49])
    x, u, mask = train.batch(index, torch.Generator())
    assert (x.dtype, x.shape, u.shape, mask) == (torch.float32, (2, 20, 1024), (2, 20, 2), None)
    assert torch.equal(x.to(torch.uint8).flatten(0, 1)[20:], train.frames[49 * 20 :])
    assert torch.equal(u[0], train.controls[140:160])
    assert "values" not in vars(train)


def test_a_seed_gives_the_same_videos():
    one, two = videos(BOX, 3, 5, seed=4), videos(BOX, 3, 5, seed=4)
    assert torch.equal(one.frames, two.frames)
    assert torch.equal(one.truth, two.truth)
    assert not torch.equal(one.frames, videos(BOX, 3, 5, seed=5).frames)


def test_other_videos_under_the_name_of_a_set_are_refused(monkeypatch):
    monkeypatch.setattr(balls, "SPLITS", dict.fromkeys(balls.SPLITS, (1, 0)))
    with pytest.raises(ValueError, match=r"box\(\) is not the file it should be, or is damaged: the sha256 of its 'tr"):
        load("box")


SQUARE = balls.square_room(2, 30)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Room(((2, 2), (30, 2)), 1, (1, 2)), "corners: expected a convex room"),
        (lambda: Room(((2, 2), (30, 2), (20, 10), (2, 30)), 1, (1, 2)), "corners: expected a convex room"),
        (lambda: Room(balls.square_room(14, 18), 1, (1, 2)), r"holds the ball at \(16, 16\), got"),
        (lambda: Room(((2, 2, 0),) * 4, 1, (1, 2)), "corners: expected a convex room"),
        (lambda: Room(((3, 1), (1, 30), (30, 20)), 1, (1, 2), paddles=True), "paddles: expected a room of four walls"),
        (lambda: Room(SQUARE[1:] + SQUARE[:1], 1, (1, 2), paddles=True), "second and the fourth are upright"),
        (lambda: Room(((2, 2), (29, 2), (30, 30), (2, 30)), 1, (1, 2), paddles=True), "upright"),
        (lambda: Room(balls.square_room(-1, 31), 1, (1, 2), paddles=True), r"in the picture, got \(\(-1, -1\)"),
        (lambda: Room(SQUARE, 1, (1, 2), gravity=math.nan), "gravity, push: expected finite numbers, got nan, 0.0"),
        (lambda: Room(SQUARE, 1, (1, 2), push=math.inf), "got 0.0, inf"),
        (lambda: Room(SQUARE, -1, (1, 2)), "0 <= spread"),
        (lambda: Room(SQUARE, 1, (2, 1)), r"got 1, \(2, 1\)"),
        (lambda: Room(SQUARE, 1, (1, math.inf)), r"speeds\[1\]"),
        (lambda: Room(SQUARE, math.nan, (1, 2)), "0 <= spread"),
        (lambda: Room(SQUARE, 1, (1, 2), elasticity=0.0), "elasticity: expected more than 0 and at most 1"),
        (lambda: Room(SQUARE, 1, (1, 2), elasticity=1.1), "got 1.1"),
        (lambda: Room(SQUARE, 1, (1, 2), gravity=5, elasticity=0.9), "elasticity: expected 1 under gravity"),
        (lambda: Room(SQUARE, 1, (1, 2), push=5, elasticity=0.9), "got 0.9"),
        (lambda: videos(BOX, 0), "num: expected a whole number, at least 1, got 0"),
        (lambda: videos(BOX, 1, 0), "T: expected a whole number, at least 1, got 0"),
        (lambda: videos(BOX, 2.5), "num: .* got 2.5"),
        (lambda: videos(BOX, 1, seed=-1), "seed: expected a whole number, at least 0, got -1"),
    ],
)
def test_rooms_and_numbers_that_cannot_be_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
