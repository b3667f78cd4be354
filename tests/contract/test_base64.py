"""What can be mended in base64 is mended at every door that takes it."""

import base64
from collections.abc import Awaitable, Callable

import pytest

from tests import pictures
from tests.doors.http.live import text_part
from tests.doors.ways import PROMPT, Caller, Outcome
from vlserve import app
from vlserve.settings import EngineSettings, GrpcSettings, HttpSettings, Settings

pytestmark = pytest.mark.asyncio(loop_scope="session")
DATA, _ = pictures.odd()["jpeg grey"]
TEXT = base64.b64encode(DATA).decode()
MENDED = {
    "no padding": TEXT.rstrip("="),
    "lines": base64.encodebytes(DATA).decode(),
    "lines of MIME": base64.encodebytes(DATA).decode().replace("\n", "\r\n"),
    "url-safe": base64.urlsafe_b64encode(DATA).decode(),
    "url-safe without padding": base64.urlsafe_b64encode(DATA).decode().rstrip("="),
}
DOORS: dict[str, Callable[[Caller, str], Awaitable[Outcome]]] = {
    "chat": lambda caller, text: caller.chat(
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{text}"}},
        text_part(PROMPT),
    ),
    "responses": lambda caller, text: caller.response(
        type="input_image", image_url=f"data:image/jpeg;base64,{text}", detail="auto"
    ),
    "REST": lambda caller, text: caller.post(
        "/process_image", json={"image_data": text, "prompt": PROMPT}
    ),
    "gRPC": lambda caller, text: caller.call(
        image_url=f"data:image/jpeg;base64,{text}", prompt=PROMPT
    ),
    "KServe": lambda caller, text: caller.infer(text.encode()),
}


async def test_every_door_mends_it_and_refuses_the_rest_by_its_field() -> None:
    """The echo engine says the digest of the pixels that it was given."""
    digest = f"sha256 {pictures.digest(DATA)[:12]}"
    settings = Settings(
        engine=EngineSettings(kind="echo"), grpc=GrpcSettings(port=0), http=HttpSettings(port=0)
    )
    assert set("+/=") <= set(TEXT)
    async with (
        app.running(settings) as house,
        Caller(house.http_address, house.address) as caller,
    ):
        for name, ask in DOORS.items():
            for how, text in MENDED.items():
                outcome = await ask(caller, text)
                assert digest in outcome.text, (name, how, outcome)
            for wrong in (f"{TEXT[:76]} {TEXT[76:]}", f"{TEXT[:40]}*{TEXT[40:]}"):
                assert (await ask(caller, wrong)).field, name
