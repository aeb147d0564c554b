"""What every unit test shares: no window, no network, no cache but a temporary one."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
import torch


@pytest.fixture(autouse=True)
def no_window(monkeypatch):
    """`plt.show` on a machine without a screen does nothing; figures are closed after each test."""
    monkeypatch.setattr(plt, "show", lambda *args, **kwargs: None)
    yield
    plt.close("all")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and no archive from the environment."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FUSION_CACHE", str(folder))
    monkeypatch.delenv("FUSION_STANFORD_ARCHIVE", raising=False)
    return folder
