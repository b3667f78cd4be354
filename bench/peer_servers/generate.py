"""`generate` behind a queue: one request after the other, or in static batches.

    python -m bench.peer_servers.generate FOLDER --port 8001 --batch 8

A batch is whoever waits when the one before it is done, and whoever comes within the wait. It runs
until its last answer is written; nobody joins it.
"""

import argparse
import base64
import io
import queue
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.generation.streamers import BaseStreamer

from bench.peer_servers.openai_door import Asked, Done, Inbox, Refused, serve
from vlserve.engines.native.text.detokenizer import Detokenizer


class Steps(BaseStreamer):
    """What `generate` writes, a step at a time: the tokens of every row."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[list[int] | None] = queue.SimpleQueue()
        self._is_prompt = True

    def put(self, value: torch.Tensor) -> None:
        """Called with the prompts first, then with int64[rows] of every step."""
        if not self._is_prompt:
            self._queue.put(value.tolist())
        self._is_prompt = False

    def end(self) -> None:
        """Called when `generate` is done; and by us when it has failed."""
        self._queue.put(None)

    def __iter__(self) -> Iterator[list[int]]:
        while (step := self._queue.get()) is not None:
            yield step


class Generator:
    """A model and its processor, float32 on the CPU, greedy."""

    def __init__(self, folder: Path) -> None:
        self.processor: Any = AutoProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            folder, local_files_only=True
        )
        self.processor.tokenizer.padding_side = "left"
        model: Any = AutoModelForImageTextToText.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
        self.model = model.eval()
        # One for ever: each new thread would start a crew of its own for the arithmetic.
        self._thread = ThreadPoolExecutor(1, "generate")

    def inputs(
        self, conversations: Sequence[list[dict[str, Any]]], pictures: Sequence[list[Image.Image]]
    ) -> Any:
        """The processor's tensors, padded on the left, of conversations in the chat template's
        form and the pictures of each."""
        texts = [
            self.processor.apply_chat_template(turns, add_generation_prompt=True)
            for turns in conversations
        ]
        return self.processor(
            text=texts,
            images=pictures if any(pictures) else None,
            padding=True,
            return_tensors="pt",
        )

    def run(self, inputs: Any, max_tokens: int, streamer: BaseStreamer) -> torch.Tensor:
        """`generate` in the caller's thread: int64[rows, prompt and answer]."""
        with torch.inference_mode():
            ids: torch.Tensor = self.model.generate(
                **inputs, max_new_tokens=max_tokens, do_sample=False, streamer=streamer
            )
        return ids

    def steps(self, inputs: Any, max_tokens: int) -> Iterator[list[int]]:
        """A token for every row, again and again. Raises what `generate` raises."""
        streamer = Steps()

        def run() -> None:
            try:
                self.run(inputs, max_tokens, streamer)
            finally:
                streamer.end()

        running = self._thread.submit(run)
        yield from streamer
        running.result()

    def detokenizer(self) -> Detokenizer:
        """Text out of the tokens of one row."""

        def decode(ids: list[int]) -> str:
            return str(self.processor.tokenizer.decode(ids, skip_special_tokens=True))

        return Detokenizer(decode)


def answer(generator: Generator, inbox: Inbox, num_rows: int, wait_s: float) -> None:
    """Answers whoever waits, at most `num_rows` at a time, for ever."""
    while True:
        batch = collect(inbox, num_rows, wait_s)
        try:
            _answer_batch(generator, batch)
        except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
            for asked in batch:
                asked.outbox.put(Refused(500, str(error)))


def collect(inbox: Inbox, num_rows: int, wait_s: float) -> list[Asked]:
    """The next batch: one at least, and who else comes within `wait_s` of the first."""
    batch = [inbox.get()]
    until = time.monotonic() + wait_s
    while len(batch) < num_rows:
        try:
            batch.append(inbox.get(timeout=max(0.0, until - time.monotonic())))
        except queue.Empty:
            break
    return batch


def _answer_batch(generator: Generator, batch: Sequence[Asked]) -> None:
    inputs = generator.inputs(*as_template([asked.body["messages"] for asked in batch]))
    prompt_tokens = inputs["attention_mask"].sum(1).tolist()
    texts = [generator.detokenizer() for _ in batch]
    for count, step in enumerate(
        generator.steps(inputs, max(asked.max_tokens for asked in batch)), 1
    ):
        for row, (asked, text) in enumerate(zip(batch, texts, strict=True)):
            if count > asked.max_tokens:
                continue
            if piece := text.push(step[row]):
                asked.outbox.put(piece)
            if count == asked.max_tokens:
                if rest := text.finish():
                    asked.outbox.put(rest)
                asked.outbox.put(Done(prompt_tokens[row], count))


def as_template(
    conversations: Sequence[list[dict[str, Any]]],
) -> tuple[list[list[dict[str, Any]]], list[list[Image.Image]]]:
    """Conversations in OpenAI's form as the chat template wants them, and the pictures of each."""
    turns = [
        [{"role": turn["role"], "content": [_part(p) for p in turn["content"]]} for turn in asked]
        for asked in conversations
    ]
    pictures = [
        [_picture(part) for turn in asked for part in turn["content"] if _is_picture(part)]
        for asked in conversations
    ]
    return turns, pictures


def _is_picture(part: dict[str, Any]) -> bool:
    return bool(part["type"] == "image_url")


def _part(part: dict[str, Any]) -> dict[str, Any]:
    return {"type": "image"} if _is_picture(part) else part


def _picture(part: dict[str, Any]) -> Image.Image:
    data = part["image_url"]["url"].partition(",")[2]
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def main() -> None:
    """Load, then serve for ever."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--wait", type=float, default=0.05, help="s in which a batch may fill")
    options = parser.parse_args()
    generator = Generator(options.folder)
    serve(options.port, lambda inbox: answer(generator, inbox, options.batch, options.wait))


if __name__ == "__main__":
    main()
