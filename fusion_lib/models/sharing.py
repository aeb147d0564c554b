"""What the tasks share, and what each has of its own."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fusion_lib.models.layers import ConvBlock, Decoder


class HardSharing(nn.Module):
    """Every task gets the same features (hard parameter sharing, Caruana 1997).

    All of `SHARING` are built alike, from the tasks' names, the width of their features and the
    channels of the encoder's maps; before them stands `shared_decoder(channels, width)`.

    Shape: shared features F, (N, width, H, W) -> {task: F_t, (N, width, H, W)}.
    """

    shared_decoder: type[nn.Module] = Decoder

    def __init__(self, tasks: list[str], width: int, channels: Sequence[int] = ()):
        super().__init__()
        self.tasks = list(tasks)

    def forward(self, shared: Any) -> dict[str, Tensor]:
        return dict.fromkeys(self.tasks, shared)


class AttentionMasks(HardSharing):
    """A soft mask a task, F_t = sigmoid(W_t * F) . F (after Liu et al. 2019, eq. 1-2)."""

    def __init__(self, tasks: list[str], width: int, channels: Sequence[int] = ()):
        super().__init__(tasks, width, channels)
        self.masks = nn.ModuleDict({task: nn.Conv2d(width, width, 1) for task in tasks})

    def open(self, shared: Tensor) -> dict[str, Tensor]:
        """How far each mask is open, in [0, 1]: {task: (N, width, H, W)}."""
        return {task: torch.sigmoid(mask(shared)) for task, mask in self.masks.items()}

    def forward(self, shared: Tensor) -> dict[str, Tensor]:
        return {task: mask * shared for task, mask in self.open(shared).items()}


class OwnBlocks(HardSharing):
    """Own features F_t = ConvBlock_t(F): the last layer before the classifier is not shared."""

    def __init__(self, tasks: list[str], width: int, channels: Sequence[int] = ()):
        super().__init__(tasks, width, channels)
        self.own = nn.ModuleDict({task: self.part(width, channels) for task in tasks})

    def part(self, width: int, channels: Sequence[int]) -> nn.Module:
        """What one task has of its own, of that many features."""
        return ConvBlock(width, width)

    def forward(self, shared: Tensor) -> dict[str, Tensor]:
        return {task: block(shared) for task, block in self.own.items()}


class CrossTaskGates(OwnBlocks):
    """Own features F_t for each task, and gates that let the other tasks' features in.

    G_t = F_t + sum_{o != t} sigmoid(W_to * [F_t, F_o]) . F_o, with F_t as in `OwnBlocks`; like the
    gates of Gated-SCNN (Takikawa et al. 2019, eq. 1-2) and PAD-Net (Xu et al. 2018, eq. 3).
    """

    def __init__(self, tasks: list[str], width: int, channels: Sequence[int] = ()):
        super().__init__(tasks, width, channels)
        pairs = [(task, other) for task in tasks for other in tasks if other != task]
        self.gates = nn.ModuleDict(
            {f"{other} to {task}": nn.Conv2d(2 * width, width, 1) for task, other in pairs}
        )

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


class OwnDecoders(OwnBlocks):
    """A whole decoder for each task on the encoder's feature maps: only the encoder is shared.
    Shape: list of maps as for `Decoder` -> {task: (N, width, H_0, W_0)}."""

    shared_decoder = nn.Identity

    def part(self, width: int, channels: Sequence[int]) -> nn.Module:
        return Decoder(channels, width)


SHARING: dict[str, type[HardSharing]] = {"hard": HardSharing, "attention": AttentionMasks}
SHARING |= {"blocks": OwnBlocks, "gates": CrossTaskGates, "decoders": OwnDecoders}
