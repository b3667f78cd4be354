"""Which pictures are meant: folders, patterns, lists and files -> names and paths."""

import glob
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vlserve.describe.errors import DescribeError
from vlserve.errors import invalid

SUFFIXES: Final = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)
# Pictures as well, of kinds that are not read: each gets a row that says so.
UNREAD: Final = frozenset(
    {".arw", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".jp2", ".jxl", ".nef", ".psd", ".svg"}
)
_MISSING: Final = "missing"
_CONVERT: Final = f"convert it to one of {', '.join(sorted(SUFFIXES))}"


@dataclass(frozen=True, slots=True)
class Picture:
    """A file and its `key`, which is its name in the output: inside a folder its path there, else
    as written."""

    key: str
    path: Path

    @property
    def stamp(self) -> str:
        """What tells the file from another that is or was at the same path."""
        try:
            return stamp_of(self.path.stat())
        except OSError:
            return _MISSING

    def read(self, max_bytes: int) -> tuple[bytes, str]:
        """The file's content and the stamp that belongs to it.

        Raises OSError, and ServeError(INVALID_ARGUMENT) where it is larger than `max_bytes`, of a
        kind in UNREAD or no regular file.
        """
        if (suffix := self.path.suffix.lower()) in UNREAD:
            raise invalid("picture", f"{suffix} is not read here: {_CONVERT}")
        # To open a pipe would wait for who writes into it.
        with open(self.path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise invalid("picture", "is not a regular file")
            if status.st_size > max_bytes:
                most = f"is larger than {max_bytes} bytes (limits.max_message_mib)"
                raise invalid("picture", f"{most}: it has {status.st_size}")
            return file.read(), stamp_of(status)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def stamp_of(status: os.stat_result) -> str:
    """A file's size in bytes and its time of change in nanoseconds."""
    return f"{status.st_size}-{status.st_mtime_ns}"


@dataclass(frozen=True, slots=True)
class Found:
    """The pictures of all sources, each once, in the order of the sources; and how many files of
    folders are no pictures, by how they end."""

    pictures: list[Picture]
    left_out: Counter[str]


def find(sources: Sequence[str], *, recursive: bool) -> Found:
    """What the sources name.

    A source is a folder (its files that end as pictures do, those in UNREAD among them, sorted,
    hidden ones left out; with `recursive` those of the folders in it, links not followed), a
    pattern (`*`, `?`, `[]`, and `**` for any folders), a file that ends as a picture does, or any
    other file, which lists paths, one a line. Listed files need not exist: that is for whoever
    reads them to say.

    Raises DescribeError for a source that is nothing of this or holds no picture, and where two
    files would have one name in the output.
    """
    found: dict[str, Path] = {}
    left_out: Counter[str] = Counter()
    for source in sources:
        files = list(_files(source, left_out, recursive=recursive))
        unread = Counter(path.suffix.lower() for path, _ in files)
        if not set(unread) - UNREAD:
            others = unread + left_out
            but = f" that are read here, but {in_words(others)}" if others else ""
            raise DescribeError(f"{source} holds no pictures{but}")
        for path, name in files:
            shown = _shown(name)
            earlier = found.setdefault(shown, path)
            if earlier is not path and earlier.resolve() != path.resolve():
                raise DescribeError(
                    f"{shown} is in {earlier.parent} and in {path.parent}: "
                    "describe them into files of their own"
                )
    return Found([Picture(name, path) for name, path in found.items()], left_out)


def in_words(left_out: Counter[str]) -> str:
    """`12 .heic, 1 .txt`, most first."""
    return ", ".join(f"{number} {kind}" for kind, number in left_out.most_common())


def _files(source: str, left_out: Counter[str], *, recursive: bool) -> Iterator[tuple[Path, str]]:
    """The paths of a source and what they are called; what is no picture is counted."""
    path = Path(source)
    if path.is_dir():
        for inside in _inside(path, left_out, recursive=recursive):
            yield inside, inside.relative_to(path).as_posix()
    elif path.exists():
        names = [source] if _is_picture(path) else _listed(path)
        for name in names:
            yield Path(name), name
    elif glob.has_magic(source):
        for name in sorted(glob.glob(source, recursive=True)):  # noqa: PTH207  keeps names as written
            if Path(name).is_file():
                yield Path(name), name
    else:
        raise DescribeError(f"{source}: no such file or folder")


def _inside(folder: Path, left_out: Counter[str], *, recursive: bool) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        for name in sorted(files):
            path = Path(root, name)
            if name.startswith("."):
                continue
            if _is_picture(path):
                yield path
            else:
                left_out[path.suffix.lower() or "without an ending"] += 1


def _is_picture(path: Path) -> bool:
    """By its name: what it holds is for whoever reads it to say."""
    return path.suffix.lower() in SUFFIXES | UNREAD


def _listed(path: Path) -> list[str]:
    data = path.read_bytes()
    if b"\0" in data:
        raise DescribeError(f"{path}: neither ends as a picture does nor lists paths")
    return [os.fsdecode(line) for line in data.splitlines() if line.strip()]


def _shown(name: str) -> str:
    """A name that every output can hold: bytes that are no UTF-8 are written as \\xNN."""
    return os.fsencode(name).decode(errors="backslashreplace")
