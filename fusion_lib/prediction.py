"""What a trained network says of one picture."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from fusion_lib import checks
from fusion_lib.models.layers import resize
from fusion_lib.transforms import checked_image


@torch.no_grad()
def predict(model: nn.Module, image: Tensor, size: tuple[int, int] | None = None) -> dict:
    """Log-probabilities of every task for one picture, at the picture's own resolution.

    Args: model, which maps images to {task: logits}, put into evaluation mode; image (3, H, W),
        uint8 or float in [0, 1]; size (H, W), if the network shall see the picture at another one.
    Returns: {task: (C, H, W) float32 log-softmax}; of affinities, (K, H, W), the log-sigmoid.
    Raises: TypeError, ValueError, image is of another type or shape, or not in [0, 1].
    """
    if not isinstance(image, Tensor):
        raise TypeError(f"image is of {type(image).__name__}; expected a tensor, (3, H, W)")
    fit = image.ndim == 3 and len(image) == 3 and image.numel()
    checks.shapes(fit, "(3, H, W): one picture, channels first", image=image)
    checked_image(image)
    model.eval()
    device = next(model.parameters()).device
    image = v2.functional.to_dtype(image, torch.float32, scale=True)
    image = image.as_subclass(Tensor)[None].to(device)
    seen = image if size is None else F.interpolate(image, size, mode="bilinear", antialias=True)
    outputs = {}
    for task, logits in model(seen).items():
        logits = resize(logits, image.shape[-2:])
        log_probabilities = F.logsigmoid(logits) if task == "affinity" else logits.log_softmax(1)
        outputs[task] = log_probabilities[0].float().cpu().numpy()
    return outputs
