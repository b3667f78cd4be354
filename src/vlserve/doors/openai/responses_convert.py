"""A request of `/v1/responses` -> ChatRequest, and Chunks -> a response object."""

import time
import uuid
from collections.abc import Sequence
from typing import Final

from vlserve.doors.http.parameters import given_parameters
from vlserve.doors.http.request_bounds import media_bounds
from vlserve.doors.openai import shared_convert
from vlserve.doors.openai.responses_schema import (
    PARAMETERS,
    IncompleteDetails,
    InputMessage,
    InputPart,
    InputTokensDetails,
    ItemStatus,
    OutputMessage,
    OutputText,
    ResponseObject,
    ResponseRequest,
    ResponseUsage,
)
from vlserve.doors.openai.shared_schema import AnyText, InputImagePart, JsonObjectFormat
from vlserve.errors import invalid
from vlserve.settings import LimitSettings
from vlserve.types import (
    LEFT_TO_MODEL,
    ChatRequest,
    Chunk,
    FinishReason,
    Guide,
    GuideKind,
    ImageRef,
    Message,
    Role,
    SamplingParams,
)

_NAMES: Final = {
    "max_tokens": "max_output_tokens",
    "guide": "text.format",
    "logprobs": "top_logprobs",
}


def chat_request(body: ResponseRequest, limits: LimitSettings) -> ChatRequest:
    """What the caller asks for.

    Raises ServeError(INVALID_ARGUMENT) naming a field of ours, for `names`.
    """
    turns: list[Message[ImageRef]]
    if isinstance(body.input, str):
        turns = [Message(Role.USER, (body.input,))]
    elif not body.input:  # instructions alone are no question
        raise invalid("messages", "must not be empty")
    else:
        turns = _turns(body.input)
    if body.instructions:
        turns = _instructed(body.instructions, turns)
    shared_convert.refuse_tools(body.tools, body.tool_choice)
    return ChatRequest(
        tuple(turns),
        _sampling(body, limits),
        body.model or "",
        media_bounds=media_bounds(body.media_bounds),
        left_to_model=LEFT_TO_MODEL - given_parameters(body, PARAMETERS).keys(),
    )


def names(body: ResponseRequest) -> dict[str, str]:
    """What the caller calls our fields."""
    if isinstance(body.input, str):
        return _NAMES | {"messages[0]": "input", "messages[1]": "input", "messages": "input"}
    # Instructions are a turn of their own, unless the system's own turn took them in.
    num_before = int(bool(body.instructions) and not _begins_with_system(body.input))
    turns = {f"messages[{i + num_before}]": f"input[{i}]" for i in range(len(body.input))}
    return _NAMES | {"messages": "input", "messages[0]": "instructions"} | turns


class Reply:
    """The response object of one request as it comes to be."""

    def __init__(self, body: ResponseRequest, asked: ChatRequest, model: str) -> None:
        self._body = body
        self._sampling = asked.sampling
        self._model = model
        self._created = int(time.time())
        self.id = f"resp_{uuid.uuid4().hex}"
        self.item_id = f"msg_{uuid.uuid4().hex}"

    @property
    def has_logprobs(self) -> bool:
        """Whether they were asked for."""
        return self._sampling.logprobs is not None

    def begun(self) -> ResponseObject:
        """Before anything has come."""
        return self._object("in_progress", [])

    def whole(self, chunks: Sequence[Chunk]) -> ResponseObject:
        """When all has come."""
        is_cut = chunks[-1].finish_reason is FinishReason.LENGTH
        response = self._object(
            "incomplete" if is_cut else "completed",
            [self.item("incomplete" if is_cut else "completed", [self.text(chunks)])],
        )
        total = shared_convert.total_of(chunks)
        response.usage = ResponseUsage(
            input_tokens=total.prompt_tokens,
            input_tokens_details=InputTokensDetails(
                cached_tokens=total.cached_tokens,
                image_tokens=total.image_tokens,
                text_tokens=total.text_tokens,
            ),
            output_tokens=total.completion_tokens,
            total_tokens=total.prompt_tokens + total.completion_tokens,
        )
        if is_cut:
            response.incomplete_details = IncompleteDetails(reason="max_output_tokens")
        return response

    def item(self, status: ItemStatus, content: list[OutputText]) -> OutputMessage:
        """The message in it."""
        return OutputMessage(id=self.item_id, status=status, content=content)

    def text(self, chunks: Sequence[Chunk]) -> OutputText:
        """The text in that."""
        tokens = shared_convert.token_logprobs(chunks) if self.has_logprobs else []
        return OutputText(text="".join(chunk.text for chunk in chunks), logprobs=tokens)

    def _object(self, status: ItemStatus, output: list[OutputMessage]) -> ResponseObject:
        body, sampling = self._body, self._sampling
        form = body.text.format if body.text is not None else None
        shown = {"type": "text"} if form is None else form.model_dump(by_alias=True)
        return ResponseObject(
            id=self.id,
            created_at=self._created,
            status=status,
            instructions=body.instructions,
            max_output_tokens=given_parameters(body, PARAMETERS).get("max_output_tokens"),
            metadata=body.metadata or {},
            model=self._model,
            output=output,
            temperature=sampling.temperature,
            text={"format": shown},
            top_logprobs=sampling.logprobs,
            top_p=sampling.top_p,
        )


def _turns(items: Sequence[InputMessage]) -> list[Message[ImageRef]]:
    shared_convert.refuse_many_parts(item.content for item in items)
    return [_turn(item, f"input[{i}].content") for i, item in enumerate(items)]


def _turn(item: InputMessage, path: str) -> Message[ImageRef]:
    role = shared_convert.ROLES[item.role]
    if isinstance(item.content, str):
        return Message(role, (item.content,))
    parts = (_part(part, f"{path}[{i}]") for i, part in enumerate(item.content or ()))
    return Message(role, tuple(parts))


def _part(part: InputPart, path: str) -> str | ImageRef:
    if isinstance(part, InputImagePart):
        return shared_convert.input_image(part, path)
    return part.text


def _begins_with_system(items: Sequence[InputMessage]) -> bool:
    return bool(items) and shared_convert.ROLES[items[0].role] is Role.SYSTEM


def _instructed(instructions: str, turns: list[Message[ImageRef]]) -> list[Message[ImageRef]]:
    """The turns behind the instructions. The system speaks once, so a turn of its own at the
    beginning goes on with what they say."""
    if turns and turns[0].role is Role.SYSTEM:
        first = Message(Role.SYSTEM, (f"{instructions}\n\n", *turns[0].content))
        return [first, *turns[1:]]
    return [Message(Role.SYSTEM, (instructions,)), *turns]


def _sampling(body: ResponseRequest, limits: LimitSettings) -> SamplingParams:
    said = given_parameters(body, PARAMETERS)
    top_logprobs = said.pop("top_logprobs", None)
    values = {
        "max_tokens": said.pop(
            "max_output_tokens", max(limits.max_new_tokens, said.get("min_tokens", 0))
        ),
        "logprobs": 0 if top_logprobs is None and body.include else top_logprobs,
        **said,
    }
    if body.ignore_eos:
        values["min_tokens"] = values["max_tokens"]
    return SamplingParams(**values, guide=_guide(body))


def _guide(body: ResponseRequest) -> Guide | None:
    form = body.text.format if body.text is not None else None
    if form is None or isinstance(form, AnyText):
        return None
    if isinstance(form, JsonObjectFormat):
        return Guide(GuideKind.JSON_OBJECT)
    return shared_convert.schema_guide(form.schema_)
