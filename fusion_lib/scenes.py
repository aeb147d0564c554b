"""Procedural street-like scenes: the laboratory of the series.

A scene has two or three stuff areas (sky, ground, water) and three to eight things. What names a
thing is its shape and its place, never its colour: a disc on the ground is a ball, the same disc
in the sky is a balloon; sky and water share a palette. Every thing is one region.

`sample_scene` draws the contents of a scene from a seed, `render` takes the photograph: the same
scene again under another light, from another viewpoint or a moment later, with exact labels.

    python -m fusion_lib.scenes FOLDER      # writes three files and SHA256SUMS
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusion_lib import checks
from fusion_lib.drawing import Thing, building, car, disc, expose, paint, tree, viewpoint
from fusion_lib.engine.files import write_sums

CLASSES = ("sky", "ground", "water", "building", "tree", "car", "ball", "balloon")
SKY, GROUND, WATER, BUILDING, TREE, CAR, BALL, BALLOON = range(len(CLASSES))
STUFF = (SKY, GROUND, WATER)
THINGS = (BUILDING, TREE, CAR, BALL, BALLOON)
SHAPES = {BUILDING: building, TREE: tree, CAR: car, BALL: disc, BALLOON: disc}
SEMANTIC_VOID, REGION_VOID = 255, -1

SIZE = 64  # pixels a side, as shipped
SPLITS = {"train": range(0, 400), "val": range(10_000, 10_100), "test": range(20_000, 20_100)}
SMALLEST_REGION = 4  # pixels; smaller fragments are void: nobody could annotate them


@dataclass(frozen=True)
class Scene:
    """The contents of one picture; all that `render` needs besides the knobs of the camera."""

    seed: int
    horizon: float  # height of the horizon, from the top
    tilt: float
    shore: tuple | None  # (x, y, half width, half height) of the lake, or None
    stuff_colours: np.ndarray  # (3, 2, 3): sky, ground, water; main and texture colour
    light: float
    light_slope: tuple  # (horizontal, vertical) change of the light across the picture
    things: tuple


def sample_scene(seed: int, colour_similarity: float = 0.35, shape_ambiguity: float = 0.5) -> Scene:
    """Draw the contents of a scene.

    Args:
        seed: the only source of chance; equal seeds give equal scenes.
        colour_similarity: probability that a thing takes nearly the colour of its neighbour.
        shape_ambiguity: how far telling details (wheels, trunks, roofs) may shrink. Both are in
            [0, 1] (else a ValueError).
    """
    _expect_share("colour_similarity", colour_similarity)
    _expect_share("shape_ambiguity", shape_ambiguity)
    rng = np.random.default_rng(seed)
    horizon = _uniform(rng, 0.32, 0.52)
    stuff_colours = np.stack([_colours(rng, contrast) for contrast in (0.06, 0.12, 0.08)])
    shore = None
    if rng.random() < 0.65:
        if rng.random() < 0.5:  # often the lake mirrors the sky
            stuff_colours[2] = np.clip(stuff_colours[0] + 0.1 * (rng.random(3) - 0.5), 0, 1)
        limits = ((-0.1, 1.1), (0.72, 1.0), (0.25, 0.6), (0.08, 0.22))
        shore = tuple(_uniform(rng, low, high) for low, high in limits)
    things: list[Thing] = []
    for _ in range(3 + int(6 * rng.random())):
        similar = rng.random() < colour_similarity
        neighbour = things[-1].colours if things else stuff_colours[1]
        thing = _sample_thing(rng, horizon, shape_ambiguity)
        if similar:
            thing.colours[:] = np.clip(neighbour + 0.12 * (rng.random(3) - 0.5), 0, 1)
        things.append(thing)
    # Nearer things stand lower in the picture and are drawn later.
    things.sort(key=lambda thing: thing.y)
    return Scene(
        seed=seed,
        horizon=horizon,
        tilt=_uniform(rng, -0.06, 0.06),
        shore=shore,
        stuff_colours=stuff_colours,
        light=_uniform(rng, 0.65, 1.1),
        light_slope=(_uniform(rng, -0.5, 0.5), _uniform(rng, -0.25, 0.25)),
        things=tuple(things),
    )


def render(
    scene: Scene,
    size: int = SIZE,
    *,
    light: float = 1.0,
    light_slope: float = 0.0,
    noise: float = 0.05,
    scale: float = 1.0,
    rotation: float = 0.0,
    perspective: float = 0.0,
    occlusion: float = 0.0,
    time: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Photograph a scene. Every knob leaves the contents, and all other knobs, as they are.

    Args:
        size: side of the square picture, in pixels.
        light: factor on the scene's own light.
        light_slope: extra change of the light from the left edge to the right one.
        noise: standard deviation of the sensor noise; pixel values run from 0 to 1.
        scale: magnification about the centre of the picture.
        rotation: of the camera, in degrees.
        perspective: keystone distortion; 0 is none, 0.5 is strong.
        occlusion: 0 leaves the things where they are; towards 1 they crowd into one place.
        time: moment of the photograph; things move sideways at their own speeds.

    Returns:
        image (size, size, 3) uint8; semantic labels (size, size) int64, void 255;
        region map (size, size) int64, ids 0..R-1 of connected regions, void -1.

    Raises:
        ValueError: a knob is beyond what a camera can do.
    """
    checks.not_negative(light=light, noise=noise)
    for name, value in (("light_slope", light_slope), ("rotation", rotation), ("time", time)):
        checks.expect(abs(value) < np.inf, name, value, "a finite number")
    checks.expect(size >= 1, "size", size, "at least one pixel")
    checks.expect(0 < scale < np.inf, "scale", scale, "a finite magnification above 0")
    checks.expect(abs(perspective) < 2, "perspective", perspective, "a number between -2 and 2")
    _expect_share("occlusion", occlusion)
    x, y = viewpoint(size, scale, rotation, perspective)
    colour, semantic, instance = _drawn(scene, x, y, occlusion, time)
    region = connected_regions(instance)
    tiny = np.bincount(region.ravel())[region] < SMALLEST_REGION
    region = connected_regions(np.where(tiny, REGION_VOID, instance))
    semantic = np.where(tiny, SEMANTIC_VOID, semantic)
    slope_x, slope_y = scene.light_slope
    gain = light * scene.light * (1 + (slope_x + light_slope) * (x - 0.5) + slope_y * (y - 0.5))
    return expose(colour, gain, noise, (scene.seed, 1)), semantic.astype(np.int64), region


