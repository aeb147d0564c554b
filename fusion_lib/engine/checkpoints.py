"""Trained models on disk, as files that cannot run code and are not believed unread."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fusion_lib.engine.files import write_whole
from fusion_lib.models import FusionModel

VERSION = 1  # of states, too; raise it when older code could not read what is written
CONFIGURATION: dict[str, type] = {"outputs": dict, "encoder": str, "width": int, "sharing": str}


def save_checkpoint(model: FusionModel, path: str | Path, **facts) -> None:
    """Write weights and configuration as one safetensors file.

    Args:
        model: its `config` is what rebuilds it.
        path: file to write. It appears whole or not at all; an older file stays until then.
        facts: anything JSON can hold, kept beside the configuration (decoding parameters, scores).

    Raises: ValueError, a weight is not finite; OSError, see `write_whole`.
    """
    from safetensors.torch import save

    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    _require_finite(state, "model", "nothing is written")
    metadata = {
        "version": str(VERSION),
        "config": json.dumps(model.config),
        "facts": json.dumps(facts),
        "sha256": _digest(state),
    }
    metadata["sha256_of_text"] = _text_digest(metadata)
    write_whole(path, save(state, metadata=metadata))


def load_checkpoint(path: str | Path) -> tuple[FusionModel, dict[str, Any]]:
    """Rebuild a model from `save_checkpoint`'s file; returns it in evaluation mode, on the CPU,
    with the facts. Shapes are compared before anything of their size is allocated.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no whole safetensors file (a pickle, or cut short), was written by a
            newer version, its weights are damaged or not finite, or its configuration or facts are
            missing or not what `save_checkpoint` writes.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path is {path.name}; there is no such checkpoint")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 no dict
    except SafetensorError as error:
        advice = "pickles are refused, a file cut short must be fetched or trained again"
        raise ValueError(f"{path.name} is no whole safetensors file ({error}); {advice}") from error
    if "config" not in metadata:
        raise ValueError(
            f"{path.name} has no 'config' in its metadata; write it by save_checkpoint"
        )
    refuse_newer(path, metadata.get("version", "1"))
    if metadata.get("sha256", digest := _digest(state)) != digest:  # older files have none
        raise ValueError(f"{path.name}: its weights are damaged; fetch or train it again")
    if metadata.get("sha256_of_text", digest := _text_digest(metadata)) != digest:
        raise ValueError(f"{path.name}: its facts are damaged; fetch or train it again")
    _require_finite(state, path.name, "train it again")
    try:
        config, facts = (json.loads(metadata.get(name, "{}")) for name in ("config", "facts"))
        if not isinstance(facts, dict):
            raise TypeError(f"facts are {facts!r}; expected names and values")
        model = _built(config, {name: tensor.shape for name, tensor in state.items()})
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


def _require_finite(state: dict[str, Tensor], name: str, advice: str) -> None:
    if bad := [n for n, t in state.items() if t.is_floating_point() and not t.isfinite().all()]:
        raise ValueError(f"{name}: its weights {bad[:3]} are not finite; {advice}")


def _text_digest(metadata: dict[str, str]) -> str:
    text = json.dumps([metadata.get(name) for name in ("version", "config", "facts")])
    return hashlib.sha256(text.encode()).hexdigest()


def _built(config: dict, shapes: dict[str, torch.Size]) -> FusionModel:
    if not isinstance(config, dict) or set(config) - set(CONFIGURATION):
        raise ValueError(f"configuration {config} has others than {list(CONFIGURATION)}")
    for name, value in config.items():
        if type(value) is not CONFIGURATION[name]:
            raise TypeError(f"{name} is {value!r}; expected {CONFIGURATION[name].__name__}")
    if not all(type(classes) is int for classes in config.get("outputs", {}).values()):
        raise TypeError(f"outputs is {config['outputs']}; expected whole numbers of classes")
    with torch.device("meta"):
        expected = {n: t.shape for n, t in FusionModel(**config).state_dict().items()}
    if differing := sorted(n for n in expected | shapes if expected.get(n) != shapes.get(n)):
        raise ValueError(f"{len(differing)} tensors differ, {differing[0]} among them")
    return FusionModel(**config)


def _digest(state: dict[str, Tensor]) -> str:
    """sha256 of names, types, shapes and values, in hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
