"""What went wrong in a call, and what it is reported as."""

from __future__ import annotations

from typing import TypeVar

import torch

from inference.errors import JobError, ModelFailed, OutOfMemory, PipelineFailed

# What says so and has no class of its own: the CPU's allocator, and on a card whatever does not
# allocate by torch's, such as a kernel that is loaded late, pinned RAM, and the libraries' handles.
_SHORTAGES = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
)

ErrorType = TypeVar("ErrorType", bound=BaseException)


class DeviceLost(BaseException):
    """A device computes no more; nothing but another process brings it back."""


def as_job_error(error: BaseException) -> JobError:
    """What a failed call is reported as, the cause kept."""
    if isinstance(error, ModelFailed | OutOfMemory):
        return error
    if is_out_of_memory(error):
        failure: JobError = OutOfMemory(
            "not enough device memory for this picture even alone; ask for a smaller size"
        )
    else:
        failure = PipelineFailed(f"the pipeline raised {type(error).__name__}: {error}"[:500])
    failure.__cause__ = error
    return failure


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch could not allocate, on either kind of device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SHORTAGES)


def is_lost(device: str) -> bool:
    """Whether a card answers everything with an error, as it does after a fault in a kernel."""
    if not device.startswith("cuda"):
        return False
    try:
        torch.zeros(1, device=device).item()
    except Exception as error:
        return not is_out_of_memory(error)
    return False


def without_tensors(error: ErrorType) -> ErrorType:
    """The error without the frames that raised it, which hold what did not fit into memory."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def free_cache(device: str) -> None:
    """Give cached blocks back to the device after a failure."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
