"""Other kinds of scenes, of few shapes, photographed as the street is: faces, maps from above."""

import numpy as np

from fusion_lib.drawing import Thing, disc, slab
from fusion_lib.rendering import Scene, World
from fusion_lib.scenes import draw_colours, group_of, uniform

_FACE = {1: disc, 2: disc, 3: disc, 4: disc}
FACES = World(("background", "hair", "skin", "eye", "mouth"), _FACE, airborne=(*_FACE,))
_MAP = {1: slab, 2: slab, 3: disc, 4: slab}
ABOVE = World(("field", "road", "roof", "tree", "car"), _MAP, airborne=(1,))


def sample_faces(seed: int) -> Scene:
    """One to three faces, `FACES`; the two eyes of a face are one class and two regions."""
    rng = np.random.default_rng((seed, 3))
    things: list[Thing] = []
    count = 1 + int(3 * rng.random())
    for number in range(count):
        size = uniform(rng, 0.75, 0.95) / (1 + 0.35 * (count - 1))
        x = (number + 0.5) / count + uniform(rng, -0.05, 0.05)
        foot = 0.5 + 0.5 * size + uniform(rng, -0.04, 0.08)
        skin, hair = draw_colours(rng, 0.1, 0.6), draw_colours(rng, 0.15, 0.6)
        eyes, height = draw_colours(rng, 0.2, 0.85), uniform(rng, 0.42, 0.5)
        mouth = (4, uniform(rng, -0.03, 0.03), 0.15, uniform(rng, 0.18, 0.3), 0.09, 0.6 * skin)
        parts = [(1, 0.0, 0.12, 0.78, 0.95, hair), (2, 0.0, 0.0, 0.62, 0.85, skin)]
        parts += [(3, side * 0.14, height, 0.15, 0.10, eyes) for side in (-1, 1)]
        for kind, right, up, width, tall, colours in [*parts, mouth]:
            texture = int(2 * (kind == 1) * rng.random())
            place = x + size * right, foot - size * up, size * width, size * tall
            things.append(_thing(kind, *place, colours, rng, texture))
    return _flat_scene(seed, rng, FACES, things)


def sample_above(seed: int) -> Scene:
    """A map from above, `ABOVE`: roads, rows of roofs, clumps of trees, cars on the roads."""
    rng = np.random.default_rng((seed, 4))
    asphalt = draw_colours(rng, 0.05, 0.4)
    across, down = uniform(rng, 0.35, 0.65), uniform(rng, 0.3, 0.7)
    things = [_thing(1, 0.5, across + 0.07, 2.0, 0.14, asphalt, rng)]
    things.append(_thing(1, down, 1.5, 0.14, 2.0, asphalt, rng))
    for _ in range(4 + int(4 * rng.random())):
        kind, side = 2 + int(2 * rng.random()), uniform(rng, 0.12, 0.2)
        place = rng.random(), uniform(rng, 0.1, 1.1), side, side * uniform(rng, 0.7, 1.3)
        colours, texture = draw_colours(rng, 0.2, 0.85), int(3 * rng.random())
        things += group_of(_thing(kind, *place, colours, rng, texture), rng, 0.8, 0.0)
    for _ in range(2 + int(3 * rng.random())):
        place = rng.random(), across + 0.03 + 0.07 * round(rng.random()), 0.09, 0.05
        things.append(_thing(4, *place, draw_colours(rng, 0.2, 0.85), rng))
    return _flat_scene(seed, rng, ABOVE, things)


def _thing(kind, x, y, width, height, colours, rng, texture=0) -> Thing:
    angle, period = uniform(rng, 0, np.pi), uniform(rng, 0.05, 0.1)
    return Thing(kind, x, y, width, height, 0.0, 0.0, colours, texture, period, angle)


def _flat_scene(seed: int, rng, world: World, things: list[Thing]) -> Scene:
    """A scene without horizon or lake, evenly lit."""
    colours = np.stack([draw_colours(rng, 0.08, 0.6)] * 3)
    side = float(np.sign(rng.random() - 0.5))
    return Scene(seed, -1.0, 0.0, None, colours, 1.0, (0.0, 0.0), tuple(things), world, side)
