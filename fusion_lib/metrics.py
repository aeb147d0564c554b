"""How good a semantic map, a partition and a fused map are.

All metrics leave void pixels of the truth out. Semantic ones accumulate one confusion matrix over
the whole data set before they divide; partition ones are computed for each picture and then
averaged.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage, sparse

from fusion_lib.scenes import REGION_VOID, SEMANTIC_VOID, STUFF, THINGS
from fusion_lib.targets import boundary_mask


def confusion_matrix(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """Pixel counts, (C, C) int64: row is the true class, column the predicted one; void truth (255)
    is left out.

    Raises:
        ValueError: the shapes differ, or a label is outside 0..C-1.
    """
    truth, prediction = _same_shape(truth, prediction)
    valid = truth != SEMANTIC_VOID
    truth, prediction = truth[valid].astype(np.int64), prediction[valid].astype(np.int64)
    for name, labels in (("truth", truth), ("prediction", prediction)):
        if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
            raise ValueError(
                f"{name} holds {labels.min()}..{labels.max()}; expected 0..{num_classes - 1}"
            )
    return np.bincount(num_classes * truth + prediction, minlength=num_classes**2).reshape(
        num_classes, num_classes
    )


def semantic_scores(confusion: np.ndarray) -> dict:
    """From a confusion matrix: pixel accuracy, class accuracy, mIoU, and the IoU of each class.

    IoU_c = n_cc / (row_c + column_c - n_cc). Classes that occur neither in truth nor in prediction
    are NaN in "iou" and left out of the means.
    """
    right, true, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = right / (true + predicted - right)
        recall = right / true
    return {
        "pixel_accuracy": float(right.sum() / max(confusion.sum(), 1)),
        "class_accuracy": float(np.nanmean(recall)) if (true > 0).any() else float("nan"),
        "miou": float(np.nanmean(iou)) if (true + predicted > 0).any() else float("nan"),
        "iou": iou,
    }


def contingency(truth: np.ndarray, prediction: np.ndarray) -> sparse.csr_matrix:
    """Overlap in pixels of every true region (rows) with every predicted one (columns); void truth
    left out."""
    truth, prediction = _same_shape(truth, prediction)
    valid = truth != REGION_VOID
    true_ids, rows = np.unique(truth[valid], return_inverse=True)
    ids, columns = np.unique(prediction[valid], return_inverse=True)
    return sparse.coo_matrix(
        (np.ones(rows.size), (rows, columns)), (true_ids.size, ids.size)
    ).tocsr()


def covering(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Segmentation covering: sum_g |g| max_s IoU(g, s) / N over the true regions g (Arbelaez et al.
    2011, eq. 8).

    1 for equal partitions. NaN where all pixels are void.
    """
    overlap = contingency(truth, prediction)
    if overlap.sum() == 0:
        return float("nan")
    true, predicted = np.asarray(overlap.sum(1)).ravel(), np.asarray(overlap.sum(0)).ravel()
    pairs = overlap.tocoo()
    iou = pairs.data / (true[pairs.row] + predicted[pairs.col] - pairs.data)
    best = np.zeros(true.size)
    np.maximum.at(best, pairs.row, iou)
    return float((true * best).sum() / true.sum())


def partition_scores(truth: np.ndarray, prediction: np.ndarray, tolerance: float = 1.0) -> dict:
    """Covering, variation of information (bits), adapted Rand error and boundary F of one picture.

    Args:
        truth: (H, W) region map, void -1.
        prediction: (H, W) region map.
        tolerance: distance in pixels within which boundaries match in the boundary F.
    """
    from skimage.metrics import adapted_rand_error, variation_of_information

    truth, prediction = _same_shape(truth, prediction)
    valid = truth != REGION_VOID
    if not valid.any():
        return dict.fromkeys(
            ("covering", "variation_of_information", "adapted_rand_error", "boundary_f"),
            float("nan"),
        )
    # skimage treats label 0 as background unless told otherwise; our ids start at 0.
    rand_error, _, _ = adapted_rand_error(truth[valid], prediction[valid], ignore_labels=())
    return {
        "covering": covering(truth, prediction),
        "variation_of_information": float(
            sum(variation_of_information(truth[valid], prediction[valid]))
        ),
        "adapted_rand_error": float(rand_error),
        "boundary_f": boundary_f(truth, prediction, tolerance),
    }


def boundary_f(truth: np.ndarray, prediction: np.ndarray, tolerance: float = 1.0) -> float:
    """Harmonic mean of boundary precision and recall; a boundary pixel counts if one of the other
    map lies within `tolerance`.

    Two maps without any boundary agree (1); one with and one without do not (0).
    """
    truth, prediction = _same_shape(truth, prediction)
    masks = [
        boundary_mask(truth),
        boundary_mask(np.where(truth == REGION_VOID, REGION_VOID, prediction)),
    ]
    if not masks[0].any() or not masks[1].any():
        return float(masks[0].any() == masks[1].any())
    near = [ndimage.distance_transform_edt(~mask) <= tolerance for mask in masks]
    recall, precision = near[1][masks[0]].mean(), near[0][masks[1]].mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


class PanopticQuality:
    """Panoptic quality (Kirillov et al. 2019, eq. 1) accumulated over pictures; torchmetrics does
    the matching.

    Stuff of one class in one picture is a single segment, however many regions it falls into.
    """

    def __init__(self, things=THINGS, stuff=STUFF):
        from torchmetrics.detection import PanopticQuality

        self._metric = PanopticQuality(
            things=set(things), stuffs=set(stuff), allow_unknown_preds_category=True
        )

    def update(self, true_semantic, true_region, semantic, region) -> None:
        """Add one picture; all four maps are (H, W) integers."""
        pair = [
            np.stack(maps, -1)[None] for maps in ((semantic, region), (true_semantic, true_region))
        ]
        self._metric.update(*(torch.from_numpy(np.asarray(p, np.int64)) for p in pair))

    def compute(self) -> float:
        """Mean over the classes, in [0, 1]."""
        return float(self._metric.compute())


def delta_m(scores: dict, baselines: dict, lower_is_better: tuple = ()) -> float:
    """Mean relative gain over single-task baselines: mean_t (-1)^{l_t} (M_t - B_t) / B_t (Maninis
    et al. 2019).

    Args: scores M and baselines B with the same keys; lower_is_better names the metrics with l_t =
    1.
    """
    if scores.keys() != baselines.keys():
        raise ValueError(
            f"scores has keys {sorted(scores)} and baselines {sorted(baselines)}; expected the same"
        )
    signs = {name: -1 if name in lower_is_better else 1 for name in scores}
    return float(np.mean([signs[n] * (scores[n] - baselines[n]) / baselines[n] for n in scores]))


def _same_shape(truth, prediction) -> tuple[np.ndarray, np.ndarray]:
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    if truth.shape != prediction.shape:
        raise ValueError(
            f"truth has shape {truth.shape} and prediction {prediction.shape}; expected equal"
            " shapes"
        )
    return truth, prediction
