"""Changes of scenes and photographs: nothing at severity 0, then just what is declared; errors near
borders."""

import numpy as np
import pytest
import torch
from examples import SEEDS, random_region_map, tiny_model
from scipy import ndimage

from fusion_lib import evaluation, rendering, scenes
from fusion_lib.datasets import Scenes, SegmentationDataset
from fusion_lib.lab import changes, recipes
from fusion_lib.lab.changes import (
    CHANGES,
    PIXEL_CHANGES,
    Changed,
    border_curves,
    border_errors,
    curves,
)

TEST = Scenes("test")
SEVERITIES = range(len(CHANGES["dark"].values))
CAMERA = ("larger", "smaller", "rotation", "perspective")
DECODING = {"smoothing": 0.5, "threshold": 0.5, "edge_weight": 0.5, "vote_weight": 0.6}


class Photographs(SegmentationDataset):
    """Pictures wider than high, as photographs are; labels with void."""

    classes = ("left", "right")

    def __init__(self, split):
        super().__init__()

    def __len__(self):
        return 3

    def read(self, index):
        image = np.random.default_rng(index).integers(0, 256, (60, 80, 3), np.uint8)
        semantic = (np.arange(80) < 19 + index).astype(int)[None].repeat(60, 0)
        semantic[0, :5] = 255
        return image, semantic, np.where(semantic == 255, -1, 1 - semantic)


def shipped(split):
    return TEST  # read once


def pictures(change, index=4, dataset=shipped):
    return [Changed(dataset, "test", change, severity).read(index) for severity in SEVERITIES]


# What is declared


@pytest.mark.parametrize("change", CHANGES.values(), ids=str)
def test_every_change_is_declared_whole(change):
    assert CHANGES[change.name] is change and change.name.isidentifier() and change.unit
    assert len(change.values) == 5
    steps = np.diff(change.values)
    assert (steps > 0).all() or (steps < 0).all()
    assert change.pixels or change.scene


def test_the_changes_that_the_series_looks_at_are_there():
    assert {*PIXEL_CHANGES} == {"dark", "bright", "gradient", "shadow", "cast", "noise", "blur"}
    assert {*CHANGES} == {*PIXEL_CHANGES, *CAMERA, "occlusion"}


# Severity 0


@pytest.mark.parametrize("change", CHANGES)
def test_severity_0_is_the_shipped_picture_bit_for_bit(change):
    unchanged = Changed(Scenes, "test", change, 0)
    for index in range(0, 100, 12):
        for name, there in TEST[index].items():
            here = unchanged[index][name]
            assert (
                type(here) is type(there) and here.dtype == there.dtype and torch.equal(here, there)
            )


@pytest.mark.parametrize("change", PIXEL_CHANGES)
def test_severity_0_leaves_photographs_alone_and_no_severity_moves_their_labels(change):
    for index in range(3):
        original = Photographs("test").read(index)
        series = pictures(change, index, Photographs)
        np.testing.assert_array_equal(series[0][0], original[0])
        for image, semantic, region in series:
            assert image.shape == (60, 80, 3) and image.dtype == np.uint8
            np.testing.assert_array_equal(semantic, original[1])
            np.testing.assert_array_equal(region, original[2])


# Growing severities


@pytest.mark.parametrize("change", PIXEL_CHANGES)
@pytest.mark.parametrize("dataset", [shipped, Photographs])
def test_pixels_differ_more_with_every_severity(change, dataset):
    images = [image.astype(float) for image, _, _ in pictures(change, 1, dataset)]
    differences = [abs(image - images[0]).mean() for image in images]
    assert differences[0] == 0 and (np.diff(differences) > 0).all()


@pytest.mark.parametrize("change", PIXEL_CHANGES)
def test_light_noise_and_blur_leave_every_label_of_a_scene(change):
    for _, semantic, region in pictures(change):
        np.testing.assert_array_equal(semantic, TEST.read(4)[1])
        np.testing.assert_array_equal(region, TEST.read(4)[2])


