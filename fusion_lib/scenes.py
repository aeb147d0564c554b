"""Procedural street-like scenes: the laboratory of the series.

A scene has two or three stuff areas (sky, ground, water) and things, single ones and groups of one
class that touch and overlap: terraces, woods, parked cars, bunches of balls and balloons. What
names a thing is its shape and its place, never its colour: a disc on the ground is a ball, the same
disc in the sky is a balloon; sky and water share a palette. Every thing is one region.

`sample_scene` draws the contents of a scene from a seed, `render` takes the photograph: the same
scene again under another light, from another viewpoint or a moment later, with exact labels.

    python -m fusion_lib.scenes FOLDER      # writes three files and SHA256SUMS
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from fusion_lib import checks
from fusion_lib.drawing import Thing, building, car, disc, tree
from fusion_lib.engine.files import write_sums
from fusion_lib.rendering import REGION_VOID, SEMANTIC_VOID, Scene, World, connected_regions, render

CLASSES = ("sky", "ground", "water", "building", "tree", "car", "ball", "balloon")
SKY, GROUND, WATER, BUILDING, TREE, CAR, BALL, BALLOON = range(len(CLASSES))
STUFF = (SKY, GROUND, WATER)
THINGS = (BUILDING, TREE, CAR, BALL, BALLOON)
SHAPES = dict(zip(THINGS, (building, tree, car, disc, disc)))
STREET = World(CLASSES, SHAPES, STUFF, airborne=(BALLOON,))

SPLITS = {"train": range(0, 400), "val": range(10_000, 10_100), "test": range(20_000, 20_100)}
EDITION = 1  # of the shipped scenes
HIDDEN_BORDERS = 0.23  # share of the region borders that lie inside one class, second edition
# Measured: how crowded things must be for a share of hidden borders. Up to 1, it is the chance that
# a thing becomes a group; beyond, how many rows a group has more than one, on average.
SHARES = (0.0, 0.034, 0.08, 0.13, 0.17, 0.21, 0.262, 0.335, 0.387, 0.427, 0.457, 0.5)
CROWDING = (0.0, 0.08, 0.25, 0.42, 0.67, 1.0, 1.2, 1.6, 2.0, 2.4, 2.8, 3.8)
SCATTER = {BUILDING: 0.06, TREE: 0.25, CAR: 0.3, BALL: 0.6, BALLOON: 0.6}  # of feet, in heights


def sample_scene(
    seed: int,
    colour_similarity: float = 0.35,
    shape_ambiguity: float = 0.5,
    hidden_borders: float | None = None,
    edition: int = EDITION,
) -> Scene:
    """Draw the contents of a scene.

    Args: seed, the only source of chance: equal seeds give equal scenes; colour_similarity,
        probability that a thing takes nearly the colour of its neighbour; shape_ambiguity, how far
        telling details (wheels, trunks, roofs) may shrink, in [0, 1] as well; hidden_borders, about
        the share of the borders between regions that lie inside one class, over many scenes, in
        [0, 0.5], None for 0.23; edition, 2, or 1 for the first edition: no groups, flat and greyer
        colours, and a share of hidden borders as chance has it, 0.03.
    Raises: ValueError, a knob is out of its range, or a share asked for of the first edition.
    """
    shares = {"colour_similarity": colour_similarity, "shape_ambiguity": shape_ambiguity}
    for name, value in shares.items():
        checks.expect(0 <= value <= 1, name, value, "a number in [0, 1]")
    checks.expect(edition in (1, 2), "edition", edition, "1 or 2")
    solid, share = edition == 2, HIDDEN_BORDERS if hidden_borders is None else hidden_borders
    known = hidden_borders is None or (solid and 0 <= share <= 0.5)
    checks.expect(known, "hidden_borders", hidden_borders, "in [0, 0.5], with edition 2")
    crowding = float(np.interp(share, SHARES, CROWDING))
    rng = np.random.default_rng(seed)
    vivid = 0.85 if solid else 0.6  # the rest is grey, as outdoor colours are
    horizon = uniform(rng, 0.32, 0.52)
    stuff_colours = np.stack([draw_colours(rng, shift, vivid) for shift in (0.06, 0.12, 0.08)])
    shore = None
    if rng.random() < 0.65:
        if rng.random() < 0.5:  # often the lake mirrors the sky
            stuff_colours[2] = np.clip(stuff_colours[0] + 0.1 * (rng.random(3) - 0.5), 0, 1)
        limits = ((-0.1, 1.1), (0.72, 1.0), (0.25, 0.6), (0.08, 0.22))
        shore = tuple(uniform(rng, low, high) for low, high in limits)
    things: list[Thing] = []
    neighbour = stuff_colours[GROUND]
    for number in range(3 + int(6 * rng.random())):
        similar = rng.random() < colour_similarity
        thing = _sample_thing(rng, horizon, shape_ambiguity, vivid)
        if similar:
            thing.colours[:] = np.clip(neighbour + 0.12 * (rng.random(3) - 0.5), 0, 1)
        group = [thing]
        if solid:  # with chance of its own: other groups leave all the rest as it is
            more = np.random.default_rng((seed, 2, number))
            group = _apart(group_of(thing, more, crowding, shape_ambiguity), things, more)
        things += group
        neighbour = group[0].colours if group else neighbour
    tilt, light = uniform(rng, -0.06, 0.06), uniform(rng, 0.65, 1.1)
    slope = np.array([uniform(rng, -0.5, 0.5), uniform(rng, -0.25, 0.25)])
    if solid:  # a bright sky over a darker ground, in a kinder light
        stuff_colours[SKY] += 0.35 * (1 - stuff_colours[SKY])
        stuff_colours[GROUND] *= 0.75
        light, slope = 0.6 + 0.4 * light, 0.6 * slope
    return Scene(
        seed=seed,
        horizon=horizon,
        tilt=tilt,
        shore=shore,
        stuff_colours=stuff_colours,
        light=light,
        light_slope=tuple(slope.tolist()),
        # Nearer things stand lower in the picture and are drawn later.
        things=tuple(sorted(things, key=lambda thing: thing.y)),
        world=STREET,
        side=float(np.sign(rng.random() - 0.5)) if solid else 0.0,
    )


def draw_split(split: str, **knobs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (N, 64, 64, 3) uint8, semantic labels (N, 64, 64) uint8 and region maps (N, 64, 64)
    int8 of a split of `SPLITS`; `knobs` are arguments of `sample_scene`."""
    pictures = [render(sample_scene(seed, **knobs)) for seed in SPLITS[split]]
    images, semantic, region = (np.stack(arrays) for arrays in zip(*pictures))
    return images, semantic.astype(np.uint8), region.astype(np.int8)


