"""What has been measured so far, on disk after every figure: a run that is cut loses none."""

import json
import platform
import shlex
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import transformers


class Report:
    """`NAME.json` and `NAME.md` in a folder."""

    def __init__(self, folder: Path, facts: dict[str, Any], name: str = "gpu") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._name = name
        self._facts = facts
        self._sections: dict[str, list[dict[str, Any]]] = {}
        for fact, value in facts.items():
            print(f"{fact}: {value}", flush=True)
        self._write()

    def add(self, section: str, **figures: Any) -> None:
        """One row of a section's table, printed too."""
        self._sections.setdefault(section, []).append(figures)
        said = ", ".join(f"{name} {shown(value)}" for name, value in figures.items())
        print(f"{section}: {said}", flush=True)
        self._write()

    def _write(self) -> None:
        report = {"facts": self._facts, "sections": self._sections}
        (self._folder / f"{self._name}.json").write_text(json.dumps(report, indent=1) + "\n")
        (self._folder / f"{self._name}.md").write_text(self._markdown())

    def _markdown(self) -> str:
        lines = ["# Measured on one device", ""]
        lines += [f"- {name}: {value}" for name, value in self._facts.items()]
        for section, rows in self._sections.items():
            names = list(dict.fromkeys(name for row in rows for name in row))
            lines += ["", f"## {section}", "", line(names), line(["---"] * len(names))]
            lines += [line([shown(row.get(name, "")) for name in names]) for row in rows]
        return "\n".join(lines) + "\n"


def line(cells: list[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def shown(value: Any) -> str:
    """Four digits of a number."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value).replace("|", "/").replace("\n", " ")


def device_name() -> str:
    """The GPU's, or the processor's where there is none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()


def facts() -> dict[str, Any]:
    """What the figures hold for."""
    try:
        import triton  # noqa: PLC0415 - not everywhere

        triton_version = triton.__version__
    except ImportError:
        triton_version = "none"
    return {
        "device": device_name(),
        "driver": said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "commit": said("git", "rev-parse", "--short", "HEAD"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "transformers": transformers.__version__,
        "triton": triton_version,
    }


def said(*command: str) -> str:
    """What a program prints, or 'unknown' where there is none."""
    try:
        result = subprocess.run(  # noqa: S603 - fixed commands
            command, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()
