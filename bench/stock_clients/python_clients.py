"""One question by one unmodified client: python python_clients.py CLIENT MODE ADDRESS PICTURE TEXT.

Prints the answer alone. Runs in an environment of its own, which holds the clients and not vlserve
(bench/stock_clients/requirements.txt). MODE is `plain` or `streamed`; ADDRESS is HOST:PORT of the
HTTP API, and of the gRPC API for tritonclient.
"""

import asyncio
import base64
import queue
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Ask = Callable[[str, bytes, str, bool], str]
MODEL = "embedded"
KEY = "none"


def data_url(picture: bytes) -> str:
    """The picture as every OpenAI client sends it."""
    return "data:image/png;base64," + base64.b64encode(picture).decode()


def parts(picture: bytes, text: str) -> list[dict[str, Any]]:
    """The content of one user message."""
    return [
        {"type": "image_url", "image_url": {"url": data_url(picture)}},
        {"type": "text", "text": text},
    ]


def openai_chat(address: str, picture: bytes, text: str, streamed: bool) -> str:
    """openai, chat completions."""
    import openai

    client = openai.OpenAI(base_url=f"http://{address}/v1", api_key=KEY)
    messages: Any = [{"role": "user", "content": parts(picture, text)}]
    if not streamed:
        done = client.chat.completions.create(model=MODEL, messages=messages)
        return done.choices[0].message.content or ""
    with client.chat.completions.stream(model=MODEL, messages=messages) as events:
        for _ in events:
            pass
        return events.get_final_completion().choices[0].message.content or ""


def openai_responses(address: str, picture: bytes, text: str, streamed: bool) -> str:
    """openai, responses."""
    import openai

    client = openai.OpenAI(base_url=f"http://{address}/v1", api_key=KEY)
    content = [
        {"type": "input_image", "image_url": data_url(picture), "detail": "auto"},
        {"type": "input_text", "text": text},
    ]
    said: Any = [{"role": "user", "content": content}]
    if not streamed:
        return client.responses.create(model=MODEL, input=said).output_text
    with client.responses.stream(model=MODEL, input=said) as events:
        for _ in events:
            pass
        return events.get_final_response().output_text


def langchain(address: str, picture: bytes, text: str, streamed: bool) -> str:
    """langchain-openai."""
    from langchain_core.messages import HumanMessage
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model=MODEL, base_url=f"http://{address}/v1", api_key=KEY)
    messages = [HumanMessage(content=parts(picture, text))]
    if streamed:
        return "".join(str(piece.content) for piece in model.stream(messages))
    return str(model.invoke(messages).content)


def litellm(address: str, picture: bytes, text: str, streamed: bool) -> str:
    """litellm, as an OpenAI-compatible server."""
    import litellm as library

    answer = library.completion(
        model=f"openai/{MODEL}",
        api_base=f"http://{address}/v1",
        api_key=KEY,
        messages=[{"role": "user", "content": parts(picture, text)}],
        stream=streamed,
    )
    if streamed:
        return "".join(piece.choices[0].delta.content or "" for piece in answer)
    return str(answer.choices[0].message.content)


def llama_index(address: str, picture: bytes, text: str, streamed: bool) -> str:
    """llama-index-llms-openai-like."""
    from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
    from llama_index.llms.openai_like import OpenAILike

    model = OpenAILike(
        model=MODEL, api_base=f"http://{address}/v1", api_key=KEY, is_chat_model=True
    )
    blocks = [ImageBlock(image=picture, image_mimetype="image/png"), TextBlock(text=text)]
    messages = [ChatMessage(role="user", blocks=blocks)]
    if streamed:
        return "".join(piece.delta or "" for piece in model.stream_chat(messages))
    return model.chat(messages).message.content or ""


def pydantic_ai(address: str, picture: bytes, text: str, streamed: bool) -> str:
    """pydantic-ai, an agent without tools."""
    from pydantic_ai import Agent, BinaryContent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=f"http://{address}/v1", api_key=KEY)
    agent = Agent(OpenAIChatModel(MODEL, provider=provider))
    prompt = [BinaryContent(picture, media_type="image/png"), text]

    async def ask() -> str:
        if not streamed:
            return str((await agent.run(prompt)).output)
        async with agent.run_stream(prompt) as result:
            return "".join([piece async for piece in result.stream_text(delta=True)])

    return asyncio.run(ask())


