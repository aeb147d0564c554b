"""What is kept on disk: trained models, and the state of a run that may be killed at any moment."""

from __future__ import annotations

import json
from pathlib import Path

from fusion_lib.engine.files import write_whole
from fusion_lib.models import FusionModel

VERSION = 1  # of both files; raise it when older code could not read what is written


def save_checkpoint(model: FusionModel, path: str | Path, **facts) -> None:
    """Write weights and configuration as one safetensors file, which cannot run code when it is
    read.

    Args:
        model: its `config` is what rebuilds it.
        path: file to write. It appears whole or not at all; an older file stays until then.
        facts: anything JSON can hold, kept beside the configuration (decoding parameters, scores).
    """
    from safetensors.torch import save

    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    metadata = {
        "version": str(VERSION),
        "config": json.dumps(model.config),
        "facts": json.dumps(facts),
    }
    write_whole(path, save(state, metadata=metadata))


def load_checkpoint(path: str | Path) -> tuple[FusionModel, dict]:
    """Rebuild a model from `save_checkpoint`'s file; returns it in evaluation mode, on the CPU,
    with the facts.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no whole safetensors file (a pickle, or cut short), holds no
            configuration, was written by a newer version, or its weights do not fit its
            configuration.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path is {path.name}; there is no such checkpoint")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(
            f"{path.name} is no whole safetensors file ({error}); pickles are refused, a file cut"
            " short must be fetched or trained again"
        ) from error
    if "config" not in metadata:
        raise ValueError(
            f"{path.name} has no 'config' in its metadata; write it with save_checkpoint"
        )
    _refuse_newer(path, int(metadata.get("version", 1)))
    try:
        model = FusionModel(**json.loads(metadata["config"]))
        model.load_state_dict(state)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path.name}: its weights do not fit its configuration {metadata['config']}: {error}"
        ) from error
    return model.eval(), json.loads(metadata.get("facts", "{}"))


def _refuse_newer(path: Path, version: int) -> None:
    if version > VERSION:
        raise ValueError(
            f"{path.name} was written by a newer fusion_lib (format {version}, this one reads up to"
            f" {VERSION}); update fusion_lib"
        )
