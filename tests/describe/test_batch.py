"""`vlserve batch` against the real HTTP door, and against itself without a port."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from bench.describe import num_done
from tests.describe.asking import rows
from tests.doors.grpc.live import png
from tests.doors.http.live import House, live, picture_part, text_part, user
from tests.scripted import ScriptedEngine
from tests.waiting import until
from vlserve import app
from vlserve.describe.batch import Batch, batch
from vlserve.describe.errors import DescribeError
from vlserve.describe.journal import SUFFIX
from vlserve.describe.sitting import Effort
from vlserve.settings import Settings

CHAT = "/v1/chat/completions"
ECHO = Settings.model_validate(
    {"engine": {"kind": "echo"}, "grpc": {"port": 0}, "http": {"port": 0}}
)


def request(i: int, **more: Any) -> dict[str, Any]:
    turn = user(picture_part(png((i, 0, 0))), text_part(f"what is it? 東京 {i}"))
    body = {"messages": [turn], **more}
    return {"custom_id": f"id-{i}", "method": "POST", "url": CHAT, "body": body}


def written(folder: Path, *requests: Any) -> Path:
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in requests))
    return path


async def ran(
    source: Path, server: str | None, *, settings: Settings | None = None, **effort: Any
) -> int:
    chosen = {"num_clients": 4, "patience_s": 20.0, "retry_failed": False, "overwrite": False}
    job = Batch(source, source.with_name("out.jsonl"), server)
    return await batch(settings or Settings(), job, Effort(**(chosen | effort)))


def comparable(body: Any) -> Any:
    """Without what is another each time."""
    others = {"id", "created", "request_id"}
    return {
        name: comparable(value) if isinstance(value, dict) else value
        for name, value in body.items()
        if name not in others
    }


async def posted(house: House[Any] | app.App, each: dict[str, Any]) -> tuple[int, Any]:
    """What the door answers a client of another make."""
    address = house.http_address if isinstance(house, app.App) else house.http.address
    reader, writer = await asyncio.open_connection(*address.split(":"))
    data = json.dumps(each["body"]).encode()
    writer.write(
        f"POST {each['url']} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode()
        + data
    )
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])


REQUESTS = [
    request(0),
    request(1, max_tokens=3),
    request(2, n=2),
    request(3, temperature=9),
    request(4, model="none"),
    request(5, nonsense=1),
    {**request(6), "body": {}},
    {
        "custom_id": "responses",
        "method": "POST",
        "url": "/v1/responses",
        "body": {"input": "what?"},
    },
]


async def test_a_row_has_the_body_that_the_door_answers(tmp_path: Path) -> None:
    source = written(tmp_path, *REQUESTS)
    async with app.running(ECHO) as house:
        assert await ran(source, f"http://{house.http_address}") == 1
        by_server = rows(tmp_path / "out.jsonl")
        direct = [await posted(house, each) for each in REQUESTS]
    (tmp_path / "out.jsonl").unlink()
    (tmp_path / f"out.jsonl{SUFFIX}").unlink()
    nowhere = ECHO.model_copy(update={"http": ECHO.http.model_copy(update={"port": 1})})
    assert await ran(source, None, settings=nowhere) == 1
    in_process = rows(tmp_path / "out.jsonl")
    for found in (by_server, in_process):
        assert [row["custom_id"] for row in found] == [each["custom_id"] for each in REQUESTS]
        assert len({row["id"] for row in found}) == len(REQUESTS)
        for row, (status, body) in zip(found, direct, strict=True):
            assert list(row) == ["id", "custom_id", "response", "error"]
            assert row["error"] is None
            assert list(row["response"]) == ["status_code", "request_id", "body"]
            assert row["response"]["status_code"] == status
            if error := row["response"]["body"].get("error"):
                assert row["response"]["request_id"] == error["request_id"]
            if row["custom_id"] == "responses":
                assert row["response"]["body"]["object"] == body["object"] == "response"
                continue
            assert comparable(row["response"]["body"]) == comparable(body)
    assert [status for status, _ in direct] == [200, 200, 200, 400, 404, 400, 400, 200]
    assert len(by_server[2]["response"]["body"]["choices"]) == 2


async def test_it_goes_on_and_asks_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = written(tmp_path, *(request(i) for i in range(12)))
    out = tmp_path / "out.jsonl"
    async with live(ScriptedEngine(1, step_s=0.01)) as house:
        run = asyncio.create_task(ran(source, house.url))
        await until(lambda: num_done(Path(f"{out}{SUFFIX}")) > 3, within_s=10)
        run.cancel()
        assert await run == 130
        num_kept = num_done(Path(f"{out}{SUFFIX}"))
        await until(lambda: house.service.num_inside == 0)
        num_seen = len(house.engine.seen)
        assert await ran(source, house.url) == 0
        assert len(house.engine.seen) == num_seen + 12 - num_kept
        written(tmp_path, *(request(i, max_tokens=5 if i == 7 else 9) for i in (7, 8)))
        num_seen = len(house.engine.seen)
        assert await ran(source, house.url) == 0, "a changed line is another request"
        assert len(house.engine.seen) == num_seen + 2
    assert [row["custom_id"] for row in rows(out)] == ["id-7", "id-8"]
    assert "2 in all, 2 answered, 0 failed" in capsys.readouterr().out


async def test_a_full_server_is_waited_for(tmp_path: Path) -> None:
    source = written(tmp_path, *(request(i) for i in range(8)))
    async with live(ScriptedEngine(1, step_s=0.005), max_waiting=0) as house:
        assert await ran(source, house.url) == 0
        assert len(house.engine.seen) == 8


async def test_a_server_that_fails_is_asked_twice_and_its_answer_kept(tmp_path: Path) -> None:
    broken = request(0)
    broken["body"]["messages"][0]["content"] = "break"
    source = written(tmp_path, broken, request(1))
    async with live() as house:
        assert await ran(source, house.url) == 1
        assert len(house.engine.seen) == 3
    failed, answered = rows(tmp_path / "out.jsonl")
    assert failed["response"]["status_code"] == 500
    assert failed["response"]["body"]["error"]["message"]
    assert answered["response"]["status_code"] == 200


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2 is not JSON"),
        ("7", "line 2 is no JSON object"),
        (json.dumps(request(0)), "line 2: custom_id 'id-0' is there twice"),
        (json.dumps(request(1) | {"custom_id": 1}), "line 2: custom_id must be a text"),
        (json.dumps(request(1) | {"method": "GET"}), "line 2: method must be POST"),
        (json.dumps(request(1) | {"url": "/v1/embeddings"}), "line 2: url must be /v1/chat"),
        (json.dumps(request(1) | {"body": []}), "line 2: body must be a JSON object"),
        (json.dumps(request(1, stream=True)), "line 2: body.stream: "),
        (json.dumps(request(1) | {"more": 1}), "line 2: more is not a field"),
        (json.dumps({"custom_id": "x"}), "line 2: method is missing"),
    ],
)
async def test_a_line_that_is_no_request_is_said_before_any_is_asked(
    tmp_path: Path, line: str, said: str
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps(request(0)) + "\n" + line)
    with pytest.raises(DescribeError, match=said):
        await ran(source, "http://localhost:1")
    source.write_text("\n")
    with pytest.raises(DescribeError, match="holds no requests"):
        await ran(source, "http://localhost:1")
    written(tmp_path, request(0))
    with pytest.raises(OSError, match="no server that serves answers at http://localhost:1"):
        await ran(source, "http://localhost:1")
    with pytest.raises(OSError, match="no server that serves answers at localhost:1"):
        await ran(source, "localhost:1")
    with pytest.raises(DescribeError, match="this command asks over HTTP"):
        await ran(source, "grpc://localhost:1")
