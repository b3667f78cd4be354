"""Other servers on the same device and the same shapes, in a run of their own.

python -m bench.gpu.peers PEERS FOLDER: PEERS holds `mkckpt.py`, which writes checkpoints without
weights, a script for each peer, and the peers' packages in `site` and `lm`. A script prints JSON,
one line a figure. `peers.json` and `peers.md` in FOLDER are written after every figure.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gpu.report import Report, facts

SAID = 400
# One command on a lent machine may take ten minutes.
SECONDS = 580


@dataclass(frozen=True, slots=True)
class Peer:
    """`python SCRIPT ARGUMENTS CHECKPOINT` with packages of the folder before the installed."""

    name: str
    script: str
    arguments: tuple[str, ...]
    checkpoint: str
    packages: tuple[str, ...]


TRANSFORMERS = "Transformers"
VLLM_TEXT = "vLLM, text decoder"
VLLM_PICTURES = "vLLM, with pictures"
LMDEPLOY_TEXT = "LMDeploy, text decoder"
# The most telling first: the time may run out.
PEERS = (
    Peer(VLLM_TEXT, "bench_vllm.py", ("text",), "mistral-7b-i2", ("site",)),
    Peer(TRANSFORMERS, "bench_hf.py", (), "idefics2-8b", ()),
    Peer(LMDEPLOY_TEXT, "bench_lmdeploy.py", (), "mistral-7b-i2", ("lm", "site")),
    Peer(VLLM_PICTURES, "bench_vllm.py", ("vlm",), "idefics2-8b", ("site",)),
)


def main() -> None:
    """Each peer in turn."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.peers", description=__doc__)
    parser.add_argument("peers", type=Path, help="the folder of scripts and packages")
    parser.add_argument("folder", type=Path, help="where peers.json and peers.md are written")
    parser.add_argument("--only", nargs="*", choices=[peer.name for peer in PEERS], metavar="NAME")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="when peers are cut")
    options = parser.parse_args()
    deadline = time.monotonic() + options.seconds
    report = Report(options.folder, facts(), name="peers")
    run_peers(options.peers, report, deadline, options.only)
    report.add("run", seconds=time.monotonic() - (deadline - options.seconds))


def run_peers(
    folder: Path, report: Report, deadline: float, names: list[str] | None = None
) -> None:
    """The figures of each peer, or of those of `names`, into the report, or what stopped it;
    `deadline` by `time.monotonic`."""
    with tempfile.TemporaryDirectory() as checkpoints:
        _, trouble = _run(folder, folder / "mkckpt.py", (checkpoints,), (), deadline)
        if trouble:
            report.add("troubles", peer="all: no checkpoints", trouble=trouble)
            return
        for peer in PEERS:
            if names is not None and peer.name not in names:
                continue
            missing = [n for n in (peer.script, *peer.packages) if not (folder / n).exists()]
            if missing:
                report.add("troubles", peer=peer.name, trouble=f"not there: {', '.join(missing)}")
                continue
            arguments = (*peer.arguments, f"{checkpoints}/{peer.checkpoint}")
            script = folder / peer.script
            figures, trouble = _run(folder, script, arguments, peer.packages, deadline)
            for each in figures:
                report.add("peers", peer=peer.name, result=json.dumps(each))
            if trouble:
                report.add("troubles", peer=peer.name, trouble=trouble)


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


if __name__ == "__main__":
    main()
