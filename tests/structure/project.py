"""Which files are the project's."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOT_OURS = {".git", ".venv", "build", "__pycache__", ".ipynb_checkpoints", ".pytest_cache", "runs"}


def files() -> list[Path]:
    """What git tracks or would track; in a copy without git, everything but what is built."""
    listed = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(
            ["git", "-C", ROOT, *listed], capture_output=True, text=True, check=True
        )
        found = [ROOT / name for name in done.stdout.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        found = [path for path in ROOT.rglob("*") if not any(map(_built, _parts(path)))]
    return sorted(path for path in found if path.is_file())


def _parts(path: Path) -> tuple[str, ...]:
    return path.relative_to(ROOT).parts


def _built(part: str) -> bool:
    return part in NOT_OURS or part.endswith(".egg-info")
