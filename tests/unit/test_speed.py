"""The switches that make a step faster: each can be turned on, and one that cannot says why."""

import pytest
import torch

from examples import tiny_loaders, tiny_model
from fusion_lib import speed, training
from fusion_lib.losses import FusionLoss

CPU = torch.device("cpu")


def test_every_switch_can_be_timed():
    rates = speed.ladder(CPU, (32, 32), 2, steps=1, compile=False)
    assert tuple(rates) == ("plain", *speed.SWITCHES)
    assert all(rates[name] > 0 for name in list(rates)[:-1]) and rates["compiled"].startswith("left out")


def broken(model):
    def fail(images):
        raise RuntimeError("no compiler\nat all")

    return fail


def test_what_does_not_compile_is_left_out_with_the_reason(monkeypatch):
    monkeypatch.setattr(torch, "compile", broken)
    rates = speed.ladder(CPU, (32, 32), 2, steps=1)
    assert rates["compiled"] == "left out: RuntimeError: no compiler"


def test_run_goes_on_without_the_compiler(monkeypatch, capsys):
    plain = training.train(tiny_model(), FusionLoss(), *tiny_loaders(), epochs=2, device=CPU)
    monkeypatch.setattr(torch, "compile", broken)
    history = training.train(tiny_model(), FusionLoss(), *tiny_loaders(), epochs=2, device=CPU, compile=True)
    assert history[-1]["val_total"] == plain[-1]["val_total"]
    assert capsys.readouterr().out == "not compiled: RuntimeError: no compiler\n"


def test_compiler_that_fails_without_a_word(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model: silent)
    assert training.compiled(tiny_model(), torch.rand(2, 3, 16, 16))[1] == "RuntimeError: "


def silent(images):
    raise RuntimeError


def test_trying_a_compiled_model_leaves_no_trace(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model: model)  # the compiler itself is PyTorch's to test
    model = tiny_model().train()
    before = {name: values.clone() for name, values in model.state_dict().items()}
    faster, problem = training.compiled(model, torch.rand(2, 3, 16, 16))
    assert faster is model and problem == ""
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("resident", [False, True])
def test_data_paths_are_timed_alone(resident):
    loader = speed.loaders(CPU, (32, 32), 4)[resident]
    assert speed.data_rate(loader, CPU, 2) > 0
    batch = next(iter(loader))
    assert batch["image"].shape == (4, 3, 32, 32) and batch["image"].dtype == torch.float32


def test_half_precision_of_a_device(monkeypatch):
    assert training.half_precision(CPU) == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert training.half_precision(torch.device("cuda")) == torch.float16


def test_profile_shares_out_all_of_the_time():
    shares = speed.profile(CPU, (32, 32), 2, steps=2)
    assert set(shares) == {*speed.GROUPS, "other"} and sum(shares.values()) == pytest.approx(1)
    assert all(0 < share < 1 for share in shares.values())
