"""The training loop, its memory, and what must survive an interruption, a full disk or a bad
file."""

import builtins
import errno
import json
import math
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from examples import tiny_loaders, tiny_model, tiny_samples
from safetensors.torch import save_file
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader

from fusion_lib import training, weighting
from fusion_lib.engine import checkpoints, devices, guards, states
from fusion_lib.engine.checkpoints import load_checkpoint, save_checkpoint
from fusion_lib.losses import FusionLoss
from fusion_lib.models import FusionModel, TwoNetworks
from fusion_lib.prediction import predict
from fusion_lib.training import seed_everything, train, validate

CPU = torch.device("cpu")


def run(model=None, loss=None, loaders=None, epochs=3, **options):
    model = tiny_model() if model is None else model
    loaders = tiny_loaders() if loaders is None else loaders
    options = {"learning_rate": 1e-2, "device": CPU, **options}
    return model, train(
        model, FusionLoss() if loss is None else loss, *loaders, epochs=epochs, **options
    )


def without_times(history: list[dict]) -> list[dict]:
    """What a run of the same settings must repeat: all but its cost."""
    return [
        {name: value for name, value in entry.items() if name not in ("seconds", "memory_mib")}
        for entry in history
    ]


def assert_same_weights(one, other) -> None:
    one, other = one.state_dict(), other.state_dict()
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- seeds and devices -------------------------------------------------------------------------


def test_seed_everything_seeds_all_three():
    def draw():
        return random.random(), np.random.random(), torch.rand(1).item()

    seed_everything(7)
    first, second = draw(), draw()
    seed_everything(7)
    assert draw() == first != second
    seed_everything(8)
    assert all(a != b for a, b in zip(draw(), first))


def test_seed_may_be_larger_than_numpy_takes():
    seed_everything(2**40 + 3)


def test_choose_device():
    assert devices.choose_device("cpu") == CPU
    expected = (
        "cuda"
        if torch.cuda.is_available()
        else "mps"
        if torch.backends.mps.is_available()
        else "cpu"
    )
    assert devices.choose_device().type == expected


@pytest.mark.parametrize(
    "name", ["gpu", "", "CPU", *([] if torch.cuda.is_available() else ["cuda", "cuda:1"])]
)
def test_device_that_is_not_there(name):
    with pytest.raises(
        ValueError, match=rf"device is '{name}', which this machine lacks; it has \[.*'cpu'"
    ):
        devices.choose_device(name)


# --- what a run does ---------------------------------------------------------------------------


def test_encoder_learns_at_its_share_of_the_rate(tmp_path):
    """With a share of nearly nothing the encoder hardly moves, and all else does."""
    start, model = tiny_model(), tiny_model()
    run(model, epochs=2, encoder_factor=1e-6, folder=tmp_path, weight_decay=0.0, stop_after=1)
    moved = {
        name: (values.detach() - start.state_dict()[name]).abs().max()
        for name, values in model.named_parameters()
    }
    encoder = [float(change) for name, change in moved.items() if name.startswith("encoder.")]
    others = [float(change) for name, change in moved.items() if not name.startswith("encoder.")]
    assert 0 < max(encoder) < 1e-6 and min(others) > 1e-4
    with pytest.raises(ValueError, match="encoder_factor"):
        run(model, epochs=2, encoder_factor=0.5, folder=tmp_path, weight_decay=0.0)


def test_it_learns_and_tells_its_history():
    _, history = run(epochs=16)
    assert [entry["epoch"] for entry in history] == list(range(16))
    names = {
        f"{split}_{part}" for split in ("train", "val") for part in ("total", "semantic", "region")
    }
    names |= {
        "epoch",
        "learning_rate",
        "seconds",
        "memory_mib",
        "val_miou_semantic",
        "val_miou_region",
        "val_score",
    }
    assert all(set(entry) == names for entry in history)
    assert all(entry["seconds"] > 0 and 20 < entry["memory_mib"] < 100_000 for entry in history)
    assert history[-1]["train_total"] < 0.4 * history[0]["train_total"]
    assert max(entry["val_miou_semantic"] for entry in history) > 0.9
    for entry in history:
        assert entry["train_total"] == pytest.approx(
            entry["train_semantic"] + entry["train_region"], rel=1e-5
        )
        assert entry["val_score"] == pytest.approx(
            (entry["val_miou_semantic"] + entry["val_miou_region"]) / 2
        )


def test_one_batch_can_be_learned_by_heart():
    """The sanity check of notebook 04: without it, no result of a longer run means anything."""
    loader = DataLoader(tiny_samples(2), 2)
    model = FusionModel({"semantic": 3, "region": 3}, width=8)
    _, history = run(model, loaders=(loader, loader), epochs=40, learning_rate=2e-2)
    assert history[-1]["train_total"] < 0.02 * history[0]["train_total"]


def test_one_task_alone():
    _, history = run(tiny_model(outputs={"region": 3}))
    assert "train_region" in history[0] and "train_semantic" not in history[0]
    assert history[0]["val_score"] == history[0]["val_miou_region"]


def test_equal_seeds_give_equal_runs_and_others_do_not():
    one, other, third = (run(seed=seed) for seed in (4, 4, 5))
    assert without_times(one[1]) == without_times(other[1]) != without_times(third[1])
    assert_same_weights(one[0], other[0])


def test_initial_weights_are_the_callers():
    one, other = (without_times(run(tiny_model(seed), epochs=1)[1]) for seed in (1, 2))
    assert one != other


