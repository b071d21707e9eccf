"""Rooms: views against rays that are marched step by step, poses that follow from actions, colours of panels."""

import math
import time

import numpy as np
import pytest
import torch

from zoo.data.simulated.rooms import ACTIONS, CEILING, FLOOR, SHAPES, SQUARE, PanelledRoom, rooms

every = pytest.mark.parametrize("shape", SHAPES)


def random_poses(room, num, seed=0):
    """Poses of a random walk's places, with headings of their own: `(num, 3)`."""
    some = rooms(4, num, seed, room=room)
    poses = some.truth[torch.from_numpy(np.random.RandomState(seed).permutation(4 * num)[:num])].double().numpy()
    poses[:, 2] = np.random.RandomState(seed).uniform(0, 2 * math.pi, num)
    return poses


def inside(corners, points):
    """Tells whether points `(..., 2)` are in a polygon, by the walls that a ray upwards crosses."""
    odd = np.zeros(points.shape[:-1], bool)
    for (x, y), (nx, ny) in zip(corners, np.roll(corners, -1, 0), strict=True):
        between = (points[..., 0] < x) != (points[..., 0] < nx)
        height = y + (points[..., 0] - x) * (ny - y) / (nx - x if nx != x else 1.0)
        odd ^= between & (points[..., 1] < height)
    return odd


@every
def test_rays_end_where_marching_leaves_the_room(shape):
    """A ray is followed by steps of a thousandth until it is outside; the panel is that of the nearest wall there."""
    room = PanelledRoom(SHAPES[shape], panels=3, size=6)
    poses = random_poses(room, 40)
    depth, panel = room.hits(poses)
    angle = poses[:, 2:] + np.arctan(math.tan(room.field / 2) * np.linspace(1, -1, 6))
    ways = np.stack([np.cos(angle), np.sin(angle)], -1)
    step = 1e-3
    points = poses[:, None, None, :2] + ways[:, :, None] * (step * np.arange(4000))[:, None]
    out = ~inside(room.starts, points)
    left = out.argmax(-1)
    assert out.any(-1).all()
    # along the ray, which is longer than the depth towards the edges of the picture
    length = depth * np.sqrt(1 + room.across**2)
    assert np.abs(length - step * (left - 0.5)).max() < step
    end = np.take_along_axis(points, left[..., None, None], 2)[:, :, 0]
    away = end[..., None, :] - room.starts
    share = (away * room.along).sum(-1) / (room.along**2).sum(-1)
    beside = np.abs(away[..., 0] * room.along[:, 1] - away[..., 1] * room.along[:, 0])
    beside = beside / np.linalg.norm(room.along, axis=-1) + 9.0 * (np.abs(share - 0.5) > 0.51)
    wall = beside.argmin(-1)
    along = np.take_along_axis(share, wall[..., None], -1)[..., 0] * 3
    # at an edge of two panels, or in a corner, marching is off by its step
    clear = (np.abs(along - np.rint(along)) > 0.01) & (np.sort(beside, -1)[..., 1] > 0.01)
    assert clear.mean() > 0.9
    assert np.array_equal(panel[clear], (wall * 3 + np.floor(along).astype(int))[clear])


def test_depths_by_hand():
    """From the middle of the square, along an axis and along a diagonal, into the very corner."""
    room = PanelledRoom(SHAPES["square"], size=3)
    for quarter in range(4):
        depth, panel = room.hits(np.array([0.0, 0.0, quarter * math.pi / 2]))
        np.testing.assert_allclose(depth, 1.0, atol=1e-9)
        # wall 1 is right of the origin: its panels 4 to 7 go upwards, and the middle is the edge of two of them
        assert panel[1] in (4 * ((1 + quarter) % 4) + 1, 4 * ((1 + quarter) % 4) + 2)
    depth, _ = room.hits(np.array([0.5, 0.0, math.pi]))
    np.testing.assert_allclose(depth, [1, 1.5, 1], atol=1e-9)
    depth, _ = room.hits(np.array([0.5, -0.5, math.pi / 2]))
    np.testing.assert_allclose(depth, [1.5, 1.5, 0.5], atol=1e-9)


