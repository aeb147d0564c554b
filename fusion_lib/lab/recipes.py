"""The settings behind every number of the series, tried out on validation pictures only (see the
experiment `tuning`), and what puts them to work. Notebook 04 spells out what `fit` does."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from torch.utils import data
from torch.utils.data import DataLoader, RandomSampler, Subset
from torchvision.transforms import v2

from fusion_lib import checks, datasets, models, targets, training, tuning, weighting
from fusion_lib.affinities import OFFSETS, AffinityTarget
from fusion_lib.datasets.base import SegmentationDataset
from fusion_lib.engine import devices, processes
from fusion_lib.engine.resident import ResidentLoader
from fusion_lib.evaluation import evaluate
from fusion_lib.losses import FusionLoss
from fusion_lib.prediction import predict
from fusion_lib.regions import fuse
from fusion_lib.rendering import REGION_VOID, SEMANTIC_VOID, connected_regions
from fusion_lib.transforms import augmentation, evaluation_transform

TASKS = {"semantic": 8, "region": 3}  # classes of each task, on the scenes and on the photographs
AFFINITY_TASKS = {"semantic": 8, "affinity": len(OFFSETS)}  # the region task in another form
SURFACES_TASKS = {**TASKS, "surfaces": 3}  # the third task has labels on the photographs alone


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run besides the model's tasks and the seed. The defaults
    suit the scenes."""

    dataset: Callable = datasets.Scenes  # split, transform -> SegmentationDataset
    size: tuple[int, int] = (64, 64)  # (H, W) at which the network sees a picture
    tau: float = 2.0  # the rim's limit, in pixels at that size; see targets.region_target
    smallest_crop: float = 1.0
    light: float = 0.2
    model: dict = field(default_factory=dict)  # arguments of FusionModel besides outputs
    batch_size: int = 8
    epochs: int = 30
    learning_rate: float = 8e-3
    alpha: float = 1.0
    beta: float = 1.0
    weighting: str = "sum"  # see weighting.choose
    labels: float = 1.0  # share of the training pictures whose semantic labels are used
    pictures: float = 1.0  # share of the training pictures that is used at all
    encoder_factor: float = 1.0  # share of the learning rate that the encoder gets
    weight_decay: float = 1e-2
    regions: str = "true"  # the region maps that are learned: see `false_regions`
    resident: bool = False  # training pictures are kept on the device, see engine.resident


SCENES = Recipe()
SCENES_SECOND = Recipe(dataset=partial(datasets.Scenes, edition=2))
PHOTOGRAPHS = Recipe(
    dataset=datasets.StanfordBackground,
    size=(192, 256),
    tau=4.0,
    smallest_crop=0.4,
    light=0.3,
    model={"encoder": "lite0", "width": 32, "pretrained": True},
    epochs=16,
    learning_rate=2e-3,
)
# For both tasks at once: a decoder a task, twice the weight for the regions (see the experiment
# `designs`), and as many epochs as fit into the time that two networks take.
_OWN_DECODERS = {**PHOTOGRAPHS.model, "sharing": "decoders"}
PHOTOGRAPHS_FUSED = replace(PHOTOGRAPHS, beta=2.0, epochs=22, model=_OWN_DECODERS)
# At their own size; for a GPU.
PHOTOGRAPHS_WHOLE = replace(PHOTOGRAPHS, size=(240, 320), tau=5.0, epochs=22, resident=True)
# Small and short, so that many runs fit into an hour of a laptop (notebook 10).
PHOTOGRAPHS_SMALL = replace(PHOTOGRAPHS, size=(96, 128), tau=2.0, epochs=6)


def loaders(recipe: Recipe, outputs: dict[str, int], seed: int = 0) -> tuple:
    """Training and validation loaders of a recipe; targets are computed after the augmentation.

    With `recipe.labels` or `recipe.pictures` below 1, `seed` draws the pictures that keep their
    semantic labels, or that there are; a larger share holds those of a smaller one, and every epoch
    has as many pictures as with all. Several processes share batches and validation pictures.
    Raises ValueError for a share out of (0, 1], and for what does not go together: both shares
    below 1; several processes, with a share or a batch they cannot divide; `recipe.resident`, with
    a share, affinities or several processes."""
    rank, sharers = processes.rank_and_count()
    _check(recipe, outputs, sharers)
    val = _pictures(recipe, outputs, "val", evaluation_transform(recipe.size))
    share = Subset(val, range(rank, len(val), sharers)) if sharers > 1 else val
    return _training_loader(recipe, outputs, seed, sharers), DataLoader(share, 20)


def _check(recipe: Recipe, outputs: dict[str, int], sharers: int) -> None:
    labels, pictures = recipe.labels, recipe.pictures
    for name, share in (("labels", labels), ("pictures", pictures)):
        checks.expect(0 < share <= 1, name, share, "a share of the pictures in (0, 1]")
    given, few = f"labels is {labels} and pictures {pictures}", labels < 1 or pictures < 1
    checks.require(1 in (labels, pictures), f"{given}; expected 1 for one of them")
    others = few or "affinity" in outputs or recipe.regions != "true"
    wrong = recipe.resident and (others or sharers > 1)
    expected = "one process, all pictures and labels, true regions: leave it False here"
    checks.expect(not wrong, "resident", True, expected)
    given = f"{given} and batch_size {recipe.batch_size}, with {sharers} processes"
    expected = "all labels of all pictures, and a batch that divides into equal shares"
    divides = not few and recipe.batch_size % sharers == 0
    checks.require(sharers == 1 or divides, f"{given}; expected {expected}")


