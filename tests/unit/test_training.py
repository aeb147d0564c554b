"""The training loop, its memory, and numbers that are not finite."""

import errno
import math
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from examples import RECIPE, tiny_loaders, tiny_model, tiny_samples
from runs import CPU, assert_same_weights, run, without_times
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader

from fusion_lib import training, weighting
from fusion_lib.engine import devices, guards
from fusion_lib.engine.checkpoints import load_checkpoint
from fusion_lib.lab import recipes
from fusion_lib.losses import FusionLoss
from fusion_lib.models import FusionModel
from fusion_lib.prediction import predict
from fusion_lib.training import seed_everything, validate

# --- seeds and devices ---------------------------------------------------------------------------


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


# --- what a run does -----------------------------------------------------------------------------


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
        run(model := tiny_model(), epochs=1, folder=tmp_path)
    assert not model.training
    assert_same_weights(model, tiny_model())
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["history"] == [] and not (tmp_path / "best.safetensors").exists()


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
peaks = [guards.peak_memory(CPU)]
del block
guards.forget_peak_memory(CPU)
peaks.append(guards.peak_memory(CPU))
block = np.ones(20_000_000)
peaks.append(guards.peak_memory(CPU))
del block
print(*peaks, guards.peak_memory(CPU))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    with_block, before, smaller, after = map(float, done.stdout.split())
    if before > with_block - 250:
        pytest.skip("this system does not let a process forget its peak")
    assert 100 < smaller - before < 250
    assert after - before > 100  # the highest, not the present one


def test_train_forgets_the_peak_of_what_was_before(monkeypatch):
    forgotten = []
    monkeypatch.setattr(guards, "forget_peak_memory", forgotten.append)
    run(epochs=2)
    assert forgotten == [CPU]


def test_a_system_that_does_not_state_the_peak_is_no_hindrance(monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "Name: python\nVmRSS: 5 kB\n")
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


# --- another weighting than the plain sum --------------------------------------------------------


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

    def after_step(self, model, loss, batch):
        self.calls.append("after_step")
        assert any(
            not torch.equal(p, before) for p, before in zip(self.model.parameters(), self.weights)
        )
        assert model is self.model
        again = loss(model(batch["image"]), batch)  # the same, seen by the weights after the step
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


# --- validate and predict ------------------------------------------------------------------------


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


# --- a GPU's memory that does not suffice --------------------------------------------------------


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

    def descend(piece, whole):
        outputs = small(piece["image"])
        parts = loss(outputs, piece, *whole(outputs))
        parts["total"].backward()
        return parts

    in_pieces = guards.Pieces(descend, small.zero_grad, loss)
    parts = in_pieces(batch)
    assert in_pieces.count == pieces and capsys.readouterr().out.count(
        "out of memory"
    ) == math.log2(pieces)
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


# --- losses that are not finite ------------------------------------------------------------------


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


def test_picture_at_fault_is_named_and_kept(tmp_path):
    samples = tiny_samples(6)
    samples[3]["image"][0, 5, 5] = math.inf
    loaders = DataLoader(samples, 2), DataLoader(samples[:2], 2)
    with pytest.raises(FloatingPointError, match=r"epoch 0, batch 1, picture \[1\]; .*kept as"):
        run(loaders=loaders, folder=tmp_path)
    kept = torch.load(tmp_path / "not_finite.pt", weights_only=True)
    assert torch.equal(kept["image"][1], samples[3]["image"])


class BadGradient(FusionLoss):
    """A finite loss whose gradient is NaN, in one batch."""

    def __init__(self, call: int):
        super().__init__()
        self.calls, self.call = 0, call

    def forward(self, outputs, batch):
        parts = super().forward(outputs, batch)
        self.calls += 1
        if self.calls == self.call:  # the derivative of the square root at 0 is infinite, and 0 inf
            zero = 0 * outputs["region"].sum()
            parts["total"] = parts["total"] + zero.square().sqrt()
        return parts


