"""The page's files, as any HTTP client gets them."""

import asyncio
import http.client
import json
import re
from importlib import resources
from urllib.parse import urlsplit

import pytest

from tests.doors.playground.live import Live, served
from tests.scripted import ScriptedEngine
from vlserve import example
from vlserve.doors.playground.routes import POLICY

pytestmark = pytest.mark.asyncio(loop_scope="session")
STATIC = resources.files("vlserve.doors.playground") / "static"
LARGEST_BYTES = 64 * 1024  # the whole page: light enough for a phone far from the server


async def get(
    house: Live[ScriptedEngine], path: str, **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Status, headers and body."""

    def ask() -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection(urlsplit(house.url).netloc, timeout=5)
        connection.request(
            "GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        response = connection.getresponse()
        answer = response.status, response.headers, response.read()
        connection.close()
        return answer

    return await asyncio.to_thread(ask)


async def test_every_file_goes_out_as_it_is_under_the_policy() -> None:
    files = [file for file in STATIC.iterdir() if file.name != "index.html"]
    async with served(ScriptedEngine()) as house:
        for path, file in [
            ("/", STATIC / "index.html"),
            *((f"/playground/{file.name}", file) for file in files),
        ]:
            status, headers, body = await get(house, path)
            assert (status, body) == (200, file.read_bytes()), path
            assert headers["Content-Security-Policy"] == POLICY
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert (await get(house, path, If_None_Match=headers["ETag"]))[0] == 304
            assert (await get(house, path, If_None_Match='"other"'))[0] == 200
        for path in ("/playground/", "/playground/routes.py", "/playground/../routes.py"):
            assert (await get(house, path))[0] == 404, path
    assert len(files) > 8
    assert sum(len(file.read_bytes()) for file in STATIC.iterdir()) <= LARGEST_BYTES


async def test_the_page_names_no_other_machine() -> None:
    found = [
        (file.name, url)
        for file in STATIC.iterdir()
        for url in re.findall(r"(?:https?:)?//[a-z][\w.-]+\.[a-z]+", file.read_text())
    ]
    assert found == [("icon.svg", "http://www.w3.org")]  # a name, not an address


async def test_the_facts_are_the_settings() -> None:
    async with served(ScriptedEngine(), max_images=3, max_new_tokens=50) as house:
        status, _, body = await get(house, "/playground/facts")
    assert status == 200
    facts = json.loads(body)
    assert facts.pop("grpc_port") > 0
    assert facts.pop("demonstration_model") == "embedded"
    assert "Serve your own: vlserve serve --model.path FOLDER" in facts.pop("demonstration")
    assert facts == {
        "question": example.QUESTION,
        "max_images": 3,
        "video_frames": 8,
        "max_message_mib": 64,
        "default_max_tokens": 50,
    }