def _training_loader(recipe: Recipe, outputs: dict[str, int], seed: int, sharers: int):
    seen = {"size": recipe.size, "smallest_crop": recipe.smallest_crop, "light": recipe.light}
    if recipe.resident:
        kept, device = recipe.dataset("train"), devices.choose_device()
        return ResidentLoader(kept, recipe.batch_size, tau=recipe.tau, device=device, **seen)
    train = _pictures(recipe, outputs, "train", augmentation(**seen))
    sampler, count = RandomSampler(train), len(train)
    drawn = kept_pictures(min(recipe.labels, recipe.pictures), count, seed)
    if sharers > 1:
        sampler = data.DistributedSampler(train, seed=seed, drop_last=True)
    elif recipe.pictures < 1:
        train = Subset(train, drawn)
        sampler = RandomSampler(train, num_samples=count)
    elif recipe.labels < 1 and "semantic" in outputs:
        # As many pictures as there are, drawn with replacement: where others tell nothing, all
        # from the labelled ones; beside the true regions half from these and half from all.
        known = "region" in outputs and recipe.regions != "outlines"
        chances = np.full(count, 0.5 / count if known else 0.0)
        chances[drawn] += 0.5 / len(drawn)
        sampler = data.WeightedRandomSampler(chances, count)
        train = datasets.PartlyLabelled(train, drawn)
    return DataLoader(train, recipe.batch_size // sharers, sampler=sampler, drop_last=True)


def kept_pictures(share: float, count: int, seed: int) -> list[int]:
    """Which of so many pictures a share keeps; a larger share holds those of a smaller one."""
    return np.random.default_rng(seed).permutation(count).tolist()[: max(1, round(share * count))]


def _pictures(recipe: Recipe, outputs: dict[str, int], split: str, transform: Callable):
    """A split, transformed, then with the targets that the tasks learn."""
    made = {"region": targets.RegionTarget(recipe.tau), "affinity": AffinityTarget()}
    steps = [transform, *(target for task, target in made.items() if task in outputs)]
    if recipe.regions == "true":
        return recipe.dataset(split, transform=v2.Compose(steps))
    true = recipe.dataset(split)
    return Relabelled(true, false_regions(true, recipe.regions), v2.Compose(steps))


class Relabelled(SegmentationDataset):
    """Another data set with other label maps: `maps` of an index are (semantic, region), each
    (H, W), void 255 and -1."""

    def __init__(self, dataset, maps: Callable[[int], tuple], transform: Callable | None):
        self.dataset, self.maps, self.classes = dataset, maps, dataset.classes
        super().__init__(transform)

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int):
        return self.dataset.read(index)[0], *self.maps(index)


def false_regions(dataset, regions: str) -> Callable[[int], tuple]:
    """The maps of a control of what region labels are worth: "outlines" has the connected areas of
    the semantic map, so nothing that the names do not hold; "another scene" the regions of the next
    picture. ValueError for any other `regions`."""
    known = ("outlines", "another scene")
    checks.expect(regions in known, "regions", regions, f'"true" or one of {known}')

    def maps(index: int) -> tuple[np.ndarray, np.ndarray]:
        semantic = dataset.read(index)[1]
        if regions == "another scene":
            return semantic, dataset.read((index + 1) % len(dataset))[2]
        names = semantic.astype(np.int64)
        names[names == SEMANTIC_VOID] = REGION_VOID
        return semantic, connected_regions(names)

    return maps


def fit(recipe: Recipe, outputs: dict, seed=0, folder=None, build: Callable = models.FusionModel):
    """Build the model for the tasks in `outputs` and train it; returns it with its history. `build`
    makes the model of `outputs` and `recipe.model`, for example `models.TwoNetworks`. A run found
    in `folder` is resumed; with another weighting than the plain sum no run can be."""
    both, weights, options = loaders(recipe, outputs, seed), None, {"folder": folder}
    if "region" in outputs:
        val = _pictures(recipe, outputs, "val", evaluation_transform(recipe.size))
        weights = targets.class_weights(val[i]["region_target"] for i in range(len(val)))
    training.seed_everything(seed)
    model, loss = build(outputs, **recipe.model), FusionLoss(recipe.alpha, recipe.beta, weights)
    if recipe.weighting != "sum":
        options = {"weighting": weighting.choose(recipe.weighting)}
    for name in ("epochs", "learning_rate", "encoder_factor", "weight_decay"):
        options[name] = getattr(recipe, name)
    return model, training.train(model, loss, *both, seed=seed, **options)


def tune_decoding(model, recipe: Recipe, pictures: int = 100, joint: bool = True) -> dict:
    """`tuning.tune_decoding` on the first validation pictures."""
    val = recipe.dataset("val")
    first = Subset(val, range(min(pictures, len(val))))
    return tuning.tune_decoding(model, first, seen(recipe), joint)


def fused_maps(model, image, decoding: dict, size: tuple[int, int] | None = None):
    """argmax, region and voted map (one class a region), each (H, W), of a picture (3, H, W)."""
    outputs = predict(model, image, size)
    voted, region = fuse(outputs, **{**decoding, "vote_weight": 1.0})
    return outputs["semantic"].argmax(0), region, voted


def scores(model, recipe: Recipe, decoding: dict, split: str = "test") -> dict:
    """`evaluation.evaluate` on a split."""
    return evaluate(model, recipe.dataset(split), decoding, seen(recipe))


def seen(recipe: Recipe) -> tuple[int, int] | None:
    """The size (H, W) at which `predict` shows the network a picture; scenes as they are."""
    dataset = getattr(recipe.dataset, "func", recipe.dataset)
    return None if dataset is datasets.Scenes else recipe.size
