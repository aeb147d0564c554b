"""Procedural street-like scenes: the laboratory of the series.

A scene has two or three stuff areas (sky, ground, water) and three to eight things. What names a
thing is its shape and its place, never its colour: a disc on the ground is a ball, the same disc
in the sky is a balloon; sky and water draw their colours from one palette. Every thing is one
region with its own colours and texture.

`sample_scene` draws the contents of a scene from a seed, `render` takes the photograph. The two
are apart so that one scene can be photographed again under another light, from another viewpoint,
or a moment later, with labels that stay exact.

    python -m fusion_lib.scenes FOLDER      # writes train.npz, val.npz, test.npz and SHA256SUMS
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CLASSES = ("sky", "ground", "water", "building", "tree", "car", "ball", "balloon")
SKY, GROUND, WATER, BUILDING, TREE, CAR, BALL, BALLOON = range(len(CLASSES))
STUFF = (SKY, GROUND, WATER)
THINGS = (BUILDING, TREE, CAR, BALL, BALLOON)
SEMANTIC_VOID, REGION_VOID = 255, -1

SIZE = 64  # pixels a side, as shipped
SPLITS = {"train": range(0, 400), "val": range(10_000, 10_100), "test": range(20_000, 20_100)}
SMALLEST_REGION = 4  # pixels; smaller fragments are void: nobody could annotate them


@dataclass(frozen=True)
class Thing:
    """One object. Lengths are in picture heights; `x`, `y` is the middle of its foot."""

    kind: int
    x: float
    y: float
    width: float
    height: float
    speed: float  # picture heights per unit of time, to the right
    ambiguity: float  # 0: all telling details are there; 1: none are
    colours: np.ndarray  # (2, 3) in [0, 1]: main colour, texture colour
    texture: int  # 0 plain, 1 stripes, 2 checks
    period: float
    angle: float


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
        shape_ambiguity: how far telling details (wheels, trunks, roofs) may shrink, in [0, 1].

    Raises:
        ValueError: a knob is outside [0, 1].
    """
    for name, value in (
        ("colour_similarity", colour_similarity),
        ("shape_ambiguity", shape_ambiguity),
    ):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; expected a number in [0, 1]")
    rng = np.random.default_rng(seed)
    horizon = _uniform(rng, 0.32, 0.52)
    stuff_colours = np.stack([_colours(rng, contrast) for contrast in (0.06, 0.12, 0.08)])
    shore = None
    if rng.random() < 0.65:
        if rng.random() < 0.5:  # often the lake mirrors the sky
            stuff_colours[2] = np.clip(stuff_colours[0] + 0.1 * (rng.random(3) - 0.5), 0, 1)
        shore = (
            _uniform(rng, -0.1, 1.1),
            _uniform(rng, 0.72, 1.0),
            _uniform(rng, 0.25, 0.6),
            _uniform(rng, 0.08, 0.22),
        )
    things = []
    for _ in range(3 + int(6 * rng.random())):
        similar = rng.random() < colour_similarity
        neighbour = things[-1].colours if things else stuff_colours[1]
        thing = _sample_thing(rng, horizon, shape_ambiguity)
        if similar:
            thing.colours[:] = np.clip(neighbour + 0.12 * (rng.random(3) - 0.5), 0, 1)
        things.append(thing)
    things.sort(
        key=lambda thing: thing.y
    )  # nearer things stand lower in the picture and are drawn later
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
        scene: what `sample_scene` returned.
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
    for name, value, possible, expected in (
        ("size", size, size >= 1, "at least one pixel"),
        ("light", light, 0 <= light < np.inf, "a factor of at least 0"),
        ("light_slope", light_slope, abs(light_slope) < np.inf, "a finite number"),
        ("noise", noise, 0 <= noise < np.inf, "a standard deviation of at least 0"),
        ("scale", scale, 0 < scale < np.inf, "a magnification above 0"),
        ("rotation", rotation, abs(rotation) < np.inf, "an angle in degrees"),
        ("perspective", perspective, abs(perspective) < 2, "a number between -2 and 2"),
        ("occlusion", occlusion, 0 <= occlusion <= 1, "a number in [0, 1]"),
        ("time", time, abs(time) < np.inf, "a finite number"),
    ):
        if not possible:
            raise ValueError(f"{name} is {value}; expected {expected}")
    x, y = _camera(size, scale, rotation, perspective)
    semantic = np.where(y < scene.horizon + scene.tilt * (x - 0.5), SKY, GROUND)
    if scene.shore is not None:
        centre_x, centre_y, half_width, half_height = scene.shore
        in_lake = ((x - centre_x) / half_width) ** 2 + ((y - centre_y) / half_height) ** 2 < 1
        semantic[in_lake & (semantic == GROUND)] = WATER
    instance = semantic.copy()
    colour = np.empty((size, size, 3))
    ripples = np.sin(2 * np.pi * y / 0.05)
    for stuff in STUFF:
        main, second = scene.stuff_colours[stuff]
        weight = ripples if stuff == WATER else np.sin(23 * x + 31 * y)
        here = semantic == stuff
        colour[here] = (main + 0.5 * (1 + weight[..., None]) * (second - main))[here]
    crowd = 0.5 if not scene.things else float(np.mean([thing.x for thing in scene.things]))
    for number, thing in enumerate(scene.things):
        foot = crowd + (1 - occlusion) * (thing.x - crowd) + thing.speed * time
        u, v = (
            (x - foot) / thing.width,
            (thing.y - y) / thing.height,
        )  # v grows upwards from the foot
        inside, detail = _shape(thing, u, v)
        semantic[inside] = thing.kind
        instance[inside] = len(CLASSES) + number
        colour[inside] = _paint(thing, x - foot, y, detail)[inside]
    region = connected_regions(instance)
    tiny = np.bincount(region.ravel())[region] < SMALLEST_REGION
    region = connected_regions(np.where(tiny, REGION_VOID, instance))
    semantic = np.where(tiny, SEMANTIC_VOID, semantic)
    return (
        _expose(scene, colour, x, y, light, light_slope, noise),
        semantic.astype(np.int64),
        region,
    )


