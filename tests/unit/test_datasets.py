"""The data sets, on tiny made-up files; and one test on the real photographs where they are."""

import collections
import csv
import errno
import gzip
import hashlib
import io
import os
import struct
import tarfile
import threading
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from servers import server
from torch.utils.data import ConcatDataset, DataLoader, Subset, random_split
from torchvision import tv_tensors

from fusion_lib import scenes
from fusion_lib.datasets import (
    FolderDataset,
    PartlyLabelled,
    Scenes,
    SegmentationDataset,
    StanfordBackground,
    attribute,
)
from fusion_lib.datasets import stanford as stanford_module
from fusion_lib.datasets.decoding import read_mask
from fusion_lib.datasets.stanford import download_stanford_background
from fusion_lib.engine import files

IDS = [f"{number:07d}" for number in range(10)]


# --- samples -----------------------------------------------------------------------------------


def test_sample_has_the_promised_types():
    sample = Scenes("val")[3]
    assert isinstance(sample["image"], tv_tensors.Image) and sample["image"].dtype == torch.uint8
    assert sample["image"].shape == (3, 64, 64)
    for name in ("semantic", "region"):
        assert isinstance(sample[name], tv_tensors.Mask)
        assert sample[name].shape == (64, 64) and sample[name].dtype == torch.int64


def test_sample_channels_are_red_green_blue_and_rows_stay_rows():
    image, semantic, region = Scenes("val").read(3)
    sample = Scenes("val")[3]
    for channel in range(3):
        np.testing.assert_array_equal(sample["image"][channel], image[:, :, channel])
    np.testing.assert_array_equal(sample["semantic"], semantic)
    np.testing.assert_array_equal(sample["region"], region)


def test_transform_receives_the_sample_and_its_result_is_returned():
    assert Scenes("val", transform=lambda sample: sorted(sample))[0] == [
        "image",
        "region",
        "semantic",
    ]


def test_changing_a_sample_does_not_change_the_data_set():
    data = Scenes("val")
    data[0]["image"].zero_()
    data[0]["semantic"].zero_()
    assert (
        data[0]["image"].any()
        and (data[0]["semantic"] == torch.from_numpy(data.read(0)[1].astype(int))).all()
    )


def test_data_set_without_a_reader_is_refused():
    with pytest.raises(NotImplementedError):
        SegmentationDataset()[0]


def test_further_labels_of_wrong_shape_are_refused():
    class Own(SegmentationDataset):
        def read(self, index):
            return np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), int), np.zeros((4, 4), int)

        def read_further(self, index):
            return {"depth": np.zeros((4, 5), int)}

    with pytest.raises(
        ValueError, match=r"depth has shape \(4, 5\) and the image \(4, 4\); expected equal"
    ):
        Own()[0]


@pytest.mark.parametrize("name", ["scenes", "folder"])
def test_data_sets_without_further_labels_have_none(tmp_path, name):
    write_folder(tmp_path)
    data = Scenes("val") if name == "scenes" else FolderDataset(tmp_path, CLASSES)
    assert set(data[0]) == {"image", "semantic", "region"} and data.further_classes == {}


@pytest.mark.parametrize(
    "semantic, region, name",
    [
        (np.zeros((4, 4)), np.zeros((4, 4), int), "semantic has dtype float64"),
        (np.zeros((4, 4), int), np.zeros((4, 4), bool), "region has dtype bool"),
        (
            np.zeros((4, 5), int),
            np.zeros((4, 4), int),
            r"semantic .* \(4, 5\) and the image \(4, 4\)",
        ),
        (np.zeros((4, 4), int), np.zeros((4, 4, 1), int), r"region has shape \(4, 4, 1\)"),
    ],
)
def test_reader_with_labels_of_wrong_dtype_or_shape_is_refused(semantic, region, name):
    class Own(SegmentationDataset):
        def read(self, index):
            return np.zeros((4, 4, 3), np.uint8), semantic, region

    with pytest.raises((TypeError, ValueError), match=rf"{name}; expected"):
        Own()[0]


# --- shipped scenes ----------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["Train", "validation", "", None])
def test_scenes_split_misspelt(split):
    with pytest.raises(
        ValueError, match=r"split is .*; expected one of \['train', 'val', 'test'\]"
    ):
        Scenes(split)


@pytest.fixture
def own_scenes(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "SPLITS", {"train": range(3), "val": range(1), "test": range(1)})
    scenes.generate(tmp_path)
    return tmp_path


def test_scenes_file_missing(own_scenes):
    (own_scenes / "scenes_val.npz").unlink()
    with pytest.raises(
        FileNotFoundError, match="scenes_val.npz is not in folder .* python -m fusion_lib.scenes"
    ):
        Scenes("val", folder=own_scenes)


def test_scenes_sums_missing(own_scenes):
    (own_scenes / "SHA256SUMS").unlink()
    with pytest.raises(
        FileNotFoundError, match="SHA256SUMS is not in folder .* python -m fusion_lib.scenes"
    ):
        Scenes("val", folder=own_scenes)