def instructor(address: str, picture: bytes, text: str, streamed: bool) -> str:
    """instructor, by JSON schema; prints the field of the object."""
    import instructor as library
    import openai
    from pydantic import BaseModel

    class Answer(BaseModel):
        """What the model is held to."""

        answer: str

    client = library.from_openai(
        openai.OpenAI(base_url=f"http://{address}/v1", api_key=KEY),
        mode=library.Mode.JSON_SCHEMA,
    )
    messages: Any = [{"role": "user", "content": parts(picture, text)}]
    if streamed:
        partial = client.chat.completions.create_partial(
            model=MODEL, messages=messages, response_model=Answer, max_retries=0
        )
        return f"an object with the text {type(list(partial)[-1].answer).__name__}"
    made = client.chat.completions.create(
        model=MODEL, messages=messages, response_model=Answer, max_retries=0
    )
    return f"an object with the text {type(made.answer).__name__}"


def smolagents(address: str, picture: bytes, text: str, streamed: bool) -> str:
    """smolagents, its model for OpenAI-compatible servers."""
    from smolagents import ChatMessage, MessageRole, OpenAIModel

    model = OpenAIModel(model_id=MODEL, api_base=f"http://{address}/v1", api_key=KEY)
    messages = [ChatMessage(role=MessageRole.USER, content=parts(picture, text))]
    if streamed:
        return "".join(piece.content or "" for piece in model.generate_stream(messages))
    return str(model.generate(messages).content)


def openai_agents(address: str, picture: bytes, text: str, streamed: bool) -> str:
    """openai-agents, which asks `/v1/responses`."""
    import agents
    import openai

    agents.set_tracing_disabled(disabled=True)
    client = openai.AsyncOpenAI(base_url=f"http://{address}/v1", api_key=KEY)
    agent = agents.Agent(
        name="looker", model=agents.OpenAIResponsesModel(model=MODEL, openai_client=client)
    )
    content = [
        {"type": "input_image", "image_url": data_url(picture), "detail": "auto"},
        {"type": "input_text", "text": text},
    ]
    said: Any = [{"role": "user", "content": content}]

    async def ask() -> str:
        if not streamed:
            return str((await agents.Runner.run(agent, said)).final_output)
        result = agents.Runner.run_streamed(agent, said)
        pieces = [
            event.data.delta
            async for event in result.stream_events()
            if event.type == "raw_response_event"
            and event.data.type == "response.output_text.delta"
        ]
        return "".join(pieces)

    return asyncio.run(ask())


def huggingface(address: str, picture: bytes, text: str, streamed: bool) -> str:
    """huggingface_hub's InferenceClient, as for text-generation-inference."""
    from huggingface_hub import InferenceClient

    client = InferenceClient(base_url=f"http://{address}/v1", api_key=KEY)
    messages: Any = [{"role": "user", "content": parts(picture, text)}]
    answer: Any = client.chat_completion(messages, model=MODEL, stream=streamed)
    if streamed:
        return "".join(piece.choices[0].delta.content or "" for piece in answer)
    return str(answer.choices[0].message.content)


def triton(address: str, picture: bytes, text: str, streamed: bool) -> str:
    """tritonclient over gRPC, by the tensor names of Triton's vLLM backend."""
    import numpy as np
    import tritonclient.grpc as library

    def tensor(name: str, kind: str, value: Any) -> Any:
        made = library.InferInput(name, [1], kind)
        made.set_data_from_numpy(np.array([value], dtype=np.object_ if kind == "BYTES" else bool))
        return made

    inputs = [
        tensor("text_input", "BYTES", text.encode()),
        tensor("image", "BYTES", base64.b64encode(picture)),
        tensor("stream", "BOOL", streamed),
    ]
    client = library.InferenceServerClient(address)
    if not streamed:
        return str(client.infer(MODEL, inputs).as_numpy("text_output")[0].decode())
    came: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: came.put(error or result))
    client.async_stream_infer(MODEL, inputs, enable_empty_final_response=True)
    client.stop_stream()
    pieces = []
    while not came.empty():
        piece = came.get()
        if isinstance(piece, Exception):
            raise piece
        output = piece.as_numpy("text_output")
        pieces.append("" if output is None else output[0].decode())
    return "".join(pieces)


CLIENTS: dict[str, Ask] = {
    "openai": openai_chat,
    "openai responses": openai_responses,
    "langchain-openai": langchain,
    "litellm": litellm,
    "llama-index": llama_index,
    "pydantic-ai": pydantic_ai,
    "instructor": instructor,
    "smolagents": smolagents,
    "openai-agents": openai_agents,
    "huggingface_hub": huggingface,
    "tritonclient": triton,
}


def main() -> None:
    """Ask, and print the answer."""
    name, mode, address, picture, text = sys.argv[1:]
    answer = CLIENTS[name](address, Path(picture).read_bytes(), text, mode == "streamed")
    sys.stdout.write(answer.strip() + "\n")


if __name__ == "__main__":
    main()
