"""The kernels compile for an H100 and other cards, also where there is none."""

import os
import subprocess
import sys

import pytest


def test_kernels_compile_and_load_pages_ahead(capsys: pytest.CaptureFixture[str]) -> None:
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
