"""Two processes on a CPU, started by torchrun: what they compute together is what one computes
alone."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from examples import RECIPE, tiny_loaders, tiny_model
from several import a_run, gradients, scores, with_void

from fusion_lib import training
from fusion_lib.engine import processes
from fusion_lib.lab import recipes
from fusion_lib.losses import FusionLoss

HERE = Path(__file__).parent


def torchrun(what: str, folder: Path, restarts: int = 0) -> tuple[list, str]:
    """What each of the two processes saved, and all that they wrote."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--standalone",
        f"--max-restarts={restarts}",
    ]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])]),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("TQDM_DISABLE", None)  # the bars are counted
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = (
        "1"  # else restarted workers look for the addresses of the dead
    )
    done = subprocess.run(
        [*command, HERE / "several.py", what, folder],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,  # with room: the machine may be busy
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{what}.{rank}.pt") for rank in (0, 1)], done.stdout + done.stderr


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    return torchrun("numbers", tmp_path_factory.mktemp("numbers"))[0]


def test_gradients_are_those_of_one_process(numbers):
    """Though the shares have unequally many valid pixels."""
    model = tiny_model()
    alone = gradients(model, model, with_void(6))
    for one, other, expected in zip(numbers[0]["gradients"], numbers[1]["gradients"], alone):
        assert torch.equal(one, other) and (one - expected).abs().max() < 1e-6
    assert max(gradient.abs().max() for gradient in alone) > 0.1


def test_mean_of_the_processes_own_means_would_be_wrong():
    """The test above can fail: without common normalisers the gradient is another one."""
    whole, halves = tiny_model(), [tiny_model(), tiny_model()]
    expected = gradients(whole, whole, with_void(6))
    own = [gradients(model, model, with_void(6)[rank::2]) for rank, model in enumerate(halves)]
    assert max(((a + b) / 2 - c).abs().max() for a, b, c in zip(*own, expected)) > 1e-3


def test_scores_count_each_picture_once(numbers):
    """Seven pictures, four and three, in batches of two: the last batches are uneven."""
    alone = scores(with_void(7))
    for result in numbers:
        assert result["scores"] == pytest.approx(alone, rel=1e-6)


def test_killed_worker_is_restarted_and_the_run_ends_as_if_undisturbed(tmp_path):
    straight, straight_output = torchrun("straight", tmp_path)
    failed, _ = torchrun("failing", tmp_path, restarts=1)
    for results in (straight, failed):
        assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    assert all(torch.equal(straight[0][name], failed[0][name]) for name in straight[0])
    assert {path.name for path in (tmp_path / "failing").iterdir()} == {
        ".lock",
        "state.pt",
        "state_before.pt",
        "best.safetensors",
    }
    assert straight_output.count("0/3") == 1  # one bar, the first process's


def test_run_goes_on_with_fewer_processes(tmp_path):
    """A server with two GPUs today may have one tomorrow: same batches, other random draws, a sound
    end."""
    torchrun("smaller", tmp_path)
    state = torch.load(
        tmp_path / "smaller" / "state_before.pt", weights_only=True
    )  # before the last batch of the run
    assert (len(state["history"]), len(state["random"])) == (2, 2)
    os.replace(tmp_path / "smaller" / "state_before.pt", tmp_path / "smaller" / "state.pt")
    model = a_run(tmp_path / "smaller")
    assert all(p.isfinite().all() for p in model.parameters())


def test_port_in_use(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for name, value in {
            "RANK": "0",
            "WORLD_SIZE": "2",
            "LOCAL_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(
            RuntimeError,
            match=(
                "processes cannot meet at {'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1',"
                f" 'MASTER_PORT': '{port}'}} .*--standalone"
            ),
        ):
            processes.start()


def test_one_process_without_torchrun():
    assert processes.start().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert processes.rank_and_count() == (0, 1)
    assert processes.gather("x") == ["x"] and processes.add_up(torch.tensor(3)).item() == 3


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(
        RuntimeError, match="LOCAL_RANK is 1, but there are 1 GPUs; .*--nproc-per-node=1"
    ):
        processes.start()


# --- shares of the pictures --------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 4])
def test_shares_are_disjoint_and_together_they_are_all(monkeypatch, count):
    trained, validated = [], []
    for rank in range(count):
        monkeypatch.setattr(processes, "rank_and_count", lambda: (rank, count))
        monkeypatch.setattr(torch.distributed, "is_available", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda *group: rank)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda *group: count)
        train, val = recipes.loaders(RECIPE, recipes.TASKS)
        assert train.batch_size == RECIPE.batch_size // count
        trained.append(list(train.sampler))
        validated.append(list(val.dataset.indices))
    assert sorted(sum(trained, [])) == list(range(40))
    assert sorted(sum(validated, [])) == list(range(len(val.dataset.dataset)))


@pytest.mark.parametrize("changed", [{"labels": 0.5}, {"pictures": 0.5}, {"batch_size": 3}])
def test_what_several_processes_cannot_share(monkeypatch, changed):
    monkeypatch.setattr(processes, "rank_and_count", lambda: (0, 2))
    with pytest.raises(
        ValueError,
        match="with 2 processes; expected all labels of all pictures, and a batch that divides",
    ):
        recipes.loaders(replace(RECIPE, **changed), recipes.TASKS)


def test_loader_that_gives_every_process_every_picture(monkeypatch):
    monkeypatch.setattr(processes, "rank_and_count", lambda: (0, 2))
    with pytest.raises(
        ValueError, match="there are 2 processes, and train_loader has no DistributedSampler"
    ):
        training.train(tiny_model(), FusionLoss(), *tiny_loaders(), epochs=1)