@pytest.mark.parametrize("damage", ["truncated", "altered", "unlisted"])
def test_scenes_file_damaged(own_scenes, damage):
    path = own_scenes / "scenes_train.npz"
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "altered":
        path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    else:
        (own_scenes / "SHA256SUMS").write_text("")
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match="scenes_train.npz does not have the sha256 .* write it again"
    ):
        Scenes("train", folder=own_scenes)
    assert path.read_bytes() == before


# --- some labels only --------------------------------------------------------------------------


def test_partly_labelled_keeps_what_is_listed_and_nothing_else():
    whole = Scenes("val")
    part = PartlyLabelled(whole, np.array([3, 7]))
    assert len(part) == len(whole)
    for index in range(9):
        sample, before = part[index], whole[index]
        assert set(sample) == set(before)
        assert torch.equal(sample["image"], before["image"]) and torch.equal(
            sample["region"], before["region"]
        )
        expected = before["semantic"] if index in (3, 7) else torch.full((64, 64), 255)
        assert torch.equal(sample["semantic"], expected) and sample["semantic"].dtype == torch.int64


def test_partly_labelled_takes_the_labels_after_the_transform():
    """The transform moves the picture; what comes from it is kept or void, and what it added
    stays."""
    data = Scenes(
        "val",
        transform=lambda sample: {**sample, "semantic": sample["semantic"][:8], "region_target": 5},
    )
    part = PartlyLabelled(data, [0])
    assert torch.equal(part[0]["semantic"], data[0]["semantic"])
    assert (
        part[1]["semantic"].shape == (8, 64)
        and (part[1]["semantic"] == 255).all()
        and part[1]["region_target"] == 5
    )


def test_partly_labelled_leaves_the_data_set_as_it_is():
    samples = [
        {"semantic": torch.zeros(2, 2, dtype=torch.int64)},
        {"semantic": torch.ones(2, 2, dtype=torch.int64)},
    ]
    part = PartlyLabelled(samples, [1])
    assert (part[0]["semantic"] == 255).all() and (part[1]["semantic"] == 1).all()
    assert not samples[0]["semantic"].any()


# --- attributes behind what torch wraps around a data set -------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda data: data,
        lambda data: Subset(data, [3, 1]),
        lambda data: random_split(data, [60, 40])[1],
        lambda data: PartlyLabelled(data, [1]),
        lambda data: ConcatDataset([data, Subset(data, [0])]),
        lambda data: Subset(ConcatDataset([PartlyLabelled(Subset(data, [0, 1]), [0]), data]), [2]),
    ],
)
def test_attributes_are_found_however_a_data_set_is_wrapped(wrap):
    data = wrap(Scenes("val"))
    assert attribute(data, "classes") == scenes.CLASSES
    assert attribute(data, "things") == (3, 4, 5, 6, 7) and attribute(data, "stuff") == (0, 1, 2)
    assert attribute(data, "further_classes") == {}
    assert next(iter(DataLoader(data, 1)))["semantic"].shape == (1, 64, 64)


def test_an_attribute_that_is_missing_is_named():
    with pytest.raises(ValueError, match="dataset is a list without classes; expected a data set"):
        attribute([], "classes")
    with pytest.raises(ValueError, match="dataset is a SegmentationDataset without classes"):
        attribute(Subset(SegmentationDataset(), []), "classes")
    assert attribute(SegmentationDataset(), "things") is None


def test_parts_that_differ_are_refused(tmp_path):
    write_folder(tmp_path)
    own = FolderDataset(tmp_path, CLASSES)
    with pytest.raises(ValueError, match=r"classes of a part is .*'sky'.*; expected .*first part"):
        attribute(ConcatDataset([Scenes("val"), Scenes("val"), own]), "classes")
    with pytest.raises(ValueError, match=r"things of a part is \(0,\); expected None, as"):
        attribute(ConcatDataset([own, FolderDataset(tmp_path, CLASSES, things=[0])]), "things")


@pytest.mark.parametrize(
    "things, numbers, stuff",
    [
        (None, None, None),
        (["sky", 0], (0, 2), (1,)),
        ((), (), (0, 1, 2)),
        ([2, 1, 0], (0, 1, 2), ()),
    ],
)
def test_folder_things_by_name_or_index(tmp_path, things, numbers, stuff):
    write_folder(tmp_path)
    data = FolderDataset(tmp_path, CLASSES, things=things)
    assert (data.things, data.stuff) == (numbers, stuff)


@pytest.mark.parametrize("strange", ["car", 3, -1])
def test_folder_things_that_are_no_classes(tmp_path, strange):
    write_folder(tmp_path)
    with pytest.raises(ValueError, match=rf"one of things is {strange!r}; expected a name or"):
        FolderDataset(tmp_path, CLASSES, things=["road", strange])


def test_folder_things_must_be_a_list_of_classes(tmp_path):
    """A single word would be taken letter by letter."""
    write_folder(tmp_path)
    with pytest.raises(TypeError, match="things is 'sky'; expected a list of names or indices"):
        FolderDataset(tmp_path, CLASSES, things="sky")


