"""Real doors of both kinds: what they stream, count and refuse is what is measured."""

import base64
from contextlib import aclosing

import pytest

from bench.peer_servers.openai_door import Refused
from tests.bench.servers import Script, http_server
from tests.doors.grpc.live import live
from tests.scripted import ScriptedEngine
from vlserve.bench.grpc_target import GrpcTarget, grpc_target
from vlserve.bench.openai_target import OpenAITarget, openai_target
from vlserve.bench.report import report
from vlserve.bench.run import Limit, Run
from vlserve.bench.targets import AskFailed
from vlserve.bench.workload import Workload
from vlserve.types import ChatRequest, Chunk, FinishReason, Message, Role, Usage

SMALL = Workload(image_sizes=((16, 16),), prompt_words=7)


async def chunks(target: GrpcTarget | OpenAITarget, request: ChatRequest) -> list[Chunk]:
    async with aclosing(target.ask(request)) as answer:
        return [chunk async for chunk in answer]


def text_request(text: str) -> ChatRequest:
    return ChatRequest((Message(Role.USER, (text,)),))


async def test_grpc_figures_are_those_of_a_scripted_engine() -> None:
    engine = ScriptedEngine(num_slots=4, step_s=0.02)
    async with live(engine) as house, grpc_target(house.door.address) as target:
        run = Run(target, SMALL)
        outcomes = await run.closed_loop(4, Limit(num_requests=12))
    summary = report(outcomes, run.counts)
    # A digest and seven words: eight tokens, 20 ms each.
    assert (summary.answered, summary.output_tokens) == (12, 12 * 8)
    assert summary.prompt_tokens == 12 * 18
    assert summary.time_per_token_s is not None
    assert 0.015 <= summary.time_per_token_s.p50 < 0.06
    assert summary.ttft_s is not None
    assert 0.02 <= summary.ttft_s.p50 < 0.14
    assert len({text for outcome in outcomes for text in [outcome.text]}) == 12
    assert len(engine.seen) == 12


async def test_grpc_errors_have_their_code_for_a_kind() -> None:
    engine = ScriptedEngine(num_slots=1, step_s=0.05)
    async with live(engine, max_waiting=0) as house, grpc_target(house.door.address) as target:
        run = Run(target, SMALL)
        outcomes = await run.closed_loop(3, Limit(num_requests=3))
        assert report(outcomes, run.counts).errors == {"overloaded": 2}
        with pytest.raises(AskFailed) as broken:
            await chunks(target, text_request("fine then break"))
        assert broken.value.kind == "internal"
    with pytest.raises(OSError, match="no server that serves"):
        async with grpc_target(house.door.address):
            pass


async def test_http_figures_are_those_of_a_script() -> None:
    script = Script(num_tokens=6, first_s=0.1, step_s=0.1)
    with http_server(script) as server:
        async with openai_target(server.url, "", None) as target:
            run = Run(target, SMALL)
            outcomes = await run.closed_loop(3, Limit(num_requests=9))
    summary = report(outcomes, run.counts)
    assert (summary.answered, summary.output_tokens) == (9, 54)
    assert summary.prompt_tokens == 90
    assert summary.ttft_s is not None
    assert 0.1 <= summary.ttft_s.p50 < 0.5
    assert summary.time_per_token_s is not None
    assert 0.09 <= summary.time_per_token_s.p50 < 0.2


async def test_http_sends_what_was_asked() -> None:
    with http_server(Script()) as server:
        async with openai_target(f"{server.url}/v1/", "", None) as target:
            asked = Workload(image_sizes=((16, 16),), max_tokens=5, ignore_eos=True).request(0)
            got = await chunks(target, asked)
    [body] = server.bodies
    assert body["max_tokens"] == 5
    assert body["ignore_eos"] is True
    assert body["stream_options"] == {"include_usage": True}
    picture, text = body["messages"][0]["content"]
    head, _, data = picture["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    ref, words = asked.messages[0].content
    assert not isinstance(ref, str)
    assert base64.b64decode(data) == ref.data
    assert text == {"type": "text", "text": words}
    assert [chunk.text for chunk in got] == ["a "] * 3 + [""]
    assert got[-1].finish_reason is FinishReason.LENGTH
    assert got[-1].usage == Usage(10, 0, 3)


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (Script(refusal=Refused(429, "too many")), "http 429"),
        (Script(refusal=Refused(500, "broke")), "http 500"),
        (Script(refusal=Refused(500, "broke in the middle"), after=2), "stream"),
    ],
)
async def test_http_errors_are_told_apart(script: Script, kind: str) -> None:
    with http_server(script) as server:
        async with openai_target(server.url, "peer", None) as target:
            run = Run(target, SMALL)
            outcomes = await run.closed_loop(2, Limit(num_requests=4))
    assert report(outcomes, run.counts).errors == {kind: 4}
    assert len(server.bodies) == 4, "a retry would hide the failure"


async def test_nobody_there() -> None:
    with http_server(Script()) as server:
        url = server.url
    async with openai_target(url, "peer", None) as target:
        with pytest.raises(AskFailed) as failed:
            await chunks(target, text_request("hello"))
        assert failed.value.kind == "connection"
    with pytest.raises(OSError, match="/v1/models"):
        async with openai_target(url, "", None):
            pass
