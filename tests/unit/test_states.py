"""What must survive an interruption, a lost GPU, a full disk, and a folder of another run."""

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from examples import RECIPE, Blobs, tiny_loaders, tiny_model, tiny_samples
from PIL import Image
from runs import Evil, Noisy, assert_same_weights, break_disk, noisy_loaders, run, without_times
from torch.nn import functional as F
from torch.utils.data import DataLoader

from fusion_lib import datasets, training
from fusion_lib.engine import fingerprints, guards, states
from fusion_lib.lab import recipes
from fusion_lib.losses import FusionLoss
from fusion_lib.models import FusionModel, TwoNetworks
from fusion_lib.scenes import CLASSES
from fusion_lib.training import seed_everything

# --- interruptions -------------------------------------------------------------------------------


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
import runs as t
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
        state, seen = folder / "state.pt", set()
        while child.poll() is None and len(seen) < 3:  # there before or at the start, an epoch
            seen |= {state.stat().st_mtime_ns} if state.exists() else set()
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
        ".lock",
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
    while not (tmp_path / "state.pt").exists():
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the forked run ended early"
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
    monkeypatch.setattr(states, "VERSION", 7)
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


# --- a GPU that is gone --------------------------------------------------------------------------


def test_state_written_on_a_gpu_goes_on_without_one(tmp_path, monkeypatch):
    """The random states of a GPU are in the file; where there is none, they are left alone."""
    straight, history = run(tiny_model(5), loaders=noisy_loaders(), epochs=3)
    states_of = states._random_states
    monkeypatch.setattr(
        states,
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


# --- a folder of another run ---------------------------------------------------------------------


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
        ValueError,
        match=r"folder 'my_run' holds a run with other settings.*move state.pt and state_before",
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
    with pytest.raises(
        ValueError, match="(?s)is of another model.*move state.pt and state_before.pt away"
    ):
        run(tiny_model(outputs=outputs), folder=tmp_path)
    assert (tmp_path / "state.pt").read_bytes() == before


@pytest.mark.parametrize("content", ["truncated", "empty", "text", "pickle", "another torch file"])
def test_state_that_cannot_be_read_is_kept(tmp_path, content):
    folder, path = tmp_path / "my_run", tmp_path / "my_run" / "state.pt"
    run(folder=folder, stop_after=1)
    (folder / "state_before.pt").unlink()
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


# --- a disk that is full or read-only ------------------------------------------------------------


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


def test_a_folder_that_cannot_be_written_is_noticed_before_training(tmp_path, monkeypatch):
    batches = []

    class Counted(FusionLoss):
        def forward(self, outputs, batch):
            batches.append(1)
            return super().forward(outputs, batch)

    with monkeypatch.context() as broken:
        break_disk(broken, "full")
        with pytest.raises(OSError, match="cannot write state.pt .No space left"):
            run(loss=Counted(), folder=tmp_path / "my_run")
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="cannot write folder 'file'"):
        run(loss=Counted(), folder=tmp_path / "file")
    assert not batches


# --- what decides a run ------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["a key is missing", "a part is missing", "of another type"])
def test_newest_state_that_lacks_something_makes_way_for_the_one_before(tmp_path, damage):
    straight, history = run(loaders=noisy_loaders(), epochs=4)
    run(loaders=noisy_loaders(), epochs=4, folder=tmp_path, stop_after=2)
    path = tmp_path / "state.pt"
    state = torch.load(path, weights_only=True)
    if damage == "of another type":
        state["history"] = 3
    else:
        del state["optimizer" if damage == "a part is missing" else "best"]
    torch.save(state, path)
    content = path.read_bytes()
    why = {"a key is missing": "KeyError: 'best'", "a part is missing": "KeyError: 'optimizer'"}
    with pytest.warns(
        UserWarning, match=f"state.pt in .* cannot be read .*{why.get(damage, 'TypeError')}"
    ):
        model, more = run(tiny_model(5), loaders=noisy_loaders(), epochs=4, folder=tmp_path)
    assert without_times(more) == without_times(history)
    assert_same_weights(model, straight)
    assert (tmp_path / "state_damaged.pt").read_bytes() == content  # nothing is thrown away


@pytest.mark.parametrize("make", [lambda: tiny_model(3, {"semantic": 3}), lambda: frozen(3)])
def test_a_refused_resume_leaves_the_model_as_it_was(tmp_path, make):
    """Another model, of which most tensors fit; and one of which other parameters learn."""
    run(folder=tmp_path, stop_after=1)
    with pytest.raises(
        ValueError, match="(?s)is of another model.*move state.pt and state_before.pt away"
    ):
        run(model := make(), folder=tmp_path)
    assert_same_weights(model, make())


def frozen(seed: int) -> FusionModel:
    model = tiny_model(seed)
    model.freeze(2)
    return model


