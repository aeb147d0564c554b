"""Joint transforms: image and label maps move together, labels by nearest neighbour."""

import numpy as np
import pytest
import torch
from examples import blobs, random_region_map
from scipy import ndimage
from torchvision import tv_tensors
from torchvision.transforms import v2

from fusion_lib.datasets import Scenes
from fusion_lib.engine.resident import ResidentLoader
from fusion_lib.prediction import predict
from fusion_lib.targets import RegionTarget, region_target
from fusion_lib.transforms import Finish, augmentation, evaluation_transform


def sample_of(semantic: np.ndarray, region: np.ndarray, image: np.ndarray | None = None) -> dict:
    """A sample as `datasets` yields it; by default the image's red channel shows 40 x the semantic
    label."""
    if image is None:
        image = np.stack([np.where(semantic == 255, 0, 40 * semantic)] * 3, -1)
    return {
        "image": tv_tensors.Image(torch.from_numpy(image.astype(np.uint8)).permute(2, 0, 1)),
        "semantic": tv_tensors.Mask(torch.from_numpy(semantic.astype(np.int64))),
        "region": tv_tensors.Mask(torch.from_numpy(region.astype(np.int64))),
    }


def coded_sample(seed: int, size: int = 48) -> dict:
    region = blobs(seed, size)
    return sample_of(region + 1, region)


# --- Finish ------------------------------------------------------------------------------------


def test_finish_by_hand():
    semantic = np.array([[0, 1, 255], [-1, 1, 2]])
    region = np.array([[7, 7, -1], [-1, 3, 7]])
    image = np.arange(18).reshape(2, 3, 3) * 15
    done = Finish()({**sample_of(semantic, region, image), "name": "kept"})
    assert done["image"].dtype == torch.float32 and done["name"] == "kept"
    np.testing.assert_allclose(done["image"].permute(1, 2, 0), image / 255, atol=1e-7)
    assert done["semantic"].tolist() == [[0, 1, 255], [255, 1, 2]]
    assert done["region"].tolist() == [
        [0, 0, -1],
        [-1, 1, 2],
    ]  # the two parts of 7 do not touch: two regions
    assert done["semantic"].dtype == done["region"].dtype == torch.int64
    assert isinstance(done["image"], tv_tensors.Image) and isinstance(
        done["region"], tv_tensors.Mask
    )


def test_finish_leaves_the_given_sample_as_it_is():
    given = sample_of(np.array([[-1, 0]]), np.array([[5, 5]]))
    Finish()(given)
    assert given["semantic"].tolist() == [[-1, 0]] and given["region"].tolist() == [[5, 5]]


@pytest.mark.parametrize("seed", range(10))
def test_finish_makes_every_region_connected(seed):
    region = random_region_map(seed) % 5
    region[random_region_map(seed) < 0] = -1
    done = np.asarray(Finish()(sample_of(np.zeros_like(region), region))["region"])
    np.testing.assert_array_equal(done == -1, region == -1)
    for number in range(done.max() + 1):
        assert ndimage.label(done == number)[1] == 1
        assert len(np.unique(region[done == number])) == 1


def test_a_crop_that_cuts_a_region_in_two_leaves_two_regions():
    region = np.zeros((6, 6), int)
    region[1:, 2:4] = 1  # region 0 is a horseshoe around region 1
    assert Finish()(sample_of(region, region))["region"].max() == 1
    sample = {
        name: v2.functional.crop(value, 2, 0, 4, 6)
        for name, value in sample_of(region, region).items()
    }
    assert sorted(np.bincount(np.asarray(Finish()(sample)["region"]).ravel())) == [8, 8, 8]


def test_finish_takes_float_pictures_in_0_to_1_as_they_are():
    image = torch.rand(3, 2, 2)
    given = {**sample_of(np.zeros((2, 2)), np.zeros((2, 2))), "image": tv_tensors.Image(image)}
    assert torch.equal(Finish()(given)["image"].as_subclass(torch.Tensor), image)


@pytest.mark.parametrize(
    "value, error, message",
    [
        (
            254.0,
            ValueError,
            r"image holds values from 0 to 254; expected uint8, or float in \[0, 1\]",
        ),
        (1.01, ValueError, "image holds values from 0 to 1.01"),
        (-0.5, ValueError, "image holds values from -0.5 to 0"),
        (float("nan"), ValueError, "image holds values from nan to nan"),
        (254, TypeError, "image has dtype torch.int64; expected uint8, or float"),
    ],
)
def test_pictures_that_are_neither_bytes_nor_shares(value, error, message):
    image = torch.zeros(3, 2, 2, dtype=torch.tensor(value).dtype)
    image[0, 0, 0] = value
    given = {**sample_of(np.zeros((2, 2)), np.zeros((2, 2))), "image": tv_tensors.Image(image)}
    for transform in (Finish(), evaluation_transform(), augmentation((2, 2))):
        with pytest.raises(error, match=message):
            transform(given)


# --- how pictures are resized ------------------------------------------------------------------