def connected_regions(ids: np.ndarray) -> np.ndarray:
    """Give every 4-connected area of equal id its own id 0..R-1, int64; negative ids become -1."""
    from skimage.measure import label

    ids = np.asarray(ids)
    return label(np.where(ids < 0, -1, ids), background=-1, connectivity=1).astype(np.int64) - 1


def generate(folder: str | Path) -> None:
    """Write every split as FOLDER/scenes_SPLIT.npz (arrays images, semantic, region), and
    SHA256SUMS."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for split, seeds in SPLITS.items():
        pictures = [render(sample_scene(seed)) for seed in seeds]
        images, semantic, region = (np.stack(arrays) for arrays in zip(*pictures))
        path = folder / f"scenes_{split}.npz"
        np.savez_compressed(
            path, images=images, semantic=semantic.astype(np.uint8), region=region.astype(np.int8)
        )
    write_sums(folder)


def write_sums(folder: Path) -> None:
    """Write FOLDER/SHA256SUMS, a line for every data file and checkpoint in the folder, as
    `sha256sum` does."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".npz", ".safetensors"))
    sums = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    (folder / "SHA256SUMS").write_text("".join(sums))


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    # Only `random` is used for what decides a label: its stream has never changed between NumPy
    # versions.
    return low + (high - low) * float(rng.random())


def _colours(rng: np.random.Generator, contrast: float) -> np.ndarray:
    grey = 0.2 + 0.6 * float(rng.random())
    main = grey + 0.6 * (0.1 + 0.8 * rng.random(3) - grey)  # washed out, as outdoor colours are
    return np.clip(np.stack([main, main + contrast * np.sign(rng.random(3) - 0.5)]), 0, 1)


def _sample_thing(rng: np.random.Generator, horizon: float, shape_ambiguity: float) -> Thing:
    kind = THINGS[int(len(THINGS) * rng.random())]
    depth = float(rng.random())  # 0 far, 1 near
    size = 0.7 + 0.6 * depth
    foot = horizon + 0.04 + (0.92 - horizon) * depth
    width, height = {
        BUILDING: (0.20 + 0.16 * rng.random(), 0.32 + 0.18 * rng.random()),
        TREE: (0.20 + 0.12 * rng.random(), 0.30 + 0.16 * rng.random()),
        CAR: (0.30 + 0.14 * rng.random(), 0.17 + 0.07 * rng.random()),
        BALL: (0.15 + 0.11 * rng.random(),) * 2,
        BALLOON: (0.15 + 0.11 * rng.random(),) * 2,
    }[kind]
    if kind == BUILDING:
        foot = horizon + 0.02 + 0.3 * depth * (0.9 - horizon)
    if kind == BALLOON:
        foot = 0.18 + (horizon - 0.14) * depth
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


