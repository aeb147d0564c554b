"""The tasks' losses and their weighted sum, L = alpha * L_seg + beta * L_cls.

The article calls the loss of the semantic task L_seg and the loss of the region task L_cls. Both,
and that of any further task, are cross entropies, averaged over the pixels that are not void.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_lib import checks
from fusion_lib.affinities import affinity_cross_entropy
from fusion_lib.scenes import SEMANTIC_VOID

Tensors = dict[str, Tensor]
# Where a batch keeps each task's target; that of a further task is under its own name.
TARGET_KEYS = {"semantic": "semantic", "region": "region_target", "affinity": "affinity_target"}


def pixel_cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None = None, normaliser: Tensor | None = None
) -> Tensor:
    """Mean cross entropy over the pixels that are not void.

    -sum_{i in V} w[t_i] log q_i[t_i] / sum_{i in V} w[t_i], with q_i the softmax of the logits at
    pixel i, t_i its target, w the class weights (all 1 if none are given), and V the pixels whose
    target is not 255. If V is empty the loss is 0 and its gradient is 0.

    Shape: logits (N, C, H, W) and weight (C,), float; target (N, H, W) int64 in 0..C-1, void 255;
        normaliser (), to divide by in a part of a batch, see `FusionLoss.normalisers` -> ().
    Raises: TypeError, target is not int64 (a float one would silently be read as probabilities);
        ValueError, the shapes do not fit or N is 0; or (looked for on a CPU only, a GPU would have
        to wait) a target is neither a class nor void, or a weight is negative or not finite.
    """
    if target.dtype != torch.int64:
        raise TypeError(f"target has dtype {target.dtype}; expected torch.int64 class indices")
    fit = logits.ndim == 4 and len(logits) and target.shape == (len(logits), *logits.shape[2:])
    checks.shapes(fit, "(N, C, H, W) and (N, H, W), N at least 1", logits=logits, target=target)
    if target.device.type == "cpu":
        checks.classes("target", target.numpy(), logits.shape[1])
        _check_class_weights("weight", weight, logits.shape[1])
    total = F.cross_entropy(logits, target, weight, ignore_index=SEMANTIC_VOID, reduction="sum")
    count = pixel_normaliser(target, weight) if normaliser is None else normaliser
    return total / count.where(count > 0, 1)  # 0 / 1 where nothing counts: no loss, no gradient


def pixel_normaliser(target: Tensor, weight: Tensor | None = None) -> Tensor:
    """|V|, or the sum of w[t_i] over V, (); arguments as `pixel_cross_entropy`."""
    valid = target != SEMANTIC_VOID
    return (valid if weight is None else weight[target.where(valid, 0)] * valid).sum()


def _check_class_weights(name: str, weight: Tensor | None, classes: int) -> None:
    if weight is not None:
        fit = weight.shape == (classes,) and ((weight >= 0) & weight.isfinite()).all()
        checks.expect(fit, name, weight.tolist(), f"{classes} finite numbers of at least 0")


class FusionLoss(nn.Module):
    """L = alpha * L_seg + beta * L_cls, and so on for further tasks, with each part beside it.

    Args: alpha, beta, the weights of the semantic and of the region task, at least 0;
        region_weights, (3,) class weights of boundary, rim and core, see `targets.class_weights`;
        further, {task: its weight, at least 0} of other tasks, 1 for one that is not named.
    Shape: outputs, {"semantic": (N, C, H, W), "region": (N, 3, H, W)} logits, or one of the two,
        for only what is there enters the sum; in place of "region" may stand "affinity",
        (N, K, H, W), which beta weighs too; any further task has (N, classes, H, W). batch,
        {"semantic": (N, H, W), "region_target": (N, H, W), "affinity_target": (N, K, H, W)} int64,
        and the target of a further task under its name, (N, H, W) with void 255. whole, {task: ()},
        optional, the `normalisers` of the batch that this is a piece of. -> {"total" and task: ()}.
    Raises: ValueError, a weight negative or not finite, a task without target or called "total".
    """

    region_weights: Tensor | None

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 1.0,
        region_weights: Tensor | None = None,
        further: dict[str, float] | None = None,
    ):
        super().__init__()
        further = further or {}
        known = sorted({"total", *TARGET_KEYS} & further.keys())
        checks.require(not known, f"further names {known}; alpha weighs semantic and beta region")
        checks.not_negative(alpha=alpha, beta=beta)
        checks.not_negative(**further)
        _check_class_weights("region_weights", region_weights, 3)
        self.task_weights = {"semantic": alpha, "region": beta, **further}
        self.register_buffer("region_weights", region_weights)

    def forward(self, outputs: Tensors, batch: Tensors, whole: Tensors | None = None) -> Tensors:
        parts, count = {}, whole or dict.fromkeys(outputs)
        for task, logits in outputs.items():
            target, weight = self._target(task, batch)
            if task == "affinity":
                parts[task] = affinity_cross_entropy(logits, target, count[task])
            else:
                parts[task] = pixel_cross_entropy(logits, target, weight, count[task])
        return {"total": self.total(parts), **parts}

    def total(self, parts: Tensors) -> Tensor:
        """The weighted sum of {task: ()}."""
        task_weights = {**self.task_weights, "affinity": self.task_weights["region"]}
        terms = [task_weights.get(task, 1.0) * part for task, part in parts.items()]
        return sum(terms[1:], terms[0])

    def normalisers(self, outputs: Tensors, batch: Tensors) -> Tensors:
        """What the sum over the pixels is divided by, {task: ()}: how many, or their weights' sum.
        A batch's loss is the sum of its pieces', each divided by the whole batch's normalisers."""
        return {task: pixel_normaliser(*self._target(task, batch)) for task in outputs}

    def _target(self, task: str, batch: Tensors) -> tuple[Tensor, Tensor | None]:
        key = TARGET_KEYS.get(task, task)
        checks.require(task != "total", "a task is called 'total', as the sum of all is; rename it")
        message = f"batch has {sorted(batch)}; task {task!r} expects its target as {key!r}"
        checks.require(key in batch, message)
        return batch[key], self.region_weights if task == "region" else None
