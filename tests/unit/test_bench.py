"""What `make bench` prints, and the reports that it keeps."""

import json

import torch

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
    bench.main([])
    assert capsys.readouterr().out.count("\n") == 11
    assert json.loads((tmp_path / "speed.json").read_text()) == {"a GPU": 1}
    bench.main(["--store"])
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


def test_report_holds_what_was_measured(monkeypatch):
    """Each measure is asked for the same pictures."""
    asked = []

    def measure(name, answer):
        monkeypatch.setattr(speed, name, lambda *given: asked.append((name, given)) or answer)

    measure("network_rates", {"fused": 8.0, "two": 4.0})
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
    assert rates == [(CPU, size, 2, False), (CPU, size, 2, True)]


def test_stored_reports_are_readable():
    for name, report in bench.stored().items():
        text = "\n".join(bench.lines(name, report))
        assert text.startswith(f"{name}; torch ") and "of semantic only" in text
