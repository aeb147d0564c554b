"""The scene generator: chance, knobs, labels, and the shipped files it must reproduce."""

import dataclasses
import hashlib
import subprocess
import sys

import numpy as np
import pytest
from examples import random_region_map
from scipy import ndimage

from fusion_lib import rendering, scenes, worlds
from fusion_lib.datasets import Scenes
from fusion_lib.engine.files import data_folder, write_sums

SEEDS = [0, 1, 2, 17, 10_003, 20_042]


@pytest.mark.parametrize("seed", SEEDS)
def test_equal_seeds_give_equal_scenes_and_pictures(seed):
    pictures = [scenes.render(scenes.sample_scene(seed)) for _ in range(2)]
    for one, other in zip(*pictures):
        np.testing.assert_array_equal(one, other)


def test_other_seeds_give_other_pictures():
    images = {scenes.render(scenes.sample_scene(seed))[0].tobytes() for seed in range(20)}
    assert len(images) == 20


def test_picture_depends_on_nothing_but_the_seed():
    first = scenes.render(scenes.sample_scene(5))[0]
    np.random.seed(99)
    np.random.random(7)
    np.testing.assert_array_equal(scenes.render(scenes.sample_scene(5))[0], first)


@pytest.mark.parametrize("seed", SEEDS)
def test_types_ranges_and_number_of_things(seed):
    scene = scenes.sample_scene(seed)
    image, semantic, region = scenes.render(scene)
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    assert semantic.shape == region.shape == (64, 64) and semantic.dtype == region.dtype == np.int64
    assert set(np.unique(semantic)) <= {*range(len(scenes.CLASSES)), 255}
    assert 3 <= len(scene.things) <= 8
    assert {thing.kind for thing in scene.things} <= set(scenes.THINGS)
    assert set(scenes.STUFF) | set(scenes.THINGS) == set(range(len(scenes.CLASSES)))


@pytest.mark.parametrize(
    "knobs", [{"light": 0.5}, {"light_slope": 0.9}, {"noise": 0.3}, {"noise": 0.0}]
)
@pytest.mark.parametrize("seed", SEEDS[:3])
def test_light_and_noise_change_the_image_and_no_label(seed, knobs):
    scene = scenes.sample_scene(seed)
    image, semantic, region = scenes.render(scene)
    other_image, other_semantic, other_region = scenes.render(scene, **knobs)
    assert (image != other_image).any()
    np.testing.assert_array_equal(semantic, other_semantic)
    np.testing.assert_array_equal(region, other_region)


@pytest.mark.parametrize(
    "knobs",
    [{"scale": 1.5}, {"rotation": 20}, {"perspective": 0.4}, {"occlusion": 0.8}, {"time": 2.0}],
)
def test_camera_and_time_move_the_labels(knobs):
    scene = scenes.sample_scene(2)
    assert (scenes.render(scene)[1] != scenes.render(scene, **knobs)[1]).any()


def test_darker_light_gives_a_darker_image():
    scene = scenes.sample_scene(3)
    means = [scenes.render(scene, light=light)[0].mean() for light in (0.3, 0.6, 1.0)]
    assert means[0] < means[1] < means[2]


def test_light_slope_brightens_the_right_side():
    scene = dataclasses.replace(scenes.sample_scene(3), light_slope=(0.0, 0.0))
    flat, sloped = (
        scenes.render(scene, light_slope=slope, noise=0)[0].astype(float) for slope in (0.0, 0.8)
    )
    assert (sloped[:, -10:] - flat[:, -10:]).mean() > 5 and (
        sloped[:, :10] - flat[:, :10]
    ).mean() < -5


def test_noise_has_the_stated_standard_deviation():
    scene = scenes.sample_scene(11)
    clean, noisy = (scenes.render(scene, noise=noise)[0] / 255 for noise in (0.0, 0.02))
    inside = (clean > 0.1) & (clean < 0.9)  # away from clipping
    assert (noisy - clean)[inside].std() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("seed", SEEDS)
