"""What a caller of OpenAI's APIs may say. These classes are the OpenAPI document as well.

Of a list the first element that is wrong is told of, and no other is
looked for (`fail_fast`): a list of all takes seconds.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, Tag

from vlserve.doors.http.body_model import EITHER_OBJECT, Said, Text
from vlserve.doors.http.parameters import with_parameters
from vlserve.doors.http.request_bounds import RequestBounds
from vlserve.doors.openai.shared_schema import (
    AnyText,
    EitherForm,
    ImageUrl,
    InputImagePart,
    JsonObjectFormat,
    JsonSchema,
    told,
)
from vlserve.doors.unasked import IGNORED_OF_PART, IGNORED_OF_REQUEST, IGNORED_OF_TURN
from vlserve.types import MAX_PARTS, SAMPLING

# By their names here: `logprobs` is a switch, and `max_completion_tokens` wins over `max_tokens`.
PARAMETERS: Final = {
    **{name: rule for name, rule in SAMPLING.items() if name != "logprobs"},
    "max_completion_tokens": SAMPLING["max_tokens"],
    "top_logprobs": SAMPLING["logprobs"],
}


class TextPart(Said):
    """A text, by its name here or as responses call it."""

    ignored = IGNORED_OF_PART
    type: Literal["text", "input_text", "output_text"]
    text: Text


class ImagePart(Said):
    """A picture, as chat completions write it."""

    ignored = IGNORED_OF_PART
    type: Literal["image_url"]
    image_url: Annotated[
        Annotated[str, Tag("text")] | Annotated[ImageUrl, Tag(EITHER_OBJECT)], EitherForm
    ]


class VideoUrl(Said):
    """Where a video is."""

    url: str = Field(description="as `url` of ImageUrl; an animation is a video as well")


class VideoPart(Said):
    """A video, of which the model is given some frames."""

    ignored = IGNORED_OF_PART
    type: Literal["video_url"]
    video_url: Annotated[
        Annotated[str, Tag("text")] | Annotated[VideoUrl, Tag(EITHER_OBJECT)], EitherForm
    ]


ChatPart = Annotated[TextPart | ImagePart | VideoPart | InputImagePart, Field(discriminator="type")]
ChatParts = Annotated[list[ChatPart], Field(max_length=MAX_PARTS, fail_fast=True)]


class ChatMessage(Said):
    """A turn. What an answer of this server holds may come back as a turn of the assistant."""

    ignored = IGNORED_OF_TURN
    role: Literal["system", "developer", "user", "assistant"] = Field(
        description="developer is another word for system"
    )
    content: (
        Annotated[
            Annotated[Text, Tag("text")] | Annotated[ChatParts, Tag(EITHER_OBJECT)], EitherForm
        ]
        | None
    ) = None


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

    meant_empty = frozenset({"json"})  # any JSON at all
    json_: dict[str, Any] | Text | None = Field(None, alias="json", description="a JSON schema")
    regex: str | None = Field(None, description="in the syntax of Rust's regex crate")
    choice: Choices | None = Field(None, description="one of these texts")
    json_object: bool | None = Field(None, description="any JSON object")


class StreamOptions(Said):
    """What a stream holds beside the answer."""

    ignored = frozenset({"include_obfuscation"})
    include_usage: bool | None = Field(None, description="a last piece with the usage")
    continuous_usage_stats: bool | None = Field(
        None, description="with include_usage: each piece has the usage so far, as vLLM sends it"
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

    ignored = IGNORED_OF_REQUEST
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

    tools: list[Any] | None = told("none are served: only with tool_choice none")
    tool_choice: Literal["none", "auto"] | None = told("auto only without tools")
    functions: list[Any] | None = told("none are served: only with function_call none")
    function_call: Literal["none", "auto"] | None = told("auto only without functions")
    modalities: Annotated[list[Literal["text"]], Field(fail_fast=True)] | None = told("only text")
