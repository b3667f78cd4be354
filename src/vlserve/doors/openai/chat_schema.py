"""What a caller of OpenAI's APIs may say. These classes are the OpenAPI document as well.

Of a list the first element that is wrong is told of, and no other is
looked for (`fail_fast`): a list of all takes seconds.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, Tag

from vlserve.doors.http.body_model import Said, Text
from vlserve.doors.http.parameters import with_parameters
from vlserve.doors.http.request_bounds import RequestBounds
from vlserve.doors.openai.shared_schema import (
    IGNORED,
    AnyText,
    EitherForm,
    ImageUrl,
    InputImagePart,
    JsonObjectFormat,
    JsonSchema,
    told,
)
from vlserve.types import MAX_PARTS, SAMPLING

# By their names here: `logprobs` is a switch, and `max_completion_tokens` wins over `max_tokens`.
PARAMETERS: Final = {
    **{name: rule for name, rule in SAMPLING.items() if name != "logprobs"},
    "max_completion_tokens": SAMPLING["max_tokens"],
    "top_logprobs": SAMPLING["logprobs"],
}


class TextPart(Said):
    """A text."""

    type: Literal["text"]
    text: Text


class ImagePart(Said):
    """A picture, as chat completions write it."""

    type: Literal["image_url"]
    image_url: Annotated[
        Annotated[str, Tag("text")] | Annotated[ImageUrl, Tag("object")], EitherForm
    ]


class VideoUrl(Said):
    """Where a video is."""

    url: str = Field(description="as `url` of ImageUrl; an animation is a video as well")


class VideoPart(Said):
    """A video, of which the model is given some frames."""

    type: Literal["video_url"]
    video_url: Annotated[
        Annotated[str, Tag("text")] | Annotated[VideoUrl, Tag("object")], EitherForm
    ]


ChatPart = Annotated[TextPart | ImagePart | VideoPart | InputImagePart, Field(discriminator="type")]
ChatParts = Annotated[list[ChatPart], Field(max_length=MAX_PARTS, fail_fast=True)]


class ChatMessage(Said):
    """A turn. What an answer of this server holds may come back as a turn of the assistant."""

    role: Literal["system", "developer", "user", "assistant"] = Field(
        description="developer is another word for system"
    )
    content: Annotated[
        Annotated[Text, Tag("text")] | Annotated[ChatParts, Tag("object")], EitherForm
    ]
    name: str | None = Field(None, description=IGNORED)
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None


class JsonSchemaFormat(Said):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[
    AnyText | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")
]


Choices = Annotated[list[str], Field(fail_fast=True)]


class StructuredOutputs(Said):
    """What the answer must be, as vLLM writes it: one of these."""

    json_: dict[str, Any] | Text | None = Field(None, alias="json", description="a JSON schema")
    regex: str | None = Field(None, description="in the syntax of Rust's regex crate")
    choice: Choices | None = Field(None, description="one of these texts")
    json_object: bool | None = Field(None, description="any JSON object")


class StreamOptions(Said):
    """What a stream holds beside the answer."""

    include_usage: bool | None = Field(None, description="a last piece with the usage")
    include_obfuscation: bool | None = Field(None, description=IGNORED)
    continuous_usage_stats: bool | None = Field(
        None, description="ignored: the usage comes once, at the end"
    )


class VideoIo(Said):
    """How a video is read, as vLLM writes it."""

    num_frames: int | None = Field(None, json_schema_extra={"minimum": 1})


class MediaIo(Said):
    """How media is read, as vLLM writes it."""

    video: VideoIo | None = None


@with_parameters(PARAMETERS)
class ChatCompletionRequest(Said):
    """A question: the turns of a conversation, and how to answer."""

    messages: Annotated[list[ChatMessage], Field(max_length=MAX_PARTS, fail_fast=True)]
    model: str | None = Field(None, description="a name out of /v1/models; left out: the one here")
    logprobs: bool | None = told("with each token, how likely the model found it")
    response_format: ResponseFormat | None = told("what the answer must be")
    stream: bool | None = told("the answer in pieces, as server-sent events")
    stream_options: StreamOptions | None = told("with stream only")

    ignore_eos: bool | None = told("as min_tokens = max_tokens")
    structured_outputs: StructuredOutputs | None = told("what the answer must be")
    media_bounds: RequestBounds | None = told("what the request may hold of pictures and videos")
    media_io_kwargs: MediaIo | None = told("num_frames of videos, as max_video_frames")

    tools: Annotated[list[Any], Field(max_length=0)] | None = told("only an empty list")
    tool_choice: Literal["none", "auto"] | None = told("without tools, both mean none")
    parallel_tool_calls: bool | None = told(IGNORED)
    modalities: Annotated[list[Literal["text"]], Field(fail_fast=True)] | None = told("only text")
    user: str | None = told(IGNORED)
    metadata: dict[str, Any] | None = told(IGNORED)
    store: bool | None = told("ignored: nothing is stored")
    service_tier: str | None = told(IGNORED)
    safety_identifier: str | None = told(IGNORED)
    prompt_cache_key: str | None = told(IGNORED)
    prompt_cache_retention: str | None = told(IGNORED)