def test_rotation_by_a_quarter_turn_turns_the_labels(seed):
    scene = scenes.sample_scene(seed)
    upright, turned = scenes.render(scene)[1], scenes.render(scene, rotation=90)[1]
    assert (
        np.rot90(upright) == turned
    ).mean() > 0.995  # the rest: ties on an edge, and tiny fragments


@pytest.mark.parametrize("seed", SEEDS)
def test_scale_two_is_the_middle_of_a_picture_twice_as_large(seed):
    scene = scenes.sample_scene(seed)
    middle = scenes.render(scene, size=128)[1][32:96, 32:96]
    near = scenes.render(scene, size=64, scale=2)[1]
    labelled = (middle != 255) & (near != 255)
    assert labelled.mean() > 0.98
    np.testing.assert_array_equal(middle[labelled], near[labelled])


def test_semantic_labels_of_one_ball_by_hand():
    """Every pixel of a scene with a horizon, a lake and one moving ball, decided by plain
    inequalities."""
    colours = np.full((2, 3), 0.5)
    ball = scenes.Thing(
        scenes.BALL,
        x=0.4,
        y=0.8,
        width=0.3,
        height=0.3,
        speed=0.1,
        ambiguity=0.0,
        colours=colours,
        texture=0,
        period=0.1,
        angle=0.0,
    )
    scene = scenes.Scene(
        seed=0,
        horizon=0.4,
        tilt=0.0,
        shore=(0.9, 0.9, 0.2, 0.2),
        light=1.0,
        light_slope=(0, 0),
        stuff_colours=np.full((3, 2, 3), 0.5),
        things=(ball,),
        world=scenes.STREET,
    )
    _, semantic, region = scenes.render(scene, size=20, time=1.0)
    expected = np.empty((20, 20), int)
    for row in range(20):
        for column in range(20):
            x, y = (column + 0.5) / 20, (row + 0.5) / 20
            label = scenes.SKY if y < 0.4 else scenes.GROUND
            if label == scenes.GROUND and (x - 0.9) ** 2 + (y - 0.9) ** 2 < 0.2**2:
                label = scenes.WATER
            if (x - 0.5) ** 2 + (
                y - 0.65
            ) ** 2 < 0.15**2:  # foot at x = 0.4 + 0.1, middle half a height above it
                label = scenes.BALL
            expected[row, column] = label
    np.testing.assert_array_equal(semantic, expected)
    assert sorted(np.bincount(region.ravel())) == sorted(
        np.bincount(expected.ravel())[[0, 1, 2, 6]]
    )


def test_class_depends_on_shape_and_place_never_on_colour():
    """A scene repainted in other colours keeps its labels; ball and balloon have the same
    silhouette."""
    scene = scenes.sample_scene(7)
    things = tuple(dataclasses.replace(thing, colours=1 - thing.colours) for thing in scene.things)
    repainted = dataclasses.replace(scene, things=things, stuff_colours=scene.stuff_colours[::-1])
    image, semantic, _ = scenes.render(scene)
    other_image, other_semantic, _ = scenes.render(repainted)
    assert (image != other_image).mean() > 0.3
    np.testing.assert_array_equal(semantic, other_semantic)
    assert scenes.SHAPES[scenes.BALL] is scenes.SHAPES[scenes.BALLOON]


@pytest.mark.parametrize("seed", range(12))
def test_balls_stand_on_the_ground_and_balloons_hang_in_the_sky(seed):
    scene = scenes.sample_scene(seed)
    for thing in scene.things:
        if thing.kind == scenes.BALL:
            assert thing.y > scene.horizon
        if thing.kind == scenes.BALLOON:
            assert thing.y < scene.horizon + 0.05


