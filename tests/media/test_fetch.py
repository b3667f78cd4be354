"""No URL reaches a listener that is not the public's, however it is spelled or led there."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.media import web
from vlserve.errors import ServeError
from vlserve.media.address import is_public
from vlserve.media.sources import Sources
from vlserve.settings import LimitSettings, MediaSettings
from vlserve.types import ImageRef, MediaBounds, VideoRef

ROOT = Path(__file__).parents[2]
PROXIES = {"HTTP_PROXY": "http://127.0.0.1:81", "http_proxy": "http://127.0.0.1:81"}


def trial(*arguments: str, module: str = "web") -> dict[str, Any]:
    result = subprocess.run(
        ["unshare", "-rn", sys.executable, "-m", f"tests.media.{module}", *arguments],
        cwd=ROOT,
        env={"PYTHONPATH": ":".join([*sys.path, str(ROOT)]), "PATH": "/usr/sbin:/usr/bin:/bin"}
        | PROXIES,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def test_nothing_inside_is_reached() -> None:
    found = trial()
    print(
        f"hostile URLs: tried {found['tried']}, held {found['refused']}, inside {found['inside']};"
        f" good {found['good']} of {len(web.GOOD)}; bodies {found['bodies']} of {len(web.BODIES)}"
    )
    assert found["wrong"] == []
    assert found["tried"] == found["refused"] >= 38 * 2
    assert found["inside"] == 0
    assert found["good"] == len(web.GOOD)
    assert found["bodies"] == len(web.BODIES)
    num = web.NUM_BYTES
    own = ", the most that is fetched (the request's own max_image_bytes)"
    assert found["bounded"] == {
        f"http://good.example/p.png {num}": num,
        f"http://good.example/p.png {num - 1}": f"has more than {num - 1} bytes{own}",
        "http://good.example/endless 100000": f"has more than 100000 bytes{own}",
        "http://good.example/said 100000": f"has more than 100000 bytes{own}",
        "http://good.example/endless 2097152": web.TOO_LARGE,
    }
    # Nothing of the inside is told, and nothing of ours is sent.
    assert not [text for text in found["texts"] if "127." in text or "address" in text]
    assert found["headers"] == ["accept", "accept-encoding", "connection", "host", "user-agent"]
    elsewhere = "is not on a host that this server fetches from (media.fetch_hosts)"
    assert found["hosts"] == {
        "http://good.example/p.png": 1,
        "http://other.example/p.png": elsewhere,
        web.GOOD[3]: elsewhere,
    }


def test_without_the_guard_the_inside_is_reached() -> None:
    """The control."""
    found = trial("unguarded")
    print(f"hostile URLs, control: tried {found['tried']}, connects inside {found['inside']}")
    assert found["inside"] > 30


def test_nothing_inside_is_reached_through_any_door() -> None:
    """Every other way in which a URL gets in, or something that looks like it."""
    found = trial(module="web_doors")
    print(
        f"hostile URLs, {len(found['ways'])} ways: tried {found['tried']}, held {found['held']},"
        f" connects inside {found['inside']}, requests there {found['requests']}"
    )
    assert found["wrong"] == []
    assert found["tried"] == found["held"] == len(found["ways"]) * len(web.HOSTILE)
    assert len(found["ways"]) >= 20
    assert found["inside"] == found["requests"] == 0


def test_through_unguarded_doors_the_inside_is_reached() -> None:
    """The control: every way that is followed gets there."""
    found = trial("unguarded", module="web_doors")
    print(
        f"hostile URLs, {len(found['ways'])} ways, control: tried {found['tried']},"
        f" held {found['held']}, connects inside {found['inside']},"
        f" requests there {found['requests']}"
    )
    assert all(way["inside"] >= 10 for way in found["ways"].values())


@pytest.mark.parametrize("url", ["http://good.example/p.png", "HTTPS://good.example/p.png"])
async def test_it_is_switched_off_unless_it_is_switched_on(url: str) -> None:
    sources = Sources(MediaSettings(), LimitSettings())
    text = r"there: .* switched off here: send a data: URL \(media.fetch_urls\)"
    for ref in (ImageRef(url=url, field="there"), VideoRef(url=url, field="there")):
        with pytest.raises(ServeError, match=text):
            await sources.find([ref], "", MediaBounds())


@pytest.mark.parametrize("address", web.PUBLIC)
def test_what_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [*web.PRIVATE, "127.0.0.1", "::1", "::", "::ffff:8.8.8.8", "0.0.0.1", "", "name", "1.2.3"],
)
def test_what_is_not(address: str) -> None:
    assert not is_public(address)
