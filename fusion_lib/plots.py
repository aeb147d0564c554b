"""Figures that look the same everywhere: opaque white and colour-blind-safe."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch

from fusion_lib import summaries
from fusion_lib.intervals import bootstrap_interval
from fusion_lib.scenes import REGION_VOID, SEMANTIC_VOID
from fusion_lib.targets import REGION_CLASSES, boundary_mask

# Okabe & Ito (2008): eight colours that stay apart under every common colour blindness.
PALETTE = (
    np.array(
        [
            (86, 180, 233),
            (230, 159, 0),
            (0, 114, 178),
            (213, 94, 0),
            (0, 158, 115),
            (204, 121, 167),
            (240, 228, 66),
            (90, 90, 90),
        ]
    )
    / 255
)
CLASS_COLOURS = np.concatenate(
    [PALETTE, 0.55 * PALETTE + 0.45, 0.55 * PALETTE]
)  # no 24 colours stay apart well
VOID_COLOUR = np.array((1.0, 1.0, 1.0))
REGION_TARGET_COLOURS = np.array([(0.05, 0.05, 0.05), (230, 159, 0), (245, 240, 220)], float)
REGION_TARGET_COLOURS[1:] /= 255


def use_style() -> None:
    """Opaque white figures (readable on a dark page), 10-point text, 80 dots an inch to keep
    notebooks small."""
    plt.rcParams.update(
        {
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "axes.facecolor": "white",
            "figure.dpi": 80,
            "savefig.dpi": 80,
            "font.size": 10,
            "axes.prop_cycle": plt.cycler(color=PALETTE[[2, 3, 4, 5, 1, 0, 7]]),
            "image.interpolation": "nearest",
        }
    )
    summaries.register()


def colour_classes(labels: np.ndarray) -> np.ndarray:
    """(H, W) class indices -> (H, W, 3) colours; void (255) is white. Beyond the eighth, colours
    are paler or darker."""
    labels = np.asarray(labels)
    return np.where(
        (labels == SEMANTIC_VOID)[..., None],
        VOID_COLOUR,
        CLASS_COLOURS[labels % len(CLASS_COLOURS)],
    )


def colour_regions(region: np.ndarray) -> np.ndarray:
    """(H, W) region ids -> (H, W, 3): a colour an id (ids only tell regions apart), boundaries
    dark, void white."""
    region = np.asarray(region)
    shades = (
        0.618 * np.arange(24) % 1
    )  # steps of the golden ratio: neighbouring ids get unlike shades
    colours = plt.get_cmap("viridis")(shades[region % len(shades)])[..., :3] * 0.75 + 0.25
    colours[boundary_mask(region)] *= 0.45
    colours[region == REGION_VOID] = VOID_COLOUR
    return colours


def colour_region_target(target: np.ndarray) -> np.ndarray:
    """(H, W) boundary, rim, core -> black, orange, cream; void white."""
    target = np.asarray(target)
    return np.where(
        (target == SEMANTIC_VOID)[..., None], VOID_COLOUR, REGION_TARGET_COLOURS[target % 3]
    )


def colour_fused(semantic: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The fused map: class colours, with the borders of the regions drawn in black."""
    colours = colour_classes(semantic).copy()
    colours[boundary_mask(region)] *= 0.3
    return colours


def fused_panels(
    image, argmax: np.ndarray, region: np.ndarray, voted: np.ndarray
) -> dict[str, np.ndarray]:
    """The four pictures that tell the story of one prediction, for `show`."""
    return {
        "image": np.asarray(image),
        "semantic: names, no things": colour_classes(argmax),
        "regions: things, no names": colour_regions(region),
        "fused map": colour_fused(voted, region),
    }


