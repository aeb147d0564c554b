"""Figures that look the same everywhere: opaque white and colour-blind-safe."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgba_array
from matplotlib.patches import Patch

from fusion_lib.intervals import bootstrap_interval
from fusion_lib.scenes import REGION_VOID, SEMANTIC_VOID
from fusion_lib.targets import REGION_CLASSES, boundary_mask

# Okabe & Ito (2008): eight colours that stay apart under every common colour blindness.
_EIGHT = "#56B4E9 #E69F00 #0072B2 #D55E00 #009E73 #CC79A7 #F0E442 #5A5A5A"
PALETTE = to_rgba_array(_EIGHT.split())[:, :3]
# Beyond the eighth, paler and then darker: no 24 colours stay apart well.
CLASS_COLOURS = np.concatenate([PALETTE, 0.55 * PALETTE + 0.45, 0.55 * PALETTE])
REGION_TARGET_COLOURS = to_rgba_array(["0.05", "#E69F00", "#F5F0DC"])[:, :3]
LINES = PALETTE[[2, 3, 4, 5, 1, 0, 7]]  # those that are dark enough for a line
BESIDE = {"frameon": False, "fontsize": 9, "loc": "upper left", "bbox_to_anchor": (1, 1)}


def use_style() -> None:
    """Opaque white figures (readable on a dark page), 10-point text, few dots an inch."""
    plt.rc("figure", facecolor="white", dpi=80)
    plt.rc("savefig", facecolor="white", dpi=80)
    plt.rc("axes", facecolor="white", prop_cycle=plt.cycler(color=LINES))
    plt.rc("font", size=10)
    plt.rc("image", interpolation="nearest")


def colour_classes(labels: np.ndarray, colours: np.ndarray = CLASS_COLOURS) -> np.ndarray:
    """(H, W) class indices -> (H, W, 3) colours; void (255) is white."""
    labels = np.asarray(labels)
    return np.where((labels == SEMANTIC_VOID)[..., None], 1.0, colours[labels % len(colours)])


def colour_regions(region: np.ndarray) -> np.ndarray:
    """(H, W) region ids -> (H, W, 3): any colour for an id, boundaries dark, void white."""
    region = np.asarray(region)
    shades = 0.618 * np.arange(24) % 1  # steps of the golden ratio: unlike shades for neighbours
    colours = plt.get_cmap("viridis")(shades[region % len(shades)])[..., :3] * 0.75 + 0.25
    colours[boundary_mask(region)] *= 0.45
    colours[region == REGION_VOID] = 1
    return colours


def colour_region_target(target: np.ndarray) -> np.ndarray:
    """(H, W) boundary, rim, core -> (H, W, 3) black, orange, cream; void white."""
    return colour_classes(target, REGION_TARGET_COLOURS)


def colour_fused(semantic: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The fused map: class colours (H, W, 3), with the borders of the regions drawn in black."""
    colours = colour_classes(semantic)
    colours[boundary_mask(region)] *= 0.3
    return colours


def fused_panels(image, argmax: np.ndarray, region: np.ndarray, voted: np.ndarray) -> dict:
    """The four pictures that tell the story of one prediction, for `show`."""
    return {
        "image": np.asarray(image),
        "semantic: names, no things": colour_classes(argmax),
        "regions: things, no names": colour_regions(region),
        "fused map": colour_fused(voted, region),
    }