# --- Stanford Background on ten made-up photographs --------------------------------------------


def photograph(number: int) -> tuple[bytes, np.ndarray, np.ndarray, np.ndarray]:
    """JPEG file, semantic labels with -1 for unknown, layer ids with gaps, surfaces with -1 for
    unknown."""
    rng = np.random.default_rng(number)
    height, width = 12 + number, 20 - number
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(buffer, "JPEG")
    semantic, layers = (
        rng.integers(-1, 8, (height, width)),
        7 * rng.integers(0, 5, (height, width)) + 3,
    )
    return buffer.getvalue(), semantic, layers, rng.integers(-1, 3, (height, width))


def made_up_files() -> dict[str, bytes]:
    files = {}
    for number, image_id in enumerate(IDS):
        image, semantic, layers, surfaces = photograph(number)
        files[f"images/{image_id}.jpg"] = image
        for kind, labels in (("regions", semantic), ("layers", layers), ("surfaces", surfaces)):
            rows = (" ".join(map(str, row)) for row in labels.tolist())
            files[f"labels/{image_id}.{kind}.txt"] = "\n".join(rows).encode() + b"\n"
    files["README"] = b"made up"
    return files


READ = (".jpg", ".regions.txt", ".layers.txt", ".surfaces.txt")


def content_sha256(files: dict[str, bytes], kinds: tuple[str, ...] = READ) -> str:
    """Of names and contents, in the order of the names: the same for an archive and for its
    unpacked folder."""
    digest = hashlib.sha256()
    for name in sorted(files):
        if name.endswith(kinds):
            digest.update(name.encode() + b"\0" + hashlib.sha256(files[name]).digest())
    return digest.hexdigest()


