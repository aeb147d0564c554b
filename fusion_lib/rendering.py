"""The photograph of a scene: what is where in it, the camera, light and grain, and exact labels."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from fusion_lib import checks, drawing

SEMANTIC_VOID, REGION_VOID = 255, -1
SIZE = 64  # pixels a side, as shipped
SMALLEST_REGION = 4  # pixels; smaller fragments are void: nobody could annotate them


@dataclass(frozen=True)
class World:
    """A kind of scene: its classes, which of them are things, and how these look."""

    classes: tuple[str, ...]
    areas: tuple[int, int, int]  # classes above the horizon, below it, and of the lake
    shapes: dict[int, Callable]  # silhouette of each class that is drawn as things
    airborne: tuple[int, ...] = ()  # classes that cast no shadow on the ground


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
    world: World
    side: float = 0.0  # where the light comes from: -1 left, 1 right; 0: flat, the first edition


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
    drive: float = 0.0,
    pan: float = 0.0,
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
        drive: how far the camera has driven forward, and
        pan: how far it has moved to the right, both in units of its height over the ground. What
            stands nearer, so farther from the horizon, grows and moves more; what was passed is
            gone.

    Returns:
        image (size, size, 3) uint8; semantic labels (size, size) int64, void 255;
        region map (size, size) int64, ids 0..R-1 of connected regions, void -1.

    Raises:
        ValueError: a knob is beyond what a camera can do, or the knobs leave only one region, or
            nothing of a scene's things.
    """
    checks.not_negative(light=light, noise=noise)
    free = {"light_slope": light_slope, "rotation": rotation, "time": time}
    for name, value in {**free, "drive": drive, "pan": pan}.items():
        checks.expect(abs(value) < np.inf, name, value, "a finite number")
    checks.expect(size >= 1, "size", size, "at least one pixel")
    checks.expect(0 < scale < np.inf, "scale", scale, "a finite magnification above 0")
    checks.expect(abs(perspective) < 2, "perspective", perspective, "a number between -2 and 2")
    checks.expect(0 <= occlusion <= 1, "occlusion", occlusion, "a number in [0, 1]")
    x, y = drawing.viewpoint(size, scale, rotation, perspective)
    colour, semantic, instance = _drawn(
        _moved(scene, occlusion, time, drive, pan), x, y, drive, pan
    )
    region = connected_regions(instance)
    tiny = np.bincount(region.ravel())[region] < SMALLEST_REGION
    region = connected_regions(np.where(tiny, REGION_VOID, instance))
    semantic = np.where(tiny, SEMANTIC_VOID, semantic)
    _expect_contents(scene, semantic, region)
    slope_x, slope_y = scene.light_slope
    gain = light * scene.light * (1 + (slope_x + light_slope) * (x - 0.5) + slope_y * (y - 0.5))
    grain = noise * _grain(scene, colour.shape)
    return drawing.expose(colour, gain, grain), semantic.astype(np.int64), region


def connected_regions(ids: np.ndarray) -> np.ndarray:
    """Give every 4-connected area of equal id its own id 0..R-1, int64; negative ids become -1."""
    from skimage.measure import label

    ids = np.asarray(ids)
    ids = np.where(ids < 0, -1, ids.astype(np.int64))  # NumPy 2.5 puts no -1 among unsigned ids
    return label(ids, background=-1, connectivity=1).astype(np.int64) - 1


def count_hidden_borders(semantic: np.ndarray, region: np.ndarray) -> tuple[int, int]:
    """How many pairs of 4-neighbours (of two maps (H, W)) lie in two regions but in one class, and
    how many lie in two regions; pairs with void are left out."""
    hidden, borders = 0, 0
    for names, ids in ((semantic, region), (semantic.T, region.T)):
        between = (ids[1:] != ids[:-1]) & (ids[1:] != REGION_VOID) & (ids[:-1] != REGION_VOID)
        borders += int(between.sum())
        hidden += int((between & (names[1:] == names[:-1])).sum())
    return hidden, borders


def _expect_contents(scene: Scene, semantic: np.ndarray, region: np.ndarray) -> None:
    """ValueError where the knobs leave nothing to segment."""
    wanted = "at least two, one of them a thing: turn the knobs back, or take another scene"
    seen = not scene.things or np.isin(semantic, [*scene.world.shapes]).any()
    left = f"{region.max() + 1} regions" + ("" if seen else ", and no thing")
    checks.expect(region.max() > 0 and seen, "what the knobs leave in the picture", left, wanted)