def test_best_epoch_stays_in_the_model(monkeypatch, tmp_path):
    seen, scores = [], iter([0.2, 0.9, 0.9, 0.1])

    def scripted(model, *args):
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"val_total": 1.0, "val_semantic": 1.0, "val_region": 1.0, "val_score": next(scores)}

    monkeypatch.setattr(training, "validate", scripted)
    model, _ = run(epochs=4, folder=tmp_path)
    kept, facts = load_checkpoint(tmp_path / "best.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, seen[1][name])  # the first of two equal scores
        assert torch.equal(kept.state_dict()[name], seen[1][name])
    assert facts == {"epoch": 1, "val_score": 0.9}


def test_weights_that_broke_in_the_last_batch_are_not_kept(monkeypatch, tmp_path):
    """A gradient can break the weights after the last loss was checked: the validation notices,
    nothing is saved."""
    monkeypatch.setattr(
        training,
        "validate",
        lambda *args: {
            "val_total": math.nan,
            "val_semantic": math.nan,
            "val_region": 1.0,
            "val_score": 0.0,
        },
    )
    with pytest.raises(
        FloatingPointError, match="task semantic is not finite in the validation after epoch 0"
    ):
        run(epochs=1, folder=tmp_path)
    assert not (tmp_path / "state.pt").exists()


@pytest.mark.parametrize("nothing", [{"epochs": 0}, {"stop_after": 0}])
def test_a_run_of_no_epochs_is_refused(nothing):
    with pytest.raises(ValueError, match="expected at least one of each"):
        run(**nothing)


def one_cycle(step: int, steps: int, highest: float) -> float:
    """Cosine from highest / 25 up to highest over 30% of the steps, and down to highest /
    250,000."""

    def cosine(start, end, share):
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))

    top = 0.3 * steps - 1
    if step <= top:
        return cosine(highest / 25, highest, step / top)
    return cosine(highest, highest / 25 / 1e4, (step - top) / (steps - 1 - top))


def test_learning_rate_is_one_cycle_over_the_whole_run():
    rates, decays, norms = [], [], []

    def look(optimizer, args, kwargs):
        rates.append(optimizer.param_groups[0]["lr"])
        decays.append(optimizer.param_groups[0]["weight_decay"])
        gradients = [p.grad.norm() for group in optimizer.param_groups for p in group["params"]]
        norms.append(torch.stack(gradients).norm().item())

    handle = register_optimizer_step_pre_hook(look)
    try:
        _, history = run(epochs=4, learning_rate=0.02, weight_decay=0.05, gradient_clip=0.1)
        np.testing.assert_allclose(
            rates, [one_cycle(step, 12, 0.02) for step in range(12)], rtol=1e-6
        )
        assert history[1]["learning_rate"] == pytest.approx(one_cycle(6, 12, 0.02))
        assert set(decays) == {0.05}
        assert max(norms) <= 0.1 * (1 + 1e-4) and min(norms) > 0.05  # clipped, all of them
        norms.clear()
        run(epochs=1, gradient_clip=1e9)
        assert max(norms) > 0.2
    finally:
        handle.remove()


