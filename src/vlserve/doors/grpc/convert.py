"""Between the wire's messages and the nouns. What is not understood is refused by name."""

from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any, Final

from vlserve.doors.grpc.calls import refuse_unknown
from vlserve.doors.grpc.pb import vision_pb2 as pb
from vlserve.engines.base import EngineInfo
from vlserve.errors import invalid
from vlserve.settings import LimitSettings
from vlserve.timings import Timings
from vlserve.types import (
    MAX_PARTS,
    SAMPLING,
    ChatRequest,
    Chunk,
    Detail,
    FinishReason,
    Guide,
    GuideKind,
    ImageRef,
    MediaBounds,
    Message,
    Role,
    SamplingParams,
    TokenCount,
    TokenLogprob,
    Usage,
    VideoRef,
    total_usage,
)

_ROLES: Final = {
    pb.ROLE_SYSTEM: Role.SYSTEM,
    pb.ROLE_USER: Role.USER,
    pb.ROLE_ASSISTANT: Role.ASSISTANT,
}
_DETAILS: Final = {pb.DETAIL_UNSPECIFIED: Detail.AUTO, pb.DETAIL_LOW: Detail.LOW}
_FINISH_REASONS: Final = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}


def chat_request(wire: pb.VisionRequest, limits: LimitSettings) -> ChatRequest:
    """What the caller asks for.

    Raises ServeError(INVALID_ARGUMENT) naming the field by its path in the message, such as
    `messages[1].parts[0]`, or one of ours, for `names`.
    """
    # First of all: what follows takes time for each of them, in which nobody else is served.
    num_parts = 0
    for message in wire.messages[: MAX_PARTS + 1]:
        num_parts += 1 + len(message.parts)
    if num_parts > MAX_PARTS:
        raise invalid("messages", f"must hold at most {MAX_PARTS} messages and parts together")
    refuse_unknown(wire)
    sampling = _sampling(wire.sampling, limits)
    bounds = _media_bounds(wire.media_bounds)
    # Greedy, but for several answers, which would be one.
    is_drawn = sampling.n > 1 and not wire.sampling.HasField("temperature")
    left = frozenset({"temperature"} if is_drawn else ())
    if not wire.messages:
        return ChatRequest((_single_turn(wire),), sampling, wire.model, "", bounds, left)
    for name in ("image", "image_url", "prompt", "detail"):
        if getattr(wire, name):
            raise invalid(name, "cannot stand beside messages")
    messages = tuple(_message(message, f"messages[{i}]") for i, message in enumerate(wire.messages))
    return ChatRequest(messages, sampling, wire.model, "", bounds, left)


def wire_request(request: ChatRequest) -> pb.VisionRequest:
    """What a client sends for `request`: the other way round."""
    sampling = request.sampling
    roles = {role: wire for wire, role in _ROLES.items()}
    return pb.VisionRequest(
        model=request.model,
        media_bounds=_wire_bounds(request.media_bounds),
        messages=[
            pb.Message(
                role=roles[message.role],
                parts=[_wire_part(part) for part in message.content],
            )
            for message in request.messages
        ],
        sampling=pb.Sampling(
            **{name: getattr(sampling, name) for name in SAMPLING},
            **_wire_guide(sampling.guide),
        ),
    )


def _wire_bounds(bounds: MediaBounds) -> pb.MediaBounds | None:
    """None where nothing is bound: servers that know no bounds are asked as ever."""
    return None if bounds == MediaBounds() else pb.MediaBounds(**asdict(bounds))


def _wire_part(part: str | ImageRef | VideoRef) -> pb.Part:
    if isinstance(part, str):
        return pb.Part(text=part)
    if isinstance(part, VideoRef):
        wire = pb.Part(video_url=part.url) if part.url else pb.Part(video=part.data)
        wire.max_frames = part.max_frames
        return wire
    wire = pb.Part(image_url=part.url) if part.url else pb.Part(image=part.data)
    wire.detail = {detail: name for name, detail in _DETAILS.items()}[part.detail]
    return wire


