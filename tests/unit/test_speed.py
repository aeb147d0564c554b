"""The switches that make a step faster: each can be turned on, and one that cannot says why."""

from types import SimpleNamespace

import pytest
import torch
from examples import tiny_loaders, tiny_model, tiny_samples
from torch.utils.data import DataLoader

from fusion_lib import training
from fusion_lib.engine import devices
from fusion_lib.engine.resident import ResidentLoader
from fusion_lib.lab import speed
from fusion_lib.losses import FusionLoss

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """Works are done once and take 1, 2, 3, ... seconds, in the order in which they are timed."""
    timed = []

    def seconds(work, repeats):
        work()
        timed.append((work, repeats))
        return float(len(timed))

    monkeypatch.setattr(speed, "seconds", seconds)
    return timed


def test_a_work_is_done_as_often_as_told_after_two_to_warm_up(monkeypatch):
    """A clock that advances by 1 s a call, and by 10 s while the device, whichever it is, finishes:
    5 calls and one wait make 15 s."""
    now = [0.0]

    def advance(duration):
        now[0] += duration

    device = SimpleNamespace(synchronize=lambda: advance(10.0))
    monkeypatch.setattr(torch, "get_device_module", lambda name: device)
    monkeypatch.setattr(speed.timeit, "default_timer", lambda: now[0])
    assert speed.seconds(lambda: advance(1.0), 5) == 3.0
    assert now == [27.0]


@pytest.mark.parametrize("device", ["cuda", "mps", "cpu"])
def test_the_device_is_waited_for(monkeypatch, device):
    waited = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: device == "mps")
    monkeypatch.setattr(getattr(torch, device), "synchronize", lambda: waited.append(device))
    speed._now()
    assert waited == [device]


def test_every_switch_can_be_timed(clock):
    """In each of three turns all six are done; the median turn is the second, where they take 7 to
    12 seconds for 4 steps' 2 pictures."""
    rates = speed.ladder(CPU, (32, 32), 2, steps=4, compile=False)
    assert tuple(rates) == ("plain", *speed.SWITCHES)
    assert rates.pop("compiled") == "left out, compiling takes longer than these steps"
    assert list(rates.values()) == pytest.approx([2 / seconds for seconds in range(7, 13)])
    assert len(clock) == 18 and {repeats for _, repeats in clock} == {4}


def test_switches_are_turned_on_one_after_the_other(monkeypatch, clock):
    tried = []
    monkeypatch.setattr(speed, "_step", lambda device, on, *rest: lambda: tried.append(on))
    speed.ladder(CPU, (32, 32), 2, steps=1)
    assert tried == 3 * [speed.SWITCHES[:count] for count in range(7)]


def broken(model):
    def fail(images):
        raise RuntimeError("no compiler\nat all")

    return fail


def test_what_does_not_compile_is_left_out_with_the_reason(monkeypatch, clock):
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
def test_data_paths_are_timed_alone(resident, clock):
    """4 pictures in the 1 second that the first work takes."""
    loader = speed.loader((32, 32), 4, resident)
    assert isinstance(loader, ResidentLoader) == resident
    assert speed.data_rate(CPU, (32, 32), 4, resident) == 4.0
    assert clock[0][0]()["image"].shape == (4, 3, 32, 32) and clock[0][1] == 30
    batch = next(iter(loader))
    assert batch["image"].shape == (4, 3, 32, 32) and batch["image"].dtype == torch.float32


def test_loader_begins_again_when_it_ends(clock, monkeypatch):
    monkeypatch.setattr(speed, "loader", lambda *given: DataLoader(tiny_samples(3), 2))
    speed.data_rate(CPU, (32, 32), 2, resident=False)
    for _ in range(5):
        clock[0][0]()


def test_half_precision_of_a_device(monkeypatch):
    assert devices.half_precision(CPU) == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert devices.half_precision(torch.device("cuda")) == torch.float16