def test_one_step_by_hand():
    """AdamW's first step: p (1 - eta lambda) - eta g / (|g| + eps), with decay apart from the
    gradient."""
    seen = {}

    def look(optimizer, args, kwargs):
        (group,) = optimizer.param_groups
        seen.update(
            lr=group["lr"], before=[(p.detach().clone(), p.grad.clone()) for p in group["params"]]
        )

    loader = DataLoader(tiny_samples(2), 2)
    handle = register_optimizer_step_pre_hook(look)
    try:
        model, _ = run(
            loaders=(loader, loader),
            epochs=1,
            learning_rate=0.1,
            weight_decay=0.5,
            gradient_clip=1e9,
        )
    finally:
        handle.remove()
    lr = seen["lr"]
    assert len(seen["before"]) == len(list(model.parameters()))
    for after, (before, gradient) in zip(model.parameters(), seen["before"]):
        expected = before * (1 - 0.5 * lr) - lr * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere the peak is that of the whole process"
)
def test_peak_memory_is_that_of_the_run_and_not_of_what_was_before():
    """In a process of its own: a large one may lose pages to the system in between."""
    code = """
import numpy as np, torch
from fusion_lib.engine import guards
CPU = torch.device("cpu")
block = np.ones(40_000_000)  # 305 MiB
peaks = [devices.peak_memory(CPU)]
del block
devices.forget_peak_memory(CPU)
peaks.append(devices.peak_memory(CPU))
block = np.ones(20_000_000)
peaks.append(devices.peak_memory(CPU))
del block
print(*peaks, devices.peak_memory(CPU))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    with_block, before, smaller, after = map(float, done.stdout.split())
    if before > with_block - 250:
        pytest.skip("this system does not let a process forget its peak")
    assert 100 < smaller - before < 250
    assert after - before > 100  # the highest, not the present one


def test_train_forgets_the_peak_of_what_was_before(monkeypatch):
    devices = []
    monkeypatch.setattr(guards, "forget_peak_memory", devices.append)
    run(epochs=2)
    assert devices == [CPU]


def test_a_system_that_does_not_state_the_peak_is_no_hindrance(monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda self: "Name: python\nVmRSS: 5 kB\n")
    assert run(epochs=1)[1][0]["memory_mib"] > 20


def test_a_system_that_cannot_forget_the_peak_is_no_hindrance(monkeypatch):
    def refuse(self, *args):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "write_text", refuse)
    assert run(epochs=1)[1][0]["memory_mib"] > 20


def test_gradients_of_one_step_do_not_leak_into_the_next():
    """With learning rate 0 the weights stay, so the same batch gives the same gradient at every
    step."""
    norms = []
    handle = register_optimizer_step_pre_hook(
        lambda optimizer, *_: norms.append(
            sum(p.grad.norm().item() for p in optimizer.param_groups[0]["params"])
        )
    )
    try:
        loader = DataLoader(tiny_samples(2), 2)
        run(loaders=(loader, loader), epochs=3, learning_rate=0.0, gradient_clip=1e9)
    finally:
        handle.remove()
    np.testing.assert_allclose(norms, norms[0], rtol=1e-4)


def test_model_trains_in_training_mode_and_is_validated_in_evaluation_mode(monkeypatch):
    modes = []

    class Watched(FusionModel):
        def forward(self, images):
            modes.append((self.training, torch.is_grad_enabled()))
            return super().forward(images)

    run(Watched({"semantic": 3, "region": 3}, width=4), epochs=2)
    assert modes == [(True, True)] * 3 + [(False, False)] + [(True, True)] * 3 + [(False, False)]


def test_progress_bar_keeps_out_of_standard_output(capsys):
    run(epochs=1)
    assert capsys.readouterr().out == ""


def test_all_void_batch_passes_through_a_run():
    samples = tiny_samples(4)
    for sample in samples[:2]:
        sample["semantic"] = torch.full_like(sample["semantic"], 255)
        sample["region_target"] = torch.full_like(sample["region_target"], 255)
    loader = DataLoader(samples, 2)
    model, history = run(loaders=(loader, loader))
    assert all(math.isfinite(value) for entry in history for value in entry.values())
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device: mixed precision is not checked"
)
def test_a_run_on_a_gpu(tmp_path):
    model, history = run(epochs=16, device=torch.device("cuda"), folder=tmp_path)
    assert history[-1]["train_total"] < 0.4 * history[0]["train_total"]
    again, more = run(tiny_model(1), epochs=16, device=torch.device("cuda"), folder=tmp_path)
    assert more == history
    assert_same_weights(model.cpu(), again.cpu())


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device: mixed precision is not checked"
)
@pytest.mark.parametrize(
    "name", ["FAMO", "DWA", "uncertainty", "observed sum", "UPGrad", "Aligned-MTL"]
)
def test_a_weighting_on_a_gpu(name):
    _, history = run(epochs=8, device=torch.device("cuda"), weighting=weighting.choose(name))
    assert history[-1]["val_score"] > history[0]["val_score"]


# --- another weighting than the plain sum ------------------------------------------------------


def test_folder_together_with_a_weighting_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match="folder and weighting are both given; .* cannot be resumed, leave one out"
    ):
        run(weighting=weighting.choose("PCGrad"), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Recorder(weighting.PlainSum):
    """Writes down what `train` asks of it."""

    def __init__(self, model):
        self.model, self.calls, self.extra = model, [], torch.zeros(2, requires_grad=True)

    def learned(self, device):
        self.calls.append(f"learned on {device}")
        return [self.extra]

    def backward(self, parts, model, scale):
        assert model is self.model and set(parts) == {"total", "semantic", "region"}
        assert all(p.grad is None for p in [*model.parameters(), self.extra])
        self.calls.append("backward")
        self.weights = [p.detach().clone() for p in model.parameters()]
        self.before = {name: part.item() for name, part in parts.items()}
        scale(parts["total"] + self.extra.sum()).backward()

    def after_step(self, parts):
        self.calls.append("after_step")
        assert any(
            not torch.equal(p, before) for p, before in zip(self.model.parameters(), self.weights)
        )
        again = parts()  # the same batch, seen by the weights after the step
        assert again.keys() == self.before.keys() and again["total"].item() != self.before["total"]

    def end_epoch(self):
        self.calls.append("end_epoch")
        return {"calls": len(self.calls)}


def test_train_calls_the_weighting_at_every_step_and_epoch():
    model = tiny_model()
    recorder = Recorder(model)
    _, history = run(model, epochs=2, weighting=recorder)
    epoch = ["backward", "after_step"] * 3 + ["end_epoch"]
    assert recorder.calls == ["learned on cpu", *epoch, *epoch]
    assert [entry["calls"] for entry in history] == [8, 15]
    assert (recorder.extra < 0).all()  # its gradient is 1: the optimizer steps it too


def test_what_a_weighting_learns_has_no_weight_decay():
    groups = []
    handle = register_optimizer_step_pre_hook(
        lambda optimizer, *_: groups.append(
            [(g["weight_decay"], g["lr"], len(g["params"])) for g in optimizer.param_groups]
        )
    )
    model = tiny_model()
    try:
        run(model, epochs=1, weight_decay=0.05, weighting=weighting.choose("uncertainty"))
        run(model, epochs=1, weight_decay=0.05)
    finally:
        handle.remove()
    (decayed, plain), count = groups[0], len(list(model.parameters()))
    assert decayed[0] == 0.05 and decayed[2] == count
    assert plain[0] == 0 and plain[2] == 1 and plain[1] == decayed[1]
    assert groups[3] == [decayed]  # the plain sum learns nothing


# --- validate and predict ----------------------------------------------------------------------


def test_validate_by_hand():
    """Losses are means over the batches; mIoU comes from pixel counts over all of them, absent
    classes left out."""
    model = tiny_model(outputs={"semantic": 4, "region": 3}).eval()
    samples = tiny_samples(3)
    loader = DataLoader(samples, 1)
    scores = validate(model, FusionLoss(0.5, 2.0), loader, CPU)
    losses, truth, guess = [], [], []
    for sample in samples:
        with torch.no_grad():
            logits = model(sample["image"][None])
        q = logits["semantic"][0].softmax(0).numpy()
        label = sample["semantic"].numpy()
        picked = [(q[(label[p], *p)], p) for p in np.ndindex(label.shape) if label[p] != 255]
        losses.append(-np.mean([np.log(value) for value, _ in picked]))
        truth.append(label[label != 255])
        guess.append(q.argmax(0)[label != 255])
    truth, guess = np.concatenate(truth), np.concatenate(guess)
    iou = [
        ((truth == c) & (guess == c)).sum() / ((truth == c) | (guess == c)).sum()
        for c in range(4)
        if ((truth == c) | (guess == c)).any()
    ]
    assert scores["val_semantic"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert scores["val_total"] == pytest.approx(
        0.5 * scores["val_semantic"] + 2 * scores["val_region"], abs=1e-5
    )
    assert scores["val_miou_semantic"] == pytest.approx(np.mean(iou), abs=1e-6)


def test_predict_gives_log_probabilities_in_evaluation_mode():
    model = tiny_model().train()
    image = tiny_samples(1, size=20)[0]["image"]
    outputs = predict(model, image)
    assert not model.training
    with torch.no_grad():
        logits = model(image[None])
    for task, values in outputs.items():
        assert values.shape == (3, 20, 20) and values.dtype == np.float32
        np.testing.assert_allclose(values, logits[task][0].log_softmax(0), atol=1e-5)
        np.testing.assert_allclose(np.exp(values).sum(0), 1, atol=1e-5)


def test_predict_takes_bytes_as_well_as_floats():
    model = tiny_model()
    image = torch.randint(0, 256, (3, 18, 22), dtype=torch.uint8)
    for task, values in predict(model, image).items():
        np.testing.assert_allclose(values, predict(model, image / 255)[task], atol=1e-5)


def test_predict_at_another_size_answers_at_the_pictures_own():
    model = tiny_model()
    image = torch.rand(3, 24, 40)
    outputs = predict(model, image, size=(32, 32))
    with torch.no_grad():
        small = F.interpolate(image[None], (32, 32), mode="bilinear", antialias=True)
        logits = F.interpolate(model(small)["semantic"], (24, 40), mode="bilinear")
    np.testing.assert_allclose(outputs["semantic"], logits[0].log_softmax(0), atol=1e-5)


# --- interruptions -----------------------------------------------------------------------------


class Noisy(torch.utils.data.Dataset):
    """Random augmentation from the three sources of chance a transform may use."""

    def __init__(self, pause: float = 0.0):
        self.samples, self.pause = tiny_samples(6), pause

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        time.sleep(self.pause)
        sample = dict(self.samples[index])
        noise = 0.1 * torch.rand(3, 16, 16) + 0.1 * random.random() + 0.1 * np.random.random()
        sample["image"] = (sample["image"] + noise).float()
        return sample


def noisy_loaders(pause: float = 0.0):
    return DataLoader(Noisy(pause), 2, shuffle=True), DataLoader(tiny_samples(2, seed=1), 2)


@pytest.mark.parametrize(
    "make", [tiny_model, lambda seed=0: TwoNetworks({"semantic": 3, "region": 3}, width=4)]
)
@pytest.mark.parametrize("stops", [(1, 1, 2), (3, 1)])
def test_resumed_run_is_bit_identical(tmp_path, stops, make):
    torch.manual_seed(0)
    straight, history = run(make(0), loaders=noisy_loaders(), epochs=4)
    torch.manual_seed(0)
    first = make(0)
    for number, stop in enumerate(stops):
        model = (
            first if number == 0 else make(number)
        )  # later calls start from other weights and must not use them
        seed_everything(number)
        _, part = run(model, loaders=noisy_loaders(), epochs=4, folder=tmp_path, stop_after=stop)
        assert len(part) == sum(stops[: number + 1])
    assert without_times(part) == without_times(history)
    assert_same_weights(model, straight)


def test_stop_after_more_than_is_left_ends_at_the_end(tmp_path):
    assert len(run(epochs=2, folder=tmp_path, stop_after=9)[1]) == 2


def test_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    model, history = run(folder=tmp_path)
    before = (tmp_path / "state.pt").read_bytes()
    monkeypatch.setattr(training, "validate", None)  # would fail if it were called
    again, more = run(tiny_model(9), folder=tmp_path)
    assert more == history and (tmp_path / "state.pt").read_bytes() == before
    assert_same_weights(model, again)


def test_batch_norm_statistics_and_optimizer_state_are_kept(tmp_path):
    run(folder=tmp_path, epochs=3, stop_after=2)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert any(name.endswith("running_var") for name in state["model"])
    assert all(int(entry["step"]) == 6 for entry in state["optimizer"]["state"].values())
    assert state["schedule"]["last_epoch"] == 6


CHILD = """
import sys
sys.path[:0] = {path!r}
import torch
torch.set_num_threads(1)
import test_training as t
t.run(t.tiny_model(), loaders=t.noisy_loaders(pause=0.02), epochs={epochs}, folder=sys.argv[1])
"""


@pytest.fixture(scope="module")
def one_thread():
    """Two threads may sum in another order, and a forked process cannot use its parent's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_killed_run_goes_on_from_the_last_whole_epoch(tmp_path):
    """kill -9 of a real process at two arbitrary moments; then the run goes on here, and ends as if
    undisturbed."""
    epochs = 20
    straight, history = run(loaders=noisy_loaders(), epochs=epochs)
    folder = tmp_path / "run"
    code = textwrap.dedent(CHILD).format(path=sys.path, epochs=epochs)
    done = []
    for delay in (0.0, 0.137):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(folder)], stderr=subprocess.DEVNULL
        )
        state, old = folder / "state.pt", None
        if state.exists():
            old = state.stat().st_mtime_ns
        while child.poll() is None and (not state.exists() or state.stat().st_mtime_ns == old):
            time.sleep(0.002)
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        newest = state if state.exists() else folder / "state_before.pt"
        done.append(len(torch.load(newest, weights_only=True)["history"]))
    assert 0 < done[0] < done[1] < epochs
    model, more = run(tiny_model(5), loaders=noisy_loaders(), epochs=epochs, folder=folder)
    assert without_times(more) == without_times(history)
    assert_same_weights(model, straight)
    assert {path.name for path in folder.iterdir()} == {
        "state.pt",
        "state_before.pt",
        "best.safetensors",
    }  # no half file


