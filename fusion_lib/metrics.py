"""How good a semantic map, a partition and a fused map are.

All metrics leave void pixels of the truth out. A predicted region id below 0 says that the pixel
belongs to no region: it is missed, and counts as such. Semantic metrics accumulate one confusion
matrix over the whole data set before they divide; partition ones are computed for each picture and
then averaged. Ids may be any whole numbers; only which pixels share one counts. Maps are (H, W);
one not of integers is a TypeError, another shape, label or a true region below -1 a ValueError.
"""

import numpy as np
import scipy  # its parts are loaded when they are first used
import torch

from fusion_lib import checks
from fusion_lib.scenes import REGION_VOID, SEMANTIC_VOID
from fusion_lib.targets import boundary_mask


def confusion_matrix(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """Pixel counts, (C, C) int64: row is the true class (not void, 255), column the predicted one.
    A label outside 0..C-1, a predicted 255 too, is a ValueError, and so is C above 254."""
    checks.expect(num_classes < 255, "num_classes", num_classes, "at most 254: 255 is void")
    truth, prediction = checks.integer_maps(truth=truth, prediction=prediction)
    checks.classes("truth", truth, num_classes)
    valid = truth != SEMANTIC_VOID
    truth, prediction = truth[valid], prediction[valid]
    checks.classes("prediction", prediction, num_classes, void=None)
    pairs = num_classes * truth.astype(np.int64) + prediction.astype(np.int64)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def semantic_scores(confusion: np.ndarray) -> dict:
    """From a confusion matrix: pixel accuracy, class accuracy, mIoU, and the IoU of each class.

    IoU_c = n_cc / (row_c + column_c - n_cc). Classes that occur neither in truth nor in prediction
    are NaN in "iou" and left out of the means.
    """
    right, true, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou, recall = right / (true + predicted - right), right / true
    return {
        "pixel_accuracy": float(right.sum() / max(confusion.sum(), 1)),
        "class_accuracy": float(np.nanmean(recall)) if (true > 0).any() else float("nan"),
        "miou": float(np.nanmean(iou)) if (true + predicted > 0).any() else float("nan"),
        "iou": iou,
    }


def contingency(truth: np.ndarray, prediction: np.ndarray) -> scipy.sparse.csr_matrix:
    """Overlap in pixels, but for void and missed ones, of true (rows) and predicted regions."""
    truth, prediction = _partitions(truth, prediction)
    valid = truth != REGION_VOID
    rows, columns = truth[valid], checks.compact(prediction[valid]) + 1  # 0: missed
    size = rows.max(initial=-1) + 1, columns.max(initial=0) + 1
    return scipy.sparse.coo_matrix((np.ones(rows.size), (rows, columns)), size).tocsr()[:, 1:]


def _overlaps(truth, prediction) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels of each true region; of each pair that overlaps, the true region and their IoU."""
    pairs, truth = contingency(truth, prediction).tocoo(), np.asarray(truth)
    true = np.unique(truth[truth != REGION_VOID], return_counts=True)[1]
    predicted = np.asarray(pairs.sum(0)).ravel()
    return true, pairs.row, pairs.data / (true[pairs.row] + predicted[pairs.col] - pairs.data)


def covering(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Segmentation covering: sum_g |g| max_s IoU(g, s) / N over the true regions g (Arbelaez et al.
    2011, eq. 8). 1 for equal partitions, NaN where all pixels are void."""
    true, overlapping, iou = _overlaps(truth, prediction)
    best = np.zeros(true.size)
    np.maximum.at(best, overlapping, iou)
    return float((true * best).sum() / true.sum()) if true.size else float("nan")


def touching_things(semantic, region, prediction, things) -> tuple[int, int]:
    """(found, all) of the true things that touch another thing of their class: regions (H, W), void
    -1, whose class (`semantic`, (H, W)) is among the ids `things`, and which have a 4-neighbour of
    the same class in another region. One is found if a predicted region has an IoU above 0.5 with
    it, the matching rule of panoptic quality (Kirillov et al. 2019, section 4.1)."""
    region, prediction = _partitions(region, prediction)
    true, overlapping, iou = _overlaps(region, prediction)
    touching = np.zeros(true.size, bool)
    for thing in things:
        alike = np.where(np.asarray(semantic) == thing, region, REGION_VOID)
        touching[region[boundary_mask(alike)]] = True
    return int(touching[overlapping[iou > 0.5]].sum()), int(touching.sum())


def partition_scores(truth: np.ndarray, prediction: np.ndarray, tolerance: float = 1.0) -> dict:
    """Covering, variation of information (bits), adapted Rand error and boundary F of one picture.

    A missed pixel is in no segment for the covering, a segment of its own for the two after it, and
    has no boundary. Where neither map joins any two pixels, they agree: the Rand error is 0. All
    scores are NaN where all pixels are void. For `tolerance` see `boundary_f`.
    """
    from skimage.metrics import adapted_rand_error, variation_of_information

    truth, prediction = _partitions(truth, prediction)
    valid = truth != REGION_VOID
    names = ("covering", "variation_of_information", "adapted_rand_error", "boundary_f")
    if not valid.any():
        return dict.fromkeys(names, float("nan"))
    true, predicted = truth[valid], prediction[valid]
    missed = predicted < 0
    predicted[missed] = prediction.max() + 1 + np.arange(missed.sum())
    information = float(sum(variation_of_information(true, predicted)))
    # skimage treats label 0 as background unless told otherwise; our ids start at 0.
    with np.errstate(invalid="ignore", divide="ignore"):
        rand_error = float(np.nan_to_num(adapted_rand_error(true, predicted, ignore_labels=())[0]))
    outlines = boundary_f(truth, prediction, tolerance)
    return dict(zip(names, (covering(truth, prediction), information, rand_error, outlines)))


def boundary_f(truth: np.ndarray, prediction: np.ndarray, tolerance: float = 1.0) -> float:
    """Harmonic mean of boundary precision and recall: a boundary pixel counts if one of the other
    map lies within `tolerance` pixels, a finite number of at least 0. Two maps without any boundary
    agree (1); one with and one without do not (0)."""
    checks.not_negative(tolerance=tolerance)
    truth, prediction = _partitions(truth, prediction)
    masks = boundary_mask(truth), boundary_mask(np.where(truth == REGION_VOID, truth, prediction))
    if not masks[0].any() or not masks[1].any():
        return float(masks[0].any() == masks[1].any())
    near = [scipy.ndimage.distance_transform_edt(~mask) <= tolerance for mask in masks]
    recall, precision = near[1][masks[0]].mean(), near[0][masks[1]].mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


class PanopticQuality:
    """Panoptic quality (Kirillov et al. 2019, eq. 1) accumulated over pictures, by torchmetrics.

    Stuff of one class in one picture is a single segment, however many regions it falls into. A
    true pixel is void if its class is 255, or a thing's and its region void. A predicted pixel is
    missed if its class is 255 or its class or region below 0: it is in no segment, and counts.

    Args: things and stuff, the ids of the classes of either kind, each once (else a ValueError).
    """

    def __init__(self, things, stuff):
        from torchmetrics.detection import PanopticQuality

        self.things, self.stuff = sorted(things), sorted(stuff)
        known = self._known = [*self.things, *self.stuff]
        fit = min(known, default=-1) >= 0 and len({*known, SEMANTIC_VOID}) > len(known)
        message = f"things is {self.things} and stuff {self.stuff}; expected classes, each once"
        checks.require(fit, f"{message}, none below 0 and not 255, which is void")
        # torchmetrics takes void predictions off the truth: missed pixels are a class of their own
        self._missed = max(*known, SEMANTIC_VOID) + 1
        self._metric = PanopticQuality({*self.things}, {*self.stuff, self._missed})

    def update(self, true_semantic, true_region, semantic, region) -> None:
        """Add one picture; a class neither of the things nor of the stuff is a ValueError."""
        truth = {"true_semantic": true_semantic, "true_region": true_region}
        maps = checks.integer_maps(**truth, semantic=semantic, region=region)
        true_semantic, true_region, semantic, region = maps
        void = true_semantic == SEMANTIC_VOID
        missed = (semantic < 0) | (semantic == SEMANTIC_VOID) | (region < 0)
        named = {"true_semantic": true_semantic[~void], "semantic": semantic[~missed]}
        for name, classes in named.items():
            unknown = np.setdiff1d(classes, self._known).tolist()
            known = f"the things {self.things} and the stuff {self.stuff}, or void {SEMANTIC_VOID}"
            checks.require(not unknown, f"{name} holds {unknown}; expected classes among {known}")
        void |= np.isin(true_semantic, self.things) & (true_region < 0)
        true_semantic = np.where(void, SEMANTIC_VOID, true_semantic.astype(np.int64))
        semantic = np.where(missed, self._missed, semantic.astype(np.int64))
        pairs = (semantic, checks.compact(region)), (true_semantic, checks.compact(true_region))
        self._metric.update(*(torch.from_numpy(np.stack(pair, -1)[None]) for pair in pairs))
        self._metric.false_positives[-1] = 0  # of the missed pixels' class, which is none

    def compute(self) -> float:
        """Mean over the classes seen, in [0, 1]; NaN if all pixels are void."""
        return float(self._metric.compute())


def delta_m(scores: dict, baselines: dict) -> float:
    """Mean relative gain over single-task baselines, mean_t (M_t - B_t) / B_t (Maninis et al. 2019,
    for metrics of which more is better), with scores M and baselines B of the same keys."""
    keys = f"scores has keys {sorted(scores)} and baselines {sorted(baselines)}"
    checks.require(scores.keys() == baselines.keys(), f"{keys}; expected the same")
    return float(np.mean([(scores[n] - baselines[n]) / baselines[n] for n in scores]))


def _partitions(truth, prediction) -> tuple[np.ndarray, np.ndarray]:
    """Both maps with ids from 0 without gaps, and -1 for void and for missed pixels."""
    truth, prediction = checks.integer_maps(truth=truth, prediction=prediction)
    return checks.compact(checks.label_map("truth", truth)), checks.compact(prediction)