@pytest.mark.parametrize("change", CAMERA)
def test_camera_moves_more_labels_with_every_severity(change):
    moved = np.zeros(len(SEVERITIES))
    for index in range(0, 40, 8):
        moved += [
            (semantic != TEST.read(index)[1]).mean() for _, semantic, _ in pictures(change, index)
        ]
    assert moved[0] == 0 and (np.diff(moved) > 0).all()


@pytest.mark.parametrize(
    "name, knobs",
    [
        ("dark", {"light": 0.55}),
        ("larger", {"scale": 1.6}),
        ("noise", {"noise": np.hypot(0.05, 0.08)}),
    ],
)
def test_scene_under_a_change_is_the_same_scene_rendered_again(name, knobs):
    expected = scenes.render(scenes.sample_scene(scenes.SPLITS["val"][7]), **knobs)
    for here, there in zip(Changed(Scenes, "val", name, 2).read(7), expected):
        np.testing.assert_array_equal(here, there)


@pytest.mark.parametrize(
    "name, knob",
    [("rotation", "rotation"), ("gradient", "light_slope"), ("perspective", "perspective")],
)
def test_a_picture_keeps_its_side_and_pictures_have_either(name, knob):
    sides = set()
    for index in range(8):
        scene = scenes.sample_scene(scenes.SPLITS["test"][index])
        values = CHANGES[name].values[3:]
        both = [
            [scenes.render(scene, **{knob: sign * value})[0] for value in values]
            for sign in (-1, 1)
        ]
        here = [image for image, _, _ in pictures(name, index)[3:]]
        sides.add([all(map(np.array_equal, here, side)) for side in both].index(True))
    assert sides == {0, 1}


# What each one does


def flat(value=100.0):
    return np.full((60, 80, 3), value)


def chance():
    return np.random.default_rng(5)


def test_light_is_a_factor_on_every_pixel():
    assert CHANGES["dark"].pixels(flat(), 0.4, chance()) == pytest.approx(flat(40))
    assert CHANGES["bright"].pixels(flat(), 1.5, chance()) == pytest.approx(flat(150))
    assert (
        Changed(Photographs, "test", "bright", 4).read(0)[0].max() == 255
    )  # clipped, not wrapped around


def test_gradient_is_a_straight_ramp_around_the_middle():
    row = CHANGES["gradient"].pixels(flat(), 0.8, chance())[0, :, 0]
    ramp = 100 * (1 + 0.8 * ((np.arange(80) + 0.5) / 80 - 0.5))
    assert row == pytest.approx(ramp) or row == pytest.approx(ramp[::-1])
    assert CHANGES["gradient"].pixels(flat(), 3.0, chance()).min() == 0


def test_shadow_darkens_a_band_by_the_stated_share_with_soft_edges():
    for seed in range(10):
        light = CHANGES["shadow"].pixels(flat(), 0.6, np.random.default_rng(seed))[..., 0]
        assert light.min() == pytest.approx(40) and light.max() == pytest.approx(100)
        assert 0.1 < (light < 41).mean() < 0.7 and 0 < ((light > 41) & (light < 99)).mean() < 0.35
        _, parts = ndimage.label(light < 99)
        assert parts == 1


def test_cast_keeps_the_mean_logarithm_and_has_other_tints_for_other_pictures():
    factors = [
        CHANGES["cast"].pixels(flat(), 0.5, np.random.default_rng(seed))[0, 0] / 100
        for seed in range(20)
    ]
    logarithms = np.log(factors)
    assert logarithms.sum(1) == pytest.approx(np.zeros(20)) and abs(logarithms).max() <= 0.5
    assert {*logarithms.argmax(1)} == {0, 1, 2}


def test_noise_has_the_stated_standard_deviation():
    noisy = CHANGES["noise"].pixels(flat(), 0.1, chance())
    assert (noisy - 100).std() == pytest.approx(25.5, rel=0.03) and noisy.mean() == pytest.approx(
        100, abs=1
    )


