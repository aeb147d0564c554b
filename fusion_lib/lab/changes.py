"""What a trained model meets outside its training pictures: other light, another viewpoint, things
half hidden, noise.

Scenes are rendered again where the generator has a knob for it, with labels that stay exact.
Photographs can only be changed pixel by pixel. A picture keeps what was drawn for it (the place of
a shadow, the tint of a cast) at all severities: only the strength grows.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from fusion_lib import checks, evaluation, rendering, scenes
from fusion_lib.datasets import Scenes, SegmentationDataset
from fusion_lib.prediction import predict
from fusion_lib.regions import fuse, has_regions
from fusion_lib.targets import boundary_mask

GRAIN = 0.05  # standard deviation of the noise in an unchanged scene, pixel values from 0 to 1
MARGIN = 2  # pixels by which a patch reaches beyond the box of the thing that it hides
BORDER_EDGES = (0, 1, 2, 3, 4, 6, 9, np.inf)  # distances to a border, in pixels, that suit scenes
MEASURED = {
    "miou": ("semantic", "miou"),
    "miou_fused": ("fused", "miou"),
    "covering": ("partition", "covering"),
}


@dataclass(frozen=True)
class Change:
    """A change and its severities. `pixels` makes another image of an image (H, W, 3) float from 0
    to 255, `scene` makes of a scene what `scenes.render` returns; scenes without it are changed by
    `pixels`, too."""

    name: str  # one word
    unit: str  # what the values say
    values: tuple[float, ...]  # one a severity; the first changes nothing
    pixels: Callable[[np.ndarray, float, np.random.Generator], np.ndarray] | None = None
    scene: Callable[[scenes.Scene, float, np.random.Generator], tuple] | None = None


class Changed(SegmentationDataset):
    """The pictures of a split under one change.

    Args: dataset(split) is a data set, for example a `datasets.Scenes`; change, a name in
        `CHANGES`; severity, from 0 (unchanged) on; pictures, how many, spread evenly; default all.
    Raises ValueError: unknown change or severity, a change of scenes alone, too many pictures."""

    def __init__(self, dataset, split: str, change: str, severity: int, pictures=None):
        super().__init__()
        self.base = dataset(split)
        self.seeds = scenes.SPLITS[split] if isinstance(self.base, Scenes) else None
        possible = PIXEL_CHANGES if self.seeds is None else tuple(CHANGES)
        expected = f"one of {possible}: the others only scenes can undergo"
        checks.expect(change in possible, "change", change, expected)
        self.change, count = CHANGES[change], len(self.base)
        last, pictures = len(self.change.values) - 1, count if pictures is None else pictures
        checks.expect(severity in range(last + 1), "severity", severity, f"0 to {last}")
        checks.expect(1 <= pictures <= count, "pictures", pictures, f"1 to {count}")
        self.classes, self.further_classes = self.base.classes, self.base.further_classes
        self.value = self.change.values[severity]
        self.indices = np.linspace(0, count - 1, pictures).round().astype(int).tolist()

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int):
        index = self.indices[index]
        chance = np.random.default_rng([index, *self.change.name.encode()])
        if self.seeds is not None and self.change.scene is not None:
            return self.change.scene(scenes.sample_scene(self.seeds[index]), self.value, chance)
        image, *labels = self.base.read(index)
        return _to_bytes(self.change.pixels(image.astype(float), self.value, chance)), *labels

    def read_further(self, index: int):
        """Only scenes' labels move, and they have no further ones."""
        return self.base.read_further(self.indices[index])


def _to_bytes(image: np.ndarray) -> np.ndarray:
    return np.round(np.clip(image, 0, 255)).astype(np.uint8)


