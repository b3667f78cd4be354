"""Where there is no CUDA device, Triton's kernels run in its interpreter, on CPU tensors. Triton
asks which it is when it is first imported: before any test is."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