def test_blur_of_a_point_has_the_stated_width_in_picture_heights():
    image = np.zeros((101, 151, 3))
    image[50, 75] = 1
    blurred = CHANGES["blur"].pixels(image, 0.04, chance())[..., 1]
    y, x = np.mgrid[-50:51, -75:76]
    assert (
        np.sqrt((blurred * x**2).sum())
        == pytest.approx(4.04, rel=0.02)
        == np.sqrt((blurred * y**2).sum())
    )
    assert blurred.sum() == pytest.approx(1)


# Occlusion


@pytest.mark.parametrize("index", range(0, 100, 15))
def test_every_thing_loses_the_stated_share_and_nothing_else_changes(index):
    image, semantic, region = TEST.read(index)
    before = np.zeros(region.shape, bool)
    for value, (painted, left, pieces) in zip(
        CHANGES["occlusion"].values, pictures("occlusion", index)
    ):
        covered = (painted != image).any(-1)
        for number in np.unique(region[np.isin(semantic, scenes.THINGS)]):
            own = region == number
            hidden = (covered & own).sum()
            assert (
                abs(hidden - value * own.sum()) <= 1.5
            )  # half a pixel of rounding, one that looks as it did before
        assert (left[covered] == 255).all() and (pieces[covered] == -1).all()
        kept = left != 255
        np.testing.assert_array_equal(left[kept], semantic[kept])
        assert (before & ~(left == 255)).sum() == 0  # a patch grows
        before |= covered


def test_regions_left_by_patches_are_connected_numbered_and_not_tiny():
    for index in range(0, 100, 15):
        _, semantic, region = Changed(shipped, "test", "occlusion", 3).read(index)
        np.testing.assert_array_equal(region, scenes.connected_regions(region))
        assert np.bincount(region[region >= 0]).min() >= rendering.SMALLEST_REGION
        np.testing.assert_array_equal(region == -1, semantic == 255)


# The data set


def test_samples_are_as_every_data_set_yields_them():
    dataset = Changed(shipped, "test", "shadow", 2, pictures=5)
    assert len(dataset) == 5 and dataset.classes == scenes.CLASSES
    assert dataset.indices == [0, 25, 50, 74, 99]
    sample = dataset[1]
    assert sample["image"].shape == (3, 64, 64) and sample["semantic"].shape == sample[
        "region"
    ].shape == (64, 64)
    np.testing.assert_array_equal(sample["semantic"], TEST[25]["semantic"])
    assert len(Changed(shipped, "test", "shadow", 2)) == 100


@pytest.mark.parametrize("change", ["shadow", "cast", "noise", "occlusion"])
def test_pictures_depend_on_index_and_change_alone(change):
    first = Changed(shipped, "test", change, 3).read(8)[0]
    np.random.seed(99)
    part = Changed(Scenes, "test", change, 3, pictures=100)
    part.read(3)
    np.testing.assert_array_equal(part.read(8)[0], first)


def test_pictures_have_shadows_of_their_own():
    class OnePicture(Photographs):
        def read(self, index):
            return super().read(0)

    shaded = Changed(OnePicture, "test", "shadow", 3)
    assert len({shaded.read(index)[0].tobytes() for index in range(3)}) == 3


@pytest.mark.parametrize(
    "dataset, change, severity, count, message",
    [
        (shipped, "fog", 1, None, "change is 'fog'; expected one of"),
        (shipped, "dark", 5, None, "severity is 5; expected 0 to 4"),
        (shipped, "dark", -1, None, "severity is -1; expected 0 to 4"),
        (shipped, "dark", 1, 101, "pictures is 101; expected 1 to 100"),
        (shipped, "dark", 1, 0, "pictures is 0; expected 1 to 100"),
        (Photographs, "rotation", 1, None, "change is 'rotation'; .* only scenes can undergo"),
        (Photographs, "occlusion", 1, None, "change is 'occlusion'; .* only scenes can undergo"),
    ],
)
def test_what_cannot_be_is_refused(dataset, change, severity, count, message):
    with pytest.raises(ValueError, match=message):
        Changed(dataset, "test", change, severity, count)


# Errors near borders


