"""What every process of the tests is given, before it imports anything heavy.

Torch reads its number of threads as it is imported: models this small only lose by more than one,
and tests run beside each other. Triton asks then whether its interpreter is to run its kernels on
CPU tensors, which is the only way where there is no CUDA device.
"""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")
