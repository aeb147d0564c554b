"""Other kinds of scenes: faces, and maps from above. Each is a few shapes, drawn and photographed
as the street is."""

import numpy as np

from fusion_lib import drawing
from fusion_lib.drawing import Thing
from fusion_lib.rendering import Scene, World
from fusion_lib.scenes import draw_colours, group_of, uniform

FACES = World(
    ("background", "hair", "skin", "eye", "mouth"),
    (0, 0, 0),
    {1: drawing.disc, 2: drawing.disc, 3: drawing.disc, 4: drawing.disc},
    airborne=(1, 2, 3, 4),
)
ABOVE = World(
    ("field", "road", "roof", "tree", "car"),
    (0, 0, 0),
    {1: drawing.slab, 2: drawing.slab, 3: drawing.disc, 4: drawing.slab},
    airborne=(1,),
)


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
        parts = [(1, 0.0, 0.12, 0.78, 0.95, hair), (2, 0.0, 0.0, 0.62, 0.85, skin)]
        eyes, height = draw_colours(rng, 0.2, 0.85), uniform(rng, 0.42, 0.5)
        parts += [(3, side * 0.14, height, 0.15, 0.10, eyes) for side in (-1, 1)]
        parts.append(
            (4, uniform(rng, -0.03, 0.03), 0.15, uniform(rng, 0.18, 0.3), 0.09, 0.6 * skin)
        )
        for kind, right, up, width, tall, colours in parts:
            place = x + size * right, foot - size * up, size * width, size * tall
            things.append(
                _thing(kind, *place, colours, rng, texture=int(2 * (kind == 1) * rng.random()))
            )
    return _flat_scene(seed, rng, FACES, things)


def sample_above(seed: int) -> Scene:
    """A map from above, `ABOVE`: roads, rows of roofs, clumps of trees, cars on the roads."""
    rng = np.random.default_rng((seed, 4))
    asphalt, things = draw_colours(rng, 0.05, 0.4), []
    across, down = uniform(rng, 0.35, 0.65), uniform(rng, 0.3, 0.7)
    things.append(_thing(1, 0.5, across + 0.07, 2.0, 0.14, asphalt, rng))
    things.append(_thing(1, down, 1.5, 0.14, 2.0, asphalt, rng))
    for _ in range(4 + int(4 * rng.random())):
        kind = 2 + int(2 * rng.random())
        side = uniform(rng, 0.12, 0.2)
        place = rng.random(), uniform(rng, 0.1, 1.1), side, side * uniform(rng, 0.7, 1.3)
        thing = _thing(
            kind, *place, draw_colours(rng, 0.2, 0.85), rng, texture=int(3 * rng.random())
        )
        things += group_of(thing, rng, 0.8, 0.0)
    for _ in range(2 + int(3 * rng.random())):
        place = rng.random(), across + 0.03 + 0.07 * round(rng.random()), 0.09, 0.05
        things.append(_thing(4, *place, draw_colours(rng, 0.2, 0.85), rng))
    return _flat_scene(seed, rng, ABOVE, things)


def _thing(kind, x, y, width, height, colours, rng, texture=0) -> Thing:
    angle, period = uniform(rng, 0, np.pi), uniform(rng, 0.05, 0.1)
    return Thing(
        kind, x, y, width, height, 0.0, 0.0, np.clip(colours, 0, 1), texture, period, angle
    )


def _flat_scene(seed: int, rng, world: World, things: list[Thing]) -> Scene:
    """A scene without horizon or lake, evenly lit."""
    colours = np.stack([draw_colours(rng, 0.08, 0.6)] * 3)
    side = float(np.sign(rng.random() - 0.5))
    return Scene(seed, -1.0, 0.0, None, colours, 1.0, (0.0, 0.0), tuple(things), world, side)