STEP = [[0, 0, 240, 240]] * 2  # enlarged twice by bilinear interpolation, half-pixel centres:
STEP_ENLARGED = [0, 0, 0, 60, 180, 240, 240, 240]
LINES = [
    [0, 0, 0, 240, 0, 0, 0, 0]
] * 8  # reduced twice with antialiasing: a triangle over 4 pixels
LINES_REDUCED = [0, 90, 30, 0]  # 240 x 3/8 and 240 x 1/8; without it, 240 x 1/2 and 0; nearest, 0


def grey(rows) -> dict:
    rows = np.array(rows)
    return sample_of(np.zeros(rows.shape), np.zeros(rows.shape), np.stack([rows] * 3, -1))


@pytest.mark.parametrize(
    "rows, size, expected",
    [(STEP, (4, 8), STEP_ENLARGED), (LINES, (4, 4), LINES_REDUCED)],
    ids=["enlarged", "reduced"],
)
@pytest.mark.parametrize("way", ["evaluation", "augmentation", "crop", "resident", "predict"])
def test_pictures_are_resized_bilinearly_and_antialiased(monkeypatch, way, rows, size, expected):
    sample = grey(rows)
    if way == "evaluation":
        image = evaluation_transform(size)(sample)["image"]
    elif way == "resident":
        image = ResidentLoader([sample], 1, size, 2.0, torch.device("cpu")).image[0] / 255
    elif way == "predict":
        image = seen_by_the_model(sample["image"], size)
    else:
        steps = augmentation(size, smallest_crop=1.0 if way == "augmentation" else 0.999).transforms
        if way == "crop":  # the whole picture is the crop
            whole = {"top": 0, "left": 0, "height": len(rows), "width": len(rows[0])}
            for name in ("make_params", "_get_params"):
                monkeypatch.setattr(steps[1], name, lambda *a: whole, raising=False)
        image = v2.Compose(steps[1:])(sample)["image"]
    for row in 255 * image[0]:
        np.testing.assert_allclose(row, expected, atol=0.51)