def show(panels: dict, legend: tuple = (), columns: int = 4, panel: float = 2.4) -> None:
    """Show pictures side by side.

    Args: panels, {title: (H, W, 3) or (3, H, W) colours, or (H, W) values, drawn in `cividis`};
        legend, class names in the order of `CLASS_COLOURS`, or `REGION_CLASSES`; columns, how many
        in a row; panel, inches of one.
    """
    pictures = {title: _channels_last(picture) for title, picture in panels.items()}
    rows, across = -(-len(panels) // columns), min(columns, len(panels))
    lines = -(-len(legend) // (2 * across + 1))  # of the legend
    height, width = next(iter(pictures.values())).shape[:2]
    size = panel * across, (panel * height / width + 0.3) * rows + 0.35 * bool(legend)
    figure, axes = plt.subplots(rows, across, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, picture) in zip(axes.flat, pictures.items()):
        axis.imshow(picture, cmap="cividis")
        axis.set_title(title, fontsize=10)
    bottom = (0.1 + 0.17 * lines) / size[1] if legend else 0
    if legend:
        colours = REGION_TARGET_COLOURS if tuple(legend) == REGION_CLASSES else CLASS_COLOURS
        handles = [Patch(fc=c, ec="black", label=name) for c, name in zip(colours, legend)]
        entries = {"handles": handles, "ncols": -(-len(legend) // lines), "fontsize": 9}
        figure.legend(**entries, loc="lower center", frameon=False)
    figure.tight_layout(rect=(0, bottom, 1, 1))
    plt.show()


def show_history(history: list[dict]) -> None:
    """The history of `training.train`: losses over the epochs, and each task's validation mIoU."""
    names = [name.removeprefix("train_") for name in history[0] if name.startswith("train_")]
    tasks = [name for name in history[0] if name.startswith("val_miou_")]
    panels = {f"{name} loss": {"train": f"train_{name}", "val": f"val_{name}"} for name in names}
    panels["val mIoU of pixel classes"] = {task.removeprefix("val_miou_"): task for task in tasks}
    figure, axes = plt.subplots(1, len(panels), figsize=(3.1 * len(panels), 2.8))
    for axis, (title, fields) in zip(axes, panels.items()):
        curves = {label: [entry[field] for entry in history] for label, field in fields.items()}
        _lines(axis, curves, start=history[0]["epoch"] + 1)
        axis.set(title=title, xlabel="epoch")
        axis.legend(frameon=False)
    axes[-1].set_ylim(0, 1)
    figure.tight_layout()
    plt.show()


def show_curve(curves: dict[str, list], title: str, xlabel: str, ylabel: str) -> None:
    """Lines over the index 1, 2, ...: {series: values}."""
    with _panel((5, 2.8), title, xlabel, ylabel) as axis:
        _lines(axis, curves)
        if len(curves) > 1:
            axis.legend(frameon=False)


def show_bars(values: dict[str, dict[str, float]], title: str, ylabel: str) -> None:
    """{series: {category: value}}: grouped bars; hatches tell the series apart without colour."""
    categories, count = list(next(iter(values.values()))), len(values)
    with _panel((max(5.6, 0.54 * len(categories) * count + 2), 2.9), title, "", ylabel) as axis:
        for number, (series, heights) in enumerate(values.items()):
            places = np.arange(len(categories)) + (number - (count - 1) / 2) * 0.8 / count
            look = {"hatch": ("", "//", "..", "xx")[number % 4], "edgecolor": "black"}
            bars = axis.bar(places, heights.values(), 0.8 / count, label=series, **look)
            axis.bar_label(bars, fmt="%.2g", fontsize=9, padding=2)
        axis.set_xticks(range(len(categories)), categories, rotation=20, ha="right")
        axis.margins(y=0.12)
        if count > 1:
            axis.legend(**BESIDE)


def show_intervals(values: dict[str, list], title: str, xlabel: str, zero: bool = False) -> None:
    """{name: one value a run}: a line each, with a small circle for each run, a diamond at the mean
    and a bar over its 95% bootstrap interval; `zero` draws a dashed line at 0, for differences."""
    with _panel((6.4, 0.36 * len(values) + 1.2), title, xlabel, "") as axis:
        for y, runs in enumerate(values.values()):
            ends = bootstrap_interval(runs)
            axis.plot(ends, [y, y], color=PALETTE[2], linewidth=3, solid_capstyle="butt")
            axis.plot(runs, [y] * len(runs), "o", ms=4, mfc="none", color="black")
            axis.plot(np.mean(runs), y, "D", ms=6, color=PALETTE[3])
        if zero:
            axis.axvline(0, linestyle="--", color="black", linewidth=1)
        axis.set_yticks(range(len(values)), values)
        axis.set_ylim(len(values) - 0.5, -0.5)


def show_severities(curves: dict, title: str, xlabel: str, ylabel: str, axis=None) -> None:
    """{series: {x: one value a run}}: lines through the means, with 95% bootstrap intervals. An
    `axis` is one of a larger figure to draw into; nothing is shown then."""
    if axis is None:
        with _panel((5.6, 3.2), "", "", "") as axis:
            show_severities(curves, title, xlabel, ylabel, axis)
            axis.legend(frameon=False, fontsize=9)
        return
    for (series, points), look in zip(curves.items(), cycle(("o-", "s--", "^:", "D-."))):
        means = np.array([np.mean(runs) for runs in points.values()])
        ends = [bootstrap_interval(v) if len(v) > 1 else (v[0], v[0]) for v in points.values()]
        reach = abs(np.transpose(ends) - means)
        axis.errorbar(list(points), means, reach, fmt=look, ms=5, capsize=3, label=series)
    axis.set_title(title, fontsize=10)
    axis.set(xlabel=xlabel, ylabel=ylabel)


def show_points(points: dict[str, tuple[list, list]], title: str, xlabel: str, ylabel: str) -> None:
    """{name: (x of each run, y of each run)}: means, with whiskers from lowest to highest run."""
    with _panel((6.6, 4.2), title, xlabel, ylabel) as axis:
        for (name, runs), marker, colour in zip(points.items(), cycle("osD^v<>Xp*"), cycle(LINES)):
            centre = np.mean(runs, axis=1)
            x, y = ([[c - min(v)], [max(v) - c]] for c, v in zip(centre, runs))
            look = {"fmt": marker, "ms": 7, "elinewidth": 0.7, "color": colour, "mec": "black"}
            axis.errorbar(*centre, yerr=y, xerr=x, label=name, **look)
        axis.legend(**BESIDE)


def show_matrix(values: np.ndarray, names: tuple[str, ...], title: str) -> None:
    """A square matrix of shares in [0, 1], with each number written into its cell."""
    with _panel((0.62 * len(names) + 1.4, 0.5 * len(names) + 1.4), "", "", "") as axis:
        axis.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            look = {"fontsize": 9, "color": "black" if value > 0.5 else "white"}
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", **look)
        axis.set_xticks(range(len(names)), names, rotation=30, ha="right")
        axis.set_yticks(range(len(names)), names)
        axis.set_title(title, fontsize=10)


@contextmanager
def _panel(size: tuple[float, float], title: str, xlabel: str, ylabel: str) -> Iterator:
    figure, axis = plt.subplots(figsize=size)
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
    yield axis
    figure.tight_layout()
    plt.show()


def _lines(axis, curves: dict[str, list], start: int = 1) -> None:
    for (series, values), dash in zip(curves.items(), cycle(("-", "--", ":", "-."))):
        axis.plot(range(start, start + len(values)), values, dash, label=series)


def _channels_last(picture) -> np.ndarray:
    picture = np.asarray(picture)
    first = picture.ndim == 3 and picture.shape[0] == 3 and picture.shape[2] != 3
    return np.moveaxis(picture, 0, -1) if first else picture