@pytest.mark.parametrize("split", scenes.SPLITS)
def test_shipped_regions_are_connected_numbered_from_0_and_of_one_class(split):
    data = Scenes(split)
    for index in range(len(data)):
        _, semantic, region = data.read(index)
        np.testing.assert_array_equal(region == -1, semantic == 255)
        ids, sizes = np.unique(region[region >= 0], return_counts=True)
        assert ids.tolist() == list(range(len(ids))) and sizes.min() >= rendering.SMALLEST_REGION
        for number in ids:
            assert ndimage.label(region == number)[1] == 1  # 4-connected
            assert len(np.unique(semantic[region == number])) == 1


def test_shipped_scenes_have_the_promised_size():
    assert [len(Scenes(split)) for split in ("train", "val", "test")] == [400, 100, 100]
    assert sum(path.stat().st_size for path in data_folder().glob("scenes_*.npz")) < 8e6
    seeds = [set(seeds) for seeds in scenes.SPLITS.values()]
    assert not (seeds[0] & seeds[1] or seeds[0] & seeds[2] or seeds[1] & seeds[2])


def test_every_class_occurs_often_enough_to_be_measured():
    for split in scenes.SPLITS:
        semantic = Scenes(split)._maps[1]
        pictures = [int((semantic == c).any((1, 2)).sum()) for c in range(len(scenes.CLASSES))]
        assert min(pictures) >= 0.25 * len(semantic), dict(zip(scenes.CLASSES, pictures))
        assert (semantic == 255).mean() < 0.01


@pytest.mark.parametrize("split", scenes.SPLITS)
def test_generator_reproduces_the_shipped_files(split):
    """Labels exactly; images within one grey level, because the last bit of a sine may differ
    between machines."""
    data = Scenes(split)
    for index, seed in enumerate(scenes.SPLITS[split]):
        image, semantic, region = scenes.render(scenes.sample_scene(seed))
        shipped_image, shipped_semantic, shipped_region = data.read(index)
        np.testing.assert_array_equal(semantic, shipped_semantic)
        np.testing.assert_array_equal(region, shipped_region)
        assert np.abs(image.astype(int) - shipped_image).max() <= 1


def share_of_hidden_borders(seeds, **knobs) -> float:
    pictures = (scenes.render(scenes.sample_scene(seed, edition=2, **knobs)) for seed in seeds)
    counts = [rendering.count_hidden_borders(semantic, region) for _, semantic, region in pictures]
    hidden, borders = np.sum(counts, 0)
    return hidden / borders


def test_hidden_borders_are_counted_by_hand():
    region = np.array([[0, 0, 1], [2, 2, 1], [-1, 3, 3]])
    semantic = np.array([[5, 5, 5], [5, 5, 5], [255, 7, 7]])
    # Across rows: 0|2 twice hidden, 2|3 and 1|3 open. Within rows: 0|1 and 2|1 hidden.
    assert rendering.count_hidden_borders(semantic, region) == (4, 6)
    assert rendering.count_hidden_borders(semantic.T, region.T) == (4, 6)


@pytest.mark.parametrize("share", [0.06, 0.12, None, 0.25, 0.4, 0.5])
def test_share_of_hidden_borders_is_the_one_asked_for(share):
    expected = scenes.HIDDEN_BORDERS if share is None else share
    assert share_of_hidden_borders(range(150), hidden_borders=share) == pytest.approx(
        expected, abs=0.03
    )


def test_without_groups_no_border_is_hidden():
    assert share_of_hidden_borders(range(200), hidden_borders=0.0) == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_more_groups_leave_the_rest_of_a_scene_as_it_is(seed):
    few, many = (scenes.sample_scene(seed, hidden_borders=h, edition=2) for h in (0.0, 0.3))
    for field in ("horizon", "tilt", "shore", "light", "light_slope", "side"):
        assert getattr(few, field) == getattr(many, field)
    np.testing.assert_array_equal(few.stuff_colours, many.stuff_colours)
    assert len(few.things) <= len(many.things)


def test_second_edition_has_the_grain_that_was_asked_for():
    scene = scenes.sample_scene(11, edition=2)
    clean, noisy = (scenes.render(scene, noise=noise)[0] / 255 for noise in (0.0, 0.02))
    inside = (clean > 0.2) & (clean < 0.8)
    assert (noisy - clean)[inside].std() == pytest.approx(0.02, rel=0.05)
    assert (noisy - clean)[inside].mean() == pytest.approx(0, abs=1e-3)


