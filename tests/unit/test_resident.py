"""Batches cut and augmented on the device: the same targets as one by one, and labels that follow
the picture."""

import numpy as np
import pytest
import torch
from examples import random_region_map, tiny_model, tiny_samples
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from fusion_lib import training
from fusion_lib.engine.resident import ResidentLoader, region_targets
from fusion_lib.losses import FusionLoss
from fusion_lib.targets import RegionTarget, region_target
from fusion_lib.transforms import augmentation

CPU = torch.device("cpu")


def compact(region: np.ndarray) -> np.ndarray:
    ids = np.unique(region[region >= 0])
    return np.where(region < 0, -1, np.searchsorted(ids, region))


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("tau", [1.0, 2.0, 2.5, 5.0, 40.0])
def test_targets_are_those_of_one_picture_at_a_time(seed, tau):
    region = random_region_map(seed)
    batch = torch.from_numpy(np.stack([compact(region), compact(region[::-1])]))
    expected = np.stack([region_target(region, tau), region_target(region[::-1], tau)])
    np.testing.assert_array_equal(region_targets(batch, tau).numpy(), expected)


@pytest.mark.parametrize("region", [np.zeros((6, 7)), np.full((6, 7), -1)])
def test_one_region_or_none(region):
    region = region.astype(np.int64)
    np.testing.assert_array_equal(
        region_targets(torch.from_numpy(region)[None], 2.0)[0], region_target(region, 2.0)
    )


class Quarters:
    """Pictures whose colour says their class and region: four quarters, in another order in each
    picture."""

    def __init__(self, count=12):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        label = np.kron(
            np.random.default_rng(index).permutation(4).reshape(2, 2), np.ones((16, 20), np.int64)
        )
        image = torch.from_numpy(np.stack([60 * label + 10] * 3).astype(np.uint8))
        semantic, region = (
            tv_tensors.Mask(torch.from_numpy(values)) for values in (label, label + 7 * index)
        )
        return {"image": tv_tensors.Image(image), "semantic": semantic, "region": region}


def loader(**options) -> ResidentLoader:
    return ResidentLoader(Quarters(), 4, (32, 40), 2.0, CPU, **options)


def test_an_epoch_is_every_picture_once_in_another_order_each_time():
    pictures = loader()
    orders = []
    for _ in range(2):
        batches = list(pictures)
        assert len(batches) == len(pictures) == 3
        images = torch.cat([batch["image"] for batch in batches])
        found = [
            min(
                range(12),
                key=lambda i: min(
                    (image - loader_image(i, flip)).abs().max() for flip in (False, True)
                ),
            )
            for image in images
        ]
        orders.append(found)
        assert len({tuple(image.flatten().tolist()) for image in images}) > 4
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]


def loader_image(index: int, flip: bool) -> torch.Tensor:
    image = Quarters()[index]["image"].as_subclass(torch.Tensor).float() / 255
    return image.flip(2) if flip else image


@pytest.mark.parametrize("smallest_crop", [1.0, 0.3])
def test_labels_follow_the_picture(smallest_crop):
    """Every class has one colour, so the picture says what the label must be, but for the blend at
    borders."""
    flips, shares = 0, []
    torch.manual_seed(1)
    for _ in range(10):
        for batch in loader(smallest_crop=smallest_crop):
            expected = ((255 * batch["image"][:, 0] - 10) / 60).round().long()
            wrong, label = expected != batch["semantic"], batch["semantic"].float()
            near_border = F.max_pool2d(label, 5, 1, 2) != -F.max_pool2d(-label, 5, 1, 2)
            assert not (wrong & ~near_border)[
                :, 2:-2, 2:-2
            ].any()  # the window's edge blends with what lies beyond it
            for image in batch["image"][:, 0]:
                flips += 1
                shares.append((image[:, 0] == image[0, 0]).float().mean().item())
    if smallest_crop < 1:
        assert np.std(shares) > 0.05  # windows of many sizes and places
    else:
        assert set(np.round(shares, 2)) == {0.5}