@pytest.mark.skipif(
    not hasattr(os, "fork"), reason="this system cannot fork; the test above kills a whole process"
)
@pytest.mark.parametrize("number", range(20))
def test_killed_at_a_random_moment_it_ends_bit_identical(tmp_path, number, uninterrupted):
    """A state after every batch; kill -9 anywhere between the first and the end, in the middle of a
    file too."""
    straight, history, seconds = uninterrupted
    child = os.fork()
    if child == 0:
        try:
            run(loaders=noisy_loaders(), epochs=6, folder=tmp_path, save_every=1)
        finally:
            os._exit(0)
    deadline = time.monotonic() + 60
    while not (tmp_path / "state.pt").exists():
        assert time.monotonic() < deadline, "the forked run has written nothing in a minute"
        time.sleep(0.001)
    time.sleep(np.random.default_rng(number).uniform(0, seconds))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    model, more = run(
        tiny_model(5), loaders=noisy_loaders(), epochs=6, folder=tmp_path, save_every=1
    )
    assert without_times(more) == without_times(history)
    assert_same_weights(model, straight)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, one_thread):
    """Model and history of a run that keeps a state after every batch, and the seconds it took."""
    began = time.perf_counter()
    model, history = run(
        loaders=noisy_loaders(), epochs=6, folder=tmp_path_factory.mktemp("run"), save_every=1
    )
    return model, history, time.perf_counter() - began


