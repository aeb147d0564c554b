"""The summary of a figure, and how it gets beside the picture."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell

from fusion_lib.lab import summaries


@pytest.fixture
def shell():
    InteractiveShell.clear_instance()
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def displayed(shell) -> dict:
    return shell.display_formatter.format(plt.gcf())[0]


def test_a_figure_by_hand():
    figure, (left, right) = plt.subplots(1, 2)
    figure.suptitle("both")
    left.plot([0, 1], [2, 4], "--", color=(1, 0, 0), label="loss")
    left.set(title="curve", xlabel="epoch", yscale="log")
    left.legend()
    right.imshow(np.array([[0.0, 1.0]]), cmap="gray", vmin=0, vmax=1)
    right.set_xticks([0, 1], ["black", "white"])
    said = summaries.summary(figure)
    assert said["title"] == "both" and said["legends"] == []
    curve, image = said["panels"]
    assert curve["title"] == "curve" and curve["texts"] == []
    assert curve["legends"] == [{"names": ["loss"], "colours": [100, 0, 0]}]
    assert [axis["label"] for axis in curve["axes"]] == ["epoch", ""]
    assert [axis["scale"] for axis in curve["axes"]] == ["linear", "log"]
    assert [axis["range"] for axis in curve["axes"]] == [[0, 1], [2, 4]]
    (line,) = curve["drawn"]
    assert line == {
        "kind": "Line2D",
        "count": 1,
        "points": 2,
        "styles": ["-- None"],
        "x": [0, 1],
        "y": [2, 4],
        "colours": [100, 0, 0],
    }
    assert image["axes"][0]["names"] == ["black", "white"]
    assert image["drawn"][0]["colours"] == [0, 0, 0, 100, 100, 100]


def test_images_are_means_of_blocks_after_the_colour_map():
    picture = np.zeros((32, 32, 3))
    picture[:4, :2, 0] = 1  # half of the first of 8 x 8 blocks
    plt.imshow(picture)
    (image,) = summaries.summary()["panels"][0]["drawn"]
    assert len(image["colours"]) == 8 * 8 * 3
    assert image["colours"][:3] == [50, 0, 0] and not any(image["colours"][3:])


def test_many_points_become_means_of_neighbours():
    plt.plot(range(48), range(48))
    (line,) = summaries.summary()["panels"][0]["drawn"]
    assert line["points"] == 48 and line["x"] == [2 * k + 0.5 for k in range(24)]


def one(draw):
    """Summary of a new figure with what is drawn on its only panel."""
    figure, axis = plt.subplots()
    draw(axis)
    (panel,) = summaries.summary(figure)["panels"]
    return panel["drawn"]


def test_no_artist_hides_behind_others():
    """One point of one line among many moves, and the summary shows where it went."""
    lines = [[0, k, 2 * k] for k in range(20)]
    moved = [*lines[:7], [0, 7.5, 14], *lines[8:]]
    before, after = (
        one(lambda axis, all=all: [axis.plot(y) for y in all]) for all in (lines, moved)
    )
    assert [y for y, z in zip(before[0]["y"], after[0]["y"]) if y != z] == [7]


def test_transparency_and_what_is_hidden_show():
    (line,) = one(lambda axis: axis.plot([0, 1], color=(0, 0, 0), alpha=0.25))
    assert line["colours"] == [75, 75, 75]
    (image,) = one(lambda axis: axis.imshow(np.zeros((1, 1)), cmap="gray", alpha=0.25))
    assert image["colours"] == [75, 75, 75]
    assert one(lambda axis: axis.plot([0, 1], visible=False)) == []


def test_every_kind_of_drawing_has_a_summary():
    _, axis = plt.subplots()
    axis.hist(np.arange(9))
    axis.fill_between([1, 2], [1, 2])
    axis.contourf(np.arange(9).reshape(3, 3))
    axis.pcolormesh(np.arange(9).reshape(3, 3))
    axis.errorbar([1, 2], [1, np.nan], [0.1, 0.2], label="runs")
    axis.scatter([], [])
    axis.annotate("0.5 here", (0, 0), (1, 1), arrowprops={})
    axis.legend()
    said = json.loads(json.dumps(summaries.summary()))
    assert said["panels"][0]["texts"] == ["0.5 here"]
    kinds = [group["kind"] for group in said["panels"][0]["drawn"]]
    assert {"Rectangle", "QuadMesh", "PathCollection", "Line2D", "LineCollection"} <= {*kinds}


def test_ipython_shows_it_beside_the_picture(shell):
    summaries.register()
    summaries.register()  # twice is as good as once
    plt.plot([1, 2])
    assert json.loads(displayed(shell)[summaries.MIME]) == summaries.summary()
    assert summaries.MIME not in shell.display_formatter.format([1])[0]
    # The inline backend does this before it shows the first figure.
    for formatter in shell.display_formatter.formatters.values():
        formatter.type_printers.pop(plt.Figure, None)
    assert summaries.MIME in displayed(shell)


def test_without_ipython_nothing_happens():
    InteractiveShell.clear_instance()
    summaries.register()
