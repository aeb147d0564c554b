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
        {task: (C, H, W) float32 log-softmax}; of affinities the log-sigmoid, each channel being a
        probability itself.
    """
    model.eval()
    device = next(model.parameters()).device
    image = (
        v2.functional.to_dtype(image, torch.float32, scale=True)
        .as_subclass(torch.Tensor)[None]
        .to(device)
    )
    seen = image if size is None else F.interpolate(image, size, mode="bilinear", antialias=True)
    outputs = {}
    for task, logits in model(seen).items():
        if size is not None:
            logits = F.interpolate(logits, image.shape[-2:], mode="bilinear", align_corners=False)
        log_probabilities = F.logsigmoid(logits) if task == "affinity" else logits.log_softmax(1)
        outputs[task] = log_probabilities[0].float().cpu().numpy()
    return outputs
