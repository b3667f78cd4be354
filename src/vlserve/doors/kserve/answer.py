"""From pieces of an answer to ModelInferResponse."""

import json
from collections.abc import Sequence
from typing import Final

from vlserve.doors.kserve.convert import VERSION, InferCall
from vlserve.doors.kserve.pb import inference_pb2 as pb
from vlserve.doors.kserve.tensors import Element, write
from vlserve.types import Chunk, TokenLogprob

# What Triton's vLLM backend says of an answer that has not ended yet.
_NOT_ENDED: Final = "None"
_LEAST_LOGPROB: Final = -9999.0


class Answers:
    """The answers to one request as they come, `n` of them side by side in each tensor."""

    def __init__(self, asked: InferCall, id_: str, model: str) -> None:
        self._asked = asked
        self._id = id_
        self._model = model
        self._num = asked.chat.sampling.n
        self._reasons = [_NOT_ENDED] * self._num
        self._texts = [""] * self._num
        self._counts = [0] * self._num
        self._logprobs: list[list[object]] = [[] for _ in range(self._num)]
        self._num_input_tokens: int | None = None

    def take(self, chunk: Chunk) -> None:
        """One piece more for the next response."""
        self._texts[chunk.index] += chunk.text
        self._counts[chunk.index] += len(chunk.token_ids)
        self._logprobs[chunk.index] += map(_likely, chunk.logprobs)
        if chunk.finish_reason is not None:
            self._reasons[chunk.index] = chunk.finish_reason.value
        if chunk.finish_reason is not None and chunk.usage is not None:
            self._num_input_tokens = chunk.usage.prompt_tokens

    @property
    def is_worth_sending(self) -> bool:
        """Whether there is text, or an end, that was not sent."""
        return any(self._texts) or self._num_input_tokens is not None

    def response(self) -> pb.ModelInferResponse:
        """What was taken since the response before. `num_input_tokens` is in it where an answer
        ended."""
        made = pb.ModelInferResponse(model_name=self._model, model_version=VERSION, id=self._id)
        outputs: dict[str, Sequence[Element]] = {
            "text_output": [f"{self._asked.prefix}{text}".encode() for text in self._texts],
            "finish_reason": [reason.encode() for reason in self._reasons],
            "num_output_tokens": self._counts,
            "logprobs": [self._written(tokens) for tokens in self._logprobs],
        }
        if self._num_input_tokens is not None:
            outputs["num_input_tokens"] = [self._num_input_tokens]
        for name, elements in outputs.items():
            if name in self._asked.outputs:
                write(made, name, elements)
        made.parameters["triton_final_response"].bool_param = _NOT_ENDED not in self._reasons
        self._texts = [""] * self._num
        self._counts = [0] * self._num
        self._logprobs = [[] for _ in range(self._num)]
        self._num_input_tokens = None
        return made

    def _written(self, tokens: list[object]) -> bytes:
        """As JSON; null where the sampling parameters ask for none."""
        is_asked = self._asked.chat.sampling.logprobs is not None
        return json.dumps(tokens if is_asked else None).encode()


def _likely(token: TokenLogprob) -> dict[str, object]:
    """A token and the likeliest at its place by their ids, as Triton's vLLM backend has them. The
    rank is that among the likeliest, None where it is none of them."""
    ranks = {each.token_id: rank for rank, each in enumerate(token.top, 1)}
    return {
        str(each.token_id): {
            "logprob": max(each.logprob, _LEAST_LOGPROB),  # JSON has no infinity
            "rank": ranks.get(each.token_id),
            "decoded_token": each.text,
        }
        for each in (*token.top, token)
    }