def generate(folder: str | Path) -> None:
    """Write each split as FOLDER/scenes_SPLIT.npz (images, semantic, region), and SHA256SUMS."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        images, semantic, region = draw_split(split)
        path = folder / f"scenes_{split}.npz"
        np.savez_compressed(path, images=images, semantic=semantic, region=region)
    write_sums(folder)


def group_of(thing: Thing, rng, crowding: float, shape_ambiguity: float) -> list[Thing]:
    """The thing, or a group of its kind in its place: rows of three to five that overlap."""
    if rng.random() >= crowding:
        return [thing]
    rows, count = 1 + int(rng.random() + max(0.0, crowding - 1)), 3 + int(3 * rng.random())
    scatter, round_ = SCATTER.get(thing.kind, 0.2), thing.width == thing.height
    members = []
    for row in range(rows):
        x = thing.x - 0.3 * (count - 1 + row % 2) * thing.width
        for _ in range(count):
            colours = np.clip(thing.colours + 0.08 * (2 * rng.random(3) - 1), 0, 1)
            width, height = (side * uniform(rng, 0.75, 1) for side in (thing.width, thing.height))
            y = thing.y + thing.height * (scatter * uniform(rng, -0.5, 0.5) - 0.4 * row)
            member = replace(thing, x=x, y=y, width=width, height=width if round_ else height)
            ambiguity = shape_ambiguity * float(rng.random())
            members.append(replace(member, colours=colours, ambiguity=ambiguity))
            x += thing.width * uniform(rng, 0.42, 0.74)
    return members


def _apart(group: list[Thing], others: list[Thing], rng) -> list[Thing]:
    """The group, moved sideways until none of its kind is near; [] if there is no room."""
    for _ in range(6):
        if not any(_near(member, other) for member in group for other in others):
            return group
        step = uniform(rng, 0.03, 0.97) - group[0].x
        group = [replace(member, x=member.x + step) for member in group]
    return []


def _near(one: Thing, other: Thing, gap: float = 0.03) -> bool:
    beside = abs(one.x - other.x) < 0.5 * (one.width + other.width) + gap
    above, below = sorted((one, other), key=lambda thing: thing.y)
    return one.kind == other.kind and beside and below.y - below.height < above.y + gap


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Only `random` decides labels: its stream has never changed between NumPy versions."""
    return low + (high - low) * float(rng.random())


def draw_colours(rng: np.random.Generator, contrast: float, vivid: float) -> np.ndarray:
    """(2, 3) in [0, 1]: a main colour, the less grey the more `vivid`, and that of its texture."""
    grey = 0.2 + 0.6 * float(rng.random())
    main = grey + vivid * (0.1 + 0.8 * rng.random(3) - grey)
    return np.clip(np.stack([main, main + contrast * np.sign(rng.random(3) - 0.5)]), 0, 1)


def _sample_thing(rng: np.random.Generator, horizon: float, shape_ambiguity: float, vivid: float):
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
        x=uniform(rng, 0.03, 0.97),
        y=foot,
        width=width * size,
        height=height * size,
        speed=uniform(rng, -0.1, 0.1) if kind in (CAR, BALL, BALLOON) else 0.0,
        ambiguity=shape_ambiguity * float(rng.random()),
        colours=draw_colours(rng, 0.22, vivid),
        texture=int(3 * rng.random()),
        period=uniform(rng, 0.06, 0.12),
        angle=uniform(rng, 0.0, np.pi),
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m fusion_lib.scenes FOLDER")
    generate(sys.argv[1])