@pytest.mark.parametrize("smallest_crop", [1.0, 0.3])
def test_batches_are_those_of_the_transforms_on_the_cpu(smallest_crop):
    """The same draws give the same pictures and labels; no crop cuts a quarter in two."""
    changes = {"smallest_crop": smallest_crop, "light": 0.3}
    transform = v2.Compose([augmentation((32, 40), **changes), RegionTarget(2.0)])
    torch.manual_seed(3)
    batch = next(iter(ResidentLoader(Quarters(), 12, (32, 40), 2.0, CPU, **changes)))
    torch.manual_seed(3)
    samples = [transform(Quarters()[index]) for index in torch.randperm(12).tolist()]
    assert set(batch) == {"image", "semantic", "region_target"}
    for name, values in batch.items():
        expected = torch.stack([sample[name] for sample in samples])
        assert values.dtype == expected.dtype and torch.equal(values, expected), name


def test_half_of_the_pictures_are_mirrored():
    torch.manual_seed(0)
    pictures = ResidentLoader(Quarters(1), 1, (32, 40), 2.0, CPU)
    original = loader_image(0, False)
    same = [
        torch.allclose(next(iter(pictures))["image"][0], original, atol=1e-4) for _ in range(60)
    ]
    assert 18 < sum(same) < 42


def test_light_changes_each_picture_on_its_own_within_limits():
    pictures = ResidentLoader(Quarters(8), 8, (32, 40), 2.0, CPU, light=0.3)
    plain = ResidentLoader(Quarters(8), 8, (32, 40), 2.0, CPU)
    torch.manual_seed(0)
    relit = next(iter(pictures))["image"].mean((1, 2, 3))
    torch.manual_seed(0)
    before = next(iter(plain))["image"].mean((1, 2, 3))
    ratio = relit / before
    assert ((ratio > 0.69) & (ratio < 1.31)).all() and ratio.std() > 0.05


def test_larger_than_the_data_set():
    message = r"len\(dataset\) is 12; expected at least one batch of 13"
    with pytest.raises(ValueError, match=message):
        ResidentLoader(Quarters(), 13, (32, 40), 2.0, CPU)


class Spoilt(Quarters):
    """One of its pictures is not what was promised."""

    def __init__(self, name, value):
        super().__init__()
        self.name, self.value = name, value

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        if index == 5:
            sample[self.name] = self.value(sample[self.name])
        return sample


def test_pictures_that_are_neither_bytes_nor_shares():
    with pytest.raises(ValueError, match="image holds values from .* to 190; expected uint8"):
        ResidentLoader(Spoilt("image", lambda image: image.float()), 4, (32, 40), 2.0, CPU)


def test_ids_below_void():
    with pytest.raises(ValueError, match="region holds -5; expected numbers from 0 on, or void -1"):
        ResidentLoader(Spoilt("region", lambda region: region - 40), 4, (32, 40), 2.0, CPU)


def test_float_pictures_are_not_divided_again():
    class Shares(Quarters):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return {**sample, "image": tv_tensors.Image(sample["image"].float() / 255)}

    seen = []
    for pictures in (Quarters(), Shares()):
        torch.manual_seed(0)
        seen.append(next(iter(ResidentLoader(pictures, 4, (32, 40), 2.0, CPU)))["image"])
    torch.testing.assert_close(seen[0], seen[1])


def test_a_run_learns_from_it_and_goes_on_bit_identical_after_an_interruption(tmp_path):
    val = DataLoader(tiny_samples(2), 2)

    def run(model, **options):
        pictures = ResidentLoader(Quarters(8), 2, (16, 16), 2.0, CPU, smallest_crop=0.5, light=0.2)
        return model, training.train(
            model, FusionLoss(), pictures, val, epochs=4, learning_rate=1e-2, device=CPU, **options
        )

    outputs = {"semantic": 4, "region": 3}
    straight, history = run(tiny_model(0, outputs))
    assert history[-1]["train_total"] < history[0]["train_total"]
    run(tiny_model(0, outputs), folder=tmp_path, stop_after=2)
    again, _ = run(tiny_model(1, outputs), folder=tmp_path)
    assert all(
        torch.equal(a, b)
        for a, b in zip(straight.state_dict().values(), again.state_dict().values())
    )


def test_labels_of_more_than_two_bytes_stay_as_they_are():
    changed = Spoilt("semantic", lambda semantic: semantic + 40_000)
    loader = ResidentLoader(changed, 4, (32, 40), 2.0, CPU)
    assert loader.labels[5, 1].unique().tolist() == [40_000, 40_001, 40_002, 40_003]