def test_state_within_an_epoch_changes_nothing(uninterrupted):
    model, history = run(loaders=noisy_loaders(), epochs=6)
    assert without_times(history) == without_times(uninterrupted[1])
    assert_same_weights(model, uninterrupted[0])


class Dropping(torch.nn.Module):
    """A model that draws random numbers of its own, beside those of the loader."""

    def __init__(self, seed):
        super().__init__()
        self.inner = tiny_model(seed)

    def forward(self, images):
        return {
            task: F.dropout2d(logits, 0.2, self.training)
            for task, logits in self.inner(images).items()
        }


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("at", [1, 4, 6])
def test_interrupt_ends_after_the_step_and_the_run_goes_on_bit_identical(tmp_path, at, workers):
    """SIGINT, as Ctrl-C and a notebook's interrupt send it, within the forward pass of a batch."""
    before = signal.getsignal(signal.SIGINT)

    class Interrupting(FusionLoss):
        calls = 0

        def forward(self, outputs, batch):
            self.calls += 1
            if self.calls == at:
                os.kill(os.getpid(), signal.SIGINT)
            return super().forward(outputs, batch)

    def loaders():
        return DataLoader(Noisy(), 2, shuffle=True, num_workers=workers), DataLoader(
            tiny_samples(2, seed=1), 2
        )

    straight, history = run(Dropping(0), loaders=loaders())
    with pytest.raises(
        KeyboardInterrupt, match="ended after .* epoch . as asked|ended after .*epoch"
    ):
        run(Dropping(0), loaders=loaders(), loss=Interrupting(), folder=tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert (len(state["history"]), len(state["losses"])) == {1: (0, 1), 4: (1, 0), 6: (1, 2)}[at]
    model, more = run(Dropping(7), loaders=loaders(), folder=tmp_path)
    assert without_times(more) == without_times(history)
    assert_same_weights(model, straight)


def test_second_interrupt_ends_at_once():
    with pytest.raises(KeyboardInterrupt), guards.Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.asked
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("still here")


def test_of_several_processes_each_ends_at_once(monkeypatch):
    monkeypatch.setattr(training.processes, "rank_and_count", lambda: (0, 2))
    before = signal.getsignal(signal.SIGINT)
    with guards.Interrupts() as interrupts:
        assert signal.getsignal(signal.SIGINT) is before and not interrupts.asked


def test_training_outside_the_main_thread_leaves_signals_alone():
    results = []
    thread = threading.Thread(target=lambda: results.append(run(epochs=1)))
    thread.start()
    thread.join()
    assert len(results[0][1]) == 1


@pytest.mark.parametrize("damage", ["truncated", "one byte", "gone"])
def test_damaged_newest_state_makes_way_for_the_one_before(tmp_path, damage):
    straight, history = run(loaders=noisy_loaders(), epochs=4)
    run(loaders=noisy_loaders(), epochs=4, folder=tmp_path, stop_after=2)
    path = tmp_path / "state.pt"
    content = bytearray(path.read_bytes())
    if damage == "gone":  # killed between the two renames
        path.unlink()
        model, more = run(tiny_model(5), loaders=noisy_loaders(), epochs=4, folder=tmp_path)
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content[:-1000] if damage == "truncated" else content)
        with pytest.warns(
            UserWarning,
            match="(?s)state.pt in folder .* cannot be read .*going on from the state before it",
        ):
            model, more = run(tiny_model(5), loaders=noisy_loaders(), epochs=4, folder=tmp_path)
    assert without_times(more) == without_times(history)
    assert_same_weights(model, straight)


