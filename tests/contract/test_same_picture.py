"""An odd picture is the same to the engine in whatever way it comes."""

import pytest

from tests import pictures
from tests.doors.ways import PICTURES, Caller
from vlserve import app
from vlserve.settings import EngineSettings, GrpcSettings, HttpSettings, Settings

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    # What Pillow says about odd files is not what is tested.
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
# All pictures come in these ways, and some of them in the others.
FRONT_ENDS = ("gRPC bytes", "OpenAI data URL", "REST base64", "REST multipart", "KServe bytes")
EVERY = 8


async def test_odd_pictures_are_the_same_through_all_doors() -> None:
    """The echo engine says the digest of the pixels that it was given."""
    odd = pictures.odd()
    settings = Settings(
        engine=EngineSettings(kind="echo"), grpc=GrpcSettings(port=0), http=HttpSettings(port=0)
    )
    num, wrong = 0, []
    async with (
        app.running(settings) as house,
        Caller(house.http_address, house.address) as caller,
    ):
        for i, (name, (data, _)) in enumerate(odd.items()):
            digest = f"sha256 {pictures.digest(data)[:12]}"
            for way in PICTURES if i % EVERY == 0 else FRONT_ENDS:
                num += 1
                outcome = await PICTURES[way](caller, data)
                wrong += [] if digest in outcome.text else [f"{name}, {way}: {outcome}"]
        # The control: another picture's digest is another.
        other = await PICTURES["gRPC bytes"](caller, odd["png grey"][0])
        assert f"sha256 {pictures.digest(odd['png rgb'][0])[:12]}" not in other.text
    print(f"{len(odd)} odd pictures in {len(PICTURES)} ways: tried {num}, held {num - len(wrong)}")
    assert not wrong
