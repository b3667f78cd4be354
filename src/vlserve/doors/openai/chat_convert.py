"""A chat completion request -> ChatRequest, and Chunks -> OpenAI's objects."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from vlserve.doors.http.parameters import given_parameters
from vlserve.doors.http.request_bounds import media_bounds
from vlserve.doors.openai.chat_objects import (
    AnswerMessage,
    Choice,
    ChoiceLogprobs,
    CompletionUsage,
    PromptTokensDetails,
)
from vlserve.doors.openai.chat_schema import (
    PARAMETERS,
    ChatCompletionRequest,
    ChatMessage,
    ChatPart,
    ImagePart,
    StructuredOutputs,
    TextPart,
    VideoPart,
)
from vlserve.doors.openai.shared_convert import (
    ROLES,
    detail_of,
    given,
    input_image,
    refuse_many_parts,
    refuse_tools,
    schema_guide,
    token_logprobs,
    total_of,
    url_of,
)
from vlserve.doors.openai.shared_schema import AnyText, JsonObjectFormat
from vlserve.errors import invalid
from vlserve.settings import LimitSettings
from vlserve.types import (
    LEFT_TO_MODEL,
    ChatRequest,
    Chunk,
    Guide,
    GuideKind,
    ImageRef,
    MediaBounds,
    Message,
    SamplingParams,
    Usage,
    VideoRef,
)

_NUM_FRAMES: Final = "media_io_kwargs.video.num_frames"
_MAX_FRAMES: Final = "media_bounds.max_video_frames"


def chat_request(body: ChatCompletionRequest, limits: LimitSettings) -> ChatRequest:
    """What the caller asks for.

    Raises ServeError(INVALID_ARGUMENT) naming a field of ours, for `names`.
    """
    refuse_many_parts(message.content for message in body.messages)
    refuse_tools(body.tools, body.tool_choice)
    refuse_tools(body.functions, body.function_call, "functions")
    if body.stream_options is not None and body.stream_options.include_usage and not body.stream:
        raise invalid("stream_options", "include_usage belongs to a stream: set stream to true")
    messages = tuple(
        _message(message, f"messages[{i}].content") for i, message in enumerate(body.messages)
    )
    return ChatRequest(
        messages,
        _sampling(body, limits),
        body.model or "",
        media_bounds=_media_bounds(body),
        left_to_model=LEFT_TO_MODEL - given_parameters(body, PARAMETERS).keys(),
    )


def names(body: ChatCompletionRequest) -> dict[str, str]:
    """What the caller calls our fields."""
    names = {"logprobs": "top_logprobs", "guide": "response_format"}
    if "max_completion_tokens" in given_parameters(body, PARAMETERS):
        names["max_tokens"] = "max_completion_tokens"
    if _num_frames(body) is not None:
        names[_MAX_FRAMES] = _NUM_FRAMES
    if body.structured_outputs is not None:
        names["guide"] = f"structured_outputs.{_structured_name(body.structured_outputs)}"
    return names


def choices(chunks: Iterable[Chunk], *, with_logprobs: bool) -> list[Choice]:
    """All answers of a request, of which `chunks` are all there are."""
    return [
        Choice(
            index=index,
            message=AnswerMessage(content="".join(chunk.text for chunk in each)),
            logprobs=logprobs(each) if with_logprobs else None,
            finish_reason=each[-1].finish_reason or "stop",
        )
        for index, each in by_index(chunks)
    ]


def by_index(chunks: Iterable[Chunk]) -> list[tuple[int, list[Chunk]]]:
    """The chunks of each answer."""
    answers: dict[int, list[Chunk]] = {}
    for chunk in chunks:
        answers.setdefault(chunk.index, []).append(chunk)
    return sorted(answers.items())


def usage(chunks: Iterable[Chunk]) -> CompletionUsage:
    """What all answers took together. `chunks` hold the last one of each."""
    return completion_usage(total_of(chunks))


def completion_usage(total: Usage) -> CompletionUsage:
    """As OpenAI tells it."""
    return CompletionUsage(
        prompt_tokens=total.prompt_tokens,
        completion_tokens=total.completion_tokens,
        total_tokens=total.prompt_tokens + total.completion_tokens,
        prompt_tokens_details=PromptTokensDetails(
            cached_tokens=total.cached_tokens,
            image_tokens=total.image_tokens,
            text_tokens=total.text_tokens,
        ),
    )


def logprobs(chunks: Iterable[Chunk]) -> ChoiceLogprobs:
    """Those of all tokens of an answer, or of a piece."""
    return ChoiceLogprobs(content=token_logprobs(chunks))


def _message(message: ChatMessage, path: str) -> Message[ImageRef | VideoRef]:
    role = ROLES[message.role]
    if isinstance(message.content, str):
        return Message(role, (message.content,))
    parts = (_part(part, f"{path}[{i}]") for i, part in enumerate(message.content or ()))
    return Message(role, tuple(parts))


def _part(part: ChatPart, path: str) -> str | ImageRef | VideoRef:
    if isinstance(part, TextPart):
        return part.text
    if isinstance(part, VideoPart):
        url, field = url_of(part.video_url, f"{path}.video_url")
        return VideoRef(url=url, field=field)
    if isinstance(part, ImagePart):
        url, field = url_of(part.image_url, f"{path}.image_url")
        said = None if isinstance(part.image_url, str) else part.image_url.detail
        return ImageRef(url=url, detail=detail_of(said), field=field)
    return input_image(part, path)


def _media_bounds(body: ChatCompletionRequest) -> MediaBounds:
    bounds, num_frames = media_bounds(body.media_bounds), _num_frames(body)
    if num_frames is None:
        return bounds
    if bounds.max_video_frames is not None:
        raise invalid(_NUM_FRAMES, f"cannot stand beside {_MAX_FRAMES}")
    return replace(bounds, max_video_frames=num_frames)


def _num_frames(body: ChatCompletionRequest) -> int | None:
    video = body.media_io_kwargs.video if body.media_io_kwargs else None
    return video.num_frames if video else None


def _sampling(body: ChatCompletionRequest, limits: LimitSettings) -> SamplingParams:
    said = given_parameters(body, PARAMETERS)
    top_logprobs = said.pop("top_logprobs", None)
    if top_logprobs and not body.logprobs:
        raise invalid("top_logprobs", "belongs to log-probabilities: set logprobs to true")
    values = {"max_tokens": max(limits.max_new_tokens, said.get("min_tokens", 0)), **said}
    values["max_tokens"] = values.pop("max_completion_tokens", values["max_tokens"])
    if body.ignore_eos:
        values["min_tokens"] = values["max_tokens"]
    logprobs = (top_logprobs or 0) if body.logprobs else None
    return SamplingParams(**values, logprobs=logprobs, guide=_guide(body))


def _guide(body: ChatCompletionRequest) -> Guide | None:
    wanted, form = body.structured_outputs, body.response_format
    if wanted is None:
        if form is None or isinstance(form, AnyText):
            return None
        if isinstance(form, JsonObjectFormat):
            return Guide(GuideKind.JSON_OBJECT)
        return schema_guide(form.json_schema.schema_)
    if form is not None:
        raise invalid("structured_outputs", "cannot stand beside response_format")
    return _structured_guide(wanted)


def _structured_guide(wanted: StructuredOutputs) -> Guide | None:
    match _structured_name(wanted):
        case "json":
            if isinstance(wanted.json_, str):
                return Guide(GuideKind.JSON_SCHEMA, wanted.json_)
            return schema_guide(wanted.json_)
        case "regex":
            return Guide(GuideKind.REGEX, wanted.regex or "")
        case "choice":
            return Guide(GuideKind.CHOICE, choices=tuple(wanted.choice or ()))
        case "json_object":
            return Guide(GuideKind.JSON_OBJECT) if wanted.json_object else None
    return None


def _structured_name(wanted: StructuredOutputs) -> str:
    """The one guide in it, "" where there is none."""
    names = list(given(**wanted.model_dump(by_alias=True)))
    if len(names) > 1:
        message = f"must hold one of json, regex, choice, json_object, not {' and '.join(names)}"
        raise invalid("structured_outputs", message)
    return names[0] if names else ""
