"""From pieces of an answer to ModelInferResponse."""

from collections.abc import Sequence
from typing import Final

from vlserve.doors.kserve.convert import VERSION, Asked
from vlserve.doors.kserve.pb import inference_pb2 as pb
from vlserve.doors.kserve.tensors import Element, write
from vlserve.types import Chunk

# What Triton's vLLM backend says of an answer that has not ended yet.
_NOT_ENDED: Final = "None"


class Answers:
    """The answers to one request as they come, `n` of them side by side in each tensor."""

    def __init__(self, asked: Asked, id_: str, model: str) -> None:
        self._asked = asked
        self._id = id_
        self._model = model
        self._num = asked.chat.sampling.n
        self._reasons = [_NOT_ENDED] * self._num
        self._texts = [""] * self._num
        self._counts = [0] * self._num
        self._num_input_tokens: int | None = None

    def take(self, chunk: Chunk) -> None:
        """One piece more for the next response."""
        self._texts[chunk.index] += chunk.text
        self._counts[chunk.index] += len(chunk.token_ids)
        if chunk.finish_reason is not None:
            self._reasons[chunk.index] = chunk.finish_reason.value
        if chunk.usage is not None:
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
        }
        if self._num_input_tokens is not None:
            outputs["num_input_tokens"] = [self._num_input_tokens]
        for name, elements in outputs.items():
            if name in self._asked.outputs:
                write(made, name, elements)
        made.parameters["triton_final_response"].bool_param = _NOT_ENDED not in self._reasons
        self._texts = [""] * self._num
        self._counts = [0] * self._num
        self._num_input_tokens = None
        return made