def test_state_of_a_newer_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "VERSION", 7)
    run(folder=tmp_path, stop_after=1)
    monkeypatch.undo()
    with pytest.raises(
        ValueError,
        match=(
            r"state.pt was written by a newer fusion_lib \(format 7, this one reads up to 1\);"
            r" update"
        ),
    ):
        run(folder=tmp_path)


# --- a GPU that is gone ------------------------------------------------------------------------


def test_state_written_on_a_gpu_goes_on_without_one(tmp_path, monkeypatch):
    """The random states of a GPU are in the file; where there is none, they are left alone."""
    straight, history = run(tiny_model(5), loaders=noisy_loaders(), epochs=3)
    states_of = states._random_states
    monkeypatch.setattr(
        checkpoints,
        "_random_states",
        lambda: [*states_of()[:3], [torch.zeros(16, dtype=torch.uint8)] * 9],
    )
    run(tiny_model(5), loaders=noisy_loaders(), epochs=3, folder=tmp_path, stop_after=1)
    assert len(torch.load(tmp_path / "state.pt", weights_only=True)["random"][0][3]) == 9
    monkeypatch.undo()
    model, more = run(tiny_model(1), loaders=noisy_loaders(), epochs=3, folder=tmp_path)
    assert without_times(more) == without_times(history)
    assert_same_weights(model, straight)


class Lost(FusionModel):
    """A GPU stops answering at the third step."""

    steps = 0

    def forward(self, images):
        self.steps += self.training
        if self.steps == 3:
            raise RuntimeError(
                "CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later"
            )
        return super().forward(images)


def test_gpu_that_vanishes_says_what_to_do_and_the_run_goes_on(tmp_path):
    straight, _ = run(tiny_model(5))
    lost = Lost({"semantic": 3, "region": 3}, width=4)
    lost.load_state_dict(tiny_model(5).state_dict())
    with pytest.raises(
        RuntimeError,
        match=(
            r"no longer answers \(CUDA error: unspecified launch failure\); restart .*goes on from"
            r" its last"
        ),
    ):
        run(lost, folder=tmp_path, save_every=1)
    model, _ = run(tiny_model(1), folder=tmp_path, save_every=1)
    assert_same_weights(model, straight)


@pytest.mark.parametrize(
    "words", ["the size of tensor a must match", "CUDA error: device-side assert triggered"]
)
def test_other_faults_are_not_explained_away(words):
    class Faulty(FusionModel):
        def forward(self, images):
            raise RuntimeError(words)

    with pytest.raises(RuntimeError, match=f"^{words}$"):
        run(Faulty({"semantic": 3, "region": 3}, width=4))


# --- a GPU's memory that does not suffice ------------------------------------------------------


class Small(FusionModel):
    """Runs out of memory on more than so many pictures."""

    limit = 1

    def forward(self, images):
        if len(images) > self.limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(images)


def eight_with_void() -> dict:
    samples = tiny_samples(8)
    for number, sample in enumerate(samples):  # so the pieces have unequally many valid pixels
        sample["semantic"][: 2 * number] = 255
        sample["region_target"][:, :number] = 255
    return torch.utils.data.default_collate(samples)


@pytest.mark.parametrize("limit, pieces", [(8, 1), (7, 2), (4, 2), (3, 4), (1, 8)])
def test_batch_in_pieces_has_the_gradient_of_the_whole(limit, pieces, capsys):
    batch, loss = eight_with_void(), FusionLoss(1.0, 2.0, torch.tensor([3.0, 2.0, 1.0]))
    plain, small = tiny_model(), Small({"semantic": 3, "region": 3}, width=4)
    small.load_state_dict(plain.state_dict())
    small.limit = limit
    plain.eval(), small.eval()  # batch norm sees the pieces in training
    expected = loss(plain(batch["image"]), batch)
    expected["total"].backward()
    mixed = torch.autocast("cpu", enabled=False)
    parts, found = training._descend(
        small, small, loss, batch, weighting.PlainSum(), lambda x: x, mixed, 1
    )
    assert found == pieces and capsys.readouterr().out.count("out of memory") == math.log2(pieces)
    for name, part in expected.items():
        torch.testing.assert_close(parts[name], part.detach())
    for one, other in zip(small.parameters(), plain.parameters()):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-4)


def test_run_goes_on_in_pieces(capsys):
    model = Small({"semantic": 3, "region": 3}, width=4)
    model.limit = 2
    _, history = run(
        model, loaders=(DataLoader(tiny_samples(8), 4), DataLoader(tiny_samples(1), 1)), epochs=2
    )
    assert (
        len(history) == 2 and capsys.readouterr().out.count("out of memory") == 1
    )  # found once, kept


def test_picture_that_does_not_fit_says_so():
    model = Small({"semantic": 3, "region": 3}, width=4)
    model.limit = 0
    with pytest.raises(
        torch.cuda.OutOfMemoryError,
        match="a batch of 2 pictures, 1 at a time, does not fit .*smaller pictures",
    ):
        run(model)