def test_camera_that_drives_and_pans_by_hand():
    """A ball 0.4 below the horizon is 2.5 camera heights away; after one more it is 1.5 away."""
    scene = dataclasses.replace(scene_of_balls((0.6, 0.7)), horizon=0.4)  # its foot is at 0.8
    semantic = scenes.render(scene, size=100, drive=1.0)[1]
    rows, columns = np.nonzero(semantic == scenes.BALL)
    grown = 2.5 / 1.5
    assert rows.min() == pytest.approx(100 * (0.4 + 0.2 * grown), abs=1)  # its top
    assert columns.mean() + 0.5 == pytest.approx(100 * (0.5 + 0.1 * grown), abs=0.6)
    assert np.ptp(columns) + 1 == pytest.approx(20 * grown, abs=1.1)
    columns = np.nonzero(scenes.render(scene, size=100, pan=0.25)[1] == scenes.BALL)[1]
    assert columns.mean() + 0.5 == pytest.approx(100 * (0.6 - 0.25 / 2.5), abs=0.6)


def test_what_the_camera_has_passed_is_gone():
    scene = dataclasses.replace(scene_of_balls((0.3, 0.5), (0.7, 0.8)), horizon=0.4)
    assert scenes.render(scene, drive=1.9)[2].max() == 2  # sky, ground and the farther ball
    with pytest.raises(ValueError, match="no thing.*expected at least two.*turn the knobs back"):
        scenes.render(scene, drive=6.0)


def test_a_picture_of_one_region_is_refused():
    with pytest.raises(ValueError, match="what the knobs leave in the picture is '1 regions'"):
        scenes.render(scene_of_balls((0.5, 0.5)), size=8, scale=20.0)


@pytest.mark.parametrize("value", [-0.01, 0.51, float("nan")])
def test_hidden_borders_out_of_range_are_refused(value):
    with pytest.raises(ValueError, match=rf"hidden_borders is {value}; expected"):
        scenes.sample_scene(0, hidden_borders=value, edition=2)


def test_first_edition_has_no_knob_for_hidden_borders():
    with pytest.raises(ValueError, match="hidden_borders is 0.2; expected in .*, with edition 2"):
        scenes.sample_scene(0, hidden_borders=0.2, edition=1)
    with pytest.raises(ValueError, match="edition is 3; expected 1 or 2"):
        scenes.sample_scene(0, edition=3)


def test_scenes_are_drawn_with_other_knobs_in_place_of_a_file():
    drawn = Scenes("val", edition=2, hidden_borders=0.1)
    image, semantic, region = drawn.read(7)
    expected = scenes.render(
        scenes.sample_scene(scenes.SPLITS["val"][7], edition=2, hidden_borders=0.1)
    )
    for found, wanted in zip((image, semantic, region), expected):
        np.testing.assert_array_equal(found, wanted)
    assert len(drawn) == 100 and drawn.classes == scenes.CLASSES
    with pytest.raises(ValueError, match="folder is 'x'; expected None beside the knobs"):
        Scenes("val", folder="x", edition=2)


def test_a_file_of_another_edition_is_refused(tmp_path):
    scenes.generate(tmp_path)
    path = tmp_path / "scenes_val.npz"
    with np.load(path) as file:
        np.savez_compressed(path, **file, edition=3 - scenes.EDITION)
    write_sums(tmp_path)
    with pytest.raises(ValueError, match="scenes_val.npz holds scenes of edition.*write it again"):
        Scenes("val", folder=tmp_path)


@pytest.mark.parametrize("sample", [worlds.sample_faces, worlds.sample_above])
def test_other_worlds_have_labels_of_their_own(sample):
    for seed in range(30):
        scene = sample(seed)
        image, semantic, region = scenes.render(scene)
        assert image.shape == (64, 64, 3) and region.max() >= 1
        assert set(np.unique(semantic)) <= {*range(len(scene.world.classes)), 255}
        for one, other in zip(scenes.render(sample(seed)), (image, semantic, region)):
            np.testing.assert_array_equal(one, other)


