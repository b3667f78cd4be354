"""Other servers on the same device and the same shapes, by scripts in a folder that is given.

The folder holds `mkckpt.py`, which writes checkpoints without weights, a script for each peer, and
the peers' packages in `site` and `lm`. A script prints JSON, one line a figure.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gpu.report import Report

SAID = 400


@dataclass(frozen=True, slots=True)
class Peer:
    """`python SCRIPT ARGUMENTS CHECKPOINT` with packages of the folder before the installed."""

    name: str
    script: str
    arguments: tuple[str, ...]
    checkpoint: str
    packages: tuple[str, ...]


# The most telling first: the time may run out.
PEERS = (
    Peer("transformers", "bench_hf.py", (), "idefics2-8b", ()),
    Peer("vLLM, text decoder", "bench_vllm.py", ("text",), "mistral-7b-i2", ("site",)),
    Peer("vLLM, with pictures", "bench_vllm.py", ("vlm",), "idefics2-8b", ("site",)),
    Peer("LMDeploy, text decoder", "bench_lmdeploy.py", (), "mistral-7b-i2", ("lm", "site")),
)


def run_peers(folder: Path, report: Report, deadline: float) -> None:
    """Each peer's figures into the report, or what stopped it; `deadline` by `time.monotonic`."""
    with tempfile.TemporaryDirectory() as checkpoints:
        _run(folder, folder / "mkckpt.py", (checkpoints,), (), deadline)
        for peer in PEERS:
            missing = [n for n in (peer.script, *peer.packages) if not (folder / n).exists()]
            if missing:
                report.add("peers", peer=peer.name, result=f"not there: {', '.join(missing)}")
                continue
            arguments = (*peer.arguments, f"{checkpoints}/{peer.checkpoint}")
            script = folder / peer.script
            figures, trouble = _run(folder, script, arguments, peer.packages, deadline)
            for each in figures:
                report.add("peers", peer=peer.name, result=json.dumps(each))
            if trouble:
                report.add("peers", peer=peer.name, result=trouble)


def _run(
    folder: Path,
    script: Path,
    arguments: tuple[str, ...],
    packages: tuple[str, ...],
    deadline: float,
) -> tuple[list[Any], str | None]:
    """The figures that a script printed, and what went wrong if something did."""
    left = deadline - time.monotonic()
    if left <= 0:
        return [], "no time left"
    path = ":".join(str(folder / name) for name in (*packages, "."))
    settings = [f"PYTHONPATH={path}", "HF_HUB_OFFLINE=1"]
    command = ["env", *settings, sys.executable, str(script), *arguments]
    trouble = None
    try:
        result = subprocess.run(  # noqa: S603 - a script that the caller named
            command, capture_output=True, text=True, check=False, timeout=left
        )
        printed = result.stdout
        if result.returncode:
            trouble = f"exit {result.returncode}: {result.stderr[-SAID:]}"
    except subprocess.TimeoutExpired as expired:
        printed = expired.stdout.decode() if isinstance(expired.stdout, bytes) else ""
        trouble = f"cut after {left:.0f} s"
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")], trouble
