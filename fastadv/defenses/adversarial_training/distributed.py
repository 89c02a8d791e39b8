"""Several processes, started by torchrun, that train one model; everything works without them as well."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """This process's number among those that train together, 0 where it is alone."""
    return distributed.get_rank() if _together() else 0


def world() -> int:
    """How many processes train together, 1 where this is alone."""
    return distributed.get_world_size() if _together() else 1


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that torchrun started, through gloo for a CPU and nccl for GPUs; give the device.

    Where this was not started by torchrun it does nothing. Let go of models in DistributedDataParallel
    before the end, as `Trainer.fit` does. A process that fails or is killed ends the job: torchrun stops the
    others.

    Raises:
        ValueError: this process has no GPU of its own.
    """
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} <= os.environ.keys():
        yield device
        return
    if device.type == "cuda":
        own = int(os.environ["LOCAL_RANK"])
        if own >= torch.cuda.device_count():
            raise ValueError(
                f"process_group: each process needs a GPU of its own, this is number {own} of "
                f"{os.environ.get('LOCAL_WORLD_SIZE')} and there are {torch.cuda.device_count()} GPUs"
            )
        device = torch.device("cuda", own)
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield device
    # Not after an error: a process that waits here for others would keep torchrun from stopping the job.
    distributed.barrier()
    # gloo's threads need Python's lock to let go of a tensor, and the group waits for them to end. Python
    # gives the lock away while it takes down a group; a DistributedDataParallel that holds the last
    # reference does not.
    gc.collect()
    distributed.destroy_process_group()


def all_sum(values: Tensor) -> Tensor:
    """The sum over processes of each value, in all of them; the tensor itself is changed."""
    if world() > 1:
        distributed.all_reduce(values)
    return values


def in_all(value: int, device: torch.device) -> list[int]:
    """This number in each process, by rank."""
    values = torch.zeros(world(), dtype=torch.int64, device=device)
    values[rank()] = value
    numbers: list[int] = all_sum(values).tolist()
    return numbers


def share_buffers(model: nn.Module) -> None:
    """Give every process the buffers of process 0, such as BatchNorm's statistics.

    DistributedDataParallel would do it in its forward, which is after the attack has met the model.
    """
    if world() > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)


def parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """The model as it is, or where there are several processes one that averages gradients over them."""
    if world() == 1:
        return model
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)
