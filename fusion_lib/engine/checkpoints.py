"""Trained models on disk, as files that cannot run code and are not believed unread."""

import hashlib
import json
from pathlib import Path

import torch

from fusion_lib.engine.files import write_whole
from fusion_lib.models import FusionModel

VERSION = 1  # of states, too; raise it when older code could not read what is written
KNOWN = {"outputs", "encoder", "width", "sharing"}  # of a model's configuration


def save_checkpoint(model: FusionModel, path: str | Path, **facts) -> None:
    """Write weights and configuration as one safetensors file.

    Args: model, whose `config` rebuilds it; facts, what JSON can hold (decoding, scores).
    Raises: ValueError, a weight is not finite; OSError, see `write_whole`.
    """
    from safetensors.torch import save

    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    _require_finite(state, "model", "nothing is written")
    texts = {"config": json.dumps(model.config), "facts": json.dumps(facts)}
    texts["version"] = str(VERSION)
    write_whole(path, save(state, metadata=texts | _digests(state, texts)))


def load_checkpoint(path: str | Path) -> tuple[FusionModel, dict]:
    """Rebuild a model from `save_checkpoint`'s file; returns it in evaluation mode, on the CPU,
    with the facts. Shapes are compared before anything of their size is allocated.

    Raises: FileNotFoundError; ValueError, it is no whole safetensors file, of a newer version,
        damaged, not finite, or its configuration or facts are not what `save_checkpoint` writes.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 no dict
    except SafetensorError as error:
        advice = "pickles are refused, a file cut short must be fetched or trained again"
        raise ValueError(f"{path.name} is no whole safetensors file ({error}); {advice}") from error
    if "config" not in metadata:
        raise ValueError(f"{path.name} has no 'config' in it; write it by save_checkpoint")
    refuse_newer(path, metadata.get("version", "1"))
    for what, digest in _digests(state, metadata).items():
        if metadata.get(what, digest) != digest:  # older files have none
            damaged = "facts" if what == "sha256_of_text" else "weights"
            raise ValueError(f"{path.name}: its {damaged} are damaged; fetch or train it again")
    _require_finite(state, path.name, "train it again")
    try:
        config, facts = (json.loads(metadata.get(name, "{}")) for name in ("config", "facts"))
        if not (isinstance(config, dict) and isinstance(facts, dict)) or config.keys() - KNOWN:
            raise TypeError(f"expected facts and configuration by name, the latter of {KNOWN}")
        with torch.device("meta"):  # compares names and shapes, and allocates nothing
            FusionModel(**config).load_state_dict(state, assign=True)
        model = FusionModel(**config)
        model.load_state_dict(state)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        told = f"{path.name}: its weights do not fit its configuration {metadata['config']}"
        raise ValueError(f"{told}, or that is none: {error}") from error
    return model.eval(), facts


def refuse_newer(path: Path, version: int | str) -> None:
    """Raise ValueError for a file of a version that is to come, or of none."""
    if not str(version).isdecimal() or int(version) > VERSION:
        told = f"{path.name} was written by a newer fusion_lib (format {version}"
        raise ValueError(f"{told}, this one reads up to {VERSION}); update fusion_lib")


def _require_finite(state: dict[str, torch.Tensor], name: str, advice: str) -> None:
    if bad := [n for n, t in state.items() if t.is_floating_point() and not t.isfinite().all()]:
        raise ValueError(f"{name}: its weights {bad[:3]} are not finite; {advice}")


def _digests(state: dict[str, torch.Tensor], texts: dict[str, str]) -> dict[str, str]:
    """sha256 of the weights' names, types, shapes and values, and of the texts, in hexadecimal."""
    weights = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        weights.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    text = json.dumps([texts.get(name) for name in ("version", "config", "facts")]).encode()
    return {"sha256": weights.hexdigest(), "sha256_of_text": hashlib.sha256(text).hexdigest()}
