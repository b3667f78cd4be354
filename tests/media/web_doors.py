"""A whole house within the web of `web`: `unshare -rn python -m tests.media.web_doors`.

Each hostile URL is brought to it in every way there is. The last line printed says what came of it.
"""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Literal

from tests.doors import ways
from tests.doors.ways import Caller, UrlWay
from tests.media.web import HOSTILE, PUBLIC, Web, raise_network, up
from vlserve import app
from vlserve.settings import (
    EngineSettings,
    GrpcSettings,
    HttpSettings,
    LimitSettings,
    MediaSettings,
    Settings,
)

NUM_CONTROL = 20  # URLs, all of them quick to reach where nothing is in the way


def settings(kind: Literal["native", "echo"]) -> Settings:
    """A house that fetches, whose model has few words to say."""
    return Settings(
        engine=EngineSettings(kind=kind),
        grpc=GrpcSettings(port=0),
        http=HttpSettings(port=0),
        limits=LimitSettings(max_new_tokens=2),
        media=MediaSettings(fetch_urls=True, fetch_mib=1, fetch_s=1.0),
    )


async def tried(
    web: Web, caller: Caller, name: str, way: UrlWay, urls: Sequence[str]
) -> tuple[int, list[str]]:
    """How many connects inside the URLs made, and what did not hold."""
    num_inside, wrong = 0, []
    for url in urls:
        before = len(web.connects)
        outcome = await way(caller, url)
        connects = web.connects[before:]
        inside = [to for to in connects if to not in PUBLIC]
        num_inside += len(inside)
        if name in ways.FOLLOWED:
            # When its name meant the public host, that is who answered.
            is_held = not inside and (bool(outcome.field) or "rebinding" in url)
        elif name in ways.SAID:
            is_held = not connects and not outcome.field
        else:
            is_held = not connects and bool(outcome.field)
        wrong += [] if is_held else [f"{name}, {url}: {outcome}, {connects}"]
    return num_inside, wrong


async def trial(*, is_guarded: bool) -> dict[str, Any]:
    """Every way, or, for the control, those that are followed, by some of the URLs."""
    chosen = ways.FOLLOWED | (ways.IGNORED | ways.SAID if is_guarded else {})
    urls = HOSTILE if is_guarded else HOSTILE[:NUM_CONTROL]
    found: dict[str, dict[str, int]] = {}
    wrong: list[str] = []
    async with (
        up(is_guarded=is_guarded) as web,
        app.running(settings("native" if is_guarded else "echo")) as house,
        Caller(house.http_address, house.address) as caller,
    ):
        for name, way in chosen.items():
            num_inside, not_held = await tried(web, caller, name, way, urls)
            wrong += not_held
            num_held = len(urls) - len(not_held)
            found[name] = {"tried": len(urls), "held": num_held, "inside": num_inside}
    return {
        "ways": found,
        "wrong": wrong,
        **{key: sum(way[key] for way in found.values()) for key in ("tried", "held", "inside")},
        "requests": sum(to not in PUBLIC for to, _ in web.requests),
    }


if __name__ == "__main__":
    raise_network()
    os.environ["no_proxy"] = "127.0.0.1"  # stock clients of gRPC follow the environment to a door
    print(json.dumps(asyncio.run(trial(is_guarded="unguarded" not in sys.argv))))
