"""The REST call and its batch twin."""

import asyncio
import base64
import hashlib
import json
from typing import Any

import pytest

from tests.doors.grpc.live import png
from tests.doors.http.live import data_url, live, request_head
from tests.scripted import ScriptedEngine
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="session")
ONE, MANY = "/process_image", "/process_images"
SHA = hashlib.sha256(b"8x6:" + bytes([255, 0, 0]) * 48).hexdigest()
DATA = base64.b64encode(png()).decode()


def form(*fields: tuple[str, str, bytes]) -> tuple[bytes, str]:
    """A multipart body of name, file name ("" for none) and content, and its type."""
    parts = b""
    for name, file, content in fields:
        named = f'; filename="{file}"' if file else ""
        parts += f'--cut\r\nContent-Disposition: form-data; name="{name}"{named}\r\n'.encode()
        parts += b"\r\n" + content + b"\r\n"
    return parts + b"--cut--\r\n", "multipart/form-data; boundary=cut"


async def test_a_picture_is_described() -> None:
    async with live() as house:
        plain = await house.post(ONE, {"image_data": DATA})
        asked = await house.post(ONE, {"image_data": data_url(), "prompt": "what is it"})
        body, kind = form(("image", "a.png", png()), ("prompt", "", b"what is it"))
        sent = await house.post(ONE, body, kind)
        bare, _ = form(("image", "a.png", png()))
        without = await house.post(ONE, bare, kind)
    assert plain.json == without.json == {"description": f"{SHA} Describe the image "}
    assert asked.json == sent.json == {"description": f"{SHA} what is it "}


REFUSED: list[tuple[str | None, object]] = [
    ("image_data", {}),
    ("image_data", {"image_data": ""}),
    ("image_data", {"image_data": 7}),
    ("image_data", {"image_data": "no base64!"}),
    ("image_data", {"image_data": base64.b64encode(b"no picture").decode()}),
    ("prompt", {"image_data": DATA, "prompt": 7}),
    ("max_tokens", {"image_data": DATA, "max_tokens": 5}),
    ("media_bounds", {"image_data": DATA, "media_bounds": 5}),
    ("media_bounds.max_pixels", {"image_data": DATA, "media_bounds": {"max_pixels": 5}}),
    ("media_bounds.max_images", {"image_data": DATA, "media_bounds": {"max_images": "5"}}),
    ("media_bounds.max_images", {"image_data": DATA, "media_bounds": {"max_images": True}}),
    ("media_bounds.max_images", {"image_data": DATA, "media_bounds": {"max_images": 33}}),
    ("image_data", {"image_data": DATA, "media_bounds": {"max_image_pixels": 47}}),
    (None, [DATA]),
]


async def test_refusals_name_the_callers_field() -> None:
    forms: list[tuple[str | None, tuple[bytes, str]]] = [
        ("image", form(("prompt", "", b"what"))),
        ("image", form(("image", "", b"a text"))),
        ("image", form(("image", "a.png", b"no picture"))),
        ("other", form(("image", "a.png", png()), ("other", "", b"x"))),
        *(
            (param, form(("image", "a.png", png()), ("media_bounds", "", bounds)))
            for param, bounds in (
                ("media_bounds", b"{"),
                ("media_bounds", b"[" * 100_000),
                ("media_bounds", b"5"),
                ("media_bounds.max_pixels", b'{"max_pixels": 5}'),
                ("media_bounds.max_images", b'{"max_images": 0}'),
                ("media_bounds.max_images", b'{"max_images": 33}'),
                ("image", b'{"max_image_pixels": 47}'),
                ("image", b'{"max_image_bytes": %d}' % (len(png()) - 1)),
            )
        ),
        ("prompt", form(("image", "a.png", png()), ("prompt", "", b"a"), ("prompt", "", b"b"))),
        ("image", form(("image", "", b"a"), ("image", "a.png", png()))),
        *(
            (None, (raw, f"{kind}; charset={charset}"))
            for raw, kind in (form(("image", "a.png", png()), ("\\ud800", "", b"a")),)
            for charset in ("undefined", "punycode", "unicode_escape")
        ),
        (None, (b"no form", "multipart/form-data; boundary=cut")),
        (None, (b"no form", "multipart/form-data")),
        (None, (b"{", "application/json")),
        (None, (DATA.encode(), "text/plain")),
    ]
    async with live() as house:
        for param, body in REFUSED:
            answer = await house.post(ONE, body)
            assert (answer.status, answer.error["param"]) == (400, param), (body, answer)
        for param, (raw, kind) in forms:
            answer = await house.post(ONE, raw, kind)
            assert answer.status == 400, (raw, answer)
            assert answer.error["param"] == param or param is None, (raw, answer)
        assert not house.engine.seen
    print(f"tried {len(REFUSED) + len(forms)}, held {len(REFUSED) + len(forms)}")


