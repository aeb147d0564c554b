"""PASCAL VOC 2012 and Cityscapes on made-up pictures in the folders, names and file formats of the
real ones."""

import functools
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from examples import RECIPE
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from fusion_lib.datasets.voc_and_cityscapes import Cityscapes, PascalVOC, object_regions
from fusion_lib.lab import recipes
from fusion_lib.targets import RegionTarget
from fusion_lib.transforms import augmentation

VOID = 255


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two region maps part the picture in the same way, whatever the ids; void must
    agree."""
    pairs = np.unique(np.stack([np.asarray(one).ravel(), np.asarray(other).ravel()]), axis=1)
    voids = ((pairs[0] == -1) == (pairs[1] == -1)).all()
    return bool(voids and len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1])


def grid(*rows: str) -> np.ndarray:
    """Numbers from rows of words."""
    return np.array([[int(word) for word in row.split()] for row in rows])


# --- objects and areas -------------------------------------------------------------------------


def test_object_regions_by_hand():
    """Object 7 is cut in two and stays one region; label 3 is in two places and makes two; void is
    void, also in 9."""
    objects = grid("0 0 7 0", "0 7 0 0", "9 9 0 0")
    labels = grid("3 3 5 3", "3 5 4 3", "5 5 4 3")
    void = grid("0 0 0 0", "0 0 0 1", "0 1 0 0").astype(bool)
    region = object_regions(objects, labels, void)
    assert same_partition(region, grid("0 0 9 1", "0 9 2 -1", "8 -1 2 3"))
    assert region.dtype == np.int64 and sorted(np.unique(region)) == [-1, 0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "objects, void, ids", [(0, True, [-1]), (0, False, [0]), (4, False, [0]), (4, True, [-1])]
)
def test_object_regions_where_all_is_one(objects, void, ids):
    region = object_regions(np.full((2, 3), objects), np.zeros((2, 3), int), np.full((2, 3), void))
    assert np.unique(region).tolist() == ids


# --- PASCAL VOC --------------------------------------------------------------------------------

# A person (15, object 2) on a sofa (18, object 1), each with a border; background in two places,
# parted by the sofa.
VOC_CLASS = grid(
    "0  0   0   0   0   0",
    "0  255 255 255 255 255",
    "0  255 18  15  18  255",
    "255 255 18 15  18  255",
    "0  255 255 255 255 255",
)
VOC_OBJECT = np.select([VOC_CLASS == 18, VOC_CLASS == 15, VOC_CLASS == VOID], [1, 2, VOID], 0)
VOC_SPLITS = {"train": ["2007_000032", "2011_003276"], "val": ["2007_000033"]}


def palette_png(mask: np.ndarray, path) -> None:
    picture = Image.fromarray(mask.astype(np.uint8)).convert("P")
    picture.putpalette([value for index in range(256) for value in (index, 255 - index, 7)])
    picture.save(path)


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / "data"
    base = root / "VOCdevkit" / "VOC2012"
    for folder in (
        "JPEGImages",
        "SegmentationClass",
        "SegmentationObject",
        "ImageSets/Segmentation",
        "Annotations",
    ):
        (base / folder).mkdir(parents=True)
    for split, names in {**VOC_SPLITS, "trainval": sum(VOC_SPLITS.values(), [])}.items():
        (base / f"ImageSets/Segmentation/{split}.txt").write_text(
            "".join(f"{name}\n" for name in names)
        )
    for number, name in enumerate(sum(VOC_SPLITS.values(), [])):
        image = np.full((*VOC_CLASS.shape, 3), 40 * number + 20, np.uint8)
        Image.fromarray(image).save(base / f"JPEGImages/{name}.jpg")
        turned = slice(
            None, None, -1 if number % 2 else 1
        )  # so that every picture has a mask of its own
        palette_png(VOC_CLASS[turned], base / f"SegmentationClass/{name}.png")
        palette_png(VOC_OBJECT[turned], base / f"SegmentationObject/{name}.png")
    Image.new("RGB", (9, 9)).save(
        base / "JPEGImages/2008_000001.jpg"
    )  # not in any list, as most of the real ones
    return root


def test_voc_reads_what_was_written(voc):
    data = PascalVOC(voc, "train")
    assert (
        len(data) == 2
        and len(data.classes) == 21
        and (data.classes[15], data.classes[18]) == ("person", "sofa")
    )
    assert data.things == tuple(range(1, 21)) and data.stuff == (0,)
    for index, expected in enumerate((VOC_CLASS, VOC_CLASS[::-1])):
        sample = data[index]
        assert set(sample) == {"image", "semantic", "region"}
        assert (
            isinstance(sample["image"], tv_tensors.Image) and sample["image"].dtype == torch.uint8
        )
        assert abs(int(sample["image"].float().mean()) - (40 * index + 20)) <= 2  # JPEG
        assert sample["semantic"].dtype == sample["region"].dtype == torch.int64
        np.testing.assert_array_equal(sample["semantic"], expected)
    assert len(PascalVOC(voc, "val")) == 1


def test_voc_regions_are_objects_and_areas_of_background(voc):
    """The sofa is one region on both sides of the person; the lower left corner is an area of
    background of its own."""
    expected = grid(
        "0  0  0  0  0  0",
        "0 -1 -1 -1 -1 -1",
        "0 -1  1  2  1 -1",
        "-1 -1 1  2  1 -1",
        "3 -1 -1 -1 -1 -1",
    )
    assert same_partition(PascalVOC(voc, "train")[0]["region"], expected)


def test_voc_void_is_that_of_each_mask(voc):
    """What is hard to tell may be void in one mask alone."""
    base = voc / "VOCdevkit/VOC2012"
    objects = VOC_OBJECT.copy()
    objects[0, 0] = VOID
    palette_png(objects, base / "SegmentationObject/2007_000032.png")
    semantic = VOC_CLASS.copy()
    semantic[0, 2] = VOID
    palette_png(semantic, base / "SegmentationClass/2007_000032.png")
    sample = PascalVOC(voc, "train")[0]
    assert sample["region"][0, 0] == -1 and sample["semantic"][0, 0] == 0
    assert (
        sample["region"][0, 1] == sample["region"][0, 2] == sample["region"][0, 3]
        and sample["semantic"][0, 2] == VOID
    )


@pytest.mark.parametrize("split", ["test", "trainval", "Train", None])
def test_voc_split(voc, split):
    with pytest.raises(ValueError, match="split is .*; expected 'train' or 'val'"):
        PascalVOC(voc, split)


@pytest.mark.parametrize("root", ["VOCdevkit", "VOCdevkit/VOC2012", "nowhere"])
def test_voc_wrong_folder_says_what_was_expected(voc, root):
    with pytest.raises(
        FileNotFoundError,
        match=rf"folder '{root.split('/')[-1]}' lacks VOCdevkit/VOC2012/JPEGImages, .*"
        r"SegmentationObject.*; root must be the folder that holds VOCdevkit/",
    ):
        PascalVOC(voc / root, "train")


def test_voc_list_missing(voc):
    (voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").unlink()
    with pytest.raises(
        FileNotFoundError, match="lacks VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt;"
    ):
        PascalVOC(voc, "val")
    assert len(PascalVOC(voc, "train")) == 2


@pytest.mark.parametrize(
    "folder, ending",
    [("JPEGImages", "jpg"), ("SegmentationClass", "png"), ("SegmentationObject", "png")],
)
def test_voc_file_missing(voc, folder, ending):
    (voc / f"VOCdevkit/VOC2012/{folder}/2011_003276.{ending}").unlink()
    with pytest.raises(
        FileNotFoundError,
        match=rf"1 files are missing, first VOC2012/{folder}/2011_003276.{ending}",
    ):
        PascalVOC(voc, "train")


def test_voc_list_empty(voc):
    (voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").write_text("")
    with pytest.raises(FileNotFoundError, match="'data' holds no picture of split 'val'"):
        PascalVOC(voc, "val")


def test_voc_masks_of_wrong_size_class_or_kind(voc):
    base = voc / "VOCdevkit/VOC2012"
    palette_png(VOC_OBJECT.T, base / "SegmentationObject/2007_000032.png")
    with pytest.raises(
        ValueError,
        match=r"SegmentationObject/2007_000032.png .* \(6, 5\) and its image \(5, 6\); expected",
    ):
        PascalVOC(voc, "train")[0]
    palette_png(np.full_like(VOC_CLASS, 21), base / "SegmentationClass/2011_003276.png")
    with pytest.raises(
        ValueError,
        match=r"SegmentationClass/2011_003276.png holds class 21; expected 0..20 or void 255",
    ):
        PascalVOC(voc, "train")[1]
    Image.new("RGB", (6, 5)).save(
        base / "SegmentationClass/2007_000033.png"
    )  # the colours instead of the indices
    with pytest.raises(
        ValueError, match="2007_000033.png is a PNG file of mode RGB; expected one channel"
    ):
        PascalVOC(voc, "val")[0]
    (base / "SegmentationClass/2007_000033.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"SegmentationClass/2007_000033.png does not decode"):
        PascalVOC(voc, "val")[0]


# --- Cityscapes --------------------------------------------------------------------------------

# Road 7, sky 23, two cars (26) side by side, a crowd (24, not told apart), the own car (1), parking
# (9), a caravan (29).
CITY_LABELS = grid(
    "23 23 23 23 9  9", "7  26 26 7  9  29", "7  26 26 7  24 24", "1  1  7  7  4  24"
)
CITY_INSTANCES = np.where(CITY_LABELS == 29, 29000, CITY_LABELS)
CITY_INSTANCES[1:3, 1], CITY_INSTANCES[1:3, 2] = 26000, 26001
CITY_PLACES = {
    "train": [("aachen", "000000_000019"), ("zurich", "000121_000019")],
    "val": [("lindau", "000000_000019")],
}


@pytest.fixture
def city(tmp_path):
    root = tmp_path / "cityscapes"
    for split, places in CITY_PLACES.items():
        # written in another order than that of the names
        for town, frame in reversed(places):
            for kind in ("leftImg8bit", "gtFine"):
                (root / kind / split / town).mkdir(parents=True)
            name = f"{town}_{frame}"
            image = np.full((*CITY_LABELS.shape, 3), len(town) * 10, np.uint8)
            Image.fromarray(image).save(root / f"leftImg8bit/{split}/{town}/{name}_leftImg8bit.png")
            start = root / f"gtFine/{split}/{town}/{name}_gtFine"
            Image.fromarray(CITY_LABELS.astype(np.uint8)).save(f"{start}_labelIds.png")
            Image.fromarray(CITY_INSTANCES.astype(np.uint16)).save(f"{start}_instanceIds.png")
            Image.fromarray(image).save(f"{start}_color.png")
            (root / f"gtFine/{split}/{town}/{name}_gtFine_polygons.json").write_text("{}")
    return root


def test_cityscapes_reads_what_was_written(city):
    data = Cityscapes(city, "train")
    assert len(data) == 2 and len(data.classes) == 19
    names = ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
    assert [data.classes[index] for index in data.things] == names
    assert data.stuff == tuple(range(11))
    assert [data.classes[index] for index in (0, 10, 11, 13, 18)] == [
        "road",
        "sky",
        "person",
        "car",
        "bicycle",
    ]
    sample = data[0]
    assert set(sample) == {"image", "semantic", "region"} and (sample["image"] == 60).all()
    expected = grid(
        "10  10  10 10  255 255",
        "0   13  13 0   255 255",
        "0   13  13 0   11  11",
        "255 255 0  0   255 11",
    )
    np.testing.assert_array_equal(sample["semantic"], expected)


def test_cityscapes_regions(city):
    """Each car is one, the crowd is one; parking and caravan are regions without a class, the own
    car and 4 are void."""
    expected = grid("1  1 1 1 5  5", "2  3 4 6 5  7", "2  3 4 6 8  8", "-1 -1 6 6 -1 8")
    assert same_partition(Cityscapes(city, "train")[0]["region"], expected)


def test_cityscapes_object_in_two_pieces_is_one_region(city):
    """A person (class 24, so the lowest numbers that objects have) behind a pole."""
    start = city / "gtFine/val/lindau/lindau_000000_000019_gtFine"
    labels = np.array([[24, 17, 24], [24, 17, 24]])
    Image.fromarray(labels.astype(np.uint8)).save(f"{start}_labelIds.png")
    Image.fromarray(np.where(labels == 24, 24000, 17).astype(np.uint16)).save(
        f"{start}_instanceIds.png"
    )
    Image.new("RGB", (3, 2)).save(
        city / "leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit.png"
    )
    assert same_partition(Cityscapes(city, "val")[0]["region"], grid("1 0 1", "1 0 1"))


def test_cityscapes_pictures_come_in_the_order_of_their_names(city):
    """Folders are listed in any order; pictures with equal numbers must be equal everywhere."""
    names = [files[0].name for files in Cityscapes(city, "train").files]
    assert names == ["aachen_000000_000019_leftImg8bit.png", "zurich_000121_000019_leftImg8bit.png"]
    assert [
        picture.name.replace("_leftImg8bit", "")
        for picture, _, _ in Cityscapes(city, "train").files
    ] == [
        instances.name.replace("_gtFine_instanceIds", "")
        for _, _, instances in Cityscapes(city, "train").files
    ]


def test_cityscapes_order_does_not_follow_the_disk(city, monkeypatch):
    import os

    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: sorted(listdir(path), reverse=True))
    assert Cityscapes(city, "train").files[0][0].parent.name == "aachen"


def test_cityscapes_strange_files_are_left_out(city):
    (city / "leftImg8bit/val/lindau/notes.txt").write_text("no picture")
    assert len(Cityscapes(city, "val")) == 1


def test_cityscapes_archives_are_unpacked(city, tmp_path):
    root = tmp_path / "packed"
    root.mkdir()
    for kind, archive in (
        ("leftImg8bit", "leftImg8bit_trainvaltest.zip"),
        ("gtFine", "gtFine_trainvaltest.zip"),
    ):
        with zipfile.ZipFile(root / archive, "w") as packed:
            for path in (city / kind).rglob("*"):
                packed.write(path, path.relative_to(city))
    assert torch.equal(Cityscapes(root, "val")[0]["region"], Cityscapes(city, "val")[0]["region"])


@pytest.mark.parametrize("split", ["test", "train_extra", ""])
def test_cityscapes_split(city, split):
    with pytest.raises(ValueError, match="split is .*; expected 'train' or 'val'"):
        Cityscapes(city, split)


@pytest.mark.parametrize(
    "root, lacks",
    [("gtFine", "leftImg8bit/val, gtFine/val"), ("nowhere", "leftImg8bit/val, gtFine/val")],
)
def test_cityscapes_wrong_folder_says_what_was_expected(city, root, lacks):
    with pytest.raises(
        FileNotFoundError,
        match=rf"folder '{root}' lacks {lacks}; root must be the folder that holds leftImg8bit/",
    ):
        Cityscapes(city / root, "val")


def test_cityscapes_labels_not_unpacked(city):
    (city / "gtFine").rename(city / "gtCoarse")
    with pytest.raises(FileNotFoundError, match="'cityscapes' lacks gtFine/train; root must be"):
        Cityscapes(city, "train")


@pytest.mark.parametrize("kind", ["labelIds", "instanceIds"])
def test_cityscapes_mask_missing(city, kind):
    (city / f"gtFine/train/zurich/zurich_000121_000019_gtFine_{kind}.png").unlink()
    with pytest.raises(
        FileNotFoundError,
        match=rf"1 files are missing, first train/zurich/zurich_.*_gtFine_{kind}.png",
    ):
        Cityscapes(city, "train")


def test_cityscapes_unknown_label(city):
    path = city / "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png"
    Image.fromarray(np.full(CITY_LABELS.shape, 34, np.uint8)).save(path)
    with pytest.raises(
        ValueError,
        match=r"lindau/lindau_000000_.*_labelIds.png holds class 34; expected 0..33 or void",
    ):
        Cityscapes(city, "val")[0]


# --- what comes after --------------------------------------------------------------------------


def test_samples_go_through_transforms_and_loaders(voc, city):
    """As the recipes use a data set: enlarged, cropped, with region targets, in batches."""
    transform = v2.Compose(
        [augmentation((24, 32), smallest_crop=0.5, rotation=5, light=0.2), RegionTarget(2.0)]
    )
    for data in (PascalVOC(voc, "train", transform), Cityscapes(city, "train", transform)):
        batch = next(iter(DataLoader(data, 2)))
        assert batch["image"].shape == (2, 3, 24, 32) and batch["region_target"].shape == batch[
            "semantic"
        ].shape == (2, 24, 32)
        assert set(batch["region_target"].unique().tolist()) <= {0, 1, 2, VOID}
        known = batch["semantic"] != VOID
        assert known.any() and batch["semantic"][known].max() < len(data.classes)


def test_an_object_that_is_cut_in_two_becomes_two_after_the_transforms(voc):
    """As with a crop: before them the sofa is one region, afterwards each side of the person is."""
    plain, seen = (
        PascalVOC(voc, "train", transform)[0]["region"]
        for transform in (None, augmentation((5, 6)))
    )
    assert len(np.unique(plain)) - 1 == 4 and len(np.unique(seen)) - 1 == 5


def test_a_model_trains_on_them(voc):
    recipe = replace(RECIPE, dataset=functools.partial(PascalVOC, voc), size=(16, 24), batch_size=2)
    model, (entry,) = recipes.fit(recipe, {"semantic": 21, "region": 3})
    assert 0 <= entry["val_miou_semantic"] <= 1
    scores = recipes.scores(model, recipe, recipes.tune_decoding(model, recipe), split="val")
    assert {"semantic", "fused", "partition"} <= set(scores)