def write_tar(path, files: dict[str, bytes], extra: list[tarfile.TarInfo] = ()) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for member in extra:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
        for name, content in files.items():
            member = tarfile.TarInfo(f"iccv09Data/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def stanford(tmp_path, monkeypatch, cache):
    """A made-up archive that the environment names, its folds file, and an empty cache. Two
    photographs a fold."""
    files = made_up_files()
    monkeypatch.setattr(StanfordBackground, "CONTENT_SHA256", content_sha256(files))
    shipped = tmp_path / "data"
    shipped.mkdir()
    rows = [f"{image_id},{number % 5}\n" for number, image_id in enumerate(IDS)]
    (shipped / "stanford_background_folds.csv").write_text("image_id,fold\n" + "".join(rows))
    monkeypatch.setattr(stanford_module, "data_folder", lambda: shipped)
    path = tmp_path / "iccv09Data.tar.gz"
    write_tar(path, files)
    monkeypatch.setenv("FUSION_STANFORD_ARCHIVE", str(path))
    return path


def assert_nothing_left(cache) -> None:
    assert not cache.exists() or all(path.suffix == ".lock" for path in cache.iterdir())


def test_stanford_reads_what_the_archive_holds(stanford, cache):
    data = StanfordBackground("train", fold=0)
    assert len(data) == 6 and data.things == (7,) and data.stuff == (0, 1, 2, 3, 4, 5, 6)
    for index, image_id in enumerate(data.image_ids):
        jpeg, semantic, layers, surfaces = photograph(int(image_id))
        image, got_semantic, region = data.read(index)
        np.testing.assert_array_equal(image, np.asarray(Image.open(io.BytesIO(jpeg))))
        np.testing.assert_array_equal(got_semantic, np.where(semantic == -1, 255, semantic))
        np.testing.assert_array_equal(region, (layers - 3) // 7)
        sample = data[index]
        assert set(sample) == {
            "image",
            "semantic",
            "region",
            "surfaces",
        } and data.further_classes.keys() == {"surfaces"}
        np.testing.assert_array_equal(sample["surfaces"], np.where(surfaces == -1, 255, surfaces))
        assert (
            isinstance(sample["surfaces"], tv_tensors.Mask)
            and sample["surfaces"].dtype == torch.int64
        )
        assert sample["semantic"].shape == (12 + int(image_id), 20 - int(image_id))


@pytest.mark.parametrize("fold", range(5))
def test_stanford_splits_share_no_photograph_and_cover_all(stanford, fold):
    splits = {
        split: StanfordBackground(split, fold).image_ids for split in ("train", "val", "test")
    }
    assert splits["test"] == [IDS[fold], IDS[fold + 5]]
    assert splits["val"] == [IDS[(fold + 1) % 5], IDS[(fold + 1) % 5 + 5]]
    assert sorted(sum(splits.values(), [])) == IDS


def test_stanford_folder_gives_what_the_archive_gives(stanford, tmp_path, monkeypatch):
    from_tar = [StanfordBackground("test")[i] for i in range(2)]
    for name, content in made_up_files().items():
        path = tmp_path / "unpacked" / "iccv09Data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for number, root in enumerate((tmp_path / "unpacked", tmp_path / "unpacked" / "iccv09Data")):
        monkeypatch.setenv("FUSION_CACHE", str(tmp_path / f"other{number}"))
        monkeypatch.setenv("FUSION_STANFORD_ARCHIVE", str(root))
        for index, sample in enumerate(from_tar):
            other = StanfordBackground("test")[index]
            assert all(torch.equal(sample[name], other[name]) for name in sample)


def test_stanford_second_use_needs_no_archive(stanford, cache, monkeypatch):
    first = StanfordBackground("test")[0]
    stanford.unlink()
    monkeypatch.setattr(stanford_module, "_parse", None)  # nothing is parsed again
    assert torch.equal(StanfordBackground("test")[0]["image"], first["image"])
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [
        f"stanford_photographs_{StanfordBackground.CONTENT_SHA256[:12]}"
    ]


@pytest.mark.parametrize("kinds", [READ[:3], READ])
def test_stanford_cache_of_another_form_is_neither_used_nor_touched(stanford, cache, kinds):
    """Until surfaces were read, a cache had five bytes a pixel, and a name made from what was read
    then; and until each photograph had a file of its own, all lay in one."""
    old = cache / f"stanford_background_{content_sha256(made_up_files(), kinds)[:12]}"
    old.mkdir(parents=True)
    np.save(old / "pixels.npy", np.zeros((1, 5), np.uint8))
    (old / "index.csv").write_text(
        "image_id,height,width,start\n" + "".join(f"{i},1,1,0\n" for i in IDS)
    )
    assert StanfordBackground("test")[0]["surfaces"].shape == (12, 20)
    assert np.load(old / "pixels.npy").shape == (1, 5) and len(list(cache.glob("*/"))) == 2


def test_stanford_cache_of_a_killed_process_is_made_again(stanford, cache):
    part = cache / f"stanford_photographs_{StanfordBackground.CONTENT_SHA256[:12]}.part"
    part.mkdir(parents=True)
    (part / f"{IDS[0]}.npy").write_bytes(b"half")
    assert StanfordBackground("test")[0]["surfaces"].shape == (12, 20) and not part.exists()


@pytest.mark.parametrize("split", ["Train", "testing", None])
def test_stanford_split_misspelt(stanford, cache, split):
    with pytest.raises(ValueError, match=r"split is .*; expected one of \('train', 'val', 'tes"):
        StanfordBackground(split)
    assert_nothing_left(cache)


@pytest.mark.parametrize("fold", [-1, 5, "0", None])
def test_stanford_fold_out_of_range(stanford, fold):
    with pytest.raises(ValueError, match="fold is .*; expected 0, 1, 2, 3 or 4"):
        StanfordBackground("test", fold)


def test_stanford_archive_missing(stanford, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("FUSION_STANFORD_ARCHIVE", str(tmp_path / "nowhere.tar.gz"))
    with pytest.raises(
        FileNotFoundError, match="nowhere.tar.gz does not exist; set FUSION_STANFORD_ARCHIVE"
    ):
        StanfordBackground("train")
    assert_nothing_left(cache)


def check_archive_is_refused(path, cache, message, exception=ValueError):
    before = path.read_bytes()
    with pytest.raises(exception, match=message):
        StanfordBackground("train")
    assert path.read_bytes() == before
    assert_nothing_left(cache)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.97])
def test_stanford_archive_truncated(stanford, cache, share):
    content = stanford.read_bytes()
    stanford.write_bytes(content[: int(share * len(content))])
    check_archive_is_refused(
        stanford,
        cache,
        r"(?s)iccv09Data.tar.gz is cut short .*left as it is; move it away and fetch",
    )


def test_stanford_archive_truncated_inside_an_uncompressed_tar(
    stanford, cache, tmp_path, monkeypatch
):
    path = tmp_path / "iccv09Data.tar"
    monkeypatch.setenv("FUSION_STANFORD_ARCHIVE", str(path))
    path.write_bytes(gzip.decompress(stanford.read_bytes())[:20_000])
    check_archive_is_refused(path, cache, "(?s)iccv09Data.tar .*left as it is")


def test_stanford_archive_is_no_archive(cache, stanford):
    stanford.write_bytes(b"<html>404 Not Found</html>")
    check_archive_is_refused(stanford, cache, "iccv09Data.tar.gz is cut short or no tar archive")


@pytest.mark.parametrize("change", ["a label", "a surface", "a missing file", "one more file"])
def test_stanford_archive_with_other_content(stanford, cache, change):
    files = made_up_files()
    if change in ("a label", "a surface"):
        name = f"labels/{IDS[0]}.{'regions' if change == 'a label' else 'surfaces'}.txt"
        files[name] = files[name].replace(b"1", b"2", 1)
    elif change == "a missing file":
        del files[f"images/{IDS[3]}.jpg"]
    else:
        files["images/9999999.jpg"] = files[f"images/{IDS[3]}.jpg"]
    write_tar(stanford, files)
    check_archive_is_refused(
        stanford, cache, r"iccv09Data.tar.gz does not hold .*It was left as it is; .*fetch it again"
    )


def test_stanford_folder_with_other_content_is_left_alone(stanford, cache, tmp_path, monkeypatch):
    root = tmp_path / "unpacked"
    monkeypatch.setenv("FUSION_STANFORD_ARCHIVE", str(root))
    for name, content in made_up_files().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content[:-3])
    with pytest.raises(ValueError, match="unpacked does not hold the 715 photographs"):
        StanfordBackground("train")
    assert_nothing_left(cache)
    assert (root / "README").read_bytes() == b"made"


