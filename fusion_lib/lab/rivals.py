"""Decoders of well-known libraries, to compare with: Unet and FPN of segmentation_models.pytorch
(the extra `rivals`), LRASPP of torchvision, each so wide that its network has about as many
parameters as the single-task network for photographs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation.lraspp import LRASPPHead

from fusion_lib import checks
from fusion_lib.models import FusionModel, encoders

DECODERS = ("Unet", "FPN", "LRASPP")


class Rival(nn.Module):
    """EfficientNet-Lite0 with a decoder of another library, for the semantic task.

    Unet: Ronneberger et al. 2015. FPN: the semantic branch of Kirillov et al. 2019, figure 3.
    LRASPP: Howard et al. 2019, figure 10, here with the encoder's strides 8 and 32, for Lite0 is
    not dilated.

    Args: outputs, {"semantic": number of classes}; decoder, one of `DECODERS`; pretrained, start
        the encoder from ImageNet weights.
    Shape: images (N, 3, H, W) float in [0, 1], H and W multiples of 32, to {"semantic": logits
        (N, classes, H, W)}.

    Raises:
        ValueError: other tasks, or an unknown decoder.
        ModuleNotFoundError: the extra `rivals` is not installed.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, outputs: dict[str, int], decoder: str, pretrained: bool = True):
        super().__init__()
        alone = list(outputs) == ["semantic"]
        checks.expect(alone, "outputs", outputs, "the semantic task alone")
        checks.expect(decoder in DECODERS, "decoder", decoder, f"one of: {', '.join(DECODERS)}")
        self.encoder = encoders.backbone("lite0", pretrained)
        make = {"Unet": _Unet, "FPN": _Fpn, "LRASPP": _Lraspp}[decoder]
        self.decoder = make(self.encoder.channels, outputs["semantic"])
        self.register_buffer("mean", torch.tensor(FusionModel.MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(FusionModel.STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        images = (images - self.mean) / self.std
        logits, size = self.decoder([images, *self.encoder(images)]), images.shape[-2:]
        return {"semantic": F.interpolate(logits, size, mode="bilinear", align_corners=False)}


class _Unet(nn.Sequential):
    def __init__(self, channels: list[int], classes: int):
        smp, widths = _library(), (32, 32, 24, 24, 16)
        decoder = smp.decoders.unet.decoder.UnetDecoder([3, *channels], widths, n_blocks=5)
        super().__init__(decoder, smp.base.SegmentationHead(widths[-1], classes))
        _initialise(smp, *self)


class _Fpn(nn.Sequential):
    def __init__(self, channels: list[int], classes: int):
        smp = _library()
        widths = {"pyramid_channels": 64, "segmentation_channels": 32}
        decoder = smp.decoders.fpn.decoder.FPNDecoder([3, *channels], **widths)
        head = smp.base.SegmentationHead(decoder.out_channels, classes, kernel_size=1)
        super().__init__(decoder, head)
        _initialise(smp, *self)


class _Lraspp(LRASPPHead):
    def __init__(self, channels: list[int], classes: int):
        super().__init__(channels[2], channels[4], classes, inter_channels=128)

    def forward(self, features: list[Tensor]) -> Tensor:
        return super().forward({"low": features[3], "high": features[5]})


def _initialise(smp, decoder: nn.Module, head: nn.Module) -> None:
    """As the library's own whole models do."""
    smp.base.initialization.initialize_decoder(decoder)
    smp.base.initialization.initialize_head(head)


def _library():
    try:
        import segmentation_models_pytorch
    except ModuleNotFoundError as error:
        command = "pip install 'fusion_lib[rivals]'"
        needs = f"this decoder needs {error.name}; install it with: {command}"
        raise ModuleNotFoundError(needs) from error
    return segmentation_models_pytorch