def test_labels_of_the_second_edition_stay_as_they_are():
    """Results are stored for these scenes: a change of the generator is a change of the edition."""
    _, semantic, region = scenes.draw_split("val", edition=2)
    found = hashlib.sha256(semantic.tobytes() + region.tobytes()).hexdigest()
    assert found == "10cb04f53c35acfeba126fcd7193d69296cbb089b7624b13e7cd60de0fb334a7"


def test_two_eyes_are_one_class_and_two_regions():
    _, semantic, region = scenes.render(worlds.sample_faces(1), size=128)  # one face
    eye = worlds.FACES.classes.index("eye")
    assert len(np.unique(region[semantic == eye])) == 2


def test_maps_from_above_have_borders_inside_a_class():
    pictures = [scenes.render(worlds.sample_above(seed)) for seed in range(60)]
    hidden, borders = np.sum([rendering.count_hidden_borders(*maps[1:]) for maps in pictures], 0)
    assert 0.1 < hidden / borders < 0.4


def test_sha256_list_holds_for_every_file_in_it():
    lines = (data_folder() / "SHA256SUMS").read_text().splitlines()
    names = {line.split()[1] for line in lines}
    assert {f"scenes_{split}.npz" for split in scenes.SPLITS} <= names
    for line in lines:
        digest, name = line.split()
        assert hashlib.sha256((data_folder() / name).read_bytes()).hexdigest() == digest, name


def test_generate_writes_splits_that_the_data_set_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(
        scenes, "SPLITS", {"train": range(3), "val": range(5, 7), "test": range(9, 10)}
    )
    scenes.generate(tmp_path / "new" / "folder")
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        assert len(Scenes(split, folder=tmp_path / "new" / "folder")) == count
    np.testing.assert_array_equal(
        Scenes("val", folder=tmp_path / "new" / "folder").read(1)[0],
        scenes.render(scenes.sample_scene(6))[0],
    )


def test_generator_command_without_a_folder_says_how_it_is_called():
    answer = subprocess.run(
        [sys.executable, "-m", "fusion_lib.scenes"], capture_output=True, text=True
    )
    assert answer.returncode != 0 and "usage: python -m fusion_lib.scenes FOLDER" in answer.stderr


@pytest.mark.parametrize("knob", ["colour_similarity", "shape_ambiguity"])
@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan")])
def test_sample_scene_refuses_knobs_outside_0_to_1(knob, value):
    with pytest.raises(ValueError, match=rf"{knob} is {value}; expected"):
        scenes.sample_scene(0, **{knob: value})


@pytest.mark.parametrize(
    "knob, value",
    [
        ("size", 0),
        ("scale", 0.0),
        ("scale", -1.0),
        ("noise", -0.1),
        ("light", -0.5),
        ("occlusion", 1.5),
        ("occlusion", -0.1),
        ("perspective", 2.5),
        ("scale", float("nan")),
        ("time", float("inf")),
        ("drive", float("nan")),
        ("pan", float("inf")),
    ],
)
def test_render_refuses_impossible_knobs(knob, value):
    with pytest.raises(ValueError, match=rf"{knob} is {value}; expected"):
        scenes.render(scenes.sample_scene(0), **{knob: value})


def test_knobs_at_their_limits_are_accepted():
    for knob in ("colour_similarity", "shape_ambiguity"):
        for value in (0, 1):
            scenes.render(scenes.sample_scene(1, **{knob: value}))
    scenes.render(scenes.sample_scene(1), occlusion=1, noise=0, light=0)