def show(
    panels: dict[str, np.ndarray],
    legend: tuple[str, ...] = (),
    columns: int = 4,
    panel: float = 2.4,
) -> None:
    """Show pictures side by side.

    Args:
        panels: {title: (H, W, 3) colours or uint8, or (H, W) values drawn in the `cividis` colour
            map}.
        legend: class names, in the order of `CLASS_COLOURS`; or `REGION_CLASSES`.
        columns: panels in a row.
        panel: width of one panel in inches.
    """
    rows = -(-len(panels) // columns)
    across = min(columns, len(panels))
    lines = -(-len(legend) // (2 * across + 1))  # of the legend
    height, width = _image(next(iter(panels.values()))).shape[:2]
    figure, axes = plt.subplots(
        rows,
        across,
        figsize=(panel * across, (panel * height / width + 0.3) * rows + 0.35 * bool(legend)),
        squeeze=False,
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, picture) in zip(axes.flat, panels.items()):
        axis.imshow(_image(picture), cmap="cividis")
        axis.set_title(title, fontsize=10)
    if legend:
        colours = REGION_TARGET_COLOURS if tuple(legend) == REGION_CLASSES else CLASS_COLOURS
        handles = [
            Patch(facecolor=colour, edgecolor="black", label=name)
            for colour, name in zip(colours, legend)
        ]
        figure.legend(
            handles=handles,
            loc="lower center",
            ncols=-(-len(legend) // lines),
            frameon=False,
            fontsize=9,
        )
    figure.tight_layout(
        rect=(0, (0.1 + 0.17 * lines) / figure.get_figheight() if legend else 0, 1, 1)
    )
    plt.show()


def show_history(history: list[dict]) -> None:
    """Training and validation loss of each part over the epochs, and the validation mIoU of each
    task."""
    names = tuple(name.removeprefix("train_") for name in history[0] if name.startswith("train_"))
    tasks = tuple(
        name.removeprefix("val_miou_") for name in history[0] if name.startswith("val_miou_")
    )
    figure, axes = plt.subplots(
        1, len(names) + 1, figsize=(3.1 * (len(names) + 1), 2.8), squeeze=False
    )
    epochs = [entry["epoch"] + 1 for entry in history]
    for axis, name in zip(axes[0], names):
        axis.plot(epochs, [entry[f"train_{name}"] for entry in history], label="train")
        axis.plot(epochs, [entry[f"val_{name}"] for entry in history], "--", label="val")
        axis.set(title=f"{name} loss", xlabel="epoch")
        axis.legend(frameon=False)
    for task, style in zip(tasks, ("-", "--", ":", "-.") * len(tasks)):
        axes[0][-1].plot(
            epochs, [entry[f"val_miou_{task}"] for entry in history], style, label=task
        )
    axes[0][-1].set(title="val mIoU of pixel classes", xlabel="epoch", ylim=(0, 1))
    axes[0][-1].legend(frameon=False)
    _finish(figure)


def show_curve(curves: dict[str, list], title: str, xlabel: str, ylabel: str) -> None:
    """Lines over the index 1, 2, ...: {series: values}."""
    figure, axis = plt.subplots(figsize=(5, 2.8))
    for (series, values), style in zip(curves.items(), ("-", "--", ":", "-.") * len(curves)):
        axis.plot(range(1, len(values) + 1), values, style, label=series)
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
    if len(curves) > 1:
        axis.legend(frameon=False)
    _finish(figure)


def show_bars(values: dict[str, dict[str, float]], title: str, ylabel: str) -> None:
    """Grouped bars with their values: {series: {category: value}}; hatches tell the series apart
    without colour."""
    figure, axis = plt.subplots(
        figsize=(max(5.6, 0.9 * len(next(iter(values.values()))) * len(values) * 0.6 + 2), 2.9)
    )
    places = np.arange(len(next(iter(values.values()))))
    width = 0.8 / len(values)
    for number, (series, heights) in enumerate(values.items()):
        bars = axis.bar(
            places + (number - (len(values) - 1) / 2) * width,
            heights.values(),
            width,
            label=series,
            hatch=("", "//", "..", "xx")[number % 4],
            edgecolor="black",
        )
        axis.bar_label(bars, fmt="%.2g", fontsize=9, padding=2)
    axis.set(title=title, ylabel=ylabel)
    axis.set_xticks(places, next(iter(values.values())), rotation=20, ha="right")
    axis.margins(y=0.12)
    if len(values) > 1:
        axis.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    _finish(figure)


def show_intervals(
    values: dict[str, list[float]], title: str, xlabel: str, zero: bool = False
) -> None:
    """One line a name: a small circle for each run, a diamond at the mean, a bar over its 95%
    bootstrap interval.

    Args: {name: one value a run}; zero draws a dashed line at 0, for differences.
    """
    figure, axis = plt.subplots(figsize=(6.4, 0.36 * len(values) + 1.2))
    for place, runs in enumerate(values.values()):
        axis.plot(
            bootstrap_interval(runs),
            [place, place],
            color=PALETTE[2],
            linewidth=3,
            solid_capstyle="butt",
        )
        axis.plot(
            runs, [place] * len(runs), "o", markersize=4, markerfacecolor="none", color="black"
        )
        axis.plot(np.mean(runs), place, "D", markersize=6, color=PALETTE[3])
    if zero:
        axis.axvline(0, linestyle="--", color="black", linewidth=1)
    axis.set_yticks(range(len(values)), values)
    axis.set_ylim(len(values) - 0.5, -0.5)
    axis.set(title=title, xlabel=xlabel)
    _finish(figure)


def show_severities(
    curves: dict[str, dict[float, list[float]]], title: str, xlabel: str, ylabel: str, axis=None
) -> None:
    """Lines through the means over runs, with their 95% bootstrap intervals: {series: {x: one value
    a run}}.

    Args: axis, one of a larger figure to draw into; nothing is shown then.
    """
    alone = axis is None
    if alone:
        figure, axis = plt.subplots(figsize=(5.6, 3.2))
    for number, (series, points) in enumerate(curves.items()):
        places = np.array(list(points), float)
        means = np.array([np.mean(runs) for runs in points.values()])
        ends = np.array(
            [
                bootstrap_interval(runs) if len(runs) > 1 else (mean, mean)
                for runs, mean in zip(points.values(), means)
            ]
        )
        axis.errorbar(
            places,
            means,
            abs(ends.T - means),
            fmt=("o-", "s--", "^:", "D-.")[number % 4],
            markersize=5,
            capsize=3,
            label=series,
        )
    axis.set_title(title, fontsize=10)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    if alone:
        axis.legend(frameon=False, fontsize=9)
        _finish(figure)


def show_points(
    points: dict[str, tuple[list[float], list[float]]], title: str, xlabel: str, ylabel: str
) -> None:
    """A scatter of means, with whiskers from the lowest to the highest run: {name: (x of each run,
    y of each run)}."""
    figure, axis = plt.subplots(figsize=(6.6, 4.2))
    for number, (name, (x, y)) in enumerate(points.items()):
        centre = np.mean(x), np.mean(y)
        reach = [[[c - min(v)], [max(v) - c]] for c, v in zip(centre, (x, y))]
        axis.errorbar(
            *centre,
            yerr=reach[1],
            xerr=reach[0],
            fmt="osD^v<>Xp*"[number % 10],
            markersize=7,
            elinewidth=0.7,
            color=PALETTE[(2, 3, 4, 5, 1, 0, 7)[number % 7]],
            markeredgecolor="black",
            label=name,
        )
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axis.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    _finish(figure)


def show_matrix(values: np.ndarray, names: tuple[str, ...], title: str) -> None:
    """A square matrix of shares in [0, 1], with each number written into its cell."""
    figure, axis = plt.subplots(figsize=(0.62 * len(names) + 1.4, 0.5 * len(names) + 1.4))
    axis.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        axis.text(
            column,
            row,
            f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=9,
            color="black" if value > 0.5 else "white",
        )
    axis.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.set_title(title, fontsize=10)
    _finish(figure)


def _finish(figure) -> None:
    figure.tight_layout()
    plt.show()


def _image(picture) -> np.ndarray:
    picture = np.asarray(picture)
    return (
        np.moveaxis(picture, 0, -1)
        if picture.ndim == 3 and picture.shape[0] == 3 and picture.shape[2] != 3
        else picture
    )
