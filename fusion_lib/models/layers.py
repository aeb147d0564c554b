"""What networks are made of: convolutions, and a decoder from coarse to fine."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class ConvBlock(nn.Sequential):
    """3 x 3 convolution, batch norm, ReLU: (N, C, H, W) -> (N, C', ceil(H / stride), same of W)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class Decoder(nn.Module):
    """From coarse to fine: upsample, add the encoder's features of that size, convolve.

    The additions are the lateral connections of a feature pyramid network (Lin et al. 2017, figure
    3). The finest map, where boundaries are drawn, gets one more convolution, which refines it.

    Shape: list of (N, C_s, H_s, W_s), fine to coarse -> (N, width, H_0, W_0), the finest map's.
    """

    def __init__(self, channels: Sequence[int], width: int):
        super().__init__()
        widths = [width] + [2 * width] * (len(channels) - 1)
        self.lateral = nn.ModuleList(nn.Conv2d(c, w, 1) for c, w in zip(channels, widths))
        self.blocks = nn.ModuleList(
            ConvBlock(w, widths[max(stage - 1, 0)]) for stage, w in enumerate(widths)
        )
        self.refine = ConvBlock(width, width)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.lateral[-1](features[-1])
        for stage in reversed(range(1, len(features))):
            finer = self.lateral[stage - 1](features[stage - 1])
            x = finer + resize(self.blocks[stage](x), finer.shape[-2:])
        return self.blocks[0](x + self.refine(x))


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, without aligned corners: (N, C, H, W) -> (N, C, *size)."""
    if maps.shape[-2:] == tuple(size):
        return maps
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)