def test_border_errors_by_brute_force():
    edges = (0, 1, 1.5, 3, 5)
    for seed in SEEDS:
        region = random_region_map(seed)
        rng = np.random.default_rng(seed)
        truth, prediction = rng.integers(0, 3, (2, *region.shape))
        truth[rng.random(region.shape) < 0.2] = 255
        height, width = region.shape

        def borders(row, column):
            if region[row, column] == -1:
                return False
            around = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
            inside = [region[r, c] for r, c in around if 0 <= r < height and 0 <= c < width]
            return any(other not in (-1, region[row, column]) for other in inside)

        places = [(r, c) for r in range(height) for c in range(width)]
        boundary = np.array([place for place in places if borders(*place)])
        expected = np.zeros((2, 4), int)
        for place in places:
            nearest = np.sqrt(((boundary - place) ** 2).sum(1).min())
            for bin in range(4):
                last = bin == 3 and nearest == edges[4]
                if (edges[bin] <= nearest < edges[bin + 1] or last) and truth[place] != 255:
                    expected[0, bin] += 1
                    expected[1, bin] += truth[place] != prediction[place]
        np.testing.assert_array_equal(border_errors(region, truth, prediction, edges), expected)


def test_picture_without_a_border_lies_infinitely_far():
    truth = np.zeros((4, 5), int)
    truth[0, 0] = 255
    prediction = np.zeros((4, 5), int)
    prediction[:, 4] = 1
    pixels, wrong = border_errors(np.zeros((4, 5), int), truth, prediction)
    assert pixels.tolist() == [0] * 6 + [19] and wrong.tolist() == [0] * 6 + [4]


@pytest.mark.parametrize(
    "shape, edges, message",
    [((3, 4), (0, 1), "expected equal shapes"), ((4, 4), (0, 2, 1), "monotonically")],
)
def test_border_errors_refuse_unequal_maps_and_edges_that_fall(shape, edges, message):
    with pytest.raises(ValueError, match=message):
        border_errors(np.zeros((4, 4), int), np.zeros((4, 4), int), np.zeros(shape, int), edges)


# What an experiment measures


def test_border_curves_sum_up_to_the_pixel_accuracy():
    model = tiny_model(outputs=recipes.TASKS)
    dataset = Changed(shipped, "test", "dark", 1, pictures=4)
    sums = border_curves(model, dataset, DECODING)
    scores = evaluation.evaluate(model, dataset, DECODING)
    assert {*sums} == {"pixels", "wrong", "wrong_fused"}
    for wrong, task in (("wrong", "semantic"), ("wrong_fused", "fused")):
        assert 1 - sum(sums[wrong]) / sum(sums["pixels"]) == pytest.approx(
            scores[task]["pixel_accuracy"]
        )
    alone = border_curves(tiny_model(outputs={"semantic": 8}), dataset, {})
    assert {*alone} == {"pixels", "wrong"} and alone["pixels"] == sums["pixels"]


def test_curves_are_the_scores_at_every_severity():
    model = tiny_model(outputs=recipes.TASKS)
    measured = curves(model, shipped, DECODING, changes=("dark", "occlusion"), pictures=3)
    assert {*measured} == {
        f"{name}_{change}" for name in changes.MEASURED for change in ("dark", "occlusion")
    }
    assert all(len(values) == 5 for values in measured.values())
    for severity in (0, 3):
        scores = evaluation.evaluate(
            model, Changed(shipped, "test", "occlusion", severity, 3), DECODING
        )
        assert measured["miou_occlusion"][severity] == scores["semantic"]["miou"]
        assert measured["miou_fused_occlusion"][severity] == scores["fused"]["miou"]
        assert measured["covering_occlusion"][severity] == scores["partition"]["covering"]
    assert measured["miou_dark"][0] == measured["miou_occlusion"][0]


@pytest.mark.parametrize(
    "task, decoding, names",
    [
        ("semantic", {}, {"miou_blur"}),
        ("region", {"smoothing": 0.5, "threshold": 0.5}, {"covering_blur"}),
    ],
)
def test_curves_of_a_single_task_on_photographs(task, decoding, names):
    model = tiny_model(outputs={task: {"semantic": 2, "region": 3}[task]})
    assert {*curves(model, Photographs, decoding, changes=("blur",))} == names
