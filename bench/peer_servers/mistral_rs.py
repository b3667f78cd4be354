"""mistral.rs through its Python wheel: python -m bench.peer_servers.mistral_rs FOLDER --port 8003.

The wheel has no server, and its object refuses a second thread. So one thread hands it every
request as it comes and reads all streams in turn: its own engine batches them.
"""

import argparse
import json
import queue
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mistralrs

from bench.peer_servers.openai_door import Asked, Done, Inbox, Refused, serve

MAX_RUNNING = 32


def answer(runner: Any, inbox: Inbox) -> None:
    """Answers for ever."""
    running: list[tuple[Asked, Iterator[Any]]] = []
    while True:
        for asked in arrived(inbox, is_idle=not running):
            try:
                running.append((asked, iter(runner.send_chat_completion_request(_wire(asked)))))
            except ValueError as error:
                asked.outbox.put(Refused(500, str(error)))
        running = [one for one in running if _step(*one)]


def arrived(inbox: Inbox, *, is_idle: bool) -> Iterator[Asked]:
    """Whoever has come; where nobody runs, waits for one."""
    if is_idle:
        yield inbox.get()
    while True:
        try:
            yield inbox.get_nowait()
        except queue.Empty:
            return


def _step(asked: Asked, stream: Iterator[Any]) -> bool:
    """Passes the next piece on. Returns whether there is more to come."""
    try:
        chunk = next(stream)
    except StopIteration:
        asked.outbox.put(Refused(500, "the stream ended without its usage"))
        return False
    except ValueError as error:
        asked.outbox.put(Refused(500, str(error)))
        return False
    choice = chunk.choices[0]
    if choice.delta.content:
        asked.outbox.put(choice.delta.content)
    if choice.finish_reason is None:
        return True
    usage = chunk.usage
    asked.outbox.put(Done(usage.prompt_tokens, usage.completion_tokens, choice.finish_reason))
    return False


def _wire(asked: Asked) -> Any:
    return mistralrs.ChatCompletionRequest(
        model="default",
        messages=asked.body["messages"],
        max_tokens=asked.max_tokens,
        temperature=0.0,
        stream=True,
        ignore_eos=True,
    )


def main() -> None:
    """Load, then serve for ever."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    words = json.loads((options.folder / "tokenizer.json").read_text())
    # It knows no decoder made of two: ours is this one and then the first space taken off.
    words["decoder"] = words["decoder"]["decoders"][0]
    plain = Path(tempfile.mkdtemp()) / "tokenizer.json"
    plain.write_text(json.dumps(words))
    which = mistralrs.Which.MultimodalPlain(
        model_id=str(options.folder),
        tokenizer_json=str(plain),
        arch=mistralrs.MultimodalArchitecture.Idefics2,
        dtype=mistralrs.ModelDType.F32,
    )
    runner = mistralrs.Runner(which=which, max_seqs=MAX_RUNNING)
    serve(options.port, lambda inbox: answer(runner, inbox))


if __name__ == "__main__":
    main()
