"""Tables of stored rows."""

from fusion_lib.lab import tables


def test_table_of_stored_rows(monkeypatch):
    """Mean and standard deviation of the rows that were asked for; what no row measured has no
    column."""
    rows = [
        {
            "model": model,
            "seed": seed,
            "epochs": epochs,
            **dict.fromkeys(tables.TABLE.values()),
            "miou": miou,
            "covering": covering,
        }
        for model, seed, epochs, miou, covering in (
            ("b", 0, 30, 0.5, None),
            ("b", 1, 30, 0.7, None),
            ("a", 0, 30, 0.25, 0.8),
            ("a", 0, 3, 0.1, 0.1),
        )
    ]
    monkeypatch.setattr(tables.experiments, "results", {"some": rows}.get)
    assert tables.results_table("some", epochs=30).splitlines() == [
        "| | runs | mIoU argmax | covering |",
        "|---|---|---|---|",
        "| b | 2 | 0.600 ± 0.141 |  |",
        "| a | 1 | 0.250 | 0.800 |",
    ]


def test_table_of_runs_of_unequal_length(monkeypatch):
    rows = [
        {"model": "a", "epochs": epochs, **dict.fromkeys(tables.TABLE.values()), "miou": miou}
        for epochs, miou in ((16.0, 0.5), (22.0, 0.75))
    ]
    monkeypatch.setattr(tables.experiments, "results", {"some": rows}.get)
    assert tables.results_table("some").splitlines()[2:] == [
        "| a, 16 epochs | 1 | 0.500 |",
        "| a, 22 epochs | 1 | 0.750 |",
    ]
