"""`vlserve describe` against a real door: rows, failures, a full server, one that goes away."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from os import getpid, kill
from pathlib import Path

import pytest

from bench.describe import num_done
from tests.describe.asking import folder_of, names_in, ran, rows
from tests.doors.grpc.live import live, png
from tests.scripted import MODEL, ScriptedEngine
from tests.waiting import until
from vlserve.describe import output as output_room
from vlserve.describe import patience as patience_room
from vlserve.describe.ask import COLUMNS
from vlserve.describe.errors import DescribeError
from vlserve.describe.journal import SUFFIX, Journal
from vlserve.doors.grpc.server import GrpcDoor
from vlserve.errors import FAILED, NO_DATA, ServeError
from vlserve.service.service import Service
from vlserve.settings import GrpcSettings, LimitSettings, Settings
from vlserve.types import Detail

NUM = 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "photos", NUM)


async def test_each_picture_has_its_row_in_every_form(folder: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / f"out{suffix}" for suffix in output_room.SUFFIXES]
    async with live() as house:
        for path in outputs:
            assert await ran(folder, path, house.door.address) == 0
    as_json, as_csv, as_parquet = (rows(path) for path in outputs)
    assert [row["path"] for row in as_json] == [f"{i:03}.png" for i in range(NUM)]
    assert len({row["text"] for row in as_json}) == NUM  # its own picture's digest
    for row in as_json:
        assert list(row) == list(COLUMNS)
        assert row["text"].endswith("what is it? ")
        assert row["finish_reason"] == "stop"
        counts = (row["prompt_tokens"], row["image_tokens"], row["completion_tokens"])
        assert counts == (14, 10, 4)
        assert 0 < row["seconds"] < 20
        assert row["error"] is None
    still = [name for name in COLUMNS if name != "seconds"]
    for read in (as_csv, as_parquet):
        assert [list(row) for row in read] == [list(COLUMNS)] * NUM
    for name in still:
        assert [row[name] for row in as_parquet] == [row[name] for row in as_json]
        assert [row[name] for row in as_csv] == [
            "" if row[name] is None else str(row[name]) for row in as_json
        ]
    assert isinstance(as_parquet[0]["seconds"], float)


async def test_what_is_known_is_not_asked_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    async with live() as house:
        assert await ran(folder, out, house.door.address) == 0
        first = out.read_bytes()
        assert await ran(folder, out, house.door.address) == 0
        assert len(house.engine.seen) == NUM
        assert out.read_bytes() == first
        out.unlink()
        (folder / "new.png").write_bytes(png((1, 2, 3)))
        (folder / "003.png").write_bytes(png((3, 3, 3), (9, 9)))
        (folder / "004.png").unlink()
        assert await ran(folder, out, house.door.address) == 0
        assert len(house.engine.seen) == NUM + 2  # the new one and the changed one
    assert [row["path"] for row in rows(out)] == [
        *(f"{i:03}.png" for i in range(NUM) if i != 4),
        "new.png",
    ]


async def test_without_the_journal_all_is_asked_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above."""
    monkeypatch.setattr(Journal, "has_failed", lambda *of: None)
    async with live() as house:
        for _ in range(2):
            assert await ran(folder, tmp_path / "out.jsonl", house.door.address) == 0
        assert len(house.engine.seen) == 2 * NUM