def _shape(thing: Thing, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The thing's silhouette, and the part of it in its second colour; u in [-.5, .5], v in [0, 1]
    inside."""
    telling = 1 - thing.ambiguity
    nothing = np.zeros(u.shape, bool)
    if thing.kind == BUILDING:
        walls = (abs(u) < 0.5) & (v > 0) & (v < 1 - 0.3 * telling)
        roof = (
            (v >= 1 - 0.3 * telling) & (v < 1) & (abs(u) < 0.5 * (1 - v) / (0.3 * telling + 1e-9))
        )
        return walls | roof, roof
    if thing.kind == TREE:
        trunk_top = 0.08 + 0.32 * telling
        crown = (u / 0.5) ** 2 + ((v - (1 + trunk_top) / 2) / ((1 - trunk_top) / 2)) ** 2 < 1
        trunk = (abs(u) < 0.12) & (v > 0) & (v < trunk_top + 0.1)
        return crown | trunk, trunk & ~crown
    if thing.kind == CAR:
        body = (abs(u) < 0.5) & (v > 0.15) & (v < 0.62)
        cabin = (abs(u + 0.05) < 0.28) & (v >= 0.62) & (v < 0.62 + 0.38 * telling)
        radius = 0.10 + 0.06 * telling
        ratio = thing.height / thing.width
        wheels = nothing
        for place in (-0.28, 0.28):
            wheels = wheels | ((u - place) ** 2 + ((v - 0.18) * ratio) ** 2 < radius**2) & (v > 0)
        return body | cabin | wheels, wheels
    return u**2 + (v - 0.5) ** 2 < 0.25, nothing  # ball and balloon: the same disc


def _paint(thing: Thing, x: np.ndarray, y: np.ndarray, detail: np.ndarray) -> np.ndarray:
    main, second = thing.colours
    along = (x * np.cos(thing.angle) + y * np.sin(thing.angle)) / thing.period
    across = (y * np.cos(thing.angle) - x * np.sin(thing.angle)) / thing.period
    if thing.texture == 0:
        pattern = np.zeros(x.shape, bool)
    elif thing.texture == 1:
        pattern = np.floor(along) % 2 == 0
    else:
        pattern = (np.floor(along) + np.floor(across)) % 2 == 0
    return np.where((pattern | detail)[..., None], second, main)


def _camera(
    size: int, scale: float, rotation: float, perspective: float
) -> tuple[np.ndarray, np.ndarray]:
    """The point of the scene that each pixel sees, x to the right and y down, (0, 1) over the
    picture."""
    centres = (np.arange(size) + 0.5) / size - 0.5
    x, y = np.meshgrid(centres, centres)
    depth = scale * (1 + perspective * y)
    turn = np.deg2rad(rotation)
    x, y = x / depth, y / depth
    return 0.5 + np.cos(turn) * x - np.sin(turn) * y, 0.5 + np.sin(turn) * x + np.cos(turn) * y


def _expose(scene, colour, x, y, light, light_slope, noise) -> np.ndarray:
    slope_x, slope_y = scene.light_slope
    gain = light * scene.light * (1 + (slope_x + light_slope) * (x - 0.5) + slope_y * (y - 0.5))
    exposed = colour * np.clip(gain, 0, None)[..., None]
    for axis in (0, 1):  # the lens: a 1-2-1 blur along both axes, edges repeated
        padded = np.pad(exposed, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        before, middle, after = (
            np.take(padded, range(i, i + exposed.shape[axis]), axis) for i in range(3)
        )
        exposed = (before + 2 * middle + after) / 4
    grain = np.random.default_rng((scene.seed, 1)).standard_normal(exposed.shape)
    return np.round(255 * np.clip(exposed + noise * grain, 0, 1)).astype(np.uint8)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m fusion_lib.scenes FOLDER")
    generate(sys.argv[1])
