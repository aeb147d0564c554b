"""How scenes are drawn: silhouettes, textures, light and shade, the viewpoint, and the photograph.

Silhouettes take coordinates within the thing: u in [-.5, .5], and v in [0, 1] upwards from the
foot. They return two bool maps: its pixels, and those among them that have its second colour.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

EDGE = 0.022  # width of the bright and dark edges of a thing, in picture heights


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


def building(thing: Thing, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Walls under a pointed roof."""
    telling = 1 - thing.ambiguity
    eaves = 1 - 0.3 * telling
    walls = (abs(u) < 0.5) & (v > 0) & (v < eaves)
    roof = (v >= eaves) & (v < 1) & (abs(u) < 0.5 * (1 - v) / (0.3 * telling + 1e-9))
    return walls | roof, roof


def tree(thing: Thing, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A round crown on a trunk."""
    top = 0.08 + 0.32 * (1 - thing.ambiguity)
    crown = (u / 0.5) ** 2 + ((v - (1 + top) / 2) / ((1 - top) / 2)) ** 2 < 1
    trunk = (abs(u) < 0.12) & (v > 0) & (v < top + 0.1)
    return crown | trunk, trunk & ~crown


def car(thing: Thing, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A body with a cabin on two wheels, which are round in the picture."""
    telling, ratio = 1 - thing.ambiguity, thing.height / thing.width
    body = (abs(u) < 0.5) & (v > 0.15) & (v < 0.62)
    cabin = (abs(u + 0.05) < 0.28) & (v >= 0.62) & (v < 0.62 + 0.38 * telling)
    radius = 0.10 + 0.06 * telling
    wheels = ((abs(u) - 0.28) ** 2 + ((v - 0.18) * ratio) ** 2 < radius**2) & (v > 0)
    return body | cabin | wheels, wheels


def disc(thing: Thing, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A ball or a balloon: nothing but its place tells which."""
    return u**2 + (v - 0.5) ** 2 < 0.25, np.zeros(u.shape, bool)


def slab(thing: Thing, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A rectangle."""
    return (abs(u) < 0.5) & (v > 0) & (v < 1), np.zeros(u.shape, bool)


def paint(thing: Thing, x: np.ndarray, y: np.ndarray, detail: np.ndarray) -> np.ndarray:
    """Its colours (H, W, 3): the second one in its texture and where `detail` is, else the main."""
    along = (x * np.cos(thing.angle) + y * np.sin(thing.angle)) / thing.period
    across = (y * np.cos(thing.angle) - x * np.sin(thing.angle)) / thing.period
    fields = np.floor(along) + (np.floor(across) if thing.texture == 2 else 0)
    pattern = (fields % 2 == 0) & (thing.texture > 0)
    main, second = thing.colours
    return np.where((pattern | detail)[..., None], second, main)


def relief(shape: Callable, thing: Thing, u: np.ndarray, v: np.ndarray, side: float) -> np.ndarray:
    """(H, W, 1) factors on its colours under a light from above and from `side` (-1 left, 1 right):
    brighter towards the light, with a bright edge on that side and a dark one on the other."""
    across, up = side * EDGE / thing.width, EDGE / thing.height
    lit = ~shape(thing, u + across, v + up)[0]
    dark = ~shape(thing, u - across, v - up)[0]
    shading = 1 + 0.25 * (side * u + 0.5 * (np.clip(v, 0, 1) - 0.5))
    return (shading * np.where(lit, 1.15, np.where(dark, 0.8, 1.0)))[..., None]


def shadow(thing: Thing, x: np.ndarray, y: np.ndarray, side: float) -> np.ndarray:
    """(H, W, 1) factors on what lies around its foot, at (0, 0); the light is that of `relief`."""
    distance = ((x / thing.width + 0.12 * side) / 0.62) ** 2 + (y / 0.035) ** 2
    return (1 - 0.35 * np.clip(1.6 * (1 - distance), 0, 1))[..., None]


def viewpoint(size: int, scale: float, rotation: float, perspective: float):
    """(x, y): the point of the scene that each pixel sees; (0, 1) over the picture, y down."""
    centres = (np.arange(size) + 0.5) / size - 0.5
    x, y = np.meshgrid(centres, centres)
    depth = scale * (1 + perspective * y)
    turn = np.deg2rad(rotation)
    x, y = x / depth, y / depth
    return 0.5 + np.cos(turn) * x - np.sin(turn) * y, 0.5 + np.sin(turn) * x + np.cos(turn) * y


def expose(colour: np.ndarray, gain: np.ndarray, grain: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 photograph of colours (H, W, 3) under a light (H, W), blurred by a lens; the
    grain (H, W, 3) of the sensor is added last."""
    exposed = colour * np.clip(gain, 0, None)[..., None]
    # The lens: a 1-2-1 blur along both axes, edges repeated.
    blurred = np.pad(exposed, [(1, 1), (1, 1), (0, 0)], mode="edge")
    blurred = (blurred[:-2] + 2 * blurred[1:-1] + blurred[2:]) / 4
    blurred = (blurred[:, :-2] + 2 * blurred[:, 1:-1] + blurred[:, 2:]) / 4
    return np.round(255 * np.clip(blurred + grain, 0, 1)).astype(np.uint8)
