"""Write the broken notebooks that the rules must reject, and the good one that each of them is a
change of.

    python tests/structure/make_bad.py

Call it again after a change of a rule, of the set-up cell or of the repository's address. A file is
named 00_RULE__HOW.ipynb: the one rule of tests/structure/rules.py that it breaks, and how. Those
named otherwise break none: 00_good.ipynb, and 00_stored_outputs_differ*.ipynb, which nbval must
reject.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator

import matplotlib.pyplot as plt
import numpy as np
import rules

from fusion_lib import plots
from fusion_lib.lab import hosted, summaries

FOLDER = rules.ROOT / "tests" / "bad"
PIXEL = (  # white, 1 x 1: pictures are not compared, their summaries are
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJ"
    "RU5ErkJggg=="
)
LABELS = np.array([[0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 1, 255]])
TOUCHED = np.array([[0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]], bool)
MAP = """\
plt.figure(figsize=(3, 3))
plt.imshow(np.where(labels == 255, 2, labels))
plt.title('sky, ground, void')
plt.show()"""
PANELS = """\
panels = {'names': plots.colour_classes(labels), 'boundary': touched}
plots.show(panels, legend=('sky', 'ground'))"""
BARS = """\
plots.show_bars({'pixels': {'sky': 6, 'ground': 5}}, 'How often', 'pixels')"""


def good_notebook(name: str) -> dict:
    """A small lesson that keeps every rule, in a file of this name. Outputs were written by hand;
    nbval finds them true."""
    cells = [
        _markdown(
            "# 00. A label map of twelve pixels",
            "This lesson is only for the tests of the series. It counts the pixels of a map that is"
            " small enough to check by hand, and it is as long as a lesson must be. Each rule for"
            " notebooks is tested on a copy of it with one fault.",
            "**What you will learn**",
            "- A label map is an array of whole numbers, one number a pixel.\n"
            "- Shares of classes follow from counts, and void pixels stay out of them.\n"
            "- The boundary of a region is found by looking at neighbours.",
            "**Prerequisites**: arrays in NumPy. No other notebook is needed.",
            "**Time**: about 5 s to run on two CPU cores, 4 minutes to read. It needs no GPU.",
        ),
        _code(rules.setup_cell(), _stream("CPU, 2 threads\n"), **rules.SETUP_METADATA),
        _code(
            "import time\n\nimport matplotlib.pyplot as plt\nimport numpy as np\nfrom fusion_lib"
            " import plots\n\nplots.use_style()"
        ),
        _markdown(
            "## The map",
            "A picture comes before the first equation. The map below has three rows and four"
            " columns. A pixel that shows sky holds the number 0, and a pixel that shows ground"
            " holds the number 1. One pixel could not be told by whoever drew the map. It holds"
            " 255, which stands for void in the whole series.",
        ),
        _code(
            "labels = np.array([[0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 1, 255]])\nlabels.shape",
            _result("(3, 4)"),
        ),
        _markdown(
            "The figure needs a few lines only, because a map of labels is drawn like any other"
            " picture."
        ),
        _code(MAP, _figure(MAP)),
        _markdown(
            "**Figure 00.1.** The upper row is all sky. The ground fills the lower row and the"
            " right half of the middle row, and the void pixel stands alone in the lower right"
            " corner."
        ),
        _markdown(
            "## Counting",
            "A class that covers many pixels decides a plain mean over the pixels. So the first"
            " thing to know of a data set is how many pixels each class has. One call counts them"
            " all.",
        ),
        _code(
            "counts = np.bincount(labels.ravel(), minlength=256)\nprint(counts[0], counts[1],"
            " counts[255])",
            _stream("6 5 1\n"),
        ),
        _markdown(
            "**Predict, then run.** Six pixels show sky and five show ground. What share of the map"
            " is sky, if the void pixel is left out? Write your number down before you run the next"
            " cell."
        ),
        _code(
            "share = counts[:2] / counts[:2].sum()\nprint(share.round(2))", _stream("[0.55 0.45]\n")
        ),
        _markdown(
            "The share is six of eleven pixels. Dividing by twelve would have given one half, which"
            " is wrong: it treats the void pixel as if it were known to be no sky. Nobody knows"
            " that. With $V$ the pixels that are not void and $y_i$ the label of pixel $i$, the"
            " share of class $c$ is $|\\{i \\in V : y_i = c\\}| / |V|$."
        ),
        _code("valid = labels != 255\nint(valid.sum())", _result("11")),
        _markdown(
            "The same number follows from the mask of valid pixels, and this is the form that the"
            " losses use."
        ),
        _code(
            "by_hand = (labels[valid] == 0).mean()\n"
            "assert np.isclose(by_hand, share[0])\n"
            "print(by_hand.round(4), share[0].round(4))",
            _stream("0.5455 0.5455\n"),
        ),
        _markdown(
            "## Boundaries",
            "### Neighbours",
            "A pixel lies on a boundary if a neighbour above, below, left or right holds another"
            " number. The comparison of an array with itself, moved by one place, finds all such"
            " pairs at once. No loop over the pixels is needed.",
        ),
        _code("across = labels[:, 1:] != labels[:, :-1]\nint(across.sum())", _result("2")),
        _markdown(
            "Two pairs of pixels that stand side by side differ. The next cell looks at the pairs"
            " that stand one above the other."
        ),
        _code("down = labels[1:] != labels[:-1]\nint(down.sum())", _result("5")),
        _markdown(
            "**Predict, then run.** The void pixel differs from both of its neighbours. How many"
            " pairs are left of the seven when every pair that touches the void is dropped?"
        ),
        _code(
            "across &= valid[:, 1:] & valid[:, :-1]\ndown &= valid[1:] &"
            " valid[:-1]\nprint(int(across.sum() + down.sum()))",
            _stream("5\n"),
        ),
        _markdown(
            "Five pairs are left. A boundary to the void says nothing, because the true label there"
            " may be any class."
        ),
        _code(
            "touched = np.zeros(labels.shape, bool)\ntouched[:, 1:] |= across\ntouched[:, :-1] |="
            " across"
        ),
        _markdown(
            "Both pixels of a pair are marked, so that the boundary is two pixels wide and does not"
            " prefer a side."
        ),
        _code(
            "touched[1:] |= down\ntouched[:-1] |= down\nprint(touched.astype(int))",
            _stream("[[0 0 1 1]\n [1 1 1 1]\n [1 1 0 0]]\n"),
        ),
        _markdown(
            "A figure shows at a glance what the numbers say, and it is the faster way to find a"
            " mistake in such code."
        ),
        _code(PANELS, _figure(PANELS)),
        _markdown(
            "**Figure 00.2.** On the left the names, on the right the boundary, drawn bright. It"
            " runs like a step from the left edge to the right edge, two pixels wide, between the"
            " sky above and the ground below."
        ),
        _code(BARS, _figure(BARS)),
        _markdown(
            "**Figure 00.3.** Two bars that are nearly as high: six pixels show sky, and five show"
            " ground."
        ),
        _markdown(
            "### What it costs",
            "Time depends on the machine. So the next cell is tagged, its output is not compared"
            " when the lesson is tested, and its metadata say why.",
        ),
        _code(
            "began = time.perf_counter()\n"
            "for _ in range(1000):\n"
            "    np.bincount(labels.ravel())\n"
            "seconds = time.perf_counter() - began\n"
            "print(f'{1e6 * seconds / 1000:.1f} microseconds a map')",
            _stream("2.1 microseconds a map\n"),
            tags=["nbval-ignore-output"],
            fusion={"reason": "it prints the time of this machine, which is no result"},
        ),
        _markdown(
            "Chance is another matter. The share among pixels that are drawn by lot differs a"
            " little with each run, and the metadata of the next cell say by how much it may."
        ),
        _code(
            "lots = np.random.default_rng().choice(labels[valid], 4000)\n"
            "print(f'{(lots == 0).mean():.3f} of {lots.size} lots show sky')",
            _stream("0.545 of 4000 lots show sky\n"),
            fusion={"tolerance": {"absolute": 0.08}},
        ),
        _markdown(
            "A progress bar is written to the stream for errors. It is not stored with the lesson,"
            " and it is not compared either, because its speed is another one on each machine."
        ),
        _code(
            "from tqdm import tqdm\n\ntotal = sum(tqdm(range(4), desc='adding'))\nprint(total)",
            _stream("6\n"),
        ),
        _markdown(
            "## Summary",
            "- The map holds 12 pixels, 11 of them valid: 6 sky and 5 ground.\n- Without the void"
            " pixel, 0.55 of the map is sky.\n- Five pairs of neighbours differ, and the pairs that"
            " touch the void are not among them.",
        ),
        _markdown(
            "## Exercises",
            "1. Turn the map by a quarter with `np.rot90` and count again. The number of pairs must"
            " stay 5.\n2. Give the void pixel the label 1. The share of sky must become 0.5.\n3."
            " Draw a map of your own that has 3 classes and no boundary pair across. Check it with"
            " an `assert`.",
        ),
        _markdown(
            "## Further reading",
            "- [The rules for notebooks](../structure/rules.py): what this lesson is a test of.\n-"
            " [U-Net: Convolutional Networks for Biomedical Image"
            " Segmentation](https://arxiv.org/abs/1505.04597): label maps of real pictures, and a"
            " network that draws them.",
        ),
    ]
    badges = hosted.badges(rules.repository(), f"notebooks/{name}")
    cells[0]["source"] = hosted.with_badges(cells[0]["source"], badges)
    for place, cell in enumerate(cells):
        cell["id"] = f"cell-{place:02d}"
    _number(cells)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


Change = Callable[[list[dict], dict], None]  # takes the cells and the metadata of a good notebook
BREAKS: dict[str, Change] = {}


def breaks(name: str) -> Callable:
    def register(change: Change) -> Change:
        BREAKS[name] = change
        return change

    return register


@breaks("executed_in_order__not_executed")
def _(cells, metadata):
    _holding(cells, "by_hand")["execution_count"] = None


@breaks("executed_in_order__out_of_order")
def _(cells, metadata):
    first, second = _holding(cells, "across = "), _holding(cells, "down = labels")
    first["execution_count"], second["execution_count"] = (
        second["execution_count"],
        first["execution_count"],
    )


@breaks("executed_in_order__from_a_used_kernel")
def _(cells, metadata):
    for cell in _all(cells, "code"):
        cell["execution_count"] += 40


@breaks("no_error_outputs__exception")
def _(cells, metadata):
    error = {
        "output_type": "error",
        "ename": "NameError",
        "evalue": "name 'total' is not defined",
        "traceback": [],
    }
    _holding(cells, "print(total)")["outputs"] = [error]


@breaks("outputs_present__value")
def _(cells, metadata):
    _holding(cells, "labels = np.array")["outputs"] = []


@breaks("outputs_present__print")
def _(cells, metadata):
    _holding(cells, "by_hand")["outputs"] = []


@breaks("outputs_present__print_in_a_loop")
def _(cells, metadata):
    cell = _holding(cells, "by_hand")
    cell["source"], cell["outputs"] = "for name in ('sky', 'ground'):\n    print(name)", []


@breaks("outputs_present__none_at_all")
def _(cells, metadata):
    for cell in _all(cells, "code"):
        cell["outputs"] = []
    for cell in [cell for cell in cells if cell["source"].startswith("**Figure ")]:
        cell["source"] = "The cell above draws a figure."


@breaks("no_stderr__warning")
def _(cells, metadata):
    _holding(cells, "print(share")["outputs"].append(
        _stream("UserWarning: mean of an empty slice\n", "stderr")
    )


@breaks("first_cell__no_number")
def _(cells, metadata):
    cells[0]["source"] = cells[0]["source"].replace("# 00. ", "# ")


@breaks("first_cell__another_number")
def _(cells, metadata):
    cells[0]["source"] = cells[0]["source"].replace("# 00. ", "# 07. ")


@breaks("first_cell__no_prerequisites")
def _(cells, metadata):
    cells[0]["source"] = cells[0]["source"].replace("**Prerequisites**", "Prerequisites")


@breaks("second_cell_sets_up__changed")
def _(cells, metadata):
    cells[1]["source"] = cells[1]["source"].replace("--no-deps", "--upgrade")


@breaks("second_cell_sets_up__another_repository")
def _(cells, metadata):
    cells[1]["source"] = hosted.setup_cell("https://example.org/another/repository")


@breaks("second_cell_sets_up__not_tagged")
def _(cells, metadata):
    cells[1]["metadata"] = {}


@breaks("badges_open_this_notebook__another_repository")
def _(cells, metadata):
    line = hosted.badges("https://github.com/another/repository", "notebooks/00_start_here.ipynb")
    cells[0]["source"] = hosted.with_badges(cells[0]["source"], line)


@breaks("badges_open_this_notebook__not_below_the_title")
def _(cells, metadata):
    named = rules.repository().replace(hosted.UNNAMED, "/another/")
    line = hosted.badges(named, "notebooks/00_badges_open_this_notebook__not_below_the_title.ipynb")
    cells[0]["source"] = hosted.with_badges(cells[0]["source"], "")
    cells[3]["source"] += f"\n\n{line}"


@breaks("last_sections__other_order")
def _(cells, metadata):
    cells[-3], cells[-2] = cells[-2], cells[-3]


@breaks("last_sections__no_further_reading")
def _(cells, metadata):
    cells[-1]["source"] = cells[-1]["source"].replace("## Further reading", "**Further reading**")


@breaks("heading_levels__skipped")
def _(cells, metadata):
    cell = _holding(cells, "### What it costs")
    cell["source"] = cell["source"].replace("### What", "##### What")


@breaks("figures_have_captions__none")
def _(cells, metadata):
    cell = _holding(cells, "**Figure 00.2.**")
    cell["source"] = cell["source"].replace("**Figure 00.2.** ", "")


@breaks("figures_have_captions__too_short")
def _(cells, metadata):
    _holding(cells, "**Figure 00.2.**")["source"] = (
        "**Figure 00.2.** The boundary, as described above."
    )


@breaks("figures_have_captions__number_left_out")
def _(cells, metadata):
    cell = _holding(cells, "**Figure 00.2.**")
    cell["source"] = cell["source"].replace("00.2", "00.3")


@breaks("figures_have_captions__no_figure")
def _(cells, metadata):
    _holding(cells, "show_bars")["outputs"] = [_result("<Figure size 448x232 with 1 Axes>")]


@breaks("images_have_alt_text__markdown")
def _(cells, metadata):
    cells[-1]["source"] += "\n\n![](https://example.org/map.png)"


@breaks("images_have_alt_text__html")
def _(cells, metadata):
    cells[-1]["source"] += '\n\n<img src="https://example.org/map.png" alt="" width="300">'


@breaks("code_is_short__one_long_cell")
def _(cells, metadata):
    _lengthen(_holding(cells, "by_hand"), 23)


@breaks("code_is_short__all_rather_long")
def _(cells, metadata):
    for cell in _all(cells, "code")[2:]:
        _lengthen(cell, 8)


@breaks("size_reads_well__too_few_words")
def _(cells, metadata):
    for cell in _all(cells, "markdown")[1:]:
        if not cell["source"].startswith(("#", "**")):
            cell["source"] = "Next."


@breaks("size_reads_well__too_many_words")
def _(cells, metadata):
    _holding(cells, "The share is six")["source"] += 1500 * " word"


@breaks("size_reads_well__too_many_cells")
def _(cells, metadata):
    cells[5:5] = [_markdown(f"Remark {number}.") | {"id": f"more-{number}"} for number in range(20)]


@breaks("size_reads_well__too_few_cells")
def _(cells, metadata):
    texts = [
        cell["source"]
        for cell in _all(cells[2:-3], "markdown")
        if not cell["source"].startswith("**")
    ]
    questions = [cell for cell in cells if rules.PREDICT in cell["source"]]
    codes = [
        cell
        for cell in cells[2:-3]
        if cell["cell_type"] == "code" and not cell["metadata"].get("tags")
    ]
    codes = [cell for cell in codes if "show" not in cell["source"]][:6]
    cells[2:-3] = [_markdown(*texts) | {"id": "all-text"}, *questions, *codes]
    _number(cells)


@breaks("outputs_are_compared__too_many_ignored")
def _(cells, metadata):
    place = cells.index(_holding(cells, "time.perf_counter"))
    cells[place:place] = [
        copy.deepcopy(cells[place]) | {"id": f"again-{number}"} for number in range(2)
    ]
    _number(cells)


@breaks("outputs_are_compared__skipped")
def _(cells, metadata):
    _holding(cells, "by_hand")["metadata"] = {"tags": ["nbval-skip"]}


@breaks("outputs_are_compared__by_a_comment")
def _(cells, metadata):
    cell = _holding(cells, "by_hand")
    cell["source"] = "# NBVAL_IGNORE_OUTPUT\n" + cell["source"]


@breaks("ignored_cells_have_reasons__none")
def _(cells, metadata):
    del _holding(cells, "time.perf_counter")["metadata"]["fusion"]


@breaks("ignored_cells_have_reasons__too_short")
def _(cells, metadata):
    _holding(cells, "time.perf_counter")["metadata"]["fusion"] = {"reason": "it varies"}


TOLERANCES = {
    "another_key": {"fusion": {"tolerances": {"absolute": 0.08}}},
    "unknown_kind": {"fusion": {"tolerance": {"percent": 5}}},
    "negative": {"fusion": {"tolerance": {"absolute": -0.08}}},
    "no_number": {"fusion": {"tolerance": {"absolute": "0.08"}}},
    "no_kind": {"fusion": {"tolerance": 0.08}},
    "too_wide": {"fusion": {"tolerance": {"relative": 0.9}}},
    "absolute_too_wide": {"fusion": {"tolerance": {"absolute": 1e9}}},
}


def _declare(cell_metadata: dict) -> Callable:
    def change(cells, metadata):
        _holding(cells, "lots = ")["metadata"] = cell_metadata

    return change


for how, cell_metadata in TOLERANCES.items():
    breaks(f"tolerances_are_well_formed__{how}")(_declare(cell_metadata))


@breaks("figures_have_summaries__none")
def _(cells, metadata):
    del _holding(cells, "panels = ")["outputs"][0]["data"][summaries.MIME]


@breaks("figures_have_summaries__no_json")
def _(cells, metadata):
    _holding(cells, "panels = ")["outputs"][0]["data"][summaries.MIME] = "two panels"


@breaks("no_test_plumbing__drawn_is_printed")
def _(cells, metadata):
    cell = _holding(cells, "panels = ")
    cell["source"] = cell["source"].replace("plots.show(", "drawn = plots.show(")


@breaks("no_test_plumbing__constant_sentence")
def _(cells, metadata):
    cell = _holding(cells, "by_hand")
    cell["source"] = cell["source"].replace(
        "print(by_hand", "print('both ways agree')\nprint(by_hand"
    )


@breaks("no_asserted_times__seconds")
def _(cells, metadata):
    _holding(cells, "time.perf_counter")["source"] += "\nassert 0 < seconds < 10"


@breaks("no_asserted_times__by_another_name")
def _(cells, metadata):
    cell = _holding(cells, "time.perf_counter")
    cell["source"] += "\nlong = time.perf_counter() - began\nassert long < 10"


@breaks("no_asserted_times__by_a_call")
def _(cells, metadata):
    _holding(cells, "time.perf_counter")["source"] += "\nnp.testing.assert_array_less(seconds, 10)"


@breaks("no_trailing_semicolon__value_hidden")
def _(cells, metadata):
    cell = _holding(cells, "print(counts[0]")
    cell["source"] += ";  # to hide the value"


@breaks("no_machine_paths__source")
def _(cells, metadata):
    cell = _holding(cells, "by_hand")
    cell["source"] = "folder = '/home/reader/lessons'\n" + cell["source"]


@breaks("no_machine_paths__output")
def _(cells, metadata):
    _holding(cells, "print(share")["outputs"] = [
        _stream("[0.55 0.45] saved in C:\\Users\\reader\n")
    ]


@breaks("no_machine_paths__text")
def _(cells, metadata):
    _holding(cells, "The share is six")["source"] += " The map is kept in `/tmp/map.npy`."


@breaks("no_sys_path__appended")
def _(cells, metadata):
    cells[2]["source"] = cells[2]["source"].replace(
        "import time", "import sys\nsys.path.append('..')"
    )


@breaks("predictions__one")
def _(cells, metadata):
    cell = _holding(cells, "The void pixel differs")
    cell["source"] = cell["source"].replace("**Predict, then run.** ", "")


@breaks("ids_are_unique__twice")
def _(cells, metadata):
    cells[7]["id"] = cells[6]["id"]


@breaks("ids_are_unique__none")
def _(cells, metadata):
    del cells[7]["id"]


@breaks("links_lead_somewhere__no_such_file")
def _(cells, metadata):
    cells[-1]["source"] += "\n- [The next lesson](01_not_written.ipynb)"


@breaks("links_lead_somewhere__another_scheme")
def _(cells, metadata):
    cells[-1]["source"] += "\n- [The archive](ftp://example.org/archive)"


@breaks("links_lead_somewhere__outside_the_project")
def _(cells, metadata):
    cells[-1]["source"] += "\n- [The folder above](../../..)"


@breaks("kernel_is_python3__another")
def _(cells, metadata):
    metadata["kernelspec"]["name"] = "my-environment"


@breaks("file_is_small__a_megabyte")
def _(cells, metadata):
    data = _holding(cells, "panels = ")["outputs"][0]["data"]
    data["image/png"] += 1_000_000 * "A"


@breaks("stored_outputs_differ")
def _(cells, metadata):
    """No rule sees these faults, nor those below. The strict comparison must see each of them."""
    _holding(cells, "labels = np.array")["outputs"] = [_result("(4, 3)")]
    _holding(cells, "print(share")["outputs"] = [_stream("[0.55 0.44]\n")]
    _holding(cells, "touched = np.zeros")["outputs"] = [_stream("nothing is printed here\n")]
    _holding(cells, "print(total)")["outputs"] = [_result("6")]
    _holding(cells, "lots = ")["outputs"] = [_stream("0.745 of 4000 lots show sky\n")]
    # another colour map, two panels swapped, another title
    _holding(cells, "plt.imshow")["outputs"] = [
        _figure(MAP.replace("labels))", "labels), 'gray')"))
    ]
    swapped = "{'names': touched, 'boundary': plots.colour_classes(labels)}"
    swapped = re.sub(r"\{.*\}", swapped, PANELS)
    _holding(cells, "panels = ")["outputs"] = [_figure(swapped)]
    _holding(cells, "show_bars")["outputs"] = [_figure(BARS.replace("How often", "How many"))]


@breaks("stored_outputs_differ_more")
def _(cells, metadata):
    _holding(cells, "lots = ")["outputs"] = [_stream("nan of 4000 lots show sky\n")]
    # another size, another class colour, one bar higher
    _holding(cells, "plt.imshow")["outputs"] = [_figure(MAP.replace("(3, 3)", "(3, 4)"))]
    coloured = PANELS.replace(
        "colour_classes(labels)", "colour_classes(labels + 2 * (labels == 1))"
    )
    _holding(cells, "panels = ")["outputs"] = [_figure(coloured)]
    _holding(cells, "show_bars")["outputs"] = [_figure(BARS.replace("5", "5.2"))]


@breaks("stored_outputs_differ_still")
def _(cells, metadata):
    _holding(cells, "lots = ")["outputs"] = [_stream("0.545 of the lots show sky\n")]
    # other limits of the colours, a legend shifted by one, a summary that was edited by hand
    limits = MAP.replace("labels))", "labels), vmax=3)")
    _holding(cells, "plt.imshow")["outputs"] = [_figure(limits)]
    shifted = PANELS.replace("('sky', 'ground')", "('ground', 'sky')")
    _holding(cells, "panels = ")["outputs"] = [_figure(shifted)]
    data = _holding(cells, "show_bars")["outputs"][0]["data"]
    data[summaries.MIME] = data[summaries.MIME].replace('"count":2', '"count":3')


DIFFERENT = ("stored_outputs_differ", "stored_outputs_differ_more", "stored_outputs_differ_still")
RULES_KEPT = ("good", *DIFFERENT)
TOO_LARGE_TO_COMMIT = ("file_is_small__a_megabyte",)


def notebooks() -> Iterator[tuple[str, dict]]:
    """(file name, notebook): the good one, and every change of it."""
    yield "00_good.ipynb", good_notebook("00_good.ipynb")
    for name, change in BREAKS.items():
        notebook = good_notebook(f"00_{name}.ipynb")
        change(notebook["cells"], notebook["metadata"])
        yield f"00_{name}.ipynb", notebook


def committed_notebooks() -> Iterator[tuple[str, dict]]:
    """Those of `notebooks` that are kept as files."""
    return (
        (name, notebook) for name, notebook in notebooks() if name[3:-6] not in TOO_LARGE_TO_COMMIT
    )


def text_of(notebook: dict) -> str:
    """As notebooks are stored: a line of the file for each line of a cell."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook["cells"]:
        cell["source"] = cell["source"].splitlines(keepends=True)
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _markdown(*paragraphs: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": "\n\n".join(paragraphs)}


def _code(source: str, *outputs: dict, **metadata) -> dict:
    return {
        "cell_type": "code",
        "metadata": metadata,
        "source": source,
        "outputs": list(outputs),
        "execution_count": None,
    }


def _stream(text: str, name: str = "stdout") -> dict:
    return {"output_type": "stream", "name": name, "text": text}


def _result(text: str) -> dict:
    return {
        "output_type": "execute_result",
        "data": {"text/plain": text},
        "metadata": {},
        "execution_count": None,
    }


def _figure(source: str) -> dict:
    """What a cell of this source displays, but for the pixels."""
    plt.switch_backend("agg")
    plots.use_style()
    exec(source, {"np": np, "plt": plt, "plots": plots, "labels": LABELS, "touched": TOUCHED})
    figure = plt.gcf()
    text = json.dumps(summaries.summary(figure), separators=(",", ":"))
    plt.close("all")
    data = {"image/png": PIXEL, "text/plain": repr(figure), summaries.MIME: text}
    return {"output_type": "display_data", "data": data, "metadata": {}}


def _number(cells: list[dict]) -> None:
    for count, cell in enumerate(_all(cells, "code"), start=1):
        cell["execution_count"] = count
        for output in cell["outputs"]:
            if output["output_type"] == "execute_result":
                output["execution_count"] = count


def _all(cells: list[dict], kind: str) -> list[dict]:
    return [cell for cell in cells if cell["cell_type"] == kind]


def _holding(cells: list[dict], text: str) -> dict:
    (cell,) = (cell for cell in cells if text in cell["source"])
    return cell


def _lengthen(cell: dict, lines: int) -> None:
    cell["source"] = (
        "# one more line\n" * (lines - len(cell["source"].splitlines())) + cell["source"]
    )


if __name__ == "__main__":
    for old in FOLDER.glob("*.ipynb"):
        old.unlink()
    for name, notebook in committed_notebooks():
        (FOLDER / name).write_text(text_of(notebook), encoding="utf-8")