def connected_regions(ids: np.ndarray) -> np.ndarray:
    """Give every 4-connected area of equal id its own id 0..R-1, int64; negative ids become -1."""
    from skimage.measure import label

    ids = np.asarray(ids)
    ids = np.where(ids < 0, -1, ids.astype(np.int64))  # NumPy 2.5 puts no -1 among unsigned ids
    return label(ids, background=-1, connectivity=1).astype(np.int64) - 1


def generate(folder: str | Path) -> None:
    """Write each split as FOLDER/scenes_SPLIT.npz (images, semantic, region), and SHA256SUMS."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for split, seeds in SPLITS.items():
        pictures = [render(sample_scene(seed)) for seed in seeds]
        images, semantic, region = (np.stack(arrays) for arrays in zip(*pictures))
        semantic, region = semantic.astype(np.uint8), region.astype(np.int8)
        path = folder / f"scenes_{split}.npz"
        np.savez_compressed(path, images=images, semantic=semantic, region=region)
    write_sums(folder)


def _drawn(scene: Scene, x: np.ndarray, y: np.ndarray, occlusion: float, time: float):
    """Colours (H, W, 3), semantic labels (H, W) and ids of stuff and things (H, W)."""
    semantic = np.where(y < scene.horizon + scene.tilt * (x - 0.5), SKY, GROUND)
    if scene.shore is not None:
        centre_x, centre_y, half_width, half_height = scene.shore
        in_lake = ((x - centre_x) / half_width) ** 2 + ((y - centre_y) / half_height) ** 2 < 1
        semantic[in_lake & (semantic == GROUND)] = WATER
    colour = np.empty((*x.shape, 3))
    for stuff in STUFF:
        main, second = scene.stuff_colours[stuff]
        wave = np.sin(2 * np.pi * y / 0.05) if stuff == WATER else np.sin(23 * x + 31 * y)
        here = semantic == stuff
        colour[here] = (main + 0.5 * (1 + wave[..., None]) * (second - main))[here]
    instance = semantic.copy()
    crowd = 0.5 if not scene.things else float(np.mean([thing.x for thing in scene.things]))
    for number, thing in enumerate(scene.things):
        foot = crowd + (1 - occlusion) * (thing.x - crowd) + thing.speed * time
        u, v = (x - foot) / thing.width, (thing.y - y) / thing.height  # v grows upwards
        inside, detail = SHAPES[thing.kind](thing, u, v)
        semantic[inside], instance[inside] = thing.kind, len(CLASSES) + number
        colour[inside] = paint(thing, x - foot, y, detail)[inside]
    return colour, semantic, instance


def _expect_share(name: str, value: float) -> None:
    checks.expect(0 <= value <= 1, name, value, "a number in [0, 1]")


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    # Only `random` decides labels: its stream has never changed between NumPy versions.
    return low + (high - low) * float(rng.random())


def _colours(rng: np.random.Generator, contrast: float) -> np.ndarray:
    grey = 0.2 + 0.6 * float(rng.random())
    main = grey + 0.6 * (0.1 + 0.8 * rng.random(3) - grey)  # washed out, as outdoor colours are
    return np.clip(np.stack([main, main + contrast * np.sign(rng.random(3) - 0.5)]), 0, 1)


def _sample_thing(rng: np.random.Generator, horizon: float, shape_ambiguity: float) -> Thing:
    kind = THINGS[int(len(THINGS) * rng.random())]
    depth = float(rng.random())  # 0 far, 1 near
    size = 0.7 + 0.6 * depth
    foot = {
        BUILDING: horizon + 0.02 + 0.3 * depth * (0.9 - horizon),
        BALLOON: 0.18 + (horizon - 0.14) * depth,
    }.get(kind, horizon + 0.04 + (0.92 - horizon) * depth)
    width, height = {
        BUILDING: (0.20 + 0.16 * rng.random(), 0.32 + 0.18 * rng.random()),
        TREE: (0.20 + 0.12 * rng.random(), 0.30 + 0.16 * rng.random()),
        CAR: (0.30 + 0.14 * rng.random(), 0.17 + 0.07 * rng.random()),
        BALL: (0.15 + 0.11 * rng.random(),) * 2,
        BALLOON: (0.15 + 0.11 * rng.random(),) * 2,
    }[kind]
    return Thing(
        kind=kind,
        x=_uniform(rng, 0.03, 0.97),
        y=foot,
        width=width * size,
        height=height * size,
        speed=_uniform(rng, -0.1, 0.1) if kind in (CAR, BALL, BALLOON) else 0.0,
        ambiguity=shape_ambiguity * float(rng.random()),
        colours=_colours(rng, 0.22),
        texture=int(3 * rng.random()),
        period=_uniform(rng, 0.06, 0.12),
        angle=_uniform(rng, 0.0, np.pi),
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m fusion_lib.scenes FOLDER")
    generate(sys.argv[1])
