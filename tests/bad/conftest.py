"""These notebooks are broken on purpose: `pytest --nbval tests` must not collect them."""

collect_ignore_glob = ["*.ipynb"]