def test_a_state_of_before_there_were_fingerprints_is_refused(tmp_path):
    run(folder=tmp_path, stop_after=1)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    state["settings"] = {k: v for k, v in state["settings"].items() if not k.startswith("train_")}
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(ValueError, match="other settings .*train_labels: None"):
        run(folder=tmp_path)


def test_a_setting_that_only_the_stored_run_has_is_compared_too(tmp_path):
    run(folder=tmp_path, stop_after=1)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    state["settings"]["momentum"] = 0.5
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(ValueError, match="other settings .*momentum: 0.5, None"):
        run(folder=tmp_path)


def scene_loaders(size=24, tau=2.0, crop=1.0, light=0.0, batch_size=4, data=Blobs):
    recipe = replace(
        RECIPE, dataset=data, size=(size, size), tau=tau, smallest_crop=crop, light=light
    )
    return recipes.loaders(replace(recipe, batch_size=batch_size), recipes.TASKS)


class OtherMeaning(Blobs):
    classes = CLASSES[::-1]


class OtherMasks(Blobs):
    def read(self, index):
        image, semantic, region = super().read(index)
        return image, np.where(semantic == 255, 255, (semantic + 3) % 8), region


class OtherPictures(Blobs):
    def read(self, index):
        image, semantic, region = super().read(index)
        return 255 - image, semantic, region


class OtherValidation(Blobs):
    def read(self, index):
        image, semantic, region = super().read(index)
        return image, np.roll(semantic, self.split == "val", 1), region


@pytest.mark.parametrize(
    "changed, name",
    [
        ({"data": OtherMasks}, "train_labels"),
        ({"data": OtherPictures}, "train_images"),
        ({"data": OtherMeaning}, "train_classes"),
        ({"data": OtherValidation}, "val_labels"),
        ({"size": 32}, "train_labels"),
        ({"tau": 5.0}, "train_labels"),
        ({"crop": 0.3}, "train_labels"),
        ({"light": 0.5}, "train_images"),
        ({"batch_size": 20}, "train_batch_size"),
    ],
)
def test_a_run_on_other_data_is_refused_by_name(tmp_path, changed, name):
    model = {"outputs": {"semantic": 8, "region": 3}}
    run(tiny_model(**model), loaders=scene_loaders(), epochs=2, folder=tmp_path, stop_after=1)
    before = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(
        ValueError, match=f"other settings .*{name}: .*move state.pt and state_before.pt away"
    ):
        loaders = scene_loaders(**changed)
        run(tiny_model(**model), loaders=loaders, epochs=2, folder=tmp_path)
    assert (tmp_path / "state.pt").read_bytes() == before
    history = run(tiny_model(**model), loaders=scene_loaders(), epochs=2, folder=tmp_path)[1]
    assert len(history) == 2


def test_other_class_weights_are_refused_by_name(tmp_path):
    run(loss=FusionLoss(1, 1, torch.tensor([3.0, 2.0, 1.0])), folder=tmp_path, stop_after=1)
    for weights in (torch.tensor([5.0, 3.0, 1.0]), None):
        with pytest.raises(ValueError, match=r"class_weights: .*\[3.0, 2.0, 1.0\]"):
            run(loss=FusionLoss(1, 1, weights), folder=tmp_path)


def test_pictures_that_another_machine_resized_a_little_differently_are_the_same():
    one = [0.5, 0.25]
    assert fingerprints.same("train_images", one, [0.5005, 0.2495])
    assert not fingerprints.same("train_images", one, [0.51, 0.25])
    assert not fingerprints.same("train_images", one, [0.5])
    assert not fingerprints.same("train_labels", one, [0.5005, 0.2495])


def test_data_that_draw_from_a_source_of_their_own_can_be_resumed(tmp_path):
    class Own(Noisy):
        generator = np.random.default_rng(0)

        def __getitem__(self, index):
            noise = self.generator.random((3, 16, 16), np.float32)
            return {**self.samples[index], "image": torch.from_numpy(noise)}

    loaders = DataLoader(Own(), 2), DataLoader(tiny_samples(2), 2)
    run(loaders=loaders, folder=tmp_path, stop_after=1)
    assert len(run(loaders=loaders, folder=tmp_path)[1]) == 3


def test_finished_run_says_so_once(tmp_path, capsys):
    run(folder=tmp_path / "my_run")
    assert capsys.readouterr().out == ""
    run(folder=tmp_path / "my_run")
    says = "folder 'my_run' holds this run, finished: nothing to train\n"
    assert capsys.readouterr().out == says


# --- two writers -------------------------------------------------------------------------------


