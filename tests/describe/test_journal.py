"""The journal: what a kill leaves, and who may go on from it."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from vlserve.describe.errors import DescribeError
from vlserve.describe.journal import SUFFIX, Done, Journal

ASKED = {"question": "what? 東京", "max_tokens": 5}


def done(i: int, text: str = "", *, error: str | None = None) -> Done:
    return Done(f"{i}.png", f"{i}-7", error, {"path": f"{i}.png", "text": text or "é\n" * i})


def opened(folder: Path, asked: dict[str, Any] = ASKED, *, overwrite: bool = False) -> Journal:
    return Journal.opened(folder / "out.jsonl", asked, overwrite=overwrite)


async def filled(folder: Path, *items: Done, asked: dict[str, Any] = ASKED) -> bytes:
    """A journal with those items: its bytes."""
    with opened(folder, asked) as journal:
        for item in items:
            await journal.append(item)
    return (folder / f"out.jsonl{SUFFIX}").read_bytes()


def kept(journal: Journal, num: int) -> list[Done]:
    return list(journal.done(f"{i}.png" for i in range(num)))


async def test_torn_at_every_offset_it_loses_nothing_that_was_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a kill tears is the same without it, and hundreds of them take long.
    monkeypatch.setattr(os, "fsync", lambda file: None)
    items = [done(i) for i in range(4)]
    data = await filled(tmp_path, *items)
    path = tmp_path / f"out.jsonl{SUFFIX}"
    num_naive_failures = 0
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        num_whole = max(0, data[:length].count(b"\n") - 1)
        with opened(tmp_path) as journal:
            assert kept(journal, 4) == items[:num_whole], length
            for item in items[num_whole:]:
                await journal.append(item)
            assert kept(journal, 4) == items, length
        assert path.read_bytes() == data, length
        try:  # the control: a reader that trusts each line
            for line in data[:length].splitlines():
                json.loads(line)
        except ValueError:
            num_naive_failures += 1
    tried = len(data) + 1
    print(f"tried {tried}, held {tried}; without the guard {num_naive_failures} would fail")
    assert num_naive_failures > tried * 0.9


async def test_a_write_that_fails_in_the_middle_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite

    def full(file: int, data: bytes, offset: int) -> int:
        write(file, data[: len(data) // 2], offset)
        raise OSError(28, "No space left on device")

    with opened(tmp_path) as journal:
        await journal.append(done(0))
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(OSError, match="No space"):
                await journal.append(done(1, "long " * 100))
        assert kept(journal, 2) == [done(0)]
        # The disk has room again: what could not be written goes first.
        await journal.append(done(2))
        assert kept(journal, 3) == [done(0), done(1, "long " * 100), done(2)]
    with opened(tmp_path) as journal:
        assert kept(journal, 3) == [done(0), done(1, "long " * 100), done(2)]


async def test_a_write_that_fails_for_good_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite

    def full(file: int, data: bytes, offset: int) -> int:
        write(file, data[: len(data) // 2], offset)
        raise OSError(28, "No space left on device")

    with opened(tmp_path) as journal:
        await journal.append(done(0))
        monkeypatch.setattr(os, "pwrite", full)
        for each in (done(1, "long " * 100), done(2)):
            with pytest.raises(OSError, match="No space"):
                await journal.append(each)
    monkeypatch.undo()
    with opened(tmp_path) as journal:
        assert kept(journal, 3) == [done(0)]


async def test_a_short_write_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: write(file, data[:3], offset))
    await filled(tmp_path, done(0), done(1))
    with opened(tmp_path) as journal:
        assert kept(journal, 2) == [done(0), done(1)]


async def test_the_newest_line_counts_and_a_stamp_tells_contents_apart(tmp_path: Path) -> None:
    await filled(tmp_path, done(0, error="internal"), done(1), done(0, "now"))
    with opened(tmp_path) as journal:
        assert kept(journal, 2) == [done(0, "now"), done(1)]
        assert journal.has_failed("0.png", "0-7") is False
        assert journal.has_failed("0.png", "1-7") is None
        assert journal.has_failed("2.png", "2-7") is None


async def test_it_is_on_the_disk_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    sync, write = os.fsync, os.pwrite

    def synced(file: int) -> None:
        said.append("sync")
        sync(file)

    def written(file: int, data: bytes, offset: int) -> int:
        said.append("write")
        return write(file, data, offset)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "pwrite", written)
    with opened(tmp_path) as journal:
        said.clear()
        await journal.append(done(0))
        assert said == ["write", "sync"]
        await asyncio.gather(*(journal.append(done(i)) for i in range(20)))
        assert len(said) < 2 * 20, "what waits is written together"
        assert said == ["write", "sync"] * (len(said) // 2)
        assert kept(journal, 20) == [done(i) for i in range(20)]


async def test_what_nobody_waits_for_any_more_is_still_written(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        task = asyncio.create_task(journal.append(done(0)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    with opened(tmp_path) as journal:
        assert kept(journal, 1) == [done(0)]


async def test_another_question_is_refused_by_name_unless_told_so(tmp_path: Path) -> None:
    before = await filled(tmp_path, done(0))
    path = tmp_path / f"out.jsonl{SUFFIX}"
    for asked, said in (
        ({**ASKED, "question": "why?"}, r"question 'what\? 東京', not 'why\?'"),
        ({**ASKED, "max_tokens": 6}, "max_tokens 5, not 6: --overwrite"),
        ({**ASKED, "model": "m"}, "model None, not 'm'"),
    ):
        with pytest.raises(DescribeError, match=said):
            opened(tmp_path, asked)
        assert path.read_bytes() == before
    with opened(tmp_path, {**ASKED, "max_tokens": 6}, overwrite=True) as journal:
        assert kept(journal, 1) == []
        await journal.append(done(0, "new"))
    # The same command once more goes on, it does not begin again.
    with opened(tmp_path, {**ASKED, "max_tokens": 6}, overwrite=True) as journal:
        assert kept(journal, 1) == [done(0, "new")]


async def test_output_of_somebody_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("precious")
    with pytest.raises(DescribeError, match="exists, without its journal"):
        opened(tmp_path)
    with opened(tmp_path, overwrite=True) as journal:
        assert kept(journal, 1) == []
    assert (tmp_path / "out.jsonl").read_text() == "precious"


async def test_two_runs_do_not_write_into_each_other(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(DescribeError, match="another run is writing"):
        opened(tmp_path)
    with opened(tmp_path):
        pass


@pytest.mark.parametrize("damage", [b"{}", b"[]", b"7", b"{", b'"x"', b"\xff"])
async def test_damage_that_is_no_torn_line_is_said(tmp_path: Path, damage: bytes) -> None:
    data = await filled(tmp_path, done(0), done(1))
    lines = data.splitlines(keepends=True)
    path = tmp_path / f"out.jsonl{SUFFIX}"
    for number in range(3):
        spoiled = b"".join([*lines[:number], damage + b"\n", *lines[number + 1 :]])
        path.write_bytes(spoiled)
        with pytest.raises(DescribeError, match=f"line {number + 1} is damaged"):
            opened(tmp_path)
        assert path.read_bytes() == spoiled
