"""What `make bench` prints, and the reports that it keeps."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import torch

from fusion_lib.datasets import Scenes
from fusion_lib.lab import bench, speed

CPU = torch.device("cpu")


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
    monkeypatch.setattr(bench, "report", lambda device, steps, batch_size: measured)
    monkeypatch.setattr(bench, "STORED", tmp_path / "speed.json")
    (tmp_path / "speed.json").write_text('{"a GPU": 1}')
    monkeypatch.setattr(bench, "everything", lambda: print("everything"))
    bench.main([])
    assert capsys.readouterr().out.startswith("everything\n")
    assert json.loads((tmp_path / "speed.json").read_text()) == {"a GPU": 1}
    bench.main(["--store"])
    stored = json.loads((tmp_path / "speed.json").read_text())
    assert stored.pop("a GPU") == 1 and list(stored.values()) == [measured]
    said = capsys.readouterr().out
    assert "everything" not in said
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


def test_report_holds_what_was_measured(monkeypatch):
    """Each measure is asked for the same pictures."""
    asked = []

    def measure(name, answer):
        monkeypatch.setattr(speed, name, lambda *given: asked.append((name, given)) or answer)

    monkeypatch.setattr(
        speed, "loader", lambda size, n, kept: f"{'resident' if kept else 'cpu'} loader"
    )
    measure("network_rates", {"fused": 8.0, "two networks": 4.0})
    for name in ("ladder", "data_rate", "limits", "needs", "decoder_rates"):
        measure(name, name)
    found = bench.report(CPU, 3, 2)
    size = (240, 320)
    assert found == {
        "torch": torch.__version__,
        "size": [240, 320],
        "batch": 2,
        "rates": "ladder",
        "data": {"loader on the CPU": "data_rate", "data on the device": "data_rate"},
        "fused_over_two": 0.5,
        "limits": "limits",
        "needs": "needs",
        "rivals": "decoder_rates",
    }
    given = dict(asked)
    assert given["ladder"] == (CPU, size, 2, 3) and given["needs"] == (CPU, size, 2)
    assert given["network_rates"][2] == (2, 3, *size) and given["decoder_rates"] == (CPU, 2)
    rates = [given for name, given in asked if name == "data_rate"]
    assert rates == [("cpu loader", CPU, 10), ("resident loader", CPU, 10)]


def test_stored_reports_are_readable():
    for name, report in bench.stored().items():
        text = "\n".join(bench.lines(name, report))
        assert text.startswith(f"{name}; torch ") and "of semantic only" in text


def test_what_is_done_to_a_picture_can_be_done():
    sample = Scenes("val")[0]
    works = bench.of_a_picture(sample)
    results = {name: work() for name, work in works.items()}
    assert results["region target"].shape == results["decode"].shape == (64, 64)
    assert results["partition metrics"]["covering"] == 1
    confusion = results["confusion matrix"]
    assert confusion.sum() == np.trace(confusion) == (sample["semantic"] != 255).sum()
    assert np.isfinite(float(results["loss"]["total"]))


def test_core_and_engine_are_imported_in_a_process_of_its_own(monkeypatch):
    """Once torch and torchvision are there; the lab is left out."""
    commands = []

    def run(command, **options):
        commands.append(command)
        return SimpleNamespace(stdout="0.5\n")

    monkeypatch.setattr(bench, "subprocess", SimpleNamespace(run=run))
    assert bench.import_seconds() == 0.5
    ((python, flag, code),) = commands
    assert (python, flag) == (sys.executable, "-c")
    for name in ("fusion_lib.metrics", "fusion_lib.engine.files", "fusion_lib.models.layers"):
        assert f" {name}," in code
    assert "fusion_lib.lab" not in code and "'import torch, torchvision'" in code
    compile(code, "code", "exec")


def test_everything_is_printed_one_a_line(monkeypatch, tmp_path, capsys):
    """Clocks and processes are scripted; without photographs at hand none are read."""
    monkeypatch.setattr(bench.files, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(speed, "seconds", lambda work, repeats: 0.001)
    monkeypatch.setattr(speed, "network_rates", lambda d, nets, *rest: dict(zip(nets, (4.0, 2.0))))
    monkeypatch.setattr(bench, "import_seconds", lambda: 0.5)
    bench.everything()
    _, imports, milliseconds, *steps = capsys.readouterr().out.splitlines()
    assert imports.endswith("core and engine of fusion_lib, beyond torch and torchvision: 0.50 s")
    assert milliseconds.startswith("milliseconds a picture of 64 x 64: loss 1.00, region target 1")
    said = "fused 2000.0 ms, two networks 4000.0 ms, ratio 0.50"
    works = ("training step, 8 scenes", "prediction, 8 scenes", "training step, 8 photographs")
    assert steps == [f"{work}: {said}" for work in works]