def test_colour_similarity_brings_neighbours_colours_together():
    def mean_distance(similarity):
        pairs = []
        for seed in range(60):
            things = scenes.sample_scene(seed, colour_similarity=similarity).things
            colours = [thing.colours.mean(0) for thing in things]
            pairs += [min(np.abs(a - b).max() for b in colours if b is not a) for a in colours]
        return np.mean(pairs)

    assert mean_distance(1.0) < 0.5 * mean_distance(0.0)


def test_shape_ambiguity_sets_the_range_of_lost_details():
    for knob in (0.0, 0.3, 1.0):
        lost = [
            t.ambiguity
            for seed in range(40)
            for t in scenes.sample_scene(seed, shape_ambiguity=knob).things
        ]
        assert max(lost) <= knob and max(lost) >= 0.9 * knob


def scene_of_balls(*places: tuple[float, float]) -> scenes.Scene:
    """Balls of diameter 0.2 whose middles are at the given (x, y), on plain ground."""
    balls = tuple(
        scenes.Thing(
            scenes.BALL,
            x,
            y + 0.1,
            0.2,
            0.2,
            0.0,
            0.0,
            np.full((2, 3), 0.5),
            texture=0,
            period=0.1,
            angle=0.0,
        )
        for x, y in places
    )
    stuff = np.full((3, 2, 3), 0.5)
    return scenes.Scene(
        seed=0,
        horizon=-9.0,
        tilt=0.0,
        shore=None,
        stuff_colours=stuff,
        light=1.0,
        light_slope=(0, 0),
        things=balls,
        world=scenes.STREET,
    )


@pytest.mark.parametrize(
    "occlusion, middles", [(0.0, (0.3, 0.7)), (0.5, (0.4, 0.6)), (1.0, (0.5, 0.5))]
)
def test_occlusion_moves_things_towards_their_mean_place(occlusion, middles):
    semantic = scenes.render(scene_of_balls((0.3, 0.5), (0.7, 0.5)), size=100, occlusion=occlusion)[
        1
    ]
    x = (np.nonzero((semantic == scenes.BALL).any(0))[0] + 0.5) / 100
    assert x.min() == pytest.approx(middles[0] - 0.1, abs=0.011) and x.max() == pytest.approx(
        middles[1] + 0.1, abs=0.011
    )


def test_perspective_enlarges_what_is_below():
    semantic = scenes.render(scene_of_balls((0.5, 0.2), (0.5, 0.8)), size=100, perspective=0.6)[1]
    above, below = ((half == scenes.BALL).sum() for half in (semantic[:50], semantic[50:]))
    assert (
        below > 1.3 * np.pi * 10**2 > np.pi * 10**2 > 1.3 * above
    )  # without perspective a ball has 314 pixels


@pytest.mark.parametrize("seed", range(10))
def test_connected_regions_against_a_flood_fill(seed):
    ids = random_region_map(seed) % 4
    ids[random_region_map(seed) < 0] = -1
    found = scenes.connected_regions(ids)
    expected = np.full(ids.shape, -1)
    number = 0
    for start in zip(*np.nonzero(ids >= 0)):
        if expected[start] >= 0:
            continue
        stack = [start]
        while stack:
            row, column = stack.pop()
            inside = 0 <= row < ids.shape[0] and 0 <= column < ids.shape[1]
            if inside and ids[row, column] == ids[start] and expected[row, column] < 0:
                expected[row, column] = number
                stack += [
                    (row + 1, column),
                    (row - 1, column),
                    (row, column + 1),
                    (row, column - 1),
                ]
        number += 1
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.int64


def test_connected_regions_by_hand():
    ids = np.array([[3, 3, 7], [9, 3, 3], [3, -5, 3]])
    expected = [[0, 0, 1], [2, 0, 0], [3, -1, 0]]
    np.testing.assert_array_equal(scenes.connected_regions(ids), expected)
    np.testing.assert_array_equal(
        scenes.connected_regions(np.zeros((2, 2), np.uint8)), [[0, 0], [0, 0]]
    )
    np.testing.assert_array_equal(
        scenes.connected_regions(np.full((2, 2), -1)), [[-1, -1], [-1, -1]]
    )