def names(wire: pb.VisionRequest | None) -> dict[str, str]:
    """What the caller calls our fields: their paths in the message."""
    if wire is None:
        return {}
    names = {name: f"sampling.{name}" for name in SAMPLING}
    names["guide"] = f"sampling.{wire.sampling.WhichOneof('guide') or 'guide'}"
    return names if wire.messages else names | {"messages": "prompt"}


def response(chunk: Chunk, model: str) -> pb.VisionResponse:
    """One piece of an answer; usage, finish reason and timings where the chunk has them."""
    wire = pb.VisionResponse(
        text=chunk.text,
        model=model,
        index=chunk.index,
        logprobs=map(_token_logprob, chunk.logprobs),
    )
    if chunk.finish_reason is not None:
        wire.finish_reason = _FINISH_REASONS[chunk.finish_reason]
        if chunk.usage is not None:
            wire.usage.CopyFrom(_usage(chunk.usage))
    if chunk.timings is not None:
        wire.timings.CopyFrom(_timings(chunk.timings))
    return wire


def whole_response(chunks: Iterable[Chunk], model: str) -> pb.VisionResponse:
    """All answers of a request, of which `chunks` are all there are."""
    answers: dict[int, list[Chunk]] = {}
    timings = None
    for chunk in chunks:
        answers.setdefault(chunk.index, []).append(chunk)
        timings = chunk.timings or timings
    first, *others = [
        response(
            replace(
                each[-1],
                text="".join(chunk.text for chunk in each),
                logprobs=tuple(token for chunk in each for token in chunk.logprobs),
                usage=None,
                timings=None,
            ),
            model,
        )
        for _, each in sorted(answers.items())
    ]
    first.others.extend(others)
    usages = [each[-1].usage for each in answers.values()]
    first.usage.CopyFrom(_usage(total_usage(usage for usage in usages if usage is not None)))
    if timings is not None:
        first.timings.CopyFrom(_timings(timings))
    return first


def _usage(usage: Usage) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        text_tokens=usage.text_tokens,
        image_tokens=usage.image_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
    )


def _timings(timings: Timings) -> pb.Timings:
    return pb.Timings(**asdict(timings))


def _token_logprob(token: TokenLogprob) -> pb.TokenLogprob:
    return pb.TokenLogprob(
        token_id=token.token_id,
        logprob=token.logprob,
        data=token.data,
        text=token.text,
        top=map(_token_logprob, token.top),
    )


def chunk(wire: pb.VisionResponse) -> Chunk:
    """What a client makes of a piece: the other way round. Token ids do not travel."""
    if not wire.HasField("usage"):
        return Chunk(wire.text)
    reasons = {wire_reason: reason for reason, wire_reason in _FINISH_REASONS.items()}
    counts = wire.usage
    usage = Usage(
        counts.prompt_tokens, counts.image_tokens, counts.completion_tokens, counts.cached_tokens
    )
    return Chunk(wire.text, (), reasons.get(wire.finish_reason), usage)


def token_count(count: TokenCount, max_tokens: int, info: EngineInfo) -> pb.TokenCount:
    """What a request takes that asks for `max_tokens` of the model."""
    return pb.TokenCount(
        prompt_tokens=count.prompt_tokens,
        text_tokens=count.text_tokens,
        image_tokens=count.image_tokens,
        max_context_tokens=info.max_context_tokens,
        max_tokens=max_tokens,
        fits=count.prompt_tokens + max_tokens <= info.max_context_tokens,
        images=[
            pb.ImageCount(
                tokens=image.tokens, tiles=image.tiles, width=image.width, height=image.height
            )
            for image in count.images
        ],
        model=info.model,
    )


def model(info: EngineInfo) -> pb.Model:
    """One line of the model list."""
    return pb.Model(
        name=info.model,
        engine=info.engine,
        max_context_tokens=info.max_context_tokens,
        is_batched=info.is_batched,
    )


