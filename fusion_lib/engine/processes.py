"""One process or several: which one this is, and sums over all of them. Plain torch.distributed,
started by torchrun."""

import os

import torch
from torch import distributed, nn


def start() -> torch.device:
    """Join the group that torchrun has announced, and return this process's device: one GPU each,
    or the CPU.

    Without torchrun there is one process, and nothing to join.

    Raises:
        RuntimeError: torchrun started more processes on this machine than there are GPUs, or the
            group cannot be formed (often because another program uses the port).
    """
    local, cuda = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.is_available()
    if cuda and local >= torch.cuda.device_count():
        told = f"LOCAL_RANK is {local}, but there are {torch.cuda.device_count()} GPUs"
        advice = f"call torchrun with --nproc-per-node={torch.cuda.device_count()}"
        raise RuntimeError(f"{told}; expected one process a GPU: {advice}")
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if "RANK" in os.environ and not distributed.is_initialized():
        try:
            distributed.init_process_group(
                "nccl" if cuda else "gloo", device_id=device if cuda else None
            )
        except (RuntimeError, ValueError) as error:
            names = ("MASTER_ADDR", "MASTER_PORT")
            there = ", ".join(f"{name} {os.environ.get(name)}" for name in names)
            told = f"the {os.environ.get('WORLD_SIZE')} processes cannot meet at {there} ({error})"
            advice = "call torchrun with --standalone, which chooses a free port"
            raise RuntimeError(f"{told}; is the port in use? If so, {advice}") from error
    return device


def rank_and_count() -> tuple[int, int]:
    """This process's number, from 0, and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def add_up(numbers: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, on each of them. Every process must call this."""
    if rank_and_count()[1] > 1:
        numbers = numbers.clone()
        distributed.all_reduce(numbers)
    return numbers


def gather(value) -> list:
    """What each process gave, in the order of their numbers. Every process must call this."""
    count = rank_and_count()[1]
    if count == 1:
        return [value]
    values = [None] * count
    distributed.all_gather_object(values, value)
    return values


def joined(model: nn.Module) -> nn.Module:
    """The model, behind whose backward pass the processes add up their gradients."""
    return nn.parallel.DistributedDataParallel(model) if rank_and_count()[1] > 1 else model


def share_buffers(model: nn.Module) -> None:
    """Give every process the first one's buffers: the statistics of batch norm, which each gathers
    on its own."""
    if rank_and_count()[1] > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)
