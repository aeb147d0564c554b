"""Figures, tested by what Matplotlib holds of them and by the pixels of the colour maps."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from examples import blobs, random_region_map

from fusion_lib import plots
from fusion_lib.scenes import CLASSES
from fusion_lib.targets import REGION_CLASSES, boundary_mask, region_target

HISTORY = [
    {
        "epoch": k,
        "learning_rate": 0.1,
        "train_total": 3.0 - k,
        "val_total": 3.5 - k,
        "train_semantic": 2.0 - k / 2,
        "val_semantic": 2.5 - k / 2,
        "val_miou_semantic": 0.2 + 0.1 * k,
        "val_score": 0.2 + 0.1 * k,
        "seconds": 1.0,
    }
    for k in range(3)
]


def relative_luminance(colour) -> float:
    linear = np.where(
        np.asarray(colour) <= 0.04045,
        np.asarray(colour) / 12.92,
        ((np.asarray(colour) + 0.055) / 1.055) ** 2.4,
    )
    return float(linear @ (0.2126, 0.7152, 0.0722))


# --- colours -----------------------------------------------------------------------------------


def test_there_is_a_colour_for_every_class_and_all_differ():
    assert plots.PALETTE.shape == (len(CLASSES), 3)
    assert plots.PALETTE.min() >= 0 and plots.PALETTE.max() <= 1
    for one in range(len(CLASSES)):
        for other in range(one):
            assert np.abs(plots.PALETTE[one] - plots.PALETTE[other]).max() > 0.15


def test_colour_classes():
    labels = np.array([[0, 3], [255, 7]])
    colours = plots.colour_classes(labels)
    np.testing.assert_array_equal(colours[0, 0], plots.PALETTE[0])
    np.testing.assert_array_equal(colours[0, 1], plots.PALETTE[3])
    np.testing.assert_array_equal(colours[1, 0], (1, 1, 1))
    np.testing.assert_array_equal(colours[1, 1], plots.PALETTE[7])


def test_colour_region_target():
    colours = plots.colour_region_target(np.array([[0, 1, 2, 255]]))[0]
    np.testing.assert_array_equal(colours[:3], plots.REGION_TARGET_COLOURS)
    np.testing.assert_array_equal(colours[3], (1, 1, 1))
    lightness = [relative_luminance(colour) for colour in plots.REGION_TARGET_COLOURS]
    assert (
        lightness[0] < lightness[1] - 0.2 < lightness[2] - 0.4
    )  # told apart without any colour vision


@pytest.mark.parametrize("seed", range(5))
def test_colour_regions_gives_each_region_one_colour_and_void_white(seed):
    region = blobs(seed)
    region[:5, :5] = -1
    colours, inside = plots.colour_regions(region), ~boundary_mask(region)
    for number in np.unique(region[region >= 0]):
        assert len(np.unique(colours[(region == number) & inside], axis=0)) == 1
    assert (colours[region == -1] == 1).all()
    seen = {tuple(colours[(region == n) & inside][0]) for n in np.unique(region[region >= 0])}
    assert len(seen) == len(np.unique(region[region >= 0]))
    assert colours[~inside].mean() < colours[inside & (region >= 0)].mean()  # borders are dark
    assert colours.min() >= 0 and colours.max() <= 1


def test_colour_fused_keeps_the_class_colours_and_darkens_borders():
    region = blobs(1)
    semantic = region % 3
    colours, border = plots.colour_fused(semantic, region), boundary_mask(region)
    np.testing.assert_array_equal(colours[~border], plots.PALETTE[semantic[~border]])
    np.testing.assert_allclose(colours[border], 0.3 * plots.PALETTE[semantic[border]])
    assert plots.PALETTE.max() > 0.9  # the palette itself was not darkened


def test_fused_panels_tell_one_prediction():
    image, region = np.zeros((48, 48, 3), np.uint8), blobs(1)
    panels = plots.fused_panels(image, region % 2, region, region % 3)
    assert len(panels) == 4 and all(np.asarray(p).shape == (48, 48, 3) for p in panels.values())
    np.testing.assert_array_equal(list(panels.values())[1], plots.colour_classes(region % 2))
    np.testing.assert_array_equal(list(panels.values())[3], plots.colour_fused(region % 3, region))


def test_maps_are_not_changed_by_drawing():
    region = random_region_map(1)
    before = region.copy()
    plots.colour_regions(region)
    plots.colour_fused(np.zeros_like(region), region)
    np.testing.assert_array_equal(region, before)


def titles() -> list[str]:
    return [axis.get_title() for axis in plt.gcf().axes]


def ranges(number: int) -> list[list[float]]:
    """Lowest and highest value that each panel of the figure shows, along one axis."""
    return [axis.dataLim.get_points()[:, number].round(6).tolist() for axis in plt.gcf().axes]


def legends() -> list[list[str]]:
    return [axis.get_legend_handles_labels()[1] for axis in plt.gcf().axes]


# --- figures -----------------------------------------------------------------------------------


def test_show_draws_titles_and_legend():
    panels = {
        "photo": np.full((4, 6, 3), 128, np.uint8),
        "values": np.linspace(0, 0.75, 24).reshape(4, 6),
    }
    plots.show(panels, legend=CLASSES[:3])
    figure = plt.gcf()
    for axis, picture in zip(figure.axes, panels.values()):
        np.testing.assert_array_equal(axis.images[0].get_array(), picture)
    assert figure.axes[1].images[0].get_clim() == (0, 0.75)
    assert [axis.get_title() for axis in figure.axes] == ["photo", "values"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(CLASSES[:3])
    for patch, colour in zip(figure.legends[0].get_patches(), plots.PALETTE):
        np.testing.assert_allclose(patch.get_facecolor()[:3], colour)


def test_show_draws_the_pictures_it_got():
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    plots.show({"rows first": image, "channels first": image.transpose(2, 0, 1)})
    for axis in plt.gcf().axes:
        np.testing.assert_array_equal(axis.images[0].get_array(), image)


def test_show_legend_of_the_region_target_has_its_own_colours():
    plots.show(
        {"target": plots.colour_region_target(region_target(blobs(0), 3))}, legend=REGION_CLASSES
    )
    for patch, colour in zip(plt.gcf().legends[0].get_patches(), plots.REGION_TARGET_COLOURS):
        np.testing.assert_allclose(patch.get_facecolor()[:3], colour)


@pytest.mark.parametrize("count, columns", [(1, 4), (4, 4), (5, 4), (3, 1)])
def test_show_wraps_rows_and_leaves_no_empty_frames(count, columns):
    plots.show({f"panel {k}": np.zeros((4, 4)) for k in range(count)}, columns=columns)
    axes = plt.gcf().axes
    assert [title for title in titles() if title] == [f"panel {k}" for k in range(count)]
    assert plt.gcf().legends == []
    assert sum(bool(axis.images) for axis in axes) == count
    assert not any(axis.axison for axis in axes)


@pytest.mark.parametrize("legend", [(), CLASSES[:3], CLASSES])
def test_nothing_of_a_figure_is_clipped(legend):
    plots.use_style()
    panels = {f"panel number {k}": plots.colour_classes(blobs(k)) for k in range(3)}
    plots.show(panels, legend=legend)
    figure = plt.gcf()
    figure.canvas.draw()
    frame = figure.bbox
    boxes = [axis.title.get_window_extent() for axis in figure.axes if axis.get_title()]
    boxes += [found.get_window_extent() for found in figure.legends]
    for box in boxes:
        assert box.x0 >= frame.x0 - 1 and box.x1 <= frame.x1 + 1
        assert box.y0 >= frame.y0 - 1 and box.y1 <= frame.y1 + 1
    for found in figure.legends:
        assert not any(
            found.get_window_extent().overlaps(axis.get_window_extent()) for axis in figure.axes
        )


def test_show_history_of_one_task():
    plots.show_history(HISTORY)
    assert titles() == ["total loss", "semantic loss", "val mIoU of pixel classes"]
    assert legends() == [["train", "val"], ["train", "val"], ["semantic"]]
    assert ranges(1) == [[1.0, 3.5], [1.0, 2.5], [0.2, 0.4]]
    lines = plt.gcf().axes[0].lines
    np.testing.assert_allclose(
        lines[0].get_xdata(), [1, 2, 3]
    )  # epochs are counted from 1 for a reader
    np.testing.assert_allclose(lines[0].get_ydata(), [3.0, 2.0, 1.0])
    np.testing.assert_allclose(lines[1].get_ydata(), [3.5, 2.5, 1.5])
    assert lines[0].get_linestyle() != lines[1].get_linestyle()  # told apart without colour
    assert all(axis.get_xlabel() == "epoch" for axis in plt.gcf().axes)


def test_show_history_of_a_real_run():
    from examples import tiny_loaders, tiny_model

    from fusion_lib.losses import FusionLoss
    from fusion_lib.training import train

    history = train(tiny_model(), FusionLoss(), *tiny_loaders(), epochs=2, device=None)
    plots.show_history(history)
    assert titles() == ["total loss", "semantic loss", "region loss", "val mIoU of pixel classes"]
    assert legends()[-1] == ["semantic", "region"]


def test_show_bars():
    plots.show_bars(
        {"fused": {"sky": 0.9, "car": 0.4}, "single": {"sky": 0.8, "car": 0.5}}, "IoU", "share"
    )
    assert titles() == ["IoU"] and legends() == [["fused", "single"]]
    assert ranges(1) == [[0.0, 0.9]]
    axis = plt.gcf().axes[0]
    assert [bar.get_height() for bars in axis.containers for bar in bars] == [0.9, 0.4, 0.8, 0.5]
    assert [label.get_text() for label in axis.get_xticklabels()] == [
        "sky",
        "car",
    ] and axis.get_ylabel() == "share"
    edges = sorted(
        (bar.get_x(), bar.get_x() + bar.get_width()) for bars in axis.containers for bar in bars
    )
    assert all(
        left[1] <= right[0] + 1e-9 for left, right in zip(edges, edges[1:])
    )  # no bar hides another
    assert len({bars[0].get_hatch() for bars in axis.containers}) == 2  # told apart without colour


def test_style_is_white_and_legible():
    plots.use_style()
    assert plt.rcParams["figure.facecolor"] == plt.rcParams["axes.facecolor"] == "white"
    assert plt.rcParams["font.size"] >= 9 and plt.rcParams["image.interpolation"] == "nearest"


CALLS = {
    "show": ({"a": np.zeros((4, 4))},),
    "show_history": (HISTORY,),
    "show_curve": ({"a": [1, 2]}, "title", "x", "y"),
    "show_bars": ({"a": {"b": 1.0}}, "title", "y"),
    "show_intervals": ({"a": [1.0, 2.0]}, "title", "x"),
    "show_severities": ({"a": {1: [1.0, 2.0], 2: [2.0]}}, "title", "x", "y"),
    "show_points": ({"a": ([1.0, 2.0], [3.0, 4.0])}, "title", "x", "y"),
    "show_matrix": (np.eye(2), ("a", "b"), "title"),
}


def test_all_figures_are_called_below():
    assert set(CALLS) == {name for name in vars(plots) if name.startswith("show")}


@pytest.mark.parametrize("name", CALLS)
def test_drawing_returns_and_prints_nothing(name, capsys):
    assert getattr(plots, name)(*CALLS[name]) is None
    assert capsys.readouterr().out == ""
    assert plt.gcf().axes
