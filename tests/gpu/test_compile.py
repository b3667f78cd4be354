"""The kernels compile for an H100, also where there is none."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_kernels_compile_for_an_h100(capsys: pytest.CaptureFixture[str]) -> None:
    # A process of its own: here Triton may be its interpreter.
    result = subprocess.run(
        [sys.executable, "-m", "tests.gpu.compile_kernels"],
        env=os.environ | {"TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    with capsys.disabled():
        print(f"kernels compiled {len(result.stdout.splitlines())}")