def test_a_second_run_in_the_same_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(states, "LOCK_WAIT", 0.1)
    folder, refused = tmp_path / "my_run", []

    class Second(FusionLoss):
        def forward(self, outputs, batch):
            if not refused:
                with pytest.raises(
                    RuntimeError, match="another run is at work on folder 'my_run'; wait"
                ) as caught:
                    run(tiny_model(3), folder=folder)
                refused.append(caught)
            return super().forward(outputs, batch)

    model, history = run(loss=Second(), folder=folder)
    assert refused and len(history) == 3
    assert_same_weights(model, run()[0])
    with pytest.raises(ValueError, match="seed"):  # the lock is free again, also after a refusal
        run(seed=1, folder=folder)
    assert len(run(folder=folder)[1]) == 3


# --- what a folder keeps, and what it lets in ----------------------------------------------------


def test_only_what_a_killed_writer_left_is_removed(tmp_path):
    for name in ("movie.zip.part", "state.pt.12.345.part"):
        (tmp_path / name).write_text("some")
    (tmp_path / "a.1.2.part").mkdir()
    run(folder=tmp_path, epochs=1)
    left = {path.name for path in tmp_path.glob("*.part")}
    assert left == {"movie.zip.part", "a.1.2.part"}


def test_a_run_with_numbers_of_numpy_can_be_resumed(tmp_path):
    numbers = {"learning_rate": np.float64(3e-3), "seed": np.int64(2), "epochs": np.int64(2)}
    numbers |= {"weight_decay": np.float32(0.5), "encoder_factor": np.float64(1.0)}
    weights = {"alpha": np.float64(2), "further": {"depth": np.float32(1)}}
    loaders = [DataLoader(Named(tiny_samples(6)), 2) for _ in range(2)]
    for _ in range(2):
        loss = FusionLoss(**weights)
        _, history = run(loss=loss, loaders=loaders, folder=tmp_path, stop_after=1, **numbers)
    assert len(history) == 2


class Named(list):
    classes = tuple(np.array(["sky", "road", "car"]))


def test_best_weights_that_do_not_fit_make_way_for_the_state_before(tmp_path):
    straight, history = run(loaders=noisy_loaders(), epochs=4)
    run(loaders=noisy_loaders(), epochs=4, folder=tmp_path, stop_after=2)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    state["best"] = {"encoder": torch.zeros(3)}
    torch.save(state, tmp_path / "state.pt")
    with pytest.warns(UserWarning, match="(?s)Missing key.*; going on from the state"):
        model, more = run(tiny_model(5), loaders=noisy_loaders(), epochs=4, folder=tmp_path)
    assert without_times(more) == without_times(history)
    assert_same_weights(model, straight)


def test_a_run_on_a_list_of_batches_can_be_resumed(tmp_path):
    loaders = [list(DataLoader(tiny_samples(4, seed=seed), 2)) for seed in (0, 1)]
    run(loaders=loaders, folder=tmp_path, stop_after=1)
    assert len(run(loaders=loaders, folder=tmp_path)[1]) == 3
    with pytest.raises(ValueError, match="train_labels"):
        run(loaders=loaders[::-1], folder=tmp_path)


@pytest.mark.parametrize("changed", [{"shuffle": True}, {"labelled": range(8, 16)}, {"wiped": 1}])
def test_data_that_differ_where_no_sample_is_read_are_another_runs(tmp_path, changed):
    """Of 64 pictures 16 are read; the pictures' order, their labels' number and a mask differ."""

    def loaders(shuffle=False, labelled=range(8), wiped=None):
        samples = tiny_samples(64)
        if wiped is not None:
            samples[wiped] = {**samples[wiped], "semantic": torch.full((16, 16), 255)}
        data = datasets.PartlyLabelled(samples, labelled)
        return DataLoader(data, 16, shuffle=shuffle), DataLoader(tiny_samples(2), 2)

    run(loaders=loaders(), folder=tmp_path, stop_after=1)
    name = "train_order" if "shuffle" in changed else "train_maps"
    with pytest.raises(ValueError, match=f"other settings .*{name}: "):
        run(loaders=loaders(**changed), folder=tmp_path)
    assert len(run(loaders=loaders(), folder=tmp_path)[1]) == 3


def test_every_mask_of_a_folder_counts(tmp_path):
    for kind in ("images", "semantic"):
        (tmp_path / kind).mkdir()
    for number in range(40):
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / f"images/{number}.png")
        Image.fromarray(np.eye(16, dtype=np.uint8)).save(tmp_path / f"semantic/{number}.png")

    def found():
        with pytest.warns(UserWarning, match="no regions/ folder"):
            loader = DataLoader(datasets.FolderDataset(tmp_path, ["sky", "road"]), 2)
        return fingerprints.fingerprint("train", loader, seed_everything)

    before = found()
    assert found() == before
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "semantic/17.png")
    assert {name for name, value in found().items() if value != before[name]} == {"train_maps"}


def test_the_default_action_on_an_interrupt_is_put_back():
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with guards.Interrupts() as interrupts:
            assert signal.getsignal(signal.SIGINT) == interrupts._ask
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)
