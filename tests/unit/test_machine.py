"""What the set-up cell says of the machine; the devices are stand-ins."""

import types

import pytest
import torch

from fusion_lib import models
from fusion_lib.engine import machine
from fusion_lib.lab import recipes
from fusion_lib.losses import FusionLoss

GIB = 2**30
HOSTS = {
    "Colab": {"COLAB_RELEASE_TAG": "release-colab_20250101"},
    "Kaggle": {
        "KAGGLE_KERNEL_RUN_TYPE": "Interactive",
        "COLAB_RELEASE_TAG": "its image is made from Colab's",
    },
    "Binder": {"BINDER_REPO_URL": "https://example.org/x", "MEM_LIMIT": str(2 * GIB)},
}


@pytest.fixture
def gpus(monkeypatch):
    """Pretends that there are so many GPUs with so much free memory; 0 is none, also where there is
    one."""

    def pretend(count: int, free: int = 0):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 16 * GIB))
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    return pretend


@pytest.fixture
def ram(monkeypatch):
    """Pretends that so many bytes of main memory are free, and that this process takes half a
    GiB."""

    def pretend(available: int):
        monkeypatch.setattr(
            machine.psutil, "virtual_memory", lambda: types.SimpleNamespace(available=available)
        )
        process = types.SimpleNamespace(memory_info=lambda: types.SimpleNamespace(rss=GIB // 2))
        monkeypatch.setattr(machine.psutil, "Process", lambda: process)

    return pretend


@pytest.fixture
def on(monkeypatch):
    """Pretends that the environment's variables are those of a host."""

    def pretend(variables: dict):
        for name in {name for host in HOSTS.values() for name in host}:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return pretend


@pytest.mark.parametrize(
    "environment, words",
    [
        (HOSTS["Colab"], "Runtime > Change runtime type > T4 GPU"),
        (HOSTS["Kaggle"], "Settings > Accelerator > GPU T4 x2"),
        (HOSTS["Binder"], "Binder has none"),
        ({}, "none is needed"),
        ({"COLAB_RELEASE_TAG": ""}, "none is needed"),
    ],
)
def test_without_a_gpu_it_says_how_to_get_one_there(gpus, on, environment, words):
    gpus(0)
    on(environment)
    line = machine.accelerator()
    begins = f"CPU, threads: {torch.get_num_threads()}; no GPU found ("
    assert line.startswith(begins) and words in line
    advices = ("Runtime >", "Settings >", "Binder has", "is needed")
    assert sum(advice in line for advice in advices) == 1


def test_a_gpu_is_named_and_nothing_is_advised(gpus, on, monkeypatch):
    gpus(1)
    on(HOSTS["Colab"])
    assert machine.accelerator() == "GPU: Tesla T4"
    gpus(2)
    on(HOSTS["Kaggle"])
    assert machine.accelerator() == "GPU: Tesla T4, the first of 2"
    gpus(0)
    on({})
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert machine.accelerator() == "GPU: Apple MPS"


def test_free_memory_is_that_of_the_gpu_else_main_memory_within_the_hubs_limit(gpus, ram, on):
    ram(10 * GIB)
    gpus(1, free=15 * GIB)
    on(HOSTS["Binder"])
    assert machine.free_memory() == 15 * GIB
    gpus(0)
    assert machine.free_memory() == 2 * GIB - GIB // 2
    for limit, expected in ((str(GIB // 4), 0), (str(64 * GIB), 10), ("none", 10)):
        on({"MEM_LIMIT": limit})
        assert machine.free_memory() == expected * GIB
    on({})
    assert machine.free_memory() == 10 * GIB


@pytest.mark.parametrize(
    "gib, expected",
    [
        (80, (64, (240, 320))),
        (15, (32, (240, 320))),
        (7.5, (16, (240, 320))),
        (2, (8, (192, 256))),
        (1, (8, (120, 160))),
        (0.2, (8, (64, 64))),
        (0.05, (2, (64, 64))),
        (0, (1, (64, 64))),
    ],
)
def test_batch_and_size_that_fit(gib, expected):
    """By hand: 3,072 bytes a pixel in four fifths of the memory, so 1 GiB holds 279,620 pixels."""
    assert machine.fitting(int(gib * GIB)) == expected


def test_more_memory_never_holds_less_and_what_fits_does():
    last = (0, 0)
    for free in range(0, 20 * GIB, GIB // 16):
        batch, (height, width) = machine.fitting(free)
        assert (height * width, batch) >= last and batch & (batch - 1) == 0
        assert batch * height * width * machine.BYTES_A_PIXEL <= machine.SHARE * free or (
            batch,
            height,
        ) == (1, 64)
        last = (height * width, batch)


def test_negative_memory():
    with pytest.raises(ValueError, match="free is -1; expected a number of bytes, 0 or more"):
        machine.fitting(-1)


def kept_bytes(model, images, batch) -> int:
    """Bytes that the forward pass keeps for the backward pass, without parameters."""
    own = {
        tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())
    }
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = (
            tensor  # alive, so that no address is used twice
        )
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        FusionLoss()(model(images), batch)
    return sum(
        tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in own
    )


def test_the_rule_covers_what_the_largest_model_keeps():
    """Activations take most of a step; gradients and workspace must find room in the third that is
    left."""
    arguments = {**recipes.PHOTOGRAPHS_FUSED.model, "pretrained": False}
    height, width = 96, 128
    batch = {
        name: torch.zeros(2, height, width, dtype=torch.long)
        for name in ("semantic", "region_target")
    }
    kept = kept_bytes(
        models.FusionModel(recipes.TASKS, **arguments), torch.rand(2, 3, height, width), batch
    )
    share = kept / (2 * height * width) / machine.BYTES_A_PIXEL
    assert 0.5 < share < 0.7, (
        f"activations take {share:.0%} of BYTES_A_PIXEL; measure a step's peak anew"
    )


def test_description_has_two_lines(gpus, ram, on):
    gpus(0)
    ram(12 * GIB)
    on(HOSTS["Colab"])
    first, second = machine.describe().splitlines()
    assert first == machine.accelerator()
    assert second == "12.0 GiB free: enough to train on batches of 32 pictures of 240 x 320 pixels"
    gpus(1, free=GIB)
    assert machine.describe().endswith(
        "\n1.0 GiB free: enough to train on batches of 8 pictures of 120 x 160 pixels"
    )


def test_processor_is_named_as_the_system_names_it(tmp_path, monkeypatch):
    about = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "Path", lambda path: about)
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    monkeypatch.setattr(machine.platform, "machine", lambda: "arm64")
    assert machine.processor() == "arm64"
    about.write_text(
        "processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nprocessor\t: 1\nmodel name\t: Some CPU @ 3"
        " GHz\n"
    )
    assert machine.processor() == "Some CPU @ 3 GHz"