def test_a_weighting_cannot_be_computed_in_pieces():
    with pytest.raises(torch.cuda.OutOfMemoryError, match="a batch of 2 pictures, 2 at a time"):
        run(Small({"semantic": 3, "region": 3}, width=4), weighting=weighting.choose("PCGrad"))


@pytest.mark.parametrize(
    "changed",
    [
        {"epochs": 5},
        {"learning_rate": 0.5},
        {"seed": 1},
        {"weight_decay": 0.5},
        {"gradient_clip": 9.0},
        {"loss": FusionLoss(2.0, 1.0)},
        {"loaders": tiny_loaders(train=10)},
    ],
)
def test_folder_of_a_run_with_other_settings(tmp_path, changed):
    folder = tmp_path / "my_run"
    run(folder=folder, stop_after=1)
    before = (folder / "state.pt").read_bytes()
    with pytest.raises(
        ValueError, match=r"folder 'my_run' holds a run with other settings.*move state.pt away"
    ) as caught:
        run(folder=folder, **changed)
    name = {"loss": "task_weights", "loaders": "steps"}.get(
        next(iter(changed)), next(iter(changed))
    )
    assert name in str(caught.value)
    assert (folder / "state.pt").read_bytes() == before


@pytest.mark.parametrize("outputs", [{"semantic": 3}, {"semantic": 4, "region": 3}])
def test_folder_of_a_run_of_another_model(tmp_path, outputs):
    run(folder=tmp_path, stop_after=1)
    before = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(ValueError, match="(?s)holds a run of another model.*move state.pt away"):
        run(tiny_model(outputs=outputs), folder=tmp_path)
    assert (tmp_path / "state.pt").read_bytes() == before


class Evil:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("content", ["truncated", "empty", "text", "pickle", "another torch file"])
def test_state_that_cannot_be_read_is_kept(tmp_path, content):
    folder, path = tmp_path / "my_run", tmp_path / "my_run" / "state.pt"
    run(folder=folder, stop_after=1)
    if content == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    elif content == "another torch file":
        torch.save({"weights": torch.zeros(3)}, path)
    elif content == "pickle":
        path.write_bytes(pickle.dumps(Evil(tmp_path / "evil"), protocol=2))
    else:
        path.write_bytes({"empty": b"", "text": b"hello"}[content])
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match=r"(?s)state.pt in folder 'my_run' cannot be read .*move state.pt away"
    ):
        run(folder=folder)
    assert path.read_bytes() == before and not (tmp_path / "evil").exists()


# --- a disk that is full or read-only ----------------------------------------------------------


