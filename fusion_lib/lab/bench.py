"""How fast this machine trains, as `make bench` prints it (compare ratios, not single figures) and
python -m fusion_lib.lab.bench --store keeps it, in data/results/speed.json."""

import json
import sys

import torch

from fusion_lib import models
from fusion_lib.engine import devices, files, machine
from fusion_lib.lab import recipes, speed

STORED = files.data_folder() / "results" / "speed.json"  # device -> its report


def report(device: torch.device, steps: int, batch_size: int) -> dict:
    """What is measured of training on pictures of 240 x 320, ready for JSON; see `lines`."""
    size, paths = (240, 320), {"loader on the CPU": False, "data on the device": True}
    pair = {"fused": models.FusionModel(recipes.TASKS), "two": models.TwoNetworks(recipes.TASKS)}
    pair = speed.network_rates(device, pair, (batch_size, 3, *size))
    return {
        "torch": torch.__version__,
        "size": list(size),
        "batch": batch_size,
        "rates": speed.ladder(device, size, batch_size, steps),
        "data": {n: speed.data_rate(device, size, batch_size, kept) for n, kept in paths.items()},
        "fused_over_two": pair["two"] / pair["fused"],
        "limits": speed.limits(device),
        "needs": speed.needs(device, size, batch_size),
        "rivals": speed.decoder_rates(device, batch_size),
    }


def stored() -> dict[str, dict]:
    """The reports that were kept, {device: report}."""
    return json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {}


def lines(name: str, measured: dict) -> list[str]:
    """A device's report in words."""
    rates, (height, width) = measured["rates"], measured["size"]
    pictures = f"{measured['batch']} pictures of {height} x {width}"
    text = [f"{name}; torch {measured['torch']}; {pictures}", *_compared(rates, "plain")]
    for path, rate in measured["data"].items():
        text.append(f"{path:20} gives {rate:8.1f} pictures a second")
    text.append(f"a fused step takes {measured['fused_over_two']:.2f} of two networks' step")
    reached = rates[speed.SWITCHES[-2]]  # the step whose needs were counted
    for (kind, need), unit in zip(measured["needs"].items(), ("G operations", "GB")):
        limit = measured["limits"][kind]
        device = f"the device does {limit / 1e9:.0f} {unit} a second"
        share = f"enough for {limit / need:.0f} pictures; reached: {reached * need / limit:.0%}"
        text.append(f"{need / 1e9:.2f} {unit} a picture; {device}, {share}")
    behind = "decoders behind the same encoder, photographs of 256 x 320, forward and backward"
    text.append(f"{behind} (own decoders: both tasks):")
    return text + _compared(measured["rivals"], "semantic only")


def _compared(rates: dict[str, float | str], base: str) -> list[str]:
    text = []
    for name, rate in rates.items():
        if not isinstance(rate, str):
            rate = f"{rate:8.1f} pictures a second, {rate / rates[base]:.2f} of {base}"
        text.append(f"{name:20} {rate}")
    return text


def main(arguments: list[str]) -> None:
    """Print this device's figures; with --store, keep them."""
    device = devices.choose_device()
    cuda = device.type == "cuda"
    measured = report(device, steps=50 if cuda else 3, batch_size=32 if cuda else 8)
    on_cpu = f"{machine.processor()}, {torch.get_num_threads()} threads"
    name = on_cpu if device.type == "cpu" else machine.accelerator()
    print("\n".join(lines(name, measured)))
    if "--store" in arguments:
        content = json.dumps({**stored(), name: measured}, indent=1) + "\n"
        files.write_whole(STORED, content.encode())


if __name__ == "__main__":
    main(sys.argv[1:])