def _places(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x to the right and y down from the middle of the picture, in picture heights; each (H, W)."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width]
    return (x + 0.5 - width / 2) / height, (y + 0.5 - height / 2) / height


def _side(chance: np.random.Generator) -> int:
    return 1 if chance.random() < 0.5 else -1


def _knob(name: str, side=lambda chance: 1):
    """A scene rendered again with one knob turned, to the side that chance has for the picture."""
    return lambda scene, value, chance: scenes.render(scene, **{name: value * side(chance)})


def _noisier(scene, value, chance):
    return scenes.render(scene, noise=float(np.hypot(GRAIN, value)))


def _light(image, value, chance):
    return image * value


def _gradient(image, value, chance):
    x = _places(image)[0] * image.shape[0] / image.shape[1]  # in picture widths
    return image * np.clip(1 + _side(chance) * value * x, 0, None)[..., None]


def _shadow(image, value, chance):
    """A straight band across the picture, its edges 0.08 picture heights soft."""
    x, y = _places(image)
    first, second, third = chance.random(3)
    angle, offset, half_width = np.pi * first, 0.5 * (second - 0.5), 0.15 + 0.1 * third
    distance = abs(x * np.cos(angle) + y * np.sin(angle) - offset)
    return image * (1 - value * np.clip((half_width - distance) / 0.08 + 0.5, 0, 1))[..., None]


def _cast(image, value, chance):
    """Factors on the colours whose logarithms sum to 0, around a tint on the colour circle."""
    tint = 2 * np.pi * (chance.random() + np.arange(3) / 3)
    return image * np.exp(value * np.cos(tint))


def _noise(image, value, chance):
    return image + 255 * value * chance.standard_normal(image.shape)


def _blur(image, value, chance):
    return ndimage.gaussian_filter(image, (value * image.shape[0],) * 2 + (0,), mode="nearest")


def _hide(scene, share, chance):
    """Hide a share of every thing's visible pixels behind a patch that comes from one side: a part
    of the box around its thing that spares other things. Both label maps are void there. What is
    left of the regions is connected and not tiny, as from `scenes.render`."""
    image, semantic, region = scenes.render(scene)
    covered, painted = np.zeros(region.shape, bool), image.astype(float)
    thing = np.isin(semantic, scenes.THINGS)
    rows, columns = np.indices(region.shape)
    for number in np.unique(region[thing]):
        angle, colour = 2 * np.pi * chance.random(), 255 * (0.15 + 0.7 * chance.random(3))
        own = region == number
        if (hidden := round(share * own.sum())) == 0:
            continue
        along = columns * np.cos(angle) + rows * np.sin(angle)
        patch = (own | ~thing) & (along <= np.sort(along[own])[hidden - 1])
        for places in (rows, columns):
            patch &= (places >= places[own].min() - MARGIN) & (places <= places[own].max() + MARGIN)
        painted[patch], covered = colour, covered | patch
    painted[covered] += 255 * GRAIN * chance.standard_normal(image.shape)[covered]
    region = scenes.connected_regions(np.where(covered, scenes.REGION_VOID, region))
    sizes = np.bincount(region.ravel() + 1)[region + 1]
    void = (region == scenes.REGION_VOID) | (sizes < rendering.SMALLEST_REGION)
    region = scenes.connected_regions(np.where(void, scenes.REGION_VOID, region))
    return _to_bytes(painted), np.where(void, scenes.SEMANTIC_VOID, semantic), region


_LIGHT, _SCALE, _TURN = "factor on the light", "magnification", "angle of the camera in degrees"
_SLOPE = "change of the light from one side to the other"
_GRAIN = "standard deviation of the added noise, pixel values from 0 to 1"
_SOFT = "standard deviation of the blur in picture heights"
_KEY = "keystone distortion"
_DECLARED = (
    Change("dark", _LIGHT, (1, 0.75, 0.55, 0.4, 0.3), _light, _knob("light")),
    Change("bright", _LIGHT, (1, 1.3, 1.6, 1.9, 2.2), _light, _knob("light")),
    Change("gradient", _SLOPE, (0, 0.4, 0.8, 1.2, 1.6), _gradient, _knob("light_slope", _side)),
    Change("shadow", "share of the light that a shadow takes", (0, 0.25, 0.45, 0.6, 0.75), _shadow),
    Change(
        "cast", "logarithm of the factor on the favoured colour", (0, 0.2, 0.35, 0.5, 0.7), _cast
    ),
    Change("larger", _SCALE, (1, 1.3, 1.6, 2, 2.5), scene=_knob("scale")),
    Change("smaller", _SCALE, (1, 0.8, 0.65, 0.5, 0.4), scene=_knob("scale")),
    Change("rotation", _TURN, (0, 10, 20, 30, 45), scene=_knob("rotation", _side)),
    Change("perspective", _KEY, (0, 0.3, 0.6, 0.9, 1.2), scene=_knob("perspective", _side)),
    Change(
        "occlusion", "share of every thing that is covered", (0, 0.2, 0.4, 0.6, 0.8), scene=_hide
    ),
    Change("noise", _GRAIN, (0, 0.04, 0.08, 0.12, 0.18), _noise, _noisier),
    Change("blur", _SOFT, (0, 0.008, 0.016, 0.024, 0.036), _blur),
)
CHANGES = {change.name: change for change in _DECLARED}
PIXEL_CHANGES = tuple(name for name, one in CHANGES.items() if one.pixels)  # photographs too


def border_errors(truth_region, truth_semantic, prediction, edges=BORDER_EDGES):
    """How many pixels lie at what distance from a border of the true regions, and how many of them
    have a wrong class. The distance is the Euclidean one to the nearest pixel of
    `targets.boundary_mask`, infinite in a picture without one. Bin k holds edges[k] <= distance <
    edges[k + 1], the last its end too.

    Args: the maps, each (H, W) integer; edges (K + 1,), growing.
    Returns: all pixels and wrong ones but the void, each (K,) int64, to be summed over pictures.
    Raises: ValueError: the shapes differ, or edges do not grow."""
    region, truth, prediction = map(np.asarray, (truth_region, truth_semantic, prediction))
    checks.same_shape(truth_region=region, truth_semantic=truth, prediction=prediction)
    inside, valid = ~boundary_mask(region), truth != scenes.SEMANTIC_VOID
    far = np.full(region.shape, np.inf)
    distance = far if inside.all() else ndimage.distance_transform_edt(inside)
    wrong = valid & (prediction != truth)
    return np.histogram(distance[valid], edges)[0], np.histogram(distance[wrong], edges)[0]


def border_curves(model, dataset, decoding: dict, size=None) -> dict[str, list[int]]:
    """`border_errors` summed over a data set: {"pixels", "wrong", "wrong_fused": one number a bin};
    the model has the semantic task, all else is as in `evaluation.evaluate`."""
    sums: dict = defaultdict(int)
    for sample in (dataset[index] for index in range(len(dataset))):
        outputs = predict(model, sample["image"], size)
        maps = {"wrong": outputs["semantic"].argmax(0)}
        if has_regions(outputs):
            maps["wrong_fused"] = fuse(outputs, **decoding)[0]
        for name, labels in maps.items():
            pixels, wrong = border_errors(sample["region"], sample["semantic"], labels)
            sums[name] += wrong
        sums["pixels"] += pixels
    return {name: counts.tolist() for name, counts in sums.items()}


def curves(model, dataset, decoding: dict, size=None, changes=CHANGES, pictures=None) -> dict:
    """Both tasks' main metrics at every severity of every change, on test pictures.

    Args: as in `evaluation.evaluate` and `Changed`; changes, for photographs `PIXEL_CHANGES`.
    Returns: {"miou_CHANGE", "miou_fused_CHANGE", "covering_CHANGE": one number a severity}, as far
        as the model's tasks go."""

    def scores(change: str, severity: int) -> dict:
        pictured = Changed(dataset, "test", change, severity, pictures)
        return evaluation.evaluate(model, pictured, decoding, size)

    result, unchanged = {}, {}  # the latter are the same pictures whatever the change
    for change in changes:
        unchanged = unchanged or scores(change, 0)
        changed = [scores(change, severity) for severity in range(1, len(CHANGES[change].values))]
        for name, (group, metric) in MEASURED.items():
            if group in unchanged:
                result[f"{name}_{change}"] = [one[group][metric] for one in (unchanged, *changed)]
    return result
