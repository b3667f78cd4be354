"""Rows -> one file, whole or not at all. The only home of pyarrow."""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Final

from vlserve.describe.errors import DescribeError
from vlserve.describe.journal import sync_folder

Row = Mapping[str, Any]
JSONL: Final = ".jsonl"
PARQUET: Final = ".parquet"
SUFFIXES: Final = (JSONL, ".csv", PARQUET)
_PART: Final = ".part"
_ROW_GROUP: Final = 16_384


def check(path: Path, suffixes: Sequence[str]) -> None:
    """Raises DescribeError where rows cannot be written to a file of that name, or where it ends
    with none of `suffixes`."""
    if path.suffix not in suffixes:
        raise DescribeError(f"{path}: must end with {' or '.join(suffixes)}")
    if path.suffix == PARQUET and find_spec("pyarrow") is None:
        raise DescribeError(f"{path}: needs pyarrow: pip install 'vlserve[parquet]'")
    if not path.parent.is_dir():
        raise DescribeError(f"{path.parent}: no such folder")
    if path.is_dir():
        raise DescribeError(f"{path} is a folder")


def write(path: Path, rows: Iterable[Row], columns: Mapping[str, type]) -> None:
    """Write rows in the form that the ending names, over what is there once all are on the disk.

    `columns` are the names and types, str, int or float, in the order of CSV and Parquet; where a
    row has None, a cell of CSV is empty and one of Parquet null.
    """
    part = path.with_name(path.name + _PART)
    match path.suffix:
        case ".csv":
            _write_csv(part, rows, columns)
        case ".parquet":
            _write_parquet(part, rows, columns)
        case _:
            _write_json_lines(part, rows)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)


def _write_json_lines(path: Path, rows: Iterable[Row]) -> None:
    # Half a character, which JSON can spell and UTF-8 cannot, stays as it is spelled: \udc00.
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_csv(path: Path, rows: Iterable[Row], columns: Mapping[str, type]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(path: Path, rows: Iterable[Row], columns: Mapping[str, type]) -> None:
    import pyarrow as pa  # noqa: PLC0415 - of the extra `parquet`
    from pyarrow import parquet  # noqa: PLC0415

    types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
    with parquet.ParquetWriter(path, schema) as writer:
        for group in _groups(iter(rows)):
            writer.write_table(pa.Table.from_pylist(group, schema))


def _groups(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while group := list(islice(rows, _ROW_GROUP)):
        yield group