async def test_many_pictures_each_have_their_own_outcome() -> None:
    items: list[dict[str, Any]] = [
        {"image_data": DATA, "prompt": "a"},
        {"image_data": "no base64!"},
        {"image_data": DATA},
    ]
    async with live() as house:
        answer = await house.post(MANY, {"images": items})
    assert answer.status == 200
    first, second, third = answer.json["results"]
    assert first == {"description": f"{SHA} a "}
    assert second["error"]["param"] == "images[1].image_data"
    assert third == {"description": f"{SHA} Describe the image "}


async def test_each_of_many_has_bounds_of_its_own() -> None:
    bounds: list[dict[str, Any]] = [{}, {"max_image_pixels": 48}, {"max_image_pixels": 47}]
    bounds += [{"max_images": 0}, {"max_images": 33}]
    items = [{"image_data": DATA, "prompt": "a", "media_bounds": each} for each in bounds]
    async with live() as house:
        answer = await house.post(MANY, {"images": items})
    assert answer.status == 200
    assert answer.json["results"][:2] == [{"description": f"{SHA} a "}] * 2
    assert [each["error"]["param"] for each in answer.json["results"][2:]] == [
        "images[2].image_data",
        "images[3].media_bounds.max_images",
        "images[4].media_bounds.max_images",
    ]


async def test_a_form_has_bounds() -> None:
    async with live() as house:
        for bounds in (b"{}", b"null", b'{"max_image_pixels": 48, "max_images": null}'):
            body, kind = form(("image", "a.png", png()), ("media_bounds", "", bounds))
            answer = await house.post(ONE, body, kind)
            assert answer.json == {"description": f"{SHA} Describe the image "}, bounds


async def test_where_none_is_answered_the_call_ends_as_the_first() -> None:
    async with live(ScriptedEngine(num_slots=1), max_waiting=0, max_images=3) as house:
        wrong = {"image_data": "no base64!"}
        answer = await house.post(MANY, {"images": [wrong, wrong]})
        assert (answer.status, answer.error["param"]) == (400, "images[0].image_data")
        for images, param in (
            ([], "images"),
            ([wrong] * 4, "images"),
            ([wrong | {"x": 1}], "images[0].x"),
        ):
            answer = await house.post(MANY, {"images": images})
            assert (answer.status, answer.error["param"]) == (400, param)
        body = json.dumps({"image_data": DATA, "prompt": "hold"}).encode()
        _, writer = await house.connect()
        writer.write(request_head(ONE, len(body)) + body)
        await until(lambda: house.engine.num_running == 1)
        full = await house.post(MANY, {"images": [{"image_data": DATA}] * 2})
        assert (full.status, full.error["type"]) == (429, "rate_limit_error")
        assert "retry-after" in full.headers
        writer.close()
        await until(lambda: house.service.num_inside == 0)


async def test_leaving_ends_all_of_a_batch() -> None:
    engine = ScriptedEngine(step_s=0.002)
    async with live(engine) as house:
        body = json.dumps({"images": [{"image_data": DATA, "prompt": "hold"}] * 3}).encode()
        _, writer = await house.connect()
        writer.write(request_head(MANY, len(body)) + body)
        await until(lambda: engine.num_running == 3)
        writer.close()
        await until(lambda: house.service.num_inside == 0)
        num_steps = engine.num_steps
        await asyncio.sleep(0.05)
        assert engine.num_steps == num_steps
