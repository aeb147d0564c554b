"""Which files are the project's."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOT_OURS = {".git", ".venv", "build", "__pycache__", ".ipynb_checkpoints", ".pytest_cache", "runs"}


def files() -> list[Path]:
    """What git tracks or would track; in a copy without git, everything but what is built."""
    try:
        command = [
            "git",
            "-C",
            ROOT,
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(
            "\0"
        )
        found = [ROOT / name for name in names if name]
    except (OSError, subprocess.CalledProcessError):
        found = [
            path for path in ROOT.rglob("*") if not NOT_OURS & set(path.relative_to(ROOT).parts)
        ]
        found = [
            path for path in found if not any(part.endswith(".egg-info") for part in path.parts)
        ]
    return sorted(path for path in found if path.is_file())
