"""What each of several processes does in `test_processes`; torchrun starts it: several.py WHAT
FOLDER."""

import os
import sys
from pathlib import Path

import torch
from examples import tiny_model, tiny_samples
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, Subset

from fusion_lib import training
from fusion_lib.engine import guards, processes
from fusion_lib.losses import FusionLoss

LOSS = FusionLoss(1.0, 2.0, torch.tensor([3.0, 2.0, 1.0]))


def with_void(count: int) -> list[dict]:
    """Samples with unequally many valid pixels."""
    samples = tiny_samples(count)
    for number, sample in enumerate(samples):
        sample["semantic"][: 2 * number] = 255
        sample["region_target"][:, :number] = 255
    return samples


def gradients(model, synchronized, samples: list[dict]) -> list[torch.Tensor]:
    """Of the loss of a batch; batch norm in evaluation mode, for in training each process has
    statistics of its own."""
    model.eval()
    batch = torch.utils.data.default_collate(samples)

    def descend(piece, whole):
        outputs = synchronized(piece["image"])
        parts = LOSS(outputs, piece, *whole(outputs))
        parts["total"].backward()
        return parts

    guards.Pieces(descend, model.zero_grad, LOSS)(batch)
    return [parameter.grad for parameter in model.parameters()]


def scores(samples: list[dict]) -> dict:
    """Of validation, in batches of two: with seven pictures the last batch is smaller."""
    return training.validate(tiny_model(), LOSS, DataLoader(samples, 2), torch.device("cpu"))


def a_run(folder: Path, fail: bool = False, processes_were: int = 2) -> torch.nn.Module:
    """Three epochs; with `fail`, the second process dies in the second epoch of its first life."""
    rank, count = processes.rank_and_count()

    class Failing(FusionLoss):
        calls = 0

        def forward(self, *arguments):
            self.calls += 1
            if (
                fail
                and rank == 1
                and self.calls == 5
                and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
            ):
                os._exit(9)
            return super().forward(*arguments)

    samples = tiny_samples(8)
    sampler = DistributedSampler(samples, drop_last=True) if count > 1 else None
    train = DataLoader(samples, 4 // count, shuffle=sampler is None, sampler=sampler)
    val = DataLoader(Subset(samples, range(rank, 8, count)), 2)
    model = tiny_model(rank)  # the first process's weights are everybody's
    training.train(
        model,
        Failing(1.0, 2.0),
        train,
        val,
        epochs=3,
        learning_rate=1e-2,
        folder=folder,
        save_every=1,
    )
    return model


def main(what: str, folder: Path) -> None:
    """Write what was asked for as FOLDER/WHAT.RANK.pt."""
    processes.start()
    rank, count = processes.rank_and_count()
    if what == "numbers":
        model = tiny_model()
        share = with_void(6)[rank::count]
        result = {
            "gradients": gradients(model, DistributedDataParallel(model), share),
            "scores": scores(with_void(7)[rank::count]),
        }
    else:
        result = a_run(folder / what, fail=what == "failing").state_dict()
    torch.save(result, folder / f"{what}.{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]))
