"""Every sentence that a page prints as a claim has a condition, every condition its sentence, and
all of them hold."""

import html
import json
import re
from pathlib import Path

import pytest
from claims import CLAIMS

from fusion_lib.lab import tables

NOTEBOOKS = {
    path.name[:2]: path for path in sorted(Path(__file__).parents[2].glob("notebooks/*.ipynb"))
}
CONDITIONS = [(page, sentence) for page, claims in CLAIMS.items() for sentence in claims]


def printed(notebook: dict) -> list[str]:
    """The sentences of a notebook's stored tables of claims (`tables.show_claims`)."""
    outputs = [o for cell in notebook["cells"] for o in cell.get("outputs", [])]
    pages = ["".join(output.get("data", {}).get("text/html", "")) for output in outputs]
    found = [re.findall(r"<tr>\s*<td>(.*?)</td>", p, re.S) for p in pages if "<th>claim</th>" in p]
    return [html.unescape(sentence) for sentences in found for sentence in sentences]


@pytest.mark.parametrize("page, sentence", CONDITIONS)
def test_claim_holds(page, sentence):
    assert CLAIMS[page][sentence](), f"notebook {page} claims what no longer holds: {sentence}"


@pytest.mark.parametrize("page", sorted({*NOTEBOOKS, *CLAIMS}))
def test_sentences_and_conditions_belong_together(page):
    sentences = printed(json.loads(NOTEBOOKS[page].read_text(encoding="utf-8")))
    if not sentences and page not in CLAIMS:
        pytest.skip(f"notebook {page} prints no table of claims")
    assert sorted(sentences) == sorted(CLAIMS.get(page, {}))


def test_sentences_are_read_as_they_were_printed(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    sentences = ["a < b & c, by 'much'", 'a "long" sentence, ' * 9 + "so"]
    tables.show_claims(dict.fromkeys(sentences, [1.0, 2.0]), "points")
    cells = [
        {"cell_type": "markdown", "source": ["| claim |"]},
        {"outputs": [{"output_type": "stream", "text": ["claim\n"]}]},
        {"outputs": [{"data": {"text/html": shown[0]["text/html"].splitlines(keepends=True)}}]},
    ]
    assert printed({"cells": cells}) == sentences
    assert printed({"cells": cells[:2]}) == []