@every
def test_no_ray_is_lost(shape):
    """Rays parallel to walls and through corners, from places on a grid: exact zeros and ties."""
    room = PanelledRoom(SHAPES[shape], size=17)
    x, y = np.meshgrid(np.linspace(-0.4, 0.3, 15), np.linspace(-0.4, 0.3, 15))
    angles = np.concatenate([np.arange(8) * math.pi / 4, [math.atan2(*(corner[::-1])) for corner in room.starts]])
    poses = np.stack([a.ravel() for a in np.broadcast_arrays(x[..., None], y[..., None], angles)], -1)
    poses = np.concatenate([poses, np.array([[0.0, 0.0, math.atan2(1, 1)]])])
    with np.errstate(all="raise"):
        depth, panel = room.hits(poses)
    assert np.isfinite(depth).all()
    assert 0.05 < depth.min() < depth.max() < 4
    assert panel.max() < 4 * len(room.corners)


def test_a_ray_along_a_wall_ends_at_the_next():
    """In the room with a corner inside, y = 0.4 is the line of a wall: a ray on it goes on behind the wall's end."""
    room = PanelledRoom(SHAPES["l_shaped"], size=3)
    for below, depth, wall in ((0.0, 1.9, 1), (1e-6, 1.9, 1), (-1e-6, 0.9, 3)):
        found, panel = room.hits(np.array([-0.5, 0.4 - below, 0.0]))
        if below:
            np.testing.assert_allclose(found[1], depth, atol=1e-9)
            assert panel[1] // 4 == wall
        # on the line itself it may end at the corner or go on
        assert min(abs(found[1] - 0.9), abs(found[1] - 1.9)) < 1e-9


@pytest.mark.parametrize("shape", ["square", "l_shaped"])
def test_a_mirrored_room_gives_mirrored_views(shape):
    """The room upside down, walked in with left for right, shows every picture from right to left."""
    room = PanelledRoom(SHAPES[shape])
    mirrored = PanelledRoom(tuple((x, -y) for x, y in room.corners[::-1]))
    walls, panels = len(room.corners), room.panels
    poses = random_poses(room, 60)[None]
    colours = np.random.RandomState(1).uniform(0.1, 1, (1, walls * panels, 3))
    # wall w goes from corner w to the next; the order of corners, and of the panels of each wall, is turned round
    turned = colours.reshape(1, walls, panels, 3)[:, (walls - 2 - np.arange(walls)) % walls, ::-1].reshape(1, -1, 3)
    seen, other = room.frames(poses, colours), mirrored.frames(poses * [1, -1, -1], turned)
    different = (seen != other[..., ::-1, :]).any(-1)
    # a ray that ends on the very edge of two panels may take either: columns, not pixels
    assert different.any(-2).mean() < 0.002


def test_views_show_the_colours_of_panels_and_their_distance():
    room = PanelledRoom(SHAPES["square"])
    colours = np.random.RandomState(0).uniform(0.1, 1, (1, 16, 3))
    poses = random_poses(room, 50)[None]
    frames = room.frames(poses, colours)[0].astype(float)
    depth, panel = room.hits(poses[0])
    shade = np.clip(1.15 - 0.25 * depth, 0.3, 1)
    middle = frames[:, 7]
    # rows 7 and 8 are a fifteenth of the picture from its middle: every wall of the square is higher than that
    assert np.abs(middle - 255 * colours[0][panel] * shade[..., None]).max() <= 0.5 + 1e-9
    assert np.array_equal(frames[:, 7], frames[:, 8])
    # a wall of half height 1/2 at depth d is 1 / (2 d) high in the picture, whose edge is at 1
    wall = (frames != CEILING).any(-1) & (frames != FLOOR).any(-1)
    rows = (np.abs(np.linspace(1, -1, 16))[:, None] <= 0.5 / depth[:, None]).sum(1)
    assert np.array_equal(wall.sum(1), rows)
    top, bottom = frames[:, 0], frames[:, -1]
    far = depth > 0.55
    assert (top[far] == CEILING).all()
    assert (bottom[far] == FLOOR).all()