def _single_turn(wire: pb.VisionRequest) -> Message[ImageRef]:
    image = wire.image  # each look at it is a copy
    if image and wire.image_url:
        raise invalid("image_url", "cannot stand beside image")
    if wire.detail and not (image or wire.image_url):
        raise invalid("detail", "belongs to a picture")
    detail = _detail(wire.detail, "detail")
    content: list[str | ImageRef] = []
    if image:
        content.append(ImageRef(image, "image", detail=detail))
    if wire.image_url:
        content.append(ImageRef(url=wire.image_url, detail=detail, field="image_url"))
    if wire.prompt:
        content.append(wire.prompt)
    if not content:
        raise invalid("prompt", "give a prompt, a picture or messages")
    return Message(Role.USER, tuple(content))


def _message(wire: pb.Message, path: str) -> Message[ImageRef | VideoRef]:
    role = _ROLES.get(wire.role)
    if role is None:
        raise invalid(
            f"{path}.role",
            f"{int(wire.role)} is not a role: 1 is the system, 2 the user, 3 the assistant",
        )
    if not wire.parts and role is Role.USER:
        raise invalid(f"{path}.parts", "is empty: a turn of the user holds a text or a picture")
    parts = tuple(_part(part, f"{path}.parts[{i}]") for i, part in enumerate(wire.parts))
    return Message(role, parts)


def _part(wire: pb.Part, path: str) -> str | ImageRef | VideoRef:
    kind = wire.WhichOneof("content")
    if wire.max_frames and kind not in ("video", "video_url"):
        raise invalid(f"{path}.max_frames", "belongs to a video")
    if wire.detail and kind not in ("image", "image_url"):
        raise invalid(f"{path}.detail", "belongs to a picture")
    detail = _detail(wire.detail, f"{path}.detail")
    match kind:
        case "text":
            return wire.text
        case "image":
            return ImageRef(wire.image, f"{path}.image", detail=detail)
        case "image_url":
            return ImageRef(url=wire.image_url, detail=detail, field=f"{path}.image_url")
        case "video":
            return VideoRef(wire.video, max_frames=wire.max_frames, field=f"{path}.video")
        case "video_url":
            return VideoRef(
                url=wire.video_url, max_frames=wire.max_frames, field=f"{path}.video_url"
            )
        case _:
            raise invalid(path, "must hold a text, an image or a video")


def _detail(wire: pb.Detail, path: str) -> Detail:
    if wire not in _DETAILS:
        raise invalid(path, f"{int(wire)} is not a detail: 0 is the model's own, 1 is low")
    return _DETAILS[wire]


def _media_bounds(wire: pb.MediaBounds) -> MediaBounds:
    return MediaBounds(**{field.name: value for field, value in wire.ListFields()})


def _sampling(wire: pb.Sampling, limits: LimitSettings) -> SamplingParams:
    said = {field.name: value for field, value in wire.ListFields() if field.name in SAMPLING}
    return SamplingParams(
        **{"max_tokens": limits.default_max_tokens} | said,
        guide=_guide(wire),
    )


def _guide(wire: pb.Sampling) -> Guide | None:
    match wire.WhichOneof("guide"):
        case "json_object":
            return Guide(GuideKind.JSON_OBJECT) if wire.json_object else None
        case "json_schema":
            return Guide(GuideKind.JSON_SCHEMA, wire.json_schema) if wire.json_schema else None
        case "regex":
            return Guide(GuideKind.REGEX, wire.regex) if wire.regex else None
        case "choice":
            texts = tuple(wire.choice.texts)
            return Guide(GuideKind.CHOICE, choices=texts) if texts else None
        case _:
            return None


def _wire_guide(guide: Guide | None) -> dict[str, Any]:
    if guide is None:
        return {}
    content: dict[GuideKind, Any] = {
        GuideKind.JSON_OBJECT: True,
        GuideKind.CHOICE: pb.Choice(texts=guide.choices),
    }
    return {guide.kind.value: content.get(guide.kind, guide.text)}
