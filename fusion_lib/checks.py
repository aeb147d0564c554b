"""Guards that several modules share. Each names the argument, what came and what was expected."""

import numpy as np


def require(holds: object, message: str) -> None:
    """Raise a ValueError unless the condition holds."""
    if not holds:
        raise ValueError(message)


def expect(holds: object, name: str, value: object, expected: str) -> None:
    """Raise a ValueError unless the condition on the value holds."""
    require(holds, f"{name} is {value!r}; expected {expected}")


def shapes(holds: object, expected: str, /, **arrays) -> None:
    """Raise a ValueError unless the condition on the shapes of the arrays holds."""
    if not holds:
        found = " and ".join(f"{name} {tuple(array.shape)}" for name, array in arrays.items())
        found = found.replace(" ", " has shape ", 1)  # after the first name
        raise ValueError(f"{found}; expected {expected}")


def integers(name: str, values, kinds: str = "biu") -> np.ndarray:
    """The values as an array, if they are whole numbers or truth values; else a TypeError."""
    values = np.asarray(values)
    if values.dtype.kind not in kinds:
        raise TypeError(f"{name} has dtype {values.dtype}; expected integers: round and cast it")
    return values


def label_map(name: str, labels) -> np.ndarray:
    """The labels, if they are (H, W) integers (TypeError) of at least -1 (ValueError)."""
    labels = integers(name, labels, kinds="iu")
    shapes(labels.ndim == 2, "(H, W)", **{name: labels})
    lowest = labels.min(initial=0)
    require(lowest >= -1, f"{name} holds {lowest}; expected numbers from 0 on, or void -1")
    return labels


def integer_maps(**maps) -> list[np.ndarray]:
    """The maps as arrays, if they are of integers (TypeError) and of one shape (ValueError)."""
    arrays = {name: integers(name, values) for name, values in maps.items()}
    same_shape(**arrays)
    return list(arrays.values())


def classes(name: str, labels: np.ndarray, count: int, void: int | None = 255) -> None:
    """Raise a ValueError unless all labels are one of `count` classes or void, if there is one."""
    wrong = labels[((labels < 0) | (labels >= count)) & (labels != void)]
    if wrong.size:
        also = "" if void is None else f" or void {void}"
        raise ValueError(f"{name} holds class {wrong[0]}; expected 0..{count - 1}{also}")


def same_shape(**arrays: np.ndarray) -> None:
    """Raise a ValueError unless all arrays have the shape of the first."""
    shapes(len({array.shape for array in arrays.values()}) == 1, "equal shapes", **arrays)


def not_negative(**numbers: float) -> None:
    """Raise a ValueError unless every number is finite and at least 0."""
    for name, number in numbers.items():
        expect(0 <= number < float("inf"), name, number, "a finite number of at least 0")


def probabilities(name: str, values: np.ndarray) -> None:
    """Raise a ValueError unless all values lie in [0, 1], but for rounding."""
    if not ((values >= -1e-6) & (values <= 1 + 1e-6)).all():
        found = f"{name} holds {values.min()}..{values.max()}; expected numbers in [0, 1]"
        raise ValueError(f"{found}, such as the softmax or the sigmoid of logits")


def compact(ids: np.ndarray) -> np.ndarray:
    """The same map with the ids 0..R-1 in the order of the old ones, int64; negative ones -1."""
    return np.where(ids < 0, -1, np.searchsorted(np.unique(ids[ids >= 0]), ids))
