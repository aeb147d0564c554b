"""What a trained network says of one picture."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import v2


@torch.no_grad()
def predict(
    model: nn.Module, image: torch.Tensor, size: tuple[int, int] | None = None
) -> dict[str, np.ndarray]:
    """Log-probabilities of every task for one picture, at the picture's own resolution.

    Args:
        model: maps images to {task: logits}; put into evaluation mode.
        image: (3, H, W) uint8, or float in [0, 1].
        size: (H, W) at which the network looks at the picture; its logits are resized back.
            Default: as it is.

    Returns:
        {task: (C, H, W) float32 log-softmax}; of affinities, (K, H, W), the log-sigmoid.

    Raises:
        TypeError, ValueError: image is of another type or shape, or holds floats outside [0, 1].
    """
    _check(image)
    model.eval()
    device = next(model.parameters()).device
    image = v2.functional.to_dtype(image, torch.float32, scale=True)
    image = image.as_subclass(torch.Tensor)[None].to(device)
    seen = image if size is None else F.interpolate(image, size, mode="bilinear", antialias=True)
    outputs = {}
    for task, logits in model(seen).items():
        if size is not None:
            logits = F.interpolate(logits, image.shape[-2:], mode="bilinear", align_corners=False)
        log_probabilities = F.logsigmoid(logits) if task == "affinity" else logits.log_softmax(1)
        outputs[task] = log_probabilities[0].float().cpu().numpy()
    return outputs


def _check(image: torch.Tensor) -> None:
    kind = image.dtype if isinstance(image, torch.Tensor) else type(image).__name__
    if kind != torch.uint8 and not (isinstance(kind, torch.dtype) and kind.is_floating_point):
        raise TypeError(f"image is of {kind}; expected a tensor of uint8, or of floats in [0, 1]")
    if image.ndim != 3 or len(image) != 3 or not image.numel():
        raise ValueError(
            f"image has shape {tuple(image.shape)}; expected (3, H, W): one picture, channels first"
        )
    if kind.is_floating_point and not (image.min() >= 0 and image.max() <= 1):
        raise ValueError(
            f"image holds {image.min():.4g}..{image.max():.4g}; expected floats in [0, 1]:"
            " divide by 255, or hand over uint8"
        )