def test_no_step_is_taken_on_a_gradient_that_is_not_finite(tmp_path):
    steps = []
    handle = register_optimizer_step_pre_hook(lambda *_: steps.append(1))
    try:
        with pytest.raises(
            FloatingPointError, match="the gradient is not finite in epoch 0, batch 1; .*kept as"
        ):
            run(model := tiny_model(), loss=BadGradient(2), folder=tmp_path)
    finally:
        handle.remove()
    assert len(steps) == 1 and not model.training
    assert_same_weights(model, tiny_model())


class Failing(torch.utils.data.Dataset):
    """Raises at one reading of a sample, counted without those of the folder's fingerprint."""

    def __init__(self, at: int, error: BaseException):
        self.samples, self.at, self.error, self.reads = tiny_samples(6), at, error, 0

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        self.reads += 1
        if self.reads == self.at:
            raise self.error
        return self.samples[index]


@pytest.mark.parametrize("error", [ValueError("photo.png"), KeyboardInterrupt(), OSError("disk")])
def test_whatever_ends_a_run_leaves_the_best_epoch_and_the_history(tmp_path, error):
    """In the second epoch; the first one's weights are in the model and on disk."""
    data, val = Failing(10, error), DataLoader(tiny_samples(2, seed=1), 2)
    expected, history = run(loaders=(DataLoader(tiny_samples(6), 2), val), stop_after=1)
    with pytest.raises(type(error)) as caught:
        run(model := tiny_model(), loaders=(DataLoader(data, 2), val))
    assert without_times(caught.value.history) == without_times(history) and len(history) == 1
    assert_same_weights(model, expected)
    assert not any(module.training for module in model.modules())

    data.reads, data.at = -7, 10  # a folder reads seven more, for its fingerprint
    with pytest.raises(type(error)):
        run(tiny_model(), loaders=(DataLoader(data, 2), val), folder=tmp_path)
    assert_same_weights(load_checkpoint(tmp_path / "best.safetensors")[0], expected)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert without_times(state["history"]) == without_times(history)


def test_a_loss_that_breaks_leaves_statistics_that_are_finite():
    with pytest.raises(FloatingPointError) as caught:
        run(model := tiny_model(), loss=Spoiled(6, {"region": math.nan}))
    assert len(caught.value.history) == 1 and not model.training
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert_same_weights(model, run(stop_after=1)[0])


def test_validation_picture_that_is_not_finite_is_named():
    bad = tiny_samples(3, seed=1)
    bad[2]["image"][1, 2, 3] = math.nan
    loaders = DataLoader(tiny_samples(6), 2), DataLoader(bad, 2)
    with pytest.raises(
        FloatingPointError, match=r"in the validation after epoch 0, picture \[2\]; "
    ):
        run(model := tiny_model(), loaders=loaders)
    assert not model.training
    assert_same_weights(model, tiny_model())


def test_a_disk_that_fills_up_leaves_the_best_epoch_in_the_model(tmp_path, monkeypatch):
    expected, history = run(stop_after=1)
    real = os.fsync
    calls = iter(range(100))

    def full(descriptor):  # room for the first state, the checkpoint and the first epoch's state
        if next(calls) >= 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="cannot write") as caught:
        run(model := tiny_model(), epochs=3, folder=tmp_path)
    assert without_times(caught.value.history[:1]) == without_times(history)
    best = max(caught.value.history, key=lambda entry: entry["val_score"])["epoch"]
    assert_same_weights(model, run(stop_after=best + 1)[0])
    assert not model.training and expected


