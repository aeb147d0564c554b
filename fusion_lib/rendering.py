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
    shapes: dict[int, Callable]  # silhouette of each class that is drawn as things
    areas: tuple[int, ...] = (0, 0, 0)  # classes above the horizon, below it, and of the lake
    airborne: tuple[int, ...] = ()  # classes that cast no shadow on the ground


@dataclass(frozen=True)
class Scene:
    """The contents of one picture; all that `render` needs besides the knobs of the camera."""

    seed: int
    horizon: float  # height of the horizon, from the top
    tilt: float
    shore: tuple | None  # (x, y, half width, half height) of the lake, if there is one
    stuff_colours: np.ndarray  # (3, 2, 3): sky, ground, water; main and texture colour
    light: float
    light_slope: tuple  # (horizontal, vertical) change of the light across the picture
    things: tuple
    world: World
    side: float = 0.0  # where the light comes from: -1 left, 1 right; 0: flat, the first edition


@dataclass(frozen=True)
class Knobs:
    """How a scene is photographed; a ValueError where a knob is beyond what a camera can do."""

    light: float = 1.0  # factor on the scene's own light
    light_slope: float = 0.0  # extra change of the light from the left edge to the right one
    noise: float = 0.05  # standard deviation of the sensor noise; pixel values run from 0 to 1
    scale: float = 1.0  # magnification about the centre of the picture
    rotation: float = 0.0  # of the camera, in degrees
    perspective: float = 0.0  # keystone distortion; 0 is none, 0.5 is strong
    occlusion: float = 0.0  # 0 leaves things where they are; towards 1 they crowd into one place
    time: float = 0.0  # moment of the photograph; things move sideways at their own speeds
    drive: float = 0.0  # how far the camera has driven forward, in units of its height
    pan: float = 0.0  # how far it has moved to the right, in the same units

    def __post_init__(self):
        checks.not_negative(light=self.light, noise=self.noise)
        for name, value in vars(self).items():
            checks.expect(abs(value) < np.inf, name, value, "a finite number")
        checks.expect(self.scale > 0, "scale", self.scale, "a magnification above 0")
        checks.expect(abs(self.perspective) < 2, "perspective", self.perspective, "within -2 and 2")
        checks.expect(0 <= self.occlusion <= 1, "occlusion", self.occlusion, "a number in [0, 1]")


def render(scene: Scene, size: int = SIZE, **knobs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Photograph a scene. Every knob, a field of `Knobs`, leaves the contents, and all other knobs,
    as they are; size is the side of the square picture in pixels.

    Returns: image (size, size, 3) uint8; semantic labels (size, size) int64, void 255; region map
        (size, size) int64, ids 0..R-1 of connected regions, void -1.
    Raises: ValueError, as `Knobs`, or the knobs leave only one region, or none of a scene's things.
    """
    chosen = Knobs(**knobs)
    checks.expect(size >= 1, "size", size, "at least one pixel")
    x, y = drawing.viewpoint(size, chosen.scale, chosen.rotation, chosen.perspective)
    colour, semantic, instance = _drawn(_moved(scene, chosen), x, y, chosen)
    region = connected_regions(instance)
    tiny = np.bincount(region.ravel())[region] < SMALLEST_REGION
    region = connected_regions(np.where(tiny, REGION_VOID, instance))
    semantic = np.where(tiny, SEMANTIC_VOID, semantic)
    seen = not scene.things or np.isin(semantic, [*scene.world.shapes]).any()
    left = f"{region.max() + 1} regions" + ("" if seen else ", and no thing")
    expected = "at least two, one of them a thing: turn the knobs back, or take another scene"
    checks.expect(region.max() > 0 and seen, "what the knobs leave in the picture", left, expected)
    slope_x, slope_y = scene.light_slope
    slope = 1 + (slope_x + chosen.light_slope) * (x - 0.5) + slope_y * (y - 0.5)
    grain = chosen.noise * _grain(scene, colour.shape)
    image = drawing.expose(colour, chosen.light * scene.light * slope, grain)
    return image, semantic.astype(np.int64), region


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


def _moved(scene: Scene, knobs: Knobs) -> Scene:
    """The scene as the camera has it before it: what is nearer, so farther from the horizon, grows
    and moves more; what was passed is gone."""

    def placed(x: float, y: float, width: float, height: float) -> tuple[float, ...]:
        """Where something on the ground (or in the sky) is now, and how large; () if passed."""
        nearness = abs(y - scene.horizon)  # one over the distance, in heights of the camera
        if knobs.drive * nearness >= 1:
            return ()
        growth = 1 / (1 - knobs.drive * nearness)
        right = (x - 0.5) * (growth - 1) - knobs.pan * nearness * growth
        down = (y - scene.horizon) * (growth - 1)
        return x + right, y + down, width * growth, height * growth

    crowd = float(np.mean([thing.x for thing in scene.things])) if scene.things else 0.5
    things = []
    for thing in scene.things:
        x = crowd + (1 - knobs.occlusion) * (thing.x - crowd) + thing.speed * knobs.time
        if place := placed(x, thing.y, thing.width, thing.height):
            things.append(replace(thing, **dict(zip(("x", "y", "width", "height"), place))))
    shore = scene.shore and placed(*scene.shore)
    return replace(scene, things=tuple(things), shore=shore)


def _drawn(scene: Scene, x: np.ndarray, y: np.ndarray, knobs: Knobs):
    """Colours (H, W, 3), semantic labels (H, W) and ids of stuff and things (H, W)."""
    world, solid = scene.world, scene.side != 0
    above, below, lake = world.areas
    semantic = np.where(y < scene.horizon + scene.tilt * (x - 0.5), above, below)
    if scene.shore:
        centre_x, centre_y, half_width, half_height = scene.shore
        in_lake = ((x - centre_x) / half_width) ** 2 + ((y - centre_y) / half_height) ** 2 < 1
        semantic[in_lake & (semantic == below)] = lake
    waves = _waves(scene, x, y, knobs)
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
            painted *= drawing.relief(shape, thing, u, v, scene.side)
            if thing.kind not in world.airborne:
                colour *= drawing.shadow(thing, x - thing.x, y - thing.y, scene.side)
        semantic[inside], instance[inside] = thing.kind, len(world.classes) + number
        colour[inside] = painted[inside]
    return colour, semantic, instance


def _waves(scene: Scene, x: np.ndarray, y: np.ndarray, knobs: Knobs) -> tuple:
    """(H, W) patterns in [-1, 1] of sky, ground and water: clouds, furrows and ripples. The last
    two lie on the ground, so that they are narrower the farther away they are."""
    if not scene.side:  # flat
        return (stripes := np.sin(23 * x + 31 * y)), stripes, np.sin(2 * np.pi * y / 0.05)
    distance = 1 / (abs(y - scene.horizon) + 0.06)
    along, across = 0.3 * (distance + knobs.drive), 0.3 * ((x - 0.5) * distance + knobs.pan)
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
