"""What a caller leaves out, and what asks for more than there is, at every door."""

import base64
from dataclasses import replace
from typing import Any

import pytest

from tests.doors.grpc.live import live as grpc_live
from tests.doors.grpc.live import png
from tests.doors.http.live import House, live, user
from tests.doors.kserve.asked import InferenceClient
from tests.doors.kserve.asked import asked as infer_request
from tests.scripted import ScriptedEngine
from vlserve.doors.grpc.pb import vision_pb2 as pb
from vlserve.engines.base import EngineInfo
from vlserve.types import GREEDY, GenerationDefaults, SamplingParams

pytestmark = pytest.mark.asyncio(loop_scope="session")
CHAT, RESPONSES, REST = "/v1/chat/completions", "/v1/responses", "/process_image"
DATA = base64.b64encode(png()).decode()
WARM = GenerationDefaults(temperature=0.7, top_p=0.9, top_k=20, min_p=0.1)


class Configured(ScriptedEngine):
    """An engine whose model's generation configuration draws."""

    def __init__(self, generation: GenerationDefaults) -> None:
        super().__init__(num_slots=16)
        self.generation = generation

    @property
    def info(self) -> EngineInfo:
        return replace(super().info, generation=self.generation)


def drawn(sampling: SamplingParams) -> GenerationDefaults:
    names = ("temperature", "top_p", "top_k", "min_p")
    return GenerationDefaults(**{name: getattr(sampling, name) for name in names})


async def seen(house: House[Any], path: str, body: dict[str, Any]) -> list[SamplingParams]:
    """What the engine is given for a request over HTTP."""
    answer = await house.post(path, body)
    assert answer.status == 200, answer
    return taken(house)


def taken(house: House[Any]) -> list[SamplingParams]:
    found = [request.sampling for request in house.engine.seen]
    house.engine.seen.clear()
    return found


async def over_grpc(house: House[Any], **sampling: Any) -> list[SamplingParams]:
    async with house.grpc_client() as client:
        await client.chat(pb.VisionRequest(prompt="a", sampling=pb.Sampling(**sampling)))
    return taken(house)


async def over_kserve(
    engine: ScriptedEngine, limits: dict[str, Any], **sampling: Any
) -> list[SamplingParams]:
    async with grpc_live(engine, **limits) as house, InferenceClient(house.door.address) as client:
        await client.infer(infer_request(sampling=sampling))
    found = [request.sampling for request in engine.seen]
    engine.seen.clear()
    return found


@pytest.mark.parametrize("model_says", [GREEDY, WARM], ids=["greedy", "warm"])
async def test_left_out_sampling_is_as_the_model_says(model_says: GenerationDefaults) -> None:
    async with live(Configured(model_says)) as house:
        for path, body in (
            (CHAT, {"messages": [user("a")]}),
            (RESPONSES, {"input": "a"}),
            (REST, {"image_data": DATA}),
        ):
            (sampling,) = await seen(house, path, body)
            assert drawn(sampling) == model_says, path
        (sampling,) = await seen(house, CHAT, {"messages": [user("a")], "temperature": 1.5})
        assert drawn(sampling) == replace(model_says, temperature=1.5)
        said = {"temperature": 0, "top_p": 1, "top_k": 0, "min_p": 0}
        (sampling,) = await seen(house, RESPONSES, {"input": "a"} | said)
        assert drawn(sampling) == GREEDY
        told = (await house.post(RESPONSES, {"input": "a"})).json
        assert (told["temperature"], told["top_p"]) == (model_says.temperature, model_says.top_p)
        house.engine.seen.clear()
        (sampling,) = await over_grpc(house)
        assert drawn(sampling) == GREEDY
        (sampling,) = await over_kserve(house.engine, {})
        assert drawn(sampling) == GREEDY


@pytest.mark.parametrize("model_says", [GREEDY, WARM], ids=["greedy", "warm"])
async def test_several_answers_are_drawn(model_says: GenerationDefaults) -> None:
    temperature = model_says.temperature or 1.0
    async with live(Configured(model_says)) as house:
        for found in (
            await seen(house, CHAT, {"messages": [user("a")], "n": 3}),
            await over_grpc(house, n=3),
            await over_kserve(house.engine, {}, n=3),
        ):
            assert [sampling.temperature for sampling in found] == [temperature] * 3
        for found in (
            await seen(house, CHAT, {"messages": [user("a")], "n": 3, "temperature": 0}),
            await over_grpc(house, n=3, temperature=0),
            await over_kserve(house.engine, {}, n=3, temperature=0),
        ):
            assert [sampling.temperature for sampling in found] == [0] * 3


async def test_left_out_length_is_the_rest_and_a_large_one_is_cut_to_what_fits() -> None:
    limits: dict[str, Any] = {"max_new_tokens": 1000}
    async with live(**limits) as house:
        chat, responses = {"messages": [user("a")]}, {"input": "a"}
        left_out = [
            await seen(house, CHAT, chat),
            await seen(house, RESPONSES, responses),
        ]
        assert [each.max_tokens for (each,) in left_out] == [1000, 1000]
        defaults = [
            await seen(house, REST, {"image_data": DATA}),
            await over_grpc(house),
            await over_kserve(house.engine, limits),
        ]
        assert [each.max_tokens for (each,) in defaults] == [200, 200, 200]
        large = [
            await seen(house, CHAT, chat | {"max_tokens": 10**9, "ignore_eos": True}),
            await seen(house, CHAT, chat | {"max_completion_tokens": 10**30, "ignore_eos": True}),
            await seen(
                house, RESPONSES, responses | {"max_output_tokens": 1001, "ignore_eos": True}
            ),
            await over_grpc(house, max_tokens=2**32 - 1, min_tokens=2**32 - 1),
            await over_kserve(house.engine, limits, max_tokens=10**30, min_tokens=1001),
        ]
        assert {(each.max_tokens, each.min_tokens) for (each,) in large} == {(1000, 1000)}
        told = (await house.post(RESPONSES, responses)).json
        assert told["max_output_tokens"] is None
        async with house.grpc_client() as client:
            counted = await client.count_tokens(
                pb.VisionRequest(prompt="a", sampling=pb.Sampling(max_tokens=5000))
            )
        assert (counted.max_tokens, counted.fits) == (1000, True)


@pytest.mark.parametrize(
    ("path", "body"), [(CHAT, {"messages": [user("a")]}), (RESPONSES, {"input": "a"})]
)
async def test_a_least_length_alone_is_cut_as_one_beside_a_longest_is(
    path: str, body: dict[str, Any]
) -> None:
    async with live(ScriptedEngine()) as house:
        (sampling,) = await seen(house, path, body | {"min_tokens": 100_000})
        most = house.service._limits.max_new_tokens
        assert (sampling.min_tokens, sampling.max_tokens) == (most, most)
