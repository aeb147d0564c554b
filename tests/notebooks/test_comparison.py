"""What the comparison of outputs takes for the same, and what it says where it does not."""

from __future__ import annotations

import json

import comparison
import matplotlib.pyplot as plt
import numpy as np
import pytest
import strict

from fusion_lib import plots
from fusion_lib.lab import summaries

WIDE = {"absolute": 0.02}
TABLE = "<table border='1'><tr><th>0</th><td>{}</td></tr></table>"


@pytest.mark.parametrize(
    "stored, came, tolerance",
    [
        ("mIoU 0.71", "mIoU 0.72", {"absolute": 0.011}),
        ("mIoU 0.71", "mIoU 0.7100", WIDE),
        ("lead -0.01", "lead +0.01", WIDE),
        ("lead \u22120.01", "lead -0.01", WIDE),
        ("7%, 1.2e-3 and 41", "7.3%, 1.21e-3 and 40", {"relative": 0.05}),
        ("41 pictures", "40 pictures", {"absolute": 1}),
        ("a  9.9\nb 0.5", "a 10.1\nb 0.5", {"relative": 0.05}),
        ("[ 0.55 -0.45]", "[-0.01  -0.45]", {"absolute": 0.6}),
        (TABLE.format("0.71"), TABLE.format("0.72"), WIDE),
        ("0.5 nan", "0.51 nan", WIDE),
        ("0", "0.02", {"absolute": 0.02, "relative": 0.5}),
    ],
)
def test_numbers_within_the_tolerance_agree(stored, came, tolerance):
    assert comparison.text_difference(stored, came, tolerance) is None
    assert comparison.text_difference(stored, came, None) is not None  # strict without


@pytest.mark.parametrize(
    "stored, came",
    [
        ("mIoU 0.71", "mIoU 0.74"),
        ("mIoU 0.71", "mIoU nan"),
        ("mIoU nan", "mIoU 0.71"),
        ("mIoU 0.71", "mIoU inf"),
        ("mIoU inf", "mIoU -inf"),
        ("lead 0.5", "lead -0.5"),
        ("mIoU 0.71 and 0.72", "mIoU 0.71 and"),
        ("mIoU 0.71", "mIoU 0.71 0.72"),
        ("mIoU 0.71", "mIoU --"),
        ("mIoU 0.71", "miou 0.71"),
        ("0.71 better", "0.71 worse"),
        ("conv2 0.71", "conv3 0.71"),
        ("1 2", "12"),
        ("5e-1", "5e-2"),
        (TABLE.format("0.71"), TABLE.format("0.74")),
        (TABLE.format("0.71"), TABLE.replace("th", "td").format("0.71")),
    ],
)
def test_what_differs_is_told_with_both_values(stored, came):
    said = comparison.text_difference(stored, came, WIDE)
    assert "was stored" in said and "came" in said
    for text in (stored, came):
        found = comparison.NUMBER.findall(text)
        assert repr(text) in said or any(number in said for number in found)


def test_the_wider_of_two_tolerances_holds():
    both = {"absolute": 0.1, "relative": 0.1}
    assert comparison.text_difference("10", "10.9", both) is None
    assert comparison.text_difference("0.1", "0.19", both) is None
    assert comparison.text_difference("10", "11.1", both) is not None


@pytest.mark.parametrize(
    "metadata, said",
    [
        ({"fusion": 0.02}, "expected an object"),
        ({"fusion": {"tolerances": {}}}, "keys of"),
        ({"fusion": {"tolerance": 0.02}}, "tolerance is 0.02"),
        ({"fusion": {"tolerance": {}}}, "tolerance is {}"),
        ({"fusion": {"tolerance": None}}, "tolerance is None"),
        ({"fusion": {"tolerance": {"percent": 5}}}, "percent"),
        ({"fusion": {"tolerance": {"absolute": -1}}}, "positive number"),
        ({"fusion": {"tolerance": {"absolute": 0}}}, "positive number"),
        ({"fusion": {"tolerance": {"absolute": True}}}, "positive number"),
        ({"fusion": {"tolerance": {"absolute": "0.02"}}}, "positive number"),
        ({"fusion": {"tolerance": {"relative": float("nan")}}}, "positive number"),
        ({"fusion": {"tolerance": {"absolute": float("inf")}}}, "positive number"),
        ({"fusion": {"tolerance": {"relative": 0.9}}}, "at most 0.5"),
    ],
)
def test_malformed_tolerances_are_named(metadata, said):
    with pytest.raises(ValueError, match=said):
        comparison.tolerance_of(metadata)
    (found,) = strict.differences(metadata, {"stdout": ["1"]}, {"stdout": ["1"]})
    assert said in found  # red, even where the outputs agree


def test_outputs_that_are_missing_or_too_many_are_named():
    one, two = {"stdout": ["1"]}, {"stdout": ["1"], "text/plain": ["0.5"]}
    assert strict.differences({}, one, one) == []
    (missing,) = strict.differences({}, two, one)
    assert "text/plain: 1 stored, 0 came" in missing and "0.5" in missing
    (more,) = strict.differences({}, one, two)
    assert "text/plain: 0 stored, 1 came" in more and "0.5" in more


