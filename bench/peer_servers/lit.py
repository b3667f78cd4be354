"""LitServe with batching, as its documentation would have it: python -m bench.peer_servers.lit."""

import argparse
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import litserve

from bench.peer_servers.generate import Generator, as_template


class GenerateAPI(litserve.LitAPI):  # type: ignore[misc]
    """A batch is answered by one `generate`, and streamed step by step."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(spec=litserve.OpenAISpec(), **options)
        self._folder = folder

    def setup(self, device: str) -> None:
        """Called in LitServe's own worker process."""
        del device
        self._generator = Generator(self._folder)

    def decode_request(self, request: Any) -> dict[str, Any]:
        """The fields that are answered to."""
        return {"messages": request.model_dump()["messages"], "max_tokens": request.max_tokens}

    def batch(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """As they are: `predict` pads."""
        return list(inputs)

    def predict(self, asked: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        """For every row the new text and the tokens until now."""
        inputs = self._generator.inputs(*as_template([one["messages"] for one in asked]))
        prompt_tokens = inputs["attention_mask"].sum(1).tolist()
        texts = [self._generator.detokenizer() for _ in asked]
        longest = max(one["max_tokens"] for one in asked)
        for count, step in enumerate(self._generator.steps(inputs, longest), 1):
            yield [
                _piece(texts[row], step[row], prompt_tokens[row], count, one["max_tokens"])
                for row, one in enumerate(asked)
            ]

    def unbatch(self, output: Any) -> Any:
        """A list a step, an item a row: as it comes."""
        return output

    def encode_response(self, output: Any) -> Iterator[Any]:
        """OpenAI's form already."""
        yield from output


def _piece(
    text: Any, token_ids: Any, prompt_tokens: int, count: int, longest: int
) -> dict[str, Any]:
    """Nothing more once an answer is as long as was asked: the batch goes on for the others."""
    content = text.push(token_ids) if count <= longest else ""
    count = min(count, longest)
    return {
        "role": "assistant",
        "content": content + (text.finish() if count == longest else ""),
        "prompt_tokens": prompt_tokens,
        "completion_tokens": count,
        "total_tokens": prompt_tokens + count,
    }


def main() -> None:
    """Serve for ever, with one worker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--wait", type=float, default=0.05, help="s in which a batch may fill")
    options = parser.parse_args()
    multiprocessing.set_start_method("spawn", force=True)
    api = GenerateAPI(
        options.folder, max_batch_size=options.batch, batch_timeout=options.wait, stream=True
    )
    server = litserve.LitServer(api, accelerator="cpu", timeout=False)
    server.run(host="127.0.0.1", port=options.port, generate_client_file=False, num_api_servers=1)


if __name__ == "__main__":
    main()
