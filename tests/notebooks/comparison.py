"""How an output that came is compared with the one that is stored.

Text is compared letter by letter, unless the cell declares in its metadata how far a number may
lie from the stored one, where hardware decides it:

    "fusion": {"tolerance": {"absolute": 0.02}}      # or "relative": 0.05, or both: the wider holds

Then words stay strict and white space, which follows the width of numbers, counts as one blank.
Summaries of figures are compared as text where they hold words, and exactly where they hold counts.
A list of numbers is compared within `FIGURE` of its spread, and colours within `FIGURE`; a cell's
tolerance widens this (the relative one is of the spread, too; colours only by the absolute one, up
to 0.15, and never those of a legend).
"""

from __future__ import annotations

import json
import math
import re

KEYS = ("tolerance", "reason")  # of "fusion" in a cell's metadata
WIDEST = 0.5  # a relative tolerance beyond it would accept nearly anything
FIGURE = 0.02  # summaries keep whole percents of colours, and rounding must not decide
Tolerance = dict[str, float]

NUMBER = re.compile(
    r"((?<![\w.])[-+\u2212]?(?:(?:\d+(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?|(?:nan|inf)\b))", re.IGNORECASE
)


def tolerance_of(metadata: dict) -> Tolerance | None:
    """The tolerance that a cell's metadata declares, or None.

    Raises:
        ValueError: the metadata under "fusion" is malformed, or the tolerance absurdly wide.
    """
    ours = metadata.get("fusion", {})
    if not isinstance(ours, dict) or set(ours) - set(KEYS):
        raise ValueError(f'metadata "fusion" is {ours!r}; expected an object with keys of {KEYS}')
    if "tolerance" not in ours:
        return None
    found = ours["tolerance"]
    if not isinstance(found, dict) or not found or set(found) - {"absolute", "relative"}:
        raise ValueError(f'tolerance is {found!r}; expected {{"absolute": a}}, "relative", or both')
    for kind, value in found.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:
            raise ValueError(f"{kind} tolerance is {value!r}; expected a positive number")
    if found.get("relative", 0) > WIDEST:
        raise ValueError(f"relative tolerance is {found['relative']}; expected at most {WIDEST}")
    return found


def text_difference(stored: str, came: str, tolerance: Tolerance | None) -> str | None:
    """What differs between two texts, in a phrase; None where nothing does."""
    if stored == came:
        return None
    if tolerance is None:
        return f"{_shown(stored)} was stored, {_shown(came)} came"
    old_parts, new_parts = NUMBER.split(stored), NUMBER.split(came)  # words, number, words, ...
    for place, (old, new) in enumerate(zip(old_parts, new_parts)):
        if place % 2 == 0 and " ".join(old.split()) != " ".join(new.split()):
            return f"the words differ: {_shown(stored)} was stored, {_shown(came)} came"
        if place % 2 == 1 and not _close(_value(old), _value(new), tolerance):
            after = " ".join(old_parts[place - 1].split())[-40:]
            return f"after {after!r} {old} was stored, {new} came; {_said(tolerance)}"
    if len(old_parts) != len(new_parts):
        return f"the count of numbers differs: {_shown(stored)} was stored, {_shown(came)} came"
    return None


def figure_difference(stored: str, came: str, tolerance: Tolerance | None) -> str | None:
    """What differs between two summaries of figures, with its place; None where nothing does."""
    if not isinstance(stored, str) or not isinstance(came, str):
        return f"a figure's summary is no text: {_shown(stored)} was stored, {_shown(came)} came"
    if stored == came:
        return None
    try:
        return _tree_difference(json.loads(stored), json.loads(came), tolerance, "figure")
    except json.JSONDecodeError as error:
        return f"a figure's summary is no JSON ({error}); {_shown(stored)} was stored"


def _tree_difference(stored, came, tolerance: Tolerance | None, where: str) -> str | None:
    kinds = type(stored), type(came)
    if kinds == (str, str):
        written = tolerance or {"relative": FIGURE, "absolute": 0.01}  # in a panel, data as text
        found = text_difference(stored, came, written if ", texts" in where else tolerance)
        return found and f"{where}: {found}"
    if kinds == (dict, dict) and list(stored) == list(came):
        parts = [(stored[key], came[key], f"{where}, {key}") for key in stored]
    elif kinds == (list, list) and len(stored) == len(came):
        if stored and all(isinstance(value, (int, float)) for value in stored + came):
            return _numbers_difference(stored, came, tolerance or {}, where)
        parts = [(*pair, f"{where} {place}") for place, pair in enumerate(zip(stored, came))]
    else:
        same = kinds[0] is kinds[1] and stored == came
        return None if same else f"{where}: {_shown(stored)} was stored, {_shown(came)} came"
    all_found = (_tree_difference(old, new, tolerance, place) for old, new, place in parts)
    return next(filter(None, all_found), None)


def _numbers_difference(stored: list, came: list, tolerance: Tolerance, where: str) -> str | None:
    share, absolute = max(FIGURE, tolerance.get("relative", 0)), tolerance.get("absolute", 0)
    if where.endswith("colours"):  # percents; no tolerance makes another colour the same
        legend = "legends" in where
        allowed = {"absolute": 100 * (FIGURE if legend else max(FIGURE, min(absolute, 0.15)))}
    else:
        finite = [value for value in stored if math.isfinite(value)] or [0.0]
        spread = max(max(finite) - min(finite), 0.05 * max(map(abs, finite)))
        allowed = {"absolute": max(share * spread, absolute, 1e-9)}
    for place, (old, new) in enumerate(zip(stored, came)):
        if not _close(old, new, allowed):
            return f"{where}, number {place}: {old} was stored, {new} came; {_said(allowed)}"
    return None


def _value(number: str) -> float:
    return float(number.replace("\u2212", "-"))


def _close(old: float, new: float, tolerance: Tolerance) -> bool:
    if not (math.isfinite(old) and math.isfinite(new)):
        return str(old) == str(new)  # NaN where NaN is stored is no news
    allowed = max(tolerance.get("absolute", 0), tolerance.get("relative", 0) * abs(old))
    return abs(new - old) <= allowed * (1 + 1e-9) + 1e-12


def _said(tolerance: Tolerance) -> str:
    return " and ".join(f"{kind} {value:.3g}" for kind, value in tolerance.items()) + " is allowed"


def _shown(thing) -> str:
    text = repr(thing)
    return text if len(text) <= 300 else f"{text[:300]}..."
