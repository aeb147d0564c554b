"""One process or several, started by torchrun: which one this is, and sums over all of them."""

import os

import torch
from torch import distributed, nn


def start() -> torch.device:
    """Join the group that torchrun has announced, if it has, and return this process's device: one
    GPU each, or the CPU. RuntimeError: torchrun started more processes on this machine than there
    are GPUs, or the group cannot be formed (often because another program uses the port)."""
    local, device = int(os.environ.get("LOCAL_RANK", 0)), torch.device("cpu")
    if torch.cuda.is_available():
        if local >= (count := torch.cuda.device_count()):
            told = f"LOCAL_RANK is {local}, but there are {count} GPUs; expected one process a GPU"
            raise RuntimeError(f"{told}: call torchrun with --nproc-per-node={count}")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if "RANK" in os.environ and not distributed.is_initialized():
        backend, own = ("nccl", device) if device.type == "cuda" else ("gloo", None)
        try:
            distributed.init_process_group(backend, device_id=own)
        except (RuntimeError, ValueError) as error:
            there = {n: os.environ.get(n) for n in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
            advice = "if the port is in use, call torchrun with --standalone, which chooses another"
            raise RuntimeError(f"processes cannot meet at {there} ({error}); {advice}") from error
    return device


def rank_and_count() -> tuple[int, int]:
    """This process's number, from 0, and how many there are."""
    several = distributed.is_available() and distributed.is_initialized()
    return (distributed.get_rank(), distributed.get_world_size()) if several else (0, 1)


def add_up(numbers: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, on each of them. Every process must call this."""
    if rank_and_count()[1] > 1:
        numbers = numbers.clone()
        distributed.all_reduce(numbers)
    return numbers


def gather(value) -> list:
    """What each process gave, in the order of their numbers. Every process must call this."""
    values = [value] * rank_and_count()[1]
    if len(values) > 1:
        distributed.all_gather_object(values, value)
    return values


def joined(model: nn.Module) -> nn.Module:
    """The model, behind whose backward pass the processes add up their gradients."""
    return nn.parallel.DistributedDataParallel(model) if rank_and_count()[1] > 1 else model


def share_buffers(model: nn.Module) -> None:
    """Give every process the first one's buffers: batch norm's statistics, its own in each."""
    if rank_and_count()[1] > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)