def _moved(scene: Scene, occlusion: float, time: float, drive: float, pan: float) -> Scene:
    """The scene as the camera has it before it, at another moment."""
    crowd = 0.5 if not scene.things else float(np.mean([thing.x for thing in scene.things]))
    feet = [crowd + (1 - occlusion) * (t.x - crowd) + t.speed * time for t in scene.things]
    things = tuple(replace(thing, x=x) for thing, x in zip(scene.things, feet))
    if not drive and not pan:
        return replace(scene, things=things)

    def place(x: float, y: float) -> tuple[float, float, float]:
        """Where a point of the ground (or under the sky) is now, and how much it has grown."""
        nearness = abs(y - scene.horizon)  # one over the distance, in heights of the camera
        growth = 1 / (1 - drive * nearness) if drive * nearness < 1 else 0.0  # 0: it was passed
        x = 0.5 + (x - 0.5 - pan * nearness) * growth
        return x, scene.horizon + (y - scene.horizon) * growth, growth

    placed = [(thing, *place(thing.x, thing.y)) for thing in things]
    things = tuple(
        replace(t, x=x, y=y, width=t.width * growth, height=t.height * growth)
        for t, x, y, growth in placed
        if growth
    )
    shore = scene.shore
    if shore is not None:
        x, y, growth = place(*shore[:2])
        shore = (x, y, shore[2] * growth, shore[3] * growth) if growth else None
    return replace(scene, things=things, shore=shore)


def _drawn(scene: Scene, x: np.ndarray, y: np.ndarray, drive: float, pan: float):
    """Colours (H, W, 3), semantic labels (H, W) and ids of stuff and things (H, W)."""
    world, solid = scene.world, scene.side != 0
    above, below, lake = world.areas
    semantic = np.where(y < scene.horizon + scene.tilt * (x - 0.5), above, below)
    if scene.shore is not None:
        centre_x, centre_y, half_width, half_height = scene.shore
        in_lake = ((x - centre_x) / half_width) ** 2 + ((y - centre_y) / half_height) ** 2 < 1
        semantic[in_lake & (semantic == below)] = lake
    waves = _waves(scene, x, y, drive, pan)
    colour = np.empty((*x.shape, 3))
    for area, wave, (main, second) in zip(world.areas, waves, scene.stuff_colours):
        here = semantic == area
        colour[here] = (main + 0.5 * (1 + wave[..., None]) * (second - main))[here]
    if solid:
        colour *= _haze(scene, y)
    instance = semantic.copy()
    for number, thing in enumerate(scene.things):
        u, v = (x - thing.x) / thing.width, (thing.y - y) / thing.height  # v grows upwards
        shape = world.shapes[thing.kind]
        inside, detail = shape(thing, u, v)
        painted = drawing.paint(thing, x - thing.x, y, detail)
        if solid:
            painted = painted * drawing.relief(shape, thing, u, v, scene.side)
            if thing.kind not in world.airborne:
                colour *= drawing.shadow(thing, x - thing.x, y - thing.y, scene.side)
        semantic[inside], instance[inside] = thing.kind, len(world.classes) + number
        colour[inside] = painted[inside]
    return colour, semantic, instance


def _waves(scene: Scene, x: np.ndarray, y: np.ndarray, drive: float, pan: float) -> tuple:
    """(H, W) patterns in [-1, 1] of sky, ground and water: clouds, furrows and ripples. The last
    two lie on the ground, so that they are narrower the farther away they are."""
    if not scene.side:  # flat
        return (stripes := np.sin(23 * x + 31 * y)), stripes, np.sin(2 * np.pi * y / 0.05)
    distance = 1 / (abs(y - scene.horizon) + 0.06)
    along, across = 0.3 * (distance + drive), 0.3 * ((x - 0.5) * distance + pan)
    clouds = np.sin(5 * x + 2.5 * np.sin(11 * y + 4 * x)) * np.sin(13 * y - 3 * x)
    furrows = np.sin(5 * along + 3 * np.sin(2.5 * across))
    return clouds, furrows, np.sin(9 * along + np.sin(9 * x))


def _haze(scene: Scene, y: np.ndarray) -> np.ndarray:
    """(H, W, 1) factors on the colours: brighter at the horizon and at the feet of the camera."""
    above = 0.9 + 0.3 * np.clip(y / scene.horizon, 0, 1) ** 2
    below = 0.8 + 0.3 * (y - scene.horizon) / (1 - scene.horizon)
    return np.where(y < scene.horizon, above, below)[..., None]


def _grain(scene: Scene, shape: tuple[int, ...]) -> np.ndarray:
    """Noise of mean 0 and standard deviation 1 that follows from the scene's seed."""
    rng = np.random.default_rng((scene.seed, 1))
    if not scene.side:
        return rng.standard_normal(shape)
    return np.sqrt(3.0) * (rng.random((4, *shape)).sum(0) - 2)  # nearly normal, in exact steps
