"""The switches that make a step faster: each can be turned on, and one that cannot says why."""

import json

import pytest
import torch
from examples import tiny_loaders, tiny_model

from fusion_lib import training
from fusion_lib.engine import devices
from fusion_lib.lab import speed
from fusion_lib.losses import FusionLoss

CPU = torch.device("cpu")


def test_every_switch_can_be_timed():
    rates = speed.ladder(CPU, (32, 32), 2, steps=1, compile=False)
    assert tuple(rates) == ("plain", *speed.SWITCHES)
    assert all(rates[name] > 0 for name in list(rates)[:-1]) and rates["compiled"].startswith(
        "left out"
    )


def test_rates_are_those_of_the_median_turn(monkeypatch):
    """Six networks a turn; the second turn is disturbed, in the third all are a little faster."""
    seen = []

    def rate(step, device, batch_size, steps):
        seen.append(step)
        return (10.0, 1.0, 11.0)[(len(seen) - 1) // 6] + (len(seen) - 1) % 6

    monkeypatch.setattr(speed, "_pictures_a_second", rate)
    monkeypatch.setattr(speed, "_step", lambda device, on, size, batch_size: (on, ""))
    rates = speed.ladder(CPU, compile=False)
    assert [rates[name] for name in ("plain", *speed.SWITCHES[:-1])] == [10, 11, 12, 13, 14, 15]
    assert seen == 3 * [speed.SWITCHES[:count] for count in range(6)]


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
    history = training.train(
        tiny_model(), FusionLoss(), *tiny_loaders(), epochs=2, device=CPU, compile=True
    )
    assert history[-1]["val_total"] == plain[-1]["val_total"]
    assert capsys.readouterr().out == "not compiled: RuntimeError: no compiler\n"


def test_compiler_that_fails_without_a_word(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model: silent)
    assert devices.compiled(tiny_model(), torch.rand(2, 3, 16, 16))[1] == "RuntimeError: "


def silent(images):
    raise RuntimeError


def test_trying_a_compiled_model_leaves_no_trace(monkeypatch):
    monkeypatch.setattr(
        torch, "compile", lambda model: model
    )  # the compiler itself is PyTorch's to test
    model = tiny_model().train()
    before = {name: values.clone() for name, values in model.state_dict().items()}
    faster, problem = devices.compiled(model, torch.rand(2, 3, 16, 16))
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
    assert devices.half_precision(CPU) == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert devices.half_precision(torch.device("cuda")) == torch.float16


def test_profile_shares_out_all_of_the_time():
    shares = speed.profile(CPU, (32, 32), 2, steps=2)
    assert set(shares) == {*speed.GROUPS, "other"} and sum(shares.values()) == pytest.approx(1)
    assert all(0 < share < 1 for share in shares.values())


def traffic(work) -> int:
    with speed._Traffic() as counted:
        work()
    return counted.bytes


def test_traffic_is_what_operations_read_and_write():
    """400 bytes a tensor."""
    one, other, third = (torch.rand(10, 10) for _ in range(3))
    assert traffic(lambda: one + other) == 1200
    assert traffic(lambda: one.view(100).t()) == 0
    assert traffic(lambda: one.add_(other)) == 1200  # reads both, writes one
    assert traffic(lambda: one.copy_(other)) == 800
    assert traffic(lambda: one.zero_()) == 400 == traffic(lambda: torch.zeros_like(one))
    assert traffic(lambda: torch.empty_like(one)) == 0
    assert traffic(lambda: torch._foreach_mul_([one, other], [other, third])) == 6 * 400


def test_limits_are_those_of_a_product_and_a_copy():
    limits = speed.limits(CPU)
    assert 1e8 < limits["operations"] < 1e15 and 1e8 < limits["bytes"] < 1e14


def test_needs_of_a_picture_grow_with_its_pixels():
    small, large = (speed.needs(CPU, (side, side), 2) for side in (32, 64))
    assert large["operations"] == pytest.approx(4 * small["operations"], rel=0.05)
    assert (
        1.5 * small["bytes"] < large["bytes"] < 4 * small["bytes"]
    )  # parameters are read whatever the picture


def test_report_is_kept_beside_those_of_other_devices(tmp_path, monkeypatch, capsys):
    rates = {"plain": 2.0, "no waiting": 3.0, "compiled": "left out: no compiler"}
    measured = {
        "torch": "2.9",
        "size": [240, 320],
        "batch": 8,
        "rates": rates,
        "data": {"loader on the CPU": 30.0},
        "fused_over_two": 0.5,
        "limits": {"operations": 1e11, "bytes": 2e10},
        "needs": {"operations": 1e10, "bytes": 5e8},
        "rivals": {"semantic only": 5.0, "LRASPP": 6.0},
    }
    monkeypatch.setattr(speed, "report", lambda device, steps, batch_size: measured)
    monkeypatch.setattr(speed, "STORED", tmp_path / "speed.json")
    (tmp_path / "speed.json").write_text('{"a GPU": 1}')
    speed.main([])
    assert json.loads((tmp_path / "speed.json").read_text()) == {"a GPU": 1}
    speed.main(["--store"])
    stored = json.loads((tmp_path / "speed.json").read_text())
    assert stored.pop("a GPU") == 1 and list(stored.values()) == [measured]
    said = capsys.readouterr().out
    assert (
        "no waiting                3.0 pictures a second, 1.50 of plain" in said
        and "compiled             left out: no compiler" in said
    )
    assert (
        "10.00 G operations a picture; the device does 100 G operations a second, enough for 10"
        " pictures; reached: 30%" in said
    )
    assert (
        "0.50 GB a picture; the device does 20 GB a second, enough for 40 pictures; reached: 8%"
        in said
    )
    assert "LRASPP                    6.0 pictures a second, 1.20 of semantic only" in said


def test_rivals_are_timed_in_turns_with_our_networks(monkeypatch):
    """Five turns; the rate is that of the median time, 2 pictures in 1, 2, ... 5 seconds for the
    first to the last network."""
    seen = []

    def time_step(network, images, precision, repeats):
        seen.append(tuple(images.shape))
        place, turn = (len(seen) - 1) % 5, (len(seen) - 1) // 5
        return 1e3 * (place + 1) * (100 if turn in (0, 3) else 1)  # two turns are disturbed

    monkeypatch.setattr(training, "time_step", time_step)
    rates = speed.decoder_rates(CPU, 2)
    assert rates == pytest.approx(
        {"semantic only": 2.0, "own decoders": 1.0, "Unet": 2 / 3, "FPN": 0.5, "LRASPP": 0.4}
    )
    assert seen == [(2, 3, 256, 320)] * 25