@every
def test_poses_follow_from_the_actions_and_keep_away_from_walls(shape):
    room = PanelledRoom(SHAPES[shape])
    some = rooms(30, 200, room=room)
    pose, action = some.padded(some.truth).double().numpy(), some.u.argmax(-1).numpy()
    turn, stride = np.array([0, 0, math.pi / 12, -math.pi / 12, 0]), np.array([0.15, -0.15, 0, 0, 0])
    heading = turn[action].cumsum(1)
    np.testing.assert_allclose(pose[..., 2], heading, atol=1e-5)
    moved = stride[action][..., None] * np.stack([np.cos(heading), np.sin(heading)], -1)
    np.testing.assert_allclose(pose[..., :2], moved.cumsum(1), atol=1e-5)
    assert (action[:, 0] == ACTIONS.index("stay")).all()
    gaps = room.gaps(pose[..., :2])
    assert gaps.min() > 0.2 - 1e-6
    assert gaps.min() < 0.22, "some come close"
    assert inside(room.starts, pose[..., :2]).all()
    away = pose[..., None, :2] - room.starts
    assert np.linalg.norm(away, axis=-1).min() >= gaps.min()


def test_distances_from_walls_by_hand():
    points = np.array([[0.0, 0.0], [0.7, 0.1], [-0.5, 0.9], [2.0, 2.0]])
    np.testing.assert_allclose(SQUARE.gaps(points), [1, 0.3, 0.1, 2**0.5])
    # past the end of a wall the nearest point is the corner inside the room
    np.testing.assert_allclose(PanelledRoom(SHAPES["l_shaped"]).gaps(np.array([[0.1, 0.0]])), [0.5])


def test_walks_have_colours_of_their_own_and_seeds_repeat_them():
    one, two, other = (rooms(3, 20, seed=seed) for seed in (4, 4, 5))
    assert torch.equal(one.frames, two.frames)
    assert torch.equal(one.truth, two.truth)
    assert not torch.equal(one.truth, other.truth)
    first = one.values[:, 0]
    assert not torch.equal(first[0], first[1])
    noisy = rooms(3, 20, seed=4, noise=0.05)
    assert torch.equal(noisy.truth, one.truth)
    noise = noisy.values - one.values
    # 60 x 768 numbers, 4.5 standard errors
    assert abs(noise.std() - 0.05) < 4.5 * 0.05 / (2 * noise.numel()) ** 0.5
    assert (one.frames.dtype, one.num_levels, noisy.num_levels) == (torch.uint8, 256, None)
    assert one.columns[:4] == ("row 0, column 0, red", "row 0, column 0, green", "row 0, column 0, blue",
                               "row 0, column 1, red")  # fmt: skip


def test_thousands_of_views_a_second():
    rooms(8, 180)
    began = time.process_time()
    rooms(8, 180, seed=1)
    assert time.process_time() - began < 0.3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PanelledRoom(((1, 1), (2, 1), (2, 2), (1, 2))), "corners: expected a polygon around the origin, 0.2"),
        (lambda: PanelledRoom(((-1, -1), (1, 1))), "corners: expected a polygon"),
        (lambda: PanelledRoom(((-1, -1, 0), (1, -1, 0), (0, 1, 0))), "corners: expected a polygon"),
        (lambda: PanelledRoom(((-1, -1), (1, -1), (0, math.nan))), "corners: expected a polygon"),
        (lambda: PanelledRoom(((-1, 0), (1, 0), (2, 0))), "corners: expected a polygon"),
        (lambda: PanelledRoom(((-1, -0.1), (1, -0.1), (1, 1), (-1, 1))), r"0.2 or more from each wall, got \(\(-1"),
        (lambda: PanelledRoom(SHAPES["square"], panels=0), "panels: expected a whole number, at least 1, got 0"),
        (lambda: PanelledRoom(SHAPES["square"], size=1), "size: expected a whole number, at least 2, got 1"),
        (lambda: PanelledRoom(SHAPES["square"], stride=-1.0), "stride: expected a finite number, at least 0, got -1.0"),
        (lambda: PanelledRoom(SHAPES["square"], turn=math.nan), "turn: .* got nan"),
        (lambda: PanelledRoom(SHAPES["square"], field=math.pi), "field: expected an angle between 0 and pi"),
        (lambda: PanelledRoom(SHAPES["square"], margin=0.15), "margin: expected more than the stride, 0.15, got 0.15"),
        (lambda: rooms(0), "num: expected a whole number, at least 1, got 0"),
        (lambda: rooms(1, 0), "T: .* got 0"),
        (lambda: rooms(1, 2, None), "seed: .* got None"),
        (lambda: rooms(1, 2, repeat=math.inf), "repeat: .* got inf"),
        (lambda: rooms(1, 2, noise=-0.1), "noise: .* got -0.1"),
    ],
)
def test_rooms_and_numbers_that_cannot_be_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
