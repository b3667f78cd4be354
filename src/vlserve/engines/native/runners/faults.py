"""What an exception means for the device: is it out of memory, or lost?"""

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device had no memory left; it works on with less."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    # As the driver says it, where memory was asked for past torch's allocator.
    return isinstance(error, torch.AcceleratorError) and "out of memory" in str(error)


def is_device_lost(error: BaseException, device: torch.device) -> bool:
    """Whether nothing more can be computed on `device` by this process.

    An illegal memory access spoils the CUDA context: each later call fails, whatever it is about.
    """
    if is_out_of_memory(error):
        return False
    return isinstance(error, torch.AcceleratorError) or not _answers(device)


def _answers(device: torch.device) -> bool:
    """Whether a GPU can still be waited for: libraries report a spoilt context in words of their
    own, and some errors spoil nothing."""
    if device.type != "cuda":
        return True
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return False
    return True