class FullDisk:
    """`open` for writing, onto a disk with room for a hundred bytes."""

    def __init__(self, *args):
        self.file = builtins.open(*args)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.file.close()

    def write(self, content):
        self.file.write(content[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def break_disk(monkeypatch, how: str) -> str:
    """Returns what the system says."""

    def refuse(*args):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    if how == "full":
        monkeypatch.setattr(checkpoints, "open", FullDisk, raising=False)
        return "No space left on device"
    if how == "read-only":
        monkeypatch.setattr(checkpoints, "open", refuse, raising=False)
    else:
        monkeypatch.setattr(os, "replace", refuse)
    return "Read-only file system"


@pytest.mark.parametrize("how", ["full", "read-only", "renaming refused"])
def test_checkpoint_on_a_bad_disk_leaves_the_old_one_whole(tmp_path, monkeypatch, how):
    path = tmp_path / "model.safetensors"
    save_checkpoint(tiny_model(1), path, note="old")
    with monkeypatch.context() as broken:
        says = break_disk(broken, how)
        with pytest.raises(
            OSError, match=rf"cannot write model.safetensors \({says}\); what was there before"
        ) as caught:
            save_checkpoint(tiny_model(2), path, note="new")
        assert caught.value.errno in (errno.ENOSPC, errno.EROFS)
    model, facts = load_checkpoint(path)
    assert facts == {"note": "old"}
    assert_same_weights(model, tiny_model(1))
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_checkpoint_beyond_the_size_limit_of_the_system(tmp_path):
    """No pretence: the operating system itself ends the write half-way."""
    resource = pytest.importorskip("resource", reason="only Unix has limits on the size of files")
    path = tmp_path / "model.safetensors"
    save_checkpoint(tiny_model(1), path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="cannot write model.safetensors"):
            save_checkpoint(tiny_model(2), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [
        "model.safetensors"
    ]


@pytest.mark.parametrize("how", ["full", "read-only", "renaming refused"])
def test_run_on_a_bad_disk_goes_on_when_there_is_room_again(tmp_path, monkeypatch, how):
    straight, history = run(loaders=noisy_loaders(), epochs=4)
    run(loaders=noisy_loaders(), epochs=4, folder=tmp_path, stop_after=2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as broken:
        break_disk(broken, how)
        with pytest.raises(OSError, match="cannot write .*; what was there before is unharmed"):
            run(loaders=noisy_loaders(), epochs=4, folder=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    model, more = run(tiny_model(3), loaders=noisy_loaders(), epochs=4, folder=tmp_path)
    assert without_times(more) == without_times(history)
    assert_same_weights(model, straight)


# --- losses that are not finite ----------------------------------------------------------------


class Spoiled(FusionLoss):
    """Adds a value to one task's loss in one batch."""

    def __init__(self, call: int, spoilt: dict[str, float]):
        super().__init__()
        self.calls, self.call, self.spoilt = 0, call, spoilt

    def forward(self, outputs, batch):
        parts = super().forward(outputs, batch)
        if self.calls == self.call:
            for task, value in self.spoilt.items():
                parts[task] = parts[task] + value
            parts["total"] = parts["semantic"] + parts["region"]
        self.calls += 1
        return parts


@pytest.mark.parametrize(
    "spoilt, names",
    [
        ({"semantic": math.nan}, "semantic"),
        ({"region": math.inf}, "region"),
        ({"semantic": math.inf, "region": math.nan}, "semantic and region"),
    ],
)
def test_loss_that_is_not_finite_names_task_epoch_and_batch(tmp_path, spoilt, names):
    # three training batches and one validation batch an epoch: call 6 is batch 2 of epoch 1
    with pytest.raises(
        FloatingPointError,
        match=f"the loss of task {names} is not finite in epoch 1, batch 2; lower",
    ):
        run(loss=Spoiled(6, spoilt), folder=tmp_path)
    assert (
        len(torch.load(tmp_path / "state.pt", weights_only=True)["history"]) == 1
    )  # the whole epoch is kept
    kept = torch.load(tmp_path / "not_finite.pt", weights_only=True)
    assert kept["image"].shape == (2, 3, 16, 16) and kept.keys() >= {"semantic", "region_target"}
    assert len(run(folder=tmp_path)[1]) == 3


def test_image_that_is_not_finite_is_found():
    samples = tiny_samples(6)
    samples[3]["image"][0, 5, 5] = math.nan
    loaders = DataLoader(samples, 2), DataLoader(samples[:2], 2)
    with pytest.raises(
        FloatingPointError, match="task semantic and region is not finite in epoch 0, batch 1"
    ):
        run(loaders=loaders)


def test_batch_that_broke_some_steps_ago_is_found_and_the_best_weights_come_back(tmp_path):
    """On a GPU the losses are looked at every 20 steps."""
    model = tiny_model(1)
    good = {"total": torch.tensor(3.0), "semantic": torch.tensor(1.0), "region": torch.tensor(2.0)}
    run_ = states.Run(tmp_path, {}, {"model": model})
    run_.best = tiny_model(2).state_dict()
    run_.losses = [
        good,
        good,
        good | {"total": torch.tensor(math.nan), "region": torch.tensor(math.nan)},
        good,
    ]
    batches = [{"image": torch.full((1,), float(number))} for number in (1, 2, 3)]
    with pytest.raises(
        FloatingPointError,
        match=r"task region is not finite in epoch 4, batch 2; lower .*\(kept as not_finite.pt\)",
    ):
        guards.require_finite(run_, batches, "epoch 4")
    assert torch.load(tmp_path / "not_finite.pt", weights_only=True)["image"].item() == 2
    assert_same_weights(model, tiny_model(2))


# --- checkpoints -------------------------------------------------------------------------------


def test_checkpoint_comes_back_as_it_was(tmp_path):
    model = tiny_model(4, outputs={"semantic": 6, "region": 3})
    save_checkpoint(
        model, tmp_path / "a.safetensors", decoding={"threshold": 0.6}, miou=0.75, names=["x"]
    )
    again, facts = load_checkpoint(str(tmp_path / "a.safetensors"))
    assert facts == {"decoding": {"threshold": 0.6}, "miou": 0.75, "names": ["x"]}
    assert again.config == model.config and not again.training
    assert_same_weights(again, model)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_checkpoint_of_a_model_in_another_memory_layout(tmp_path):
    model = tiny_model(4).to(memory_format=torch.channels_last)
    save_checkpoint(model, tmp_path / "a.safetensors")
    assert_same_weights(load_checkpoint(tmp_path / "a.safetensors")[0], model)


def test_checkpoint_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.safetensors"):
        load_checkpoint(tmp_path / "nowhere.safetensors")


def refused(path, message) -> None:
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        load_checkpoint(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.999])
def test_checkpoint_truncated(tmp_path, share):
    path = tmp_path / "a.safetensors"
    save_checkpoint(tiny_model(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, r"a.safetensors is no whole safetensors file .*must be fetched or trained again")


def test_checkpoint_that_is_a_pickle_is_never_run(tmp_path):
    path = tmp_path / "a.safetensors"
    for write in (
        lambda evil: path.write_bytes(pickle.dumps(evil)),
        lambda evil: torch.save(evil, path),
    ):
        write(Evil(tmp_path / "evil"))
        refused(path, "a.safetensors is no whole safetensors file .*pickles are refused")
        assert not (tmp_path / "evil").exists()


def test_checkpoint_without_configuration(tmp_path):
    save_file(tiny_model().state_dict(), tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", "a.safetensors has no 'config' .*save_checkpoint")


@pytest.mark.parametrize(
    "change",
    [
        {"width": 8},
        {"outputs": {"semantic": 4, "region": 3}},
        {"outputs": {"semantic": 3}},
        {"outputs": {}},
        {"encoder": "resnet"},
        {"depth": 5},
    ],
)
def test_checkpoint_of_another_configuration(tmp_path, change):
    model = tiny_model()
    config = json.dumps({**model.config, **change})
    save_file(model.state_dict(), tmp_path / "a.safetensors", metadata={"config": config})
    refused(
        tmp_path / "a.safetensors", "(?s)a.safetensors: its weights do not fit its configuration"
    )


def test_checkpoint_whose_configuration_is_no_json(tmp_path):
    save_file(tiny_model().state_dict(), tmp_path / "a.safetensors", metadata={"config": "{"})
    refused(tmp_path / "a.safetensors", "a.safetensors: its weights do not fit its configuration")