@pytest.mark.parametrize(
    "name", ["../evil.jpg", "/tmp/evil.jpg", "iccv09Data/images/../../../evil.jpg"]
)
def test_stanford_archive_member_that_points_outside(stanford, cache, tmp_path, name):
    member = tarfile.TarInfo(name)
    member.size = 4
    write_tar(stanford, made_up_files(), [member])
    outside = set(tmp_path.rglob("*"))
    check_archive_is_refused(stanford, cache, "iccv09Data.tar.gz does not hold the 715 photographs")
    assert {path for path in tmp_path.rglob("*") if cache not in (path, *path.parents)} == outside


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_stanford_archive_link_is_never_followed(stanford, cache, tmp_path, kind):
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    link = tarfile.TarInfo("iccv09Data/images/9999999.jpg")
    link.type, link.linkname = kind, str(tmp_path / "secret.jpg")
    write_tar(stanford, made_up_files(), [link])
    assert len(StanfordBackground("train")) == 6  # the link counts as absent


def test_stanford_full_disk_leaves_no_half_cache(stanford, cache, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(np, "save", full)
        check_archive_is_refused(
            stanford, cache, "cannot write .*No space left.*FUSION_CACHE", OSError
        )
    assert len(StanfordBackground("train")) == 6


def test_stanford_cache_folder_that_cannot_be_made(stanford, tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("no folder")
    monkeypatch.setenv("FUSION_CACHE", str(tmp_path / "a file" / "cache"))
    with pytest.raises(OSError, match=r"cannot write .*set FUSION_CACHE elsewhere"):
        StanfordBackground("train")
    assert (tmp_path / "a file").read_text() == "no folder"


def test_stanford_second_process_that_was_faster_wins(stanford, cache, monkeypatch):
    """The one that comes second waits, finds the cache in place, and parses nothing."""
    parse, parsed, found = stanford_module._parse, [], []

    def parse_and_note(files, image_id):
        parsed.append(image_id)
        return parse(files, image_id)

    def use():
        found.append(len(StanfordBackground("train")))

    monkeypatch.setattr(stanford_module, "_parse", parse_and_note)
    users = [threading.Thread(target=use) for _ in range(3)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert found == [6, 6, 6] and sorted(parsed) == IDS


# --- the download, from a server on this machine -----------------------------------------------


def test_download_whole(cache, monkeypatch):
    content = gzip.compress(bytes(range(256)) * 20_000)
    with server(content) as (address, seen):
        monkeypatch.setattr(StanfordBackground, "URL", address)
        path = download_stanford_background()
        assert path.read_bytes() == content
        assert download_stanford_background() == path and len(seen) == 1  # not fetched twice
    assert {p.name for p in cache.iterdir()} == {"iccv09Data.tar.gz", "iccv09Data.tar.gz.lock"}


def test_download_interrupted_then_fetched_by_another_call(cache, monkeypatch):
    content = gzip.compress(np.random.default_rng(0).bytes(3_000_000))
    with server(content, cut=1_234_567) as (address, seen):
        monkeypatch.setattr(StanfordBackground, "URL", address)
        with pytest.raises(
            OSError, match="cannot be fetched .*1234567 bytes.*set FUSION_STANFORD_ARCHIVE"
        ):
            download_stanford_background()
        assert {p.name for p in cache.iterdir()} <= {"iccv09Data.tar.gz.lock"}
        assert download_stanford_background().read_bytes() == content
    assert len(seen) == 2
    assert {p.name for p in cache.iterdir()} == {"iccv09Data.tar.gz", "iccv09Data.tar.gz.lock"}


def test_download_address_down(cache, monkeypatch):
    with server(b"") as (address, _):
        pass  # the server is gone again; its port answers no more
    monkeypatch.setattr(StanfordBackground, "URL", address)
    with pytest.raises(OSError, match=r"cannot be fetched .*set FUSION_STANFORD_ARCHIVE"):
        StanfordBackground("train")


def test_page_instead_of_the_archive(cache, monkeypatch):
    """A mirror may answer with an error page and status 200: nothing of it stays."""
    with server(b"\n<!DOCTYPE html><title>Moved</title>") as (address, _):
        monkeypatch.setattr(StanfordBackground, "URL", address)
        with pytest.raises(
            OSError,
            match="answers with .*DOCTYPE.* instead of the .*file.*set FUSION_STANFORD_ARCHIVE",
        ):
            download_stanford_background()
    assert {p.name for p in cache.iterdir()} <= {"iccv09Data.tar.gz.lock"}


def test_downloaded_archive_is_used(stanford, cache, monkeypatch):
    monkeypatch.delenv("FUSION_STANFORD_ARCHIVE")
    with server(stanford.read_bytes()) as (address, _):
        monkeypatch.setattr(StanfordBackground, "URL", address)
        assert len(StanfordBackground("train")) == 6


# --- a folder of one's own ---------------------------------------------------------------------


def write_folder(root, count=3, regions=True, size=(6, 8)):
    rng = np.random.default_rng(0)
    kept = []
    for folder in ("images", "semantic", "regions") if regions else ("images", "semantic"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        semantic = rng.choice(np.array([0, 1, 2, 255], np.uint8), size)
        region = rng.integers(0, 3, size).astype(np.uint16) * 300
        Image.fromarray(image).save(root / f"images/{number}.png")
        Image.fromarray(semantic).save(root / f"semantic/{number}.png")
        if regions:
            Image.fromarray(region).save(root / f"regions/{number}.png")
        kept.append((image, semantic, region))
    return kept


CLASSES = ("road", "tree", "sky")


def test_folder_reads_what_was_written(tmp_path):
    kept = write_folder(tmp_path)
    data = FolderDataset(tmp_path, CLASSES)
    assert len(data) == 3 and data.classes == CLASSES and data.has_regions
    for index, (image, semantic, region) in enumerate(kept):
        got = data.read(index)
        np.testing.assert_array_equal(got[0], image)
        np.testing.assert_array_equal(got[1], semantic)
        np.testing.assert_array_equal(got[2], scenes.connected_regions(region.astype(int) - 1))
        np.testing.assert_array_equal(got[2] == -1, region == 0)  # holes are void


def test_folder_accepts_jpeg_grey_and_palette_images(tmp_path):
    write_folder(tmp_path, count=1)
    mask = Image.fromarray(np.array([[0, 1], [2, 255]], np.uint8)).resize(
        (8, 6), Image.Resampling.NEAREST
    )
    mask = mask.convert("L")
    mask.putpalette([0] * 768)  # labelling tools often write palettes
    mask.save(tmp_path / "semantic/1.png")
    Image.new("I;16", (8, 6), 5).save(tmp_path / "regions/1.png")
    Image.new("L", (8, 6), 77).save(tmp_path / "images/1.JPG", "JPEG")
    image, semantic, region = FolderDataset(tmp_path, CLASSES).read(1)
    assert (
        image.shape == (6, 8, 3) and set(np.unique(semantic)) == {0, 1, 2, 255} and not region.any()
    )


def test_folder_without_regions_warns_and_uses_connected_areas(tmp_path):
    kept = write_folder(tmp_path, regions=False)
    with pytest.warns(UserWarning, match="no regions/ folder: .* adds no new information"):
        data = FolderDataset(tmp_path, CLASSES)
    semantic = kept[0][1].astype(int)
    np.testing.assert_array_equal(
        data.read(0)[2], scenes.connected_regions(np.where(semantic == 255, -1, semantic))
    )


def test_folder_picture_that_is_all_void(tmp_path):
    write_folder(tmp_path, count=1)
    Image.new("L", (8, 6), 255).save(tmp_path / "semantic/0.png")
    Image.new("L", (8, 6), 0).save(tmp_path / "regions/0.png")
    sample = FolderDataset(tmp_path, CLASSES)[0]
    assert (sample["semantic"] == 255).all() and (sample["region"] == -1).all()


@pytest.mark.parametrize("missing", ["everything", "images", "pictures"])
def test_folder_empty(tmp_path, missing):
    root = tmp_path / "mine"
    if missing != "everything":
        root.mkdir()
    if missing == "pictures":
        (root / "images").mkdir()
        (root / "images" / "notes.txt").write_text("no picture")
    with pytest.raises(FileNotFoundError, match="'mine' holds no images/"):
        FolderDataset(root, CLASSES)


@pytest.mark.parametrize("folder", ["semantic", "regions"])
def test_folder_mask_missing(tmp_path, folder):
    write_folder(tmp_path)
    (tmp_path / folder / "1.png").unlink()
    with pytest.raises(FileNotFoundError, match=rf"1 files are missing, first .*/{folder}/1.png"):
        FolderDataset(tmp_path, CLASSES)


@pytest.mark.parametrize("folder", ["images", "semantic", "regions"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_folder_file_that_does_not_decode(tmp_path, folder, damage):
    write_folder(tmp_path, size=(40, 60))
    path = tmp_path / folder / "0.png"
    content = {"truncated": path.read_bytes()[:-40], "empty": b"", "text": b"not a picture"}[damage]
    path.write_bytes(content)
    data = FolderDataset(tmp_path, CLASSES)
    with pytest.raises(ValueError, match=rf"{folder}/0.png does not decode"):
        data[0]
    assert path.read_bytes() == content
    data[1]  # the others still do


@pytest.mark.parametrize("folder", ["semantic", "regions"])
def test_folder_sizes_that_differ(tmp_path, folder):
    write_folder(tmp_path)
    Image.new("L", (8, 7)).save(tmp_path / folder / "2.png")
    with pytest.raises(
        ValueError, match=rf"{folder}/2.png has shape \(7, 8\) and its image \(6, 8\); expected"
    ):
        FolderDataset(tmp_path, CLASSES)[2]


def test_folder_mask_turned_by_a_quarter(tmp_path):
    """A swap of width and height must not pass, though the number of pixels is the same."""
    write_folder(tmp_path)
    Image.new("L", (6, 8)).save(tmp_path / "semantic/0.png")
    with pytest.raises(ValueError, match=r"semantic/0.png .* \(8, 6\) and its image \(6, 8\)"):
        FolderDataset(tmp_path, CLASSES)[0]


@pytest.mark.parametrize("wrong", [3, 254])
def test_folder_class_out_of_range(tmp_path, wrong):
    write_folder(tmp_path)
    mask = np.zeros((6, 8), np.uint8)
    mask[4, 2] = wrong
    Image.fromarray(mask).save(tmp_path / "semantic/1.png")
    with pytest.raises(
        ValueError, match=rf"semantic/1.png holds class {wrong}; expected 0..2 or void 255"
    ):
        FolderDataset(tmp_path, CLASSES)[1]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
@pytest.mark.parametrize("folder", ["semantic", "regions"])
def test_folder_mask_in_colour(tmp_path, folder, mode):
    write_folder(tmp_path)
    Image.new(mode, (8, 6)).save(tmp_path / folder / "0.png")
    with pytest.raises(
        ValueError, match=rf"{folder}/0.png is a PNG file of mode {mode}; expected one channel"
    ):
        FolderDataset(tmp_path, CLASSES)[0]


@pytest.mark.parametrize("count, accepted", [(254, True), (255, False), (300, False)])
def test_folder_with_too_many_classes(tmp_path, count, accepted):
    write_folder(tmp_path)
    classes = [f"class {number}" for number in range(count)]
    if accepted:
        assert len(FolderDataset(tmp_path, classes).classes) == count
        return
    with pytest.raises(ValueError, match=f"classes has {count} names; expected at most 254"):
        FolderDataset(tmp_path, classes)


def test_region_ids_below_void_are_refused():
    class Own(SegmentationDataset):
        def read(self, index):
            return np.zeros((1, 2, 3), np.uint8), np.zeros((1, 2), int), np.array([[-1, -2]])

    with pytest.raises(ValueError, match="region holds -2; expected numbers from 0 on, or void -1"):
        Own()[0]


# --- what is damaged or ambiguous is never read as labels --------------------------------------


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def grey_png(labels: np.ndarray, bits: int) -> bytes:
    """A grey PNG of so few bits a pixel, which PIL reads and does not write."""
    rows = b""
    for row in labels:
        digits = "".join(format(label, f"0{bits}b") for label in row)
        digits += "0" * (-len(digits) % 8)
        rows += b"\0" + bytes(int(digits[i : i + 8], 2) for i in range(0, len(digits), 8))
    head = struct.pack(">IIBBBBB", *labels.shape[::-1], bits, 0, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_no_flipped_bit_makes_other_labels(tmp_path, mode):
    """Every bit of a small mask, one after the other: refused, or read as if nothing were."""
    labels = np.random.default_rng(0).integers(0, 4, (6, 8))
    mask = Image.fromarray(labels.astype(np.uint16 if mode == "I;16" else np.uint8))
    if mode == "P":
        mask.putpalette([value for index in range(4) for value in (index, 9, 7)])
    path, picture = tmp_path / "mask.png", np.zeros((6, 8, 3), np.uint8)
    mask.save(path)
    content, refused = path.read_bytes(), 0
    np.testing.assert_array_equal(read_mask(path, picture), labels)
    for place in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            read = read_mask(path, picture)
        except ValueError as error:
            assert "/mask.png" in str(error)
            refused += 1
        else:
            np.testing.assert_array_equal(read, labels)
    assert refused > 0.9 * 8 * len(content)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_masks_of_few_bits_hold_the_numbers_that_were_written(tmp_path, bits):
    """PIL spreads them over 0..255: a class 3 of 2 bits would be void."""
    labels = np.random.default_rng(bits).integers(0, min(2**bits, 9), (5, 7))
    (tmp_path / "mask.png").write_bytes(grey_png(labels, bits))
    mask = read_mask(tmp_path / "mask.png", np.zeros((5, 7, 3)))
    assert mask.dtype == np.int64
    np.testing.assert_array_equal(mask, labels)


@pytest.mark.parametrize("mode, highest", [("1", 1), ("L", 255), ("P", 255), ("I;16", 65535)])
def test_mask_modes_that_hold_whole_numbers(tmp_path, mode, highest):
    mask = Image.new(mode, (3, 2), highest)
    if mode == "P":
        mask.putpalette(list(range(256)) * 3)
    mask.save(tmp_path / "mask.png")
    assert np.unique(read_mask(tmp_path / "mask.png", np.zeros((2, 3, 3)))).tolist() == [highest]


@pytest.mark.parametrize(
    "mode, kind, found",
    [
        ("F", "TIFF", "TIFF file of mode F"),
        ("L", "JPEG", "JPEG file of mode L"),
        ("LA", "PNG", "PNG file of mode LA"),
        ("RGB", "PNG", "PNG file of mode RGB"),
        ("RGBA", "PNG", "PNG file of mode RGBA"),
        ("CMYK", "TIFF", "TIFF file of mode CMYK"),
    ],
)
def test_mask_modes_that_do_not(tmp_path, mode, kind, found):
    """A float mask would be cut to whole numbers, and a JPEG file under the name of a PNG has
    other numbers than were saved."""
    write_folder(tmp_path)
    Image.new(mode, (8, 6)).save(tmp_path / "semantic/0.png", kind)
    with pytest.raises(ValueError, match=rf"semantic/0.png is a {found}; .*: save it as a grey"):
        FolderDataset(tmp_path, CLASSES)[0]


@pytest.mark.parametrize("folder", ["images", "semantic", "regions"])
def test_a_picture_too_large_for_pil_is_named(tmp_path, monkeypatch, folder):
    write_folder(tmp_path)
    Image.new("L", (40, 30)).save(tmp_path / folder / "0.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(
        ValueError, match=rf"{folder}/0.png does not decode as an image \(.*1200 pixels.* smaller"
    ):
        FolderDataset(tmp_path, CLASSES)[0]


# --- the real photographs ----------------------------------------------------------------------


@pytest.mark.skipif(
    not os.environ.get("FUSION_STANFORD_ARCHIVE"),
    reason=(
        "the variable FUSION_STANFORD_ARCHIVE is not set: the facts about the real photographs are"
        " not checked"
    ),
)
def test_facts_about_the_real_photographs(tmp_path, monkeypatch):
    if not os.environ.get("FUSION_CACHE"):
        monkeypatch.setenv("FUSION_CACHE", str(tmp_path))
    folds = [StanfordBackground("test", fold) for fold in range(5)]
    assert [len(fold) for fold in folds] == [143] * 5
    counts, named, labelled, sizes, regions, same = (
        np.zeros(256, int),
        0,
        0,
        [],
        [],
        collections.defaultdict(list),
    )
    areas, surfaces = [], np.zeros((256, 256), int)  # semantic label, surface
    for number, fold in enumerate(folds):
        for index, image_id in enumerate(fold.image_ids):
            image, semantic, region = fold.read(index)
            assert (semantic[semantic > 7] == 255).all()
            counts += np.bincount(semantic.ravel(), minlength=256)
            np.add.at(surfaces, (semantic, fold.read_further(index)["surfaces"]), 1)
            sizes.append(semantic.shape)
            regions.append(len(np.unique(region)))
            areas += np.unique(region, return_counts=True)[1].tolist()
            known = semantic != 255
            for one in np.unique(region[known]):
                named += np.bincount(semantic[known & (region == one)]).max()
            labelled += known.sum()
            same[image.tobytes()].append((image_id, number))
    shares = (100 * counts[[*range(8), 255]] / counts.sum()).round(1).tolist()
    assert shares == [14.5, 14.0, 22.5, 6.8, 4.0, 22.6, 1.3, 13.7, 0.5]
    shares = (100 * surfaces.sum(0)[[0, 1, 2, 255]] / surfaces.sum()).round(2).tolist()
    assert shares == [15.1, 33.77, 51.12, 0.01] and surfaces.sum(0)[3:255].sum() == 0
    both = surfaces[:8, :3]
    assert both.argmax(1).tolist() == [
        0,
        2,
        1,
        1,
        1,
        2,
        2,
        2,
    ]  # the surface that most pixels of a class lie on
    assert round(100 * both.max(1).sum() / both.sum(), 1) == 95.4
    assert len(set(sizes)) == 51 and sizes.count((240, 320)) == 531
    assert (min(regions), np.median(regions), max(regions)) == (2, 18, 135)
    assert round(100 * named / labelled, 1) == 93.3
    assert round(100 * np.mean(np.array(areas) < 100)) == 16
    twins = [pair for pair in same.values() if len(pair) > 1]
    assert len(twins) == 3 and all(one[1] == other[1] for one, other in twins)
    assert {one[0] for one, _ in twins} == {"6000068", "6000257", "6000117"}


def test_folds_file_holds_715_photographs_in_five_equal_folds():
    with open(files.data_folder() / "stanford_background_folds.csv", newline="") as file:
        folds = {row["image_id"]: int(row["fold"]) for row in csv.DictReader(file)}
    assert len(folds) == 715 and collections.Counter(folds.values()) == dict.fromkeys(range(5), 143)
    for one, other in (("6000068", "6000318"), ("6000257", "6000348"), ("6000117", "6000324")):
        assert folds[one] == folds[other]  # byte-identical photographs, annotated twice