def test_operations_are_shared_out_among_groups():
    """The first group that fits has an operation; what fits none is "other"."""
    spent = {
        "aten::mkldnn_convolution": 30.0,
        "cudnn_wgrad_bn_relu": 10.0,  # a convolution's gradient before it is batch norm
        "enumerate(DataLoader)#_Single": 5.0,
        "aten::native_batch_norm": 15.0,
        "aten::upsample_bilinear2d": 4.0,
        "aten::nll_loss2d_forward": 6.0,
        "Optimizer.step#AdamW.step": 10.0,
        "aten::relu": 20.0,
    }
    assert speed.shares(spent) == pytest.approx(
        {
            "convolutions": 0.4,
            "loader": 0.05,
            "batch norm": 0.15,
            "resizing": 0.04,
            "loss": 0.06,
            "optimizer": 0.1,
            "other": 0.2,
        }
    )


def test_profile_is_of_the_operations_of_a_step(monkeypatch):
    """All that a step does is among what the profiler saw."""
    seen: dict = {}
    shared_out = speed.shares
    monkeypatch.setattr(speed, "shares", lambda spent: seen.update(spent) or shared_out(spent))
    found = speed.profile(CPU, (32, 32), 2, steps=1)
    assert list(found) == [*speed.GROUPS, "other"] and sum(found.values()) == pytest.approx(1)
    for words in speed.GROUPS.values():
        assert any(word in name.lower() for name in seen for word in words)


def traffic(work) -> int:
    with speed._Traffic() as counted:
        work()
    return counted.bytes


def test_traffic_is_what_operations_read_and_write():
    """400 bytes a tensor. What is filled counts as read, and a list that is changed in place, which
    gives nothing back, as all that it is given, twice."""
    one, other, third = (torch.rand(10, 10) for _ in range(3))
    assert traffic(lambda: one + other) == 1200
    assert traffic(lambda: one.view(100).t()) == 0
    assert traffic(lambda: one.add_(other)) == 1200  # reads both, writes one
    assert traffic(lambda: one.copy_(other)) == 1200
    assert traffic(lambda: one.zero_()) == 800 == traffic(lambda: torch.zeros_like(one))
    assert traffic(lambda: torch.empty_like(one)) == 0
    assert traffic(lambda: torch._foreach_mul_([one, other], [other, third])) == 8 * 400


def test_limits_are_those_of_a_product_and_a_copy(clock):
    """Each is measured three times, and the first takes least: the product 1 s in 32-bit numbers
    and 4 s in 16-bit ones, the copy of 64 MiB, read and written, 7 s."""
    limits = speed.limits(CPU)
    assert limits == {"operations": 2 * 1024**3 / 1, "bytes": 2 * 64 * 2**20 / 7}
    assert len(clock) == 9 and all(repeats == 5 for _, repeats in clock)


def test_needs_of_a_picture_grow_with_its_pixels():
    small, large = (speed.needs(CPU, (side, side), 2) for side in (32, 64))
    assert large["operations"] == pytest.approx(4 * small["operations"], rel=0.05)
    assert (
        1.5 * small["bytes"] < large["bytes"] < 4 * small["bytes"]
    )  # parameters are read whatever the picture


def test_rivals_are_timed_in_turns_with_our_networks(monkeypatch):
    """Five turns; the rate is that of the median time, 2 pictures in 1, 2, ... 5 seconds for the
    first to the last network."""
    seen = []

    def time_step(network, images, precision, repeats):
        seen.append(tuple(images.shape))
        place, turn = (len(seen) - 1) % 5, (len(seen) - 1) // 5
        return 1e3 * (place + 1) * (100 if turn in (0, 3) else 1)  # two turns are disturbed

    monkeypatch.setattr(speed.models, "time_step", time_step)
    rates = speed.decoder_rates(CPU, 2)
    assert rates == pytest.approx(
        {"semantic only": 2.0, "own decoders": 1.0, "Unet": 2 / 3, "FPN": 0.5, "LRASPP": 0.4}
    )
    assert seen == [(2, 3, 256, 320)] * 25


def test_networks_are_timed_as_they_train(monkeypatch):
    seen = []

    def time_step(network, images, precision, repeats):
        seen.append((network.training, precision, repeats))
        return 250.0

    monkeypatch.setattr(speed.models, "time_step", time_step)
    rates = speed.network_rates(CPU, {"a": tiny_model().eval()}, (2, 3, 16, 16))
    assert rates == {"a": 8.0} and set(seen) == {(True, torch.float32, 3)}
