"""What networks are made of: convolutions, and a decoder from coarse to fine."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class ConvBlock(nn.Sequential):
    """3 x 3 convolution, batch normalisation, ReLU. Shape: (N, C_in, H, W) -> (N, C_out, H/stride,
    W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class Decoder(nn.Module):
    """From coarse to fine: upsample, add the encoder's features of that size, convolve.

    The additions are the lateral connections of a feature pyramid network (Lin et al. 2017, figure
    3). The finest map, where boundaries are drawn, gets one more convolution, added to what it
    refines.

    Shape:
        features: list of (N, C_s, H_s, W_s), fine to coarse.
        returns: (N, width, H_0, W_0), at the finest feature map's size.
    """

    def __init__(self, channels: list[int], width: int):
        super().__init__()
        widths = [width] + [2 * width] * (len(channels) - 1)
        self.lateral = nn.ModuleList(nn.Conv2d(c, w, 1) for c, w in zip(channels, widths))
        self.blocks = nn.ModuleList(
            ConvBlock(w, widths[max(stage - 1, 0)]) for stage, w in enumerate(widths)
        )
        self.refine = ConvBlock(width, width)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = None
        for stage in reversed(range(len(features))):
            here = self.lateral[stage](features[stage])
            if x is not None:
                here = here + _resize(x, here.shape[-2:])
            if stage == 0:
                here = here + self.refine(here)
            x = self.blocks[stage](here)
        return x


def _resize(x: Tensor, size) -> Tensor:
    return (
        x if x.shape[-2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=False)
    )
