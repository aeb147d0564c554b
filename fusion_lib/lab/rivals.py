"""Decoders of well-known libraries, to compare with: Unet and FPN of segmentation_models.pytorch
(the extra `rivals`), LRASPP of torchvision, each so wide that its network has about as many
parameters as the single-task network for photographs."""

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation.lraspp import LRASPPHead
from torchvision.transforms import v2

from fusion_lib import checks
from fusion_lib.models import FusionModel, encoders

DECODERS = ("Unet", "FPN", "LRASPP")


class Rival(nn.Module):
    """EfficientNet-Lite0 with a decoder of another library, for the semantic task. Unet:
    Ronneberger et al. 2015. FPN: the semantic branch of Kirillov et al. 2019, figure 3. LRASPP:
    Howard et al. 2019, figure 10, here with strides 8 and 32, for Lite0 is not dilated.

    Args: outputs, {"semantic": number of classes}; decoder, one of `DECODERS`; pretrained, start
        the encoder from ImageNet weights.
    Shape: images (N, 3, H, W) float in [0, 1], H and W multiples of 32, to {"semantic": logits
        (N, classes, H, W)}.
    Raises ValueError: other tasks, unknown decoder; ModuleNotFoundError: no extra `rivals`."""

    def __init__(self, outputs: dict[str, int], decoder: str, pretrained: bool = True):
        super().__init__()
        only = "the semantic task alone"
        checks.expect(list(outputs) == ["semantic"], "outputs", outputs, only)
        checks.expect(decoder in DECODERS, "decoder", decoder, f"one of: {', '.join(DECODERS)}")
        self.normalise = v2.Normalize(FusionModel.MEAN, FusionModel.STD)
        self.encoder = encoders.backbone("lite0", pretrained)
        make = _Lraspp if decoder == "LRASPP" else _unet_or_fpn
        self.decoder = make(decoder, self.encoder.channels, outputs["semantic"])

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        images = self.normalise(images)
        logits, size = self.decoder([images, *self.encoder(images)]), images.shape[-2:]
        return {"semantic": F.interpolate(logits, size, mode="bilinear", align_corners=False)}


class _Lraspp(LRASPPHead):
    def __init__(self, name: str, channels: list[int], classes: int):
        super().__init__(channels[2], channels[4], classes, inter_channels=128)

    def forward(self, features: list[Tensor]) -> Tensor:
        return super().forward({"low": features[3], "high": features[5]})


def _unet_or_fpn(name: str, channels: list[int], classes: int) -> nn.Module:
    """Decoder and head, initialised as the library's own whole models are."""
    try:
        import segmentation_models_pytorch as smp
    except ModuleNotFoundError as error:
        needs = f"this decoder needs {error.name}; install it with"
        raise ModuleNotFoundError(f"{needs}: pip install 'fusion_lib[rivals]'") from error
    if name == "Unet":
        widths = (32, 32, 24, 24, 16)
        decoder = smp.decoders.unet.decoder.UnetDecoder([3, *channels], widths, n_blocks=5)
        head = smp.base.SegmentationHead(widths[-1], classes)
    else:
        widths = {"pyramid_channels": 64, "segmentation_channels": 32}
        decoder = smp.decoders.fpn.decoder.FPNDecoder([3, *channels], **widths)
        head = smp.base.SegmentationHead(decoder.out_channels, classes, kernel_size=1)
    smp.base.initialization.initialize_decoder(decoder)
    smp.base.initialization.initialize_head(head)
    return nn.Sequential(decoder, head)
