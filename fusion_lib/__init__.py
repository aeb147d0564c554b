"""One CNN for semantic and image segmentation, trained together and fused.

The core follows the data, which flows one way:
scenes -> datasets -> transforms -> targets -> models -> losses -> weighting -> training ->
prediction -> regions -> metrics -> plots
Beside it stand `engine`, which keeps a run safe and fast, and `lab`, which makes the numbers of the
pages. What a user wants first is found here, too; its module is imported when it is first used.
"""

import importlib

_MODULES = {
    "datasets": ("FolderDataset", "Scenes", "StanfordBackground"),
    "models": ("FusionModel", "TwoNetworks"),
    "losses": ("FusionLoss",),
    "training": ("seed_everything", "train"),
    "prediction": ("predict",),
    "regions": ("fuse",),
    "evaluation": ("evaluate",),
    "engine.checkpoints": ("load_checkpoint", "save_checkpoint"),
    "engine.files": ("data_file",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"fusion_lib has no {name!r}; it has {', '.join(__all__)} and modules")
    module = importlib.import_module(f"fusion_lib.{_HOME[name]}")
    return globals().setdefault(name, getattr(module, name))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