async def test_a_broken_picture_is_a_row_that_says_so(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    whole = png((5, 0, 7), (300, 200))
    (folder / "005.png").write_bytes(whole[: len(whole) // 2])
    (folder / "006.png").write_bytes(b"")
    (folder / "007.heic").write_bytes(b"x")
    listed = tmp_path / "list.txt"
    names = [*names_in(folder), "none.png"]
    listed.write_text("\n".join(str(folder / name) for name in names))
    async with live() as house:
        assert await ran(listed, out, house.door.address) == 1
        failed = {Path(row["path"]).name: row for row in rows(out) if row["error"]}
        assert sorted(failed) == ["005.png", "006.png", "007.heic", "none.png"]
        assert failed["007.heic"]["error"].startswith("invalid_argument: .heic is not read here")
        assert "damaged or cut short" in failed["005.png"]["error"]
        assert failed["006.png"]["error"] == f"invalid_argument: {NO_DATA}"
        assert failed["none.png"]["error"] == "unreadable: No such file or directory"
        assert failed["005.png"]["text"] is failed["005.png"]["seconds"] is None
        said = capsys.readouterr()
        assert "14 in all, 10 answered, 4 failed" in said.out
        assert all(f"{name}: " in said.err for name in failed)
        num_seen = len(house.engine.seen)
        # Again: known as failed, still said, still status 1, and nobody asked.
        assert await ran(listed, out, house.door.address) == 1
        assert "14 in all, 0 answered, 10 known, 4 failed" in capsys.readouterr().out
        (folder / "005.png").write_bytes(whole)  # mended: that alone is reason to ask
        assert await ran(listed, out, house.door.address) == 1
        assert len(house.engine.seen) == num_seen + 1
        assert [row["path"] for row in rows(out) if row["error"]] == [
            str(folder / "006.png"),
            str(folder / "007.heic"),
            str(folder / "none.png"),
        ]
        assert len(rows(out)) == NUM + 2


async def test_what_failed_for_another_reason_is_retried(folder: Path, tmp_path: Path) -> None:
    """A failure of the server's is tried twice at once, and again when told so."""
    out = tmp_path / "out.jsonl"
    async with live() as house:
        at = house.door.address
        assert await ran(folder, out, at, question="break") == 1
        assert len(house.engine.seen) == 2 * NUM
        assert {row["error"] for row in rows(out)} == {f"internal: {FAILED}"}
        assert await ran(folder, out, at, question="break") == 1
        assert len(house.engine.seen) == 2 * NUM
        assert await ran(folder, out, at, question="break", retry_failed=True) == 1
        assert len(house.engine.seen) == 4 * NUM
    assert len(rows(out)) == NUM


async def test_another_question_does_not_mix(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    async with live() as house:
        at = house.door.address
        assert await ran(folder, out, at) == 0
        before = out.read_bytes()
        with pytest.raises(DescribeError, match=r"question 'what is it\?', not 'why\?'"):
            await ran(folder, out, at, question="why?")
        assert out.read_bytes() == before
        assert await ran(folder, out, at, question="why?", overwrite=True) == 0
    assert all(row["text"].endswith("why? ") for row in rows(out))


async def test_a_full_server_is_waited_for(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    engine = ScriptedEngine(num_slots=1, step_s=0.005)
    async with live(engine, max_waiting=0) as house:
        assert await ran(folder, out, house.door.address, num_clients=4) == 0
    assert len(engine.seen) == NUM
    assert not [row for row in rows(out) if row["error"]]


async def test_without_waiting_a_full_server_fails_pictures(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above."""
    monkeypatch.setattr(patience_room, "_NOT_ITS_FAULT", ())
    out = tmp_path / "out.jsonl"
    engine = ScriptedEngine(num_slots=1, step_s=0.005)
    async with live(engine, max_waiting=0) as house:
        assert await ran(folder, out, house.door.address, num_clients=4) == 1
    assert [row for row in rows(out) if (row["error"] or "").startswith("overloaded")]


@asynccontextmanager
async def door_at(port: int, engine: ScriptedEngine) -> AsyncIterator[GrpcDoor]:
    """A server that is stopped without draining, as one that dies."""
    limits = LimitSettings()
    service = Service(engine, limits)
    door = GrpcDoor(service, limits, GrpcSettings(port=port))
    await door.start()
    service.open()
    await door.announce(is_serving=True)
    try:
        yield door
    finally:
        await door._server.stop(None)
        service.close()


async def test_a_server_that_is_restarted_is_waited_for(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    first, second = ScriptedEngine(2, step_s=0.02), ScriptedEngine(2)
    async with door_at(0, first) as door:
        run = asyncio.create_task(ran(folder, out, door.address))
        await until(lambda: len(first.seen) > 5, within_s=10)
    assert not run.done()
    await asyncio.sleep(0.7)
    async with door_at(int(door.address.split(":")[1]), second):
        assert await run == 0
    found = rows(out)
    assert [row["path"] for row in found] == [f"{i:03}.png" for i in range(NUM)]
    assert not [row for row in found if row["error"]]
    num_twice = len(first.seen) + len(second.seen) - NUM
    assert 0 < num_twice <= 4, "only what was under way is asked again"


async def test_a_server_that_stays_away_ends_the_run_which_can_go_on(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    engine = ScriptedEngine(1, step_s=0.01)
    async with door_at(0, engine) as door:
        run = asyncio.create_task(ran(folder, out, door.address, patience_s=0.5))
        await until(lambda: num_done(Path(f"{out}{SUFFIX}")) > 2, within_s=10)
    with pytest.raises(DescribeError, match=r"no answer for \d s .*goes on from here"):
        await run
    assert not out.exists()
    async with live() as house:
        assert await ran(folder, out, house.door.address) == 0
        assert len(house.engine.seen) < NUM - 2
    assert len(rows(out)) == NUM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_and_it_goes_on(
    folder: Path, tmp_path: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    async with live(ScriptedEngine(1, step_s=0.01)) as house:
        run = asyncio.create_task(ran(folder, out, house.door.address))
        journal = Path(f"{out}{SUFFIX}")
        await until(lambda: num_done(journal) > 3, within_s=10)
        kill(getpid(), number)
        assert await run == 130
        assert "the same command goes on from here" in capsys.readouterr().err
        assert not out.exists()
        num_kept = num_done(journal)
        assert 4 <= num_kept < NUM
        await until(lambda: house.service.num_inside == 0)
        num_seen = len(house.engine.seen)
        assert await ran(folder, out, house.door.address) == 0
        assert len(house.engine.seen) == num_seen + NUM - num_kept
    assert [row["path"] for row in rows(out)] == [f"{i:03}.png" for i in range(NUM)]


async def test_pictures_may_be_looked_at_less_closely(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    async with live() as house:
        assert await ran(folder, out, house.door.address, detail=Detail.LOW) == 0
        with pytest.raises(DescribeError, match="detail 'low', not 'auto': --overwrite"):
            await ran(folder, out, house.door.address)
    seen = [picture for each in house.engine.seen for picture in each.messages[0].pictures()]
    assert len(seen) == NUM
    assert {picture.detail for picture in seen} == {Detail.LOW}


async def test_what_befalls_all_alike_ends_the_run(folder: Path, tmp_path: Path) -> None:
    async with live(max_new_tokens=50) as house:
        at = house.door.address
        with pytest.raises(ServeError, match=r"max_tokens: must be at least 1, not -1"):
            await ran(folder, tmp_path / "out.jsonl", at, max_tokens=-1)
        assert await ran(folder, tmp_path / "out.jsonl", at, max_tokens=50, overwrite=True) == 0


async def test_a_picture_beyond_a_bound_is_its_own_failure(folder: Path, tmp_path: Path) -> None:
    (folder / "big.png").write_bytes(b"\x89PNG" + bytes(2**20))
    settings = Settings(limits=LimitSettings(max_message_mib=1))
    async with live(max_message_mib=1) as house:
        at = house.door.address
        # The client's own bound first, then the server's, which only the server knows.
        for name, of_client in (("own", settings), ("server", Settings())):
            out = tmp_path / f"{name}.jsonl"
            assert await ran(folder, out, at, settings=of_client) == 1
            (failed,) = (row for row in rows(out) if row["error"])
            assert failed["path"] == "big.png"
            assert "is larger than" in failed["error"], failed


async def test_the_model_answers_here_where_nothing_serves(folder: Path, tmp_path: Path) -> None:
    settings = Settings.model_validate({"engine": {"kind": "echo"}, "grpc": {"port": 1}})
    assert await ran(folder, tmp_path / "out.jsonl", None, settings=settings) == 0
    assert all(
        row["text"].startswith("user said: what is it?; 1 picture")
        for row in rows(tmp_path / "out.jsonl")
    )


async def test_answers_of_another_model_are_not_mixed_in(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    async with live() as house:
        assert await ran(folder, out, house.door.address) == 0
    settings = Settings.model_validate({"engine": {"kind": "echo"}, "grpc": {"port": 1}})
    with pytest.raises(DescribeError, match=f"model '{MODEL}', not 'echo'"):
        await ran(folder, out, None, settings=settings)


async def test_what_cannot_be_written_is_said_before_anything_is_asked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dir.csv").mkdir()
    nobody = "localhost:1"
    for name, said in (
        ("out.txt", "out.txt: must end with .jsonl or .csv or .parquet"),
        ("none/out.csv", "none: no such folder"),
        ("dir.csv", "dir.csv is a folder"),
    ):
        with pytest.raises(DescribeError, match=said):
            await ran(folder, tmp_path / name, nobody)
    monkeypatch.setattr(output_room, "find_spec", lambda name: None)
    with pytest.raises(DescribeError, match=r"pip install 'vlserve\[parquet\]'"):
        await ran(folder, tmp_path / "out.parquet", nobody)
    with pytest.raises(OSError, match="no server that serves answers at localhost:1"):
        await ran(folder, tmp_path / "out.csv", nobody)
    assert names_in(tmp_path) == ["dir.csv", "photos"]