# --- figures -----------------------------------------------------------------------------------

LABELS = np.arange(64).reshape(8, 8) // 16
NAMES = ("sky", "ground", "water", "building")


def classes(labels=LABELS, legend=NAMES, title="names"):
    plots.show({title: plots.colour_classes(labels), "values": labels / 3}, legend=legend)


def swapped():
    plots.show({"names": LABELS / 3, "values": plots.colour_classes(LABELS)}, legend=NAMES)


def curves(end=0.25, colour="C0", label="train", style="-", log=False, more=False):
    plt.plot([1, 2, 3], [1.0, 0.5, end], style, color=colour, label=label)
    if more:
        plt.axhline(0.5)
    if log:
        plt.yscale("log")
    plt.legend()


def bars(sky=0.5, name="car"):
    plots.show_bars({"fused": {"sky": sky, name: 0.4}}, "IoU", "share")


def image(limit=1.0, colour_map="cividis"):
    plt.imshow(np.linspace(0, 1, 64).reshape(8, 8), cmap=colour_map, vmin=0, vmax=limit)


def points(y=0.5, colours=(0.0, 1.0)):
    plt.scatter([0, 1], [0, y], c=list(colours), vmin=0, vmax=1)


def drawn(draw, **arguments) -> str:
    plt.close("all")
    draw(**arguments)
    return json.dumps(summaries.summary(plt.gcf()))


@pytest.mark.parametrize(
    "draw, arguments",
    [
        (classes, {"labels": np.where(LABELS == 1, 5, LABELS)}),
        (classes, {"labels": LABELS.T}),
        (classes, {"legend": ("void", *NAMES[:3])}),
        (classes, {"legend": NAMES[:3]}),
        (classes, {"legend": ()}),
        (classes, {"title": "classes"}),
        (curves, {"end": 0.3}),
        (curves, {"end": np.nan}),
        (curves, {"colour": "C1"}),
        (curves, {"label": "val"}),
        (curves, {"style": "--"}),
        (curves, {"log": True}),
        (curves, {"more": True}),
        (bars, {"sky": 0.55}),
        (bars, {"name": "ball"}),
        (image, {"limit": 1.2}),
        (image, {"colour_map": "viridis"}),
        (points, {"y": 0.6}),
        (points, {"colours": (0.0, 0.5)}),
    ],
)
def test_another_figure_is_noticed(draw, arguments):
    stored = drawn(draw)
    assert comparison.figure_difference(stored, drawn(draw), None) is None
    said = comparison.figure_difference(stored, drawn(draw, **arguments), None)
    assert said.startswith("figure, ") and "stored" in said and "came" in said


def test_two_panels_swapped_are_noticed():
    assert comparison.figure_difference(drawn(classes), drawn(swapped), None) is not None


@pytest.mark.parametrize("draw", [curves, bars, image, points])
def test_the_last_digits_of_data_are_not(draw):
    argument = draw.__defaults__[0]
    name = draw.__code__.co_varnames[0]
    for factor in (1 + 1e-6, 1 - 1e-6, 1.004):
        came = drawn(draw, **{name: argument * factor})
        assert comparison.figure_difference(drawn(draw), came, None) is None


def test_a_declared_tolerance_holds_for_figures_too():
    stored, came = drawn(curves), drawn(curves, end=0.3)
    assert comparison.figure_difference(stored, came, {"absolute": 0.06}) is None
    assert comparison.figure_difference(stored, came, {"relative": 0.1}) is None
    assert comparison.figure_difference(stored, came, {"absolute": 0.01}) is not None
    assert (
        comparison.figure_difference(stored, drawn(curves, more=True), {"absolute": 9}) is not None
    )


@pytest.mark.parametrize("text", ["", "two panels", "[]", '{"panels": []}', None, {"panels": []}])
def test_a_summary_edited_by_hand_is_noticed(text):
    assert comparison.figure_difference(text, drawn(curves), None) is not None
    edited = drawn(curves).replace('"count": 1', '"count": 2')
    said = comparison.figure_difference(edited, drawn(curves), {"absolute": 5})
    assert said == "figure, panels 0, drawn 0, count: 2 was stored, 1 came"


def test_no_tolerance_makes_another_colour_the_same():
    wide = {"relative": 0.5, "absolute": 5.0}
    for colour, legend in (("C1", "C0"), ("C0", "C1")):  # the line's, or the legend's
        stored, came = drawn(coloured), drawn(coloured, colour=colour, legend=legend)
        assert "colours" in comparison.figure_difference(stored, came, wide)


def coloured(colour="C0", legend="C0"):
    plt.plot([0, 1], color=colour)
    plt.legend(handles=[plt.Line2D([], [], color=legend, label="loss")])


def test_numbers_written_into_a_panel_are_compared():
    stored, near, far = (drawn(labelled, text=text) for text in ("0.50", "0.51", "0.91"))
    assert comparison.figure_difference(stored, near, None) is None
    assert "0.91 came" in comparison.figure_difference(stored, far, None)


def labelled(text):
    plt.bar([0], [1])
    plt.text(0, 1, text)
