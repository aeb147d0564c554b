"""What the tasks share, and what each has of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusion_lib.models.layers import ConvBlock, Decoder


class AttentionMasks(nn.Module):
    """One soft mask for each task over the shared features: F_t = sigmoid(W_t * F) . F (after Liu
    et al. 2019, eq. 1-2).

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
    """Own features F_t = ConvBlock_t(F) for each task: the last layer before the classifier is no
    longer shared.

    Shape: as `AttentionMasks`.
    """

    def __init__(self, tasks: list[str], width: int):
        super().__init__()
        self.own = nn.ModuleDict({task: ConvBlock(width, width) for task in tasks})

    def forward(self, shared: Tensor) -> dict[str, Tensor]:
        return {task: block(shared) for task, block in self.own.items()}


class CrossTaskGates(OwnBlocks):
    """Own features F_t for each task, and gates that let the other tasks' features in.

    G_t = F_t + sum_{o != t} sigmoid(W_to * [F_t, F_o]) . F_o, with F_t as `OwnBlocks` has it. Such
    gates are found in Gated-SCNN (Takikawa et al. 2019, eq. 1-2, from shape to shape stream) and
    PAD-Net (Xu et al. 2018, eq. 3).

    Shape: as `AttentionMasks`.
    """

    def __init__(self, tasks: list[str], width: int):
        super().__init__(tasks, width)
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
