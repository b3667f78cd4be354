"""Which pictures are meant, and what they are called."""

import os
from collections import Counter
from pathlib import Path

import pytest

from vlserve.describe.errors import DescribeError
from vlserve.describe.pictures import find, in_words
from vlserve.errors import ServeError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with pictures and other things."""
    for name in (
        "photos/b.JPG",
        "photos/a.png",
        "photos/[odd] name.webp",
        "photos/notes.txt",
        "photos/.hidden.png",
        "photos/.cache/c.png",
        "photos/2025/d.tiff",
        "photos/2025/deep/e.gif",
        "more/a.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def keys(*sources: str, recursive: bool = False) -> list[str]:
    found = find(sources, recursive=recursive).pictures
    assert all(picture.path.is_file() for picture in found)
    return [picture.key for picture in found]


def test_a_folder_is_its_pictures(folder: Path) -> None:
    assert keys("photos") == ["[odd] name.webp", "a.png", "b.JPG"]
    assert keys(str(folder / "photos")) == keys("photos") == keys("photos/")
    (folder / "photos/loop").symlink_to(folder / "photos", target_is_directory=True)
    deep = ["2025/d.tiff", "2025/deep/e.gif"]
    assert sorted(keys("photos", recursive=True)) == sorted(keys("photos") + deep)


@pytest.mark.usefixtures("folder")
def test_a_pattern_a_list_and_files_are_called_as_written() -> None:
    assert keys("photos/*.png") == ["photos/a.png"]
    assert keys("photos/**/*.[tg]i*") == ["photos/2025/d.tiff", "photos/2025/deep/e.gif"]
    assert keys("photos/b.JPG", "photos/a.png") == ["photos/b.JPG", "photos/a.png"]
    assert keys("photos/[odd] name.webp") == ["photos/[odd] name.webp"]
    Path("list.txt").write_bytes(b"photos/a.png\r\n\nmore/a.png\nphotos/a.png")
    assert keys("list.txt") == ["photos/a.png", "more/a.png"]
    assert keys("photos/a.png", "./photos/../photos/a.png", "list.txt") == [
        "photos/a.png",
        "./photos/../photos/a.png",
        "more/a.png",
    ]


@pytest.mark.usefixtures("folder")
def test_a_listed_file_need_not_be_there() -> None:
    Path("list.txt").write_text("none.png\n")
    (missing,) = find(["list.txt"], recursive=False).pictures
    assert missing.stamp == "missing"
    with pytest.raises(FileNotFoundError):
        missing.read(10)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("sources", "said"),
    [
        (["none"], "none: no such file or folder"),
        (["photos/*.avif"], r"photos/\*.avif holds no pictures"),
        (["photos/2025/deep", "photos/.cache", "more", "photos"], "a.png is in more and in photos"),
        (["empty.txt"], "empty.txt holds no pictures"),
        (["binary"], "binary: neither ends as a picture does nor lists paths"),
    ],
)
def test_what_cannot_be_meant_is_refused(sources: list[str], said: str) -> None:
    Path("empty.txt").write_text("\n")
    Path("binary").write_bytes(b"\xff\xd8\x00")
    with pytest.raises(DescribeError, match=said):
        find(sources, recursive=False)


def test_a_name_that_is_no_unicode_can_be_written(folder: Path) -> None:
    path = os.fsencode(folder / "more") + b"/caf\xe9.png"
    with open(path, "wb") as file:  # noqa: PTH123  a path of bytes
        file.write(b"x")
    assert keys("more") == ["a.png", r"caf\xe9.png"]


@pytest.mark.usefixtures("folder")
def test_a_picture_is_read_with_its_stamp_and_a_bound() -> None:
    (picture,) = find(["photos/a.png"], recursive=False).pictures
    data, stamp = picture.read(12)
    assert data == b"photos/a.png"
    assert stamp == picture.stamp
    with pytest.raises(ServeError, match="is larger than 11 bytes"):
        picture.read(11)
    os.utime("photos/a.png", ns=(0, 0))
    assert picture.stamp == "12-0"
    Path("photos/a.png").write_bytes(b"changed")
    assert picture.stamp not in (stamp, "12-0")


def test_no_file_of_a_folder_vanishes(folder: Path) -> None:
    """What is named as a picture is one, and says why it is not read; the rest is counted."""
    for name in ("x.HEIC", "y.svg", "README"):
        (folder / "photos" / name).write_bytes(b"x")
    os.mkfifo(folder / "photos" / "pipe.png")
    (folder / "photos" / "gone.png").symlink_to(folder / "nowhere")
    found = find(["photos"], recursive=False)
    assert found.left_out == {".txt": 1, "without an ending": 1}
    assert in_words(Counter({".txt": 1, ".md": 2})) == "2 .md, 1 .txt"
    said: dict[str, str | None] = {}
    for picture in found.pictures:
        try:
            picture.read(100)
        except ServeError as error:
            said[picture.key] = error.message.partition(":")[0]
        except OSError as error:
            said[picture.key] = error.strerror
    assert len(found.pictures) == 3 + len(said)
    assert said == {
        "gone.png": "No such file or directory",
        "pipe.png": "is not a regular file",
        "x.HEIC": ".heic is not read here",
        "y.svg": ".svg is not read here",
    }
    Path("list.txt").write_text("photos/x.HEIC\nphotos/a.png\n")
    assert keys("list.txt") == ["photos/x.HEIC", "photos/a.png"]
    with pytest.raises(DescribeError, match="HEIC holds no pictures that are read here, but 1 "):
        keys("photos/x.HEIC")


def test_a_folder_of_what_is_not_read_is_refused(folder: Path) -> None:
    (folder / "phone").mkdir()
    for name in ("x.heic", "y.heic", "notes.txt"):
        (folder / "phone" / name).write_bytes(b"x")
    with pytest.raises(
        DescribeError, match=r"phone holds no pictures that are read here, but 2 \.heic, 1 \.txt"
    ):
        find(["phone"], recursive=False)


def test_a_pipe_is_refused_and_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    Path("list.txt").write_text("pipe.png\n")
    for source in ("pipe.png", "list.txt"):
        (picture,) = find([source], recursive=False).pictures
        with pytest.raises(ServeError, match="is not a regular file"):
            picture.read(10)
