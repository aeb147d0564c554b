"""What a figure shows, in words and a few numbers, to travel beside its picture: unlike pixels, it
can be compared between machines, and differs by little where the last digits of data do."""

import json
import sys
from itertools import groupby

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import category, ticker
from matplotlib.collections import Collection, PathCollection
from matplotlib.colors import to_rgba_array
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

MIME = "application/vnd.fusion.figure+json"
GRID, SAMPLES = 8, 24  # blocks along each side of an image; values kept of everything else
DRAWN = (Line2D, Patch, Collection, AxesImage)
# Ticks with names, not with numbers.
NAMES = (ticker.FixedFormatter, ticker.FuncFormatter, category.StrCategoryFormatter)


def register() -> None:
    """Let IPython, where it runs, add the summary to every figure that it displays."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:  # the inline backend clears the other formatters, for single formats
        formatter, tight = shell.display_formatter.mimebundle_formatter, (",", ":")
        formatter.for_type(plt.Figure, lambda it: {MIME: json.dumps(summary(it), separators=tight)})


def summary(figure: plt.Figure | None = None) -> dict:
    """A figure (by default the current one) as words, counts, and lists of numbers. Colours are in
    percent, three numbers each; of images, means over `GRID` x `GRID` blocks. All else gives its
    points in the units of the axes, above `SAMPLES` means of neighbours."""
    figure = figure or plt.gcf()
    return {
        "title": figure.get_suptitle(),
        "legends": [_legend(legend) for legend in figure.legends],
        "panels": [_panel(axes) for axes in figure.axes],
    }


def _panel(axes) -> dict:
    frame = {axes.patch, *axes.spines.values()}
    drawn = [a for a in axes.get_children() if isinstance(a, DRAWN) and a not in frame]
    drawn = [artist for artist in drawn if artist.get_visible()]
    return {
        "title": axes.get_title(),
        "axes": [_axis(axes.xaxis), _axis(axes.yaxis)] if axes.axison else [],
        "legends": [_legend(legend) for legend in [axes.get_legend()] if legend],
        "texts": [text.get_text() for text in axes.texts],
        "drawn": [_artists(list(group)) for _, group in groupby(drawn, type)],
    }


def _axis(axis) -> dict:
    named = isinstance(axis.get_major_formatter(), NAMES)
    return {
        "label": axis.get_label_text(),
        "scale": axis.get_scale(),
        "names": [label.get_text() for label in axis.get_ticklabels()] if named else [],
        "range": _numbers(axis.get_data_interval()),
        "view": _numbers(axis.get_view_interval()),
    }


def _legend(legend) -> dict:
    colours = [_colours(handle)[:1] for handle in legend.legend_handles]
    names = [text.get_text() for text in legend.get_texts()]
    return {"names": names, "colours": _percents(np.concatenate([np.empty((0, 3)), *colours]))}


def _artists(artists: list) -> dict:
    kind = type(artists[0]).__name__
    points = [_points(artist) for artist in artists]
    x, y = np.concatenate([_coarse(some, max(4, SAMPLES // len(points))) for some in points]).T
    colours = [_colours(artist) for artist in artists]
    if kind != "AxesImage":
        colours = [_coarse(np.concatenate(colours))]
    return {
        "kind": kind,
        "count": len(artists),
        "points": sum(map(len, points)),
        "styles": list(dict.fromkeys(_style(artist) for artist in artists)),
        "x": _numbers(x),
        "y": _numbers(y),
        "colours": _percents(np.concatenate(colours)),
    }


def _points(artist) -> np.ndarray:
    """(N, 2) x and y of what an artist draws; of an image or a bar, two corners."""
    if isinstance(artist, Line2D):
        return np.asarray(artist.get_xydata(), float)
    if isinstance(artist, AxesImage):
        return np.array(artist.get_extent(), float).reshape(2, 2).T
    if isinstance(artist, PathCollection):
        return np.ma.filled(np.ma.asarray(artist.get_offsets(), dtype=float), np.nan)
    if isinstance(artist, Patch):
        return artist.get_path().get_extents(artist.get_patch_transform()).get_points()
    return np.concatenate([np.empty((0, 2)), *(path.vertices for path in artist.get_paths())])


def _colours(artist) -> np.ndarray:
    """(N, 3) colours of an artist, mixed with white where it is transparent."""
    if isinstance(artist, AxesImage):
        colours = artist.to_rgba(np.ma.asarray(artist.get_array()), alpha=artist.get_alpha())
        rows = np.array_split(colours, min(GRID, len(colours)))
        blocks = [b for row in rows for b in np.array_split(row, min(GRID, row.shape[1]), axis=1)]
        colours = np.array([block.mean((0, 1)) for block in blocks])
    elif isinstance(artist, Line2D):
        colours = to_rgba_array(artist.get_color(), artist.get_alpha())
    else:
        if isinstance(artist, Collection):
            artist.update_scalarmappable()
        faces = to_rgba_array(artist.get_facecolor())
        colours = faces if faces[:, 3:].any() else to_rgba_array(artist.get_edgecolor())
    return colours[:, :3] * colours[:, 3:] + 1 - colours[:, 3:]


def _style(artist) -> str:
    if isinstance(artist, Line2D):
        return f"{artist.get_linestyle()} {artist.get_marker()}"
    return (artist.get_hatch() or "") if isinstance(artist, (Patch, Collection)) else ""


def _coarse(rows: np.ndarray, most: int = SAMPLES) -> np.ndarray:
    """At most so many rows: means of neighbours."""
    few = len(rows) <= most
    return rows if few else np.array([block.mean(0) for block in np.array_split(rows, most)])


def _numbers(values) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _percents(colours: np.ndarray) -> list[int]:
    return (100 * colours).round().astype(int).ravel().tolist()