def scaled(monkeypatch, scale: float) -> None:
    """Let the CPU compute as a GPU does, with a scaler that skips steps and halves its scale."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2**31 - 1)
    mixed = torch.autocast("cpu", enabled=False)
    monkeypatch.setattr(devices, "mixed_precision", lambda device: (mixed, scaler))


@pytest.mark.parametrize("fault", ["loss", "gradient"])
def test_a_gpu_takes_no_step_from_the_first_fault_on(monkeypatch, fault):
    scaled(monkeypatch, 1.0)
    steps = []
    handle = register_optimizer_step_pre_hook(lambda *_: steps.append(1))
    try:
        loss = BadGradient(3) if fault == "gradient" else Spoiled(2, {"semantic": math.nan})
        what = "gradient" if fault == "gradient" else "loss of task semantic"
        with pytest.raises(
            FloatingPointError, match=f"the {what} is not finite in epoch 0, batch 2"
        ):
            run(model := tiny_model(), loss=loss)
    finally:
        handle.remove()
    assert len(steps) == 2
    assert_same_weights(model, tiny_model())


class Short(FusionLoss):
    """Its scaled gradient passes through 16-bit numbers, the largest of which is 65,504."""

    def forward(self, outputs, batch):
        if outputs["region"].requires_grad:
            outputs["region"].register_hook(lambda g: (2.0**10 * g).half().float() / 2.0**10)
        return super().forward(outputs, batch)


def test_a_gradient_that_overflows_while_a_scale_is_searched_is_no_fault(monkeypatch):
    """The gradient of the first batches is infinite; the scale falls until it is not."""
    scaled(monkeypatch, 2.0**16)
    model, history = run(loss=Short(), epochs=8)
    scale = devices.mixed_precision(CPU)[1].get_scale()
    assert 1 < scale < 2.0**16 and history[-1]["train_total"] < 0.9 * history[0]["train_total"]
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_gradient_that_is_finite_at_no_scale_is_a_fault(monkeypatch):
    """2^16 is halved 16 times, at one batch each, of which an epoch has three."""

    class Bad(BadGradient):
        def forward(self, outputs, batch):
            self.call = self.calls + 1
            return super().forward(outputs, batch)

    scaled(monkeypatch, 2.0**16)
    with pytest.raises(FloatingPointError, match="the gradient is not finite in epoch 5, batch 1"):
        run(model := tiny_model(), loss=Bad(0), epochs=8)
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), tiny_model().parameters()))


# --- what each epoch draws ---------------------------------------------------------------------


class Drawn(torch.utils.data.Dataset):
    """Writes down the random numbers that an augmentation would draw, of all three sources."""

    def __init__(self):
        self.samples, self.draws = tiny_samples(4), []

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        self.draws.append((index, torch.rand(1).item(), random.random(), np.random.random()))
        return self.samples[index]


def test_each_epoch_draws_from_a_seed_of_its_own():
    data, expected = Drawn(), Drawn()
    loader = DataLoader(data, 2, shuffle=True)
    run(loaders=(loader, DataLoader(tiny_samples(1), 1)), epochs=2, seed=3)
    for epoch in (0, 1):
        seed_everything(1_000_003 * 4 + epoch)
        list(DataLoader(expected, 2, shuffle=True))
    assert data.draws == expected.draws
    assert {draw[1:] for draw in data.draws[:4]}.isdisjoint(draw[1:] for draw in data.draws[4:])


def test_a_batch_that_is_not_full_is_left_out():
    """Batch norm and the schedule expect equal batches: 40 pictures in 16s are two batches."""
    train_loader, _ = recipes.loaders(replace(RECIPE, batch_size=16), recipes.TASKS)
    assert len(train_loader) == 2 and [len(batch["image"]) for batch in train_loader] == [16, 16]


# --- validation ----------------------------------------------------------------------------------


def test_a_task_without_validation_labels_leaves_the_score_to_the_others():
    val = [{**s, "region_target": torch.full((16, 16), 255)} for s in tiny_samples(2, seed=1)]
    loaders = tiny_loaders()[0], DataLoader(val, 2)
    history = run(loaders=loaders)[1]
    assert all(math.isnan(entry["val_miou_region"]) for entry in history)
    assert all(entry["val_score"] == entry["val_miou_semantic"] for entry in history)
    val = [{**sample, "semantic": torch.full((16, 16), 255)} for sample in val]
    with pytest.raises(ValueError, match=r"no labelled pixel .* tasks \['semantic', 'region'\]"):
        run(loaders=(loaders[0], DataLoader(val, 2)))


def test_an_empty_validation_loader_is_refused_before_training():
    with pytest.raises(ValueError, match="val_loader has 0 batches; expected at least one"):
        run(loaders=(tiny_loaders()[0], DataLoader([], 2)), loss=Spoiled(0, {"region": math.nan}))
