"""A run of `vlserve describe` in a test's own event loop, and what it wrote."""

import csv
import json
from pathlib import Path
from typing import Any

from pyarrow import parquet

from tests.doors.grpc.live import png
from vlserve.describe.command import Job, describe
from vlserve.describe.sitting import Effort
from vlserve.settings import Settings
from vlserve.types import Detail

Rows = list[dict[str, Any]]


def folder_of(path: Path, num_pictures: int) -> Path:
    """A folder of pictures, each of another colour: 000.png, 001.png and so on."""
    path.mkdir()
    for i in range(num_pictures):
        (path / f"{i:03}.png").write_bytes(png((i % 256, i // 256, 7)))
    return path


async def ran(
    source: Path,
    output: Path,
    server: str | None,
    *,
    question: str | None = "what is it?",
    detail: Detail = Detail.AUTO,
    max_tokens: int | None = None,
    num_clients: int = 4,
    patience_s: float = 20.0,
    retry_failed: bool = False,
    overwrite: bool = False,
    settings: Settings | None = None,
) -> int:
    """Its exit status."""
    job = Job((str(source),), output, question, detail, max_tokens, recursive=False, server=server)
    effort = Effort(num_clients, patience_s, retry_failed, overwrite)
    return await describe(settings or Settings(), job, effort)


def rows(path: Path) -> Rows:
    """What was written, by its form."""
    match path.suffix:
        case ".jsonl":
            return [json.loads(line) for line in path.read_text().splitlines()]
        case ".csv":
            with path.open(newline="") as file:
                return list(csv.DictReader(file))
        case _:
            found: Rows = parquet.read_table(path).to_pylist()
            return found


def names_in(folder: Path) -> list[str]:
    """What is in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())