class Shows(torch.nn.Module):
    """Answers with what it is shown."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        self.shown = images
        return {"affinity": images}


def seen_by_the_model(image, size) -> torch.Tensor:
    model = Shows()
    predict(model, image, size)
    return model.shown[0]


# --- evaluation --------------------------------------------------------------------------------


def test_evaluation_keeps_the_labels():
    for index in range(5):
        plain, seen = Scenes("val")[index], Scenes("val", evaluation_transform())[index]
        assert torch.equal(plain["semantic"], seen["semantic"])
        assert torch.equal(
            plain["region"], seen["region"]
        )  # shipped regions are connected and in raster order
        torch.testing.assert_close(
            torch.Tensor(seen["image"]) * 255, torch.Tensor(plain["image"].float())
        )


def test_evaluation_resizes_labels_by_nearest_neighbour():
    semantic = np.random.default_rng(0).integers(0, 6, (40, 60))
    semantic[:4] = 255
    seen = evaluation_transform((13, 22))(sample_of(semantic, semantic))
    assert seen["image"].shape == (3, 13, 22)
    rows = np.floor((np.arange(13)) * 40 / 13).astype(
        int
    )  # the sample that torch's nearest neighbour takes
    columns = np.floor((np.arange(22)) * 60 / 22).astype(int)
    np.testing.assert_array_equal(seen["semantic"], semantic[np.ix_(rows, columns)])


def test_resizing_invents_no_class_between_two_others():
    semantic = np.zeros((64, 64), int)
    semantic[:, 20:] = 4
    for size in ((31, 47), (100, 90)):
        seen = evaluation_transform(size)(sample_of(semantic, semantic))
        assert set(np.unique(seen["semantic"])) == {0, 4}


# --- augmentation ------------------------------------------------------------------------------


def test_augmentation_without_knobs_is_a_fair_flip_of_all_three():
    sample = coded_sample(0)
    plain = Finish()(sample)
    flips = 0
    for seed in range(60):
        torch.manual_seed(seed)
        seen = augmentation((48, 48))(sample)
        flipped = not torch.equal(seen["image"], plain["image"])
        flips += flipped
        axes = (-1,) if flipped else ()
        assert torch.equal(seen["image"], plain["image"].flip(axes))
        assert torch.equal(seen["semantic"], plain["semantic"].flip(axes))
        np.testing.assert_array_equal(
            seen["semantic"] - 1 == 0, (seen["region"] == seen["region"][seen["semantic"] == 1][0])
        )
    assert 15 < flips < 45


@pytest.mark.parametrize(
    "knobs", [{"smallest_crop": 0.3}, {"rotation": 30}, {"smallest_crop": 0.4, "rotation": 15}]
)
@pytest.mark.parametrize("seed", range(8))
def test_image_and_labels_stay_together(seed, knobs):
    """The image shows the label as a grey value, so away from borders it must still do so
    afterwards."""
    sample = coded_sample(seed, 96)
    torch.manual_seed(seed)
    seen = augmentation((80, 88), **knobs)(sample)
    semantic, region = np.asarray(seen["semantic"]), np.asarray(seen["region"])
    assert seen["image"].shape == (3, 80, 88) and semantic.shape == region.shape == (80, 88)
    shown = np.asarray(seen["image"])[0] * 255 / 40
    # A border may lie just outside the frame, and there bilinear pixels mix with what they cannot
    # show: leave 4 px.
    smooth = ndimage.maximum_filter(
        semantic, 9, mode="constant", cval=255
    ) == ndimage.minimum_filter(semantic, 9)
    inside = smooth & (semantic != 255)
    assert inside.mean() > 0.2
    np.testing.assert_allclose(shown[inside], semantic[inside], atol=0.02)
    np.testing.assert_array_equal(semantic == 255, region == -1)
    for number in range(region.max() + 1):
        assert len(np.unique(semantic[region == number])) == 1


def test_rotation_fills_the_outside_with_void():
    sample = coded_sample(1)
    for seed in range(10):
        torch.manual_seed(seed)
        seen = augmentation((48, 48), rotation=45)(sample)
        void = np.asarray(seen["semantic"]) == 255
        if void.sum() > 50:
            assert void[[0, 0, -1, -1], [0, -1, 0, -1]].all()  # the corners leave the picture first
            assert not void[24, 24]
            return
    raise AssertionError("ten rotations and no outside")


def test_crop_keeps_at_least_the_stated_share():
    """Rows and columns are numbered in the image, so their range tells how much of the picture is
    left."""
    image = np.zeros((64, 64, 3))
    image[..., 0], image[..., 1] = np.mgrid[:64, :64]
    sample = sample_of(np.zeros((64, 64)), np.zeros((64, 64)), image)
    shares = []
    for seed in range(60):
        torch.manual_seed(seed)
        seen = (
            np.asarray(augmentation((64, 64), smallest_crop=0.5)(sample)["image"])[:2].reshape(
                2, -1
            )
            * 255
        )
        shares.append(np.prod(np.ptp(seen, axis=1) + 1) / 64**2)
    assert 0.45 < min(shares) < 0.7 and max(shares) > 0.85


def test_light_changes_the_image_only():
    sample = Scenes("train")[0]
    torch.manual_seed(3)
    plain = augmentation((64, 64))(sample)
    torch.manual_seed(3)
    lit = augmentation((64, 64), light=0.5)(sample)
    assert not torch.equal(plain["image"], lit["image"])
    assert torch.equal(plain["semantic"], lit["semantic"]) and torch.equal(
        plain["region"], lit["region"]
    )
    assert lit["image"].min() >= 0 and lit["image"].max() <= 1


EVERYTHING = {"smallest_crop": 0.4, "rotation": 20, "light": 0.3}


@pytest.mark.parametrize("seed", range(6))
def test_a_further_label_map_moves_with_the_others_and_changes_nothing_else(seed):
    """It shows the semantic labels again, so it must stay equal to them, void outside included."""
    sample = coded_sample(seed)
    seen = []
    for given in (sample, {**sample, "surfaces": sample["semantic"].clone()}):
        torch.manual_seed(seed)
        seen.append(augmentation((40, 44), **EVERYTHING)(given))
        seen[-1]["next"] = torch.rand(1)  # the same random numbers have been drawn
    surfaces = seen[1].pop("surfaces")
    assert all(torch.equal(seen[0][name], seen[1][name]) for name in seen[0]) and set(
        seen[0]
    ) == set(seen[1])
    assert torch.equal(surfaces, seen[1]["semantic"]) and isinstance(surfaces, tv_tensors.Mask)
    assert surfaces.dtype == torch.int64 and surfaces.min() > 0


def test_finish_turns_what_lies_outside_into_void_in_every_label_map():
    sample = sample_of(np.array([[0, 1]]), np.array([[0, 0]]))
    done = Finish()(
        {
            **sample,
            "surfaces": tv_tensors.Mask(torch.tensor([[-1, 2]])),
            "numbers": torch.tensor([-1]),
        }
    )
    assert done["surfaces"].tolist() == [[255, 2]] and done["semantic"].tolist() == [[0, 1]]
    assert done["numbers"].tolist() == [-1]  # no label map


def test_augmentation_depends_on_torch_seed_only():
    transform = augmentation((40, 40), smallest_crop=0.5, rotation=10, light=0.3)
    seen = []
    for _ in range(2):
        torch.manual_seed(5)
        seen.append(transform(Scenes("train")[1]))
    assert all(torch.equal(seen[0][name], seen[1][name]) for name in seen[0])


@pytest.mark.parametrize("seed", range(6))
def test_target_comes_from_the_augmented_region_map(seed):
    """Computed last it fits the new borders; a target that is warped instead does not."""
    transform = v2.Compose(
        [augmentation((48, 48), smallest_crop=0.3, rotation=20), RegionTarget(4.0)]
    )
    torch.manual_seed(seed)
    seen = transform(coded_sample(seed))
    np.testing.assert_array_equal(
        seen["region_target"], region_target(np.asarray(seen["region"]), 4.0)
    )


@pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan")])
def test_smallest_crop_out_of_range(share):
    with pytest.raises(
        ValueError, match=rf"smallest_crop is {share}; expected a share in \(0, 1\]"
    ):
        augmentation((8, 8), smallest_crop=share)
