"""What a caller of `/v1/responses` may say, and what it answers: texts and pictures, no tools."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, Tag

from vlserve.doors.http.body_model import EITHER_OBJECT, Said, Text
from vlserve.doors.http.parameters import with_parameters
from vlserve.doors.http.request_bounds import RequestBounds
from vlserve.doors.openai.chat_objects import TokenLogprobs
from vlserve.doors.openai.shared_schema import (
    AnyText,
    EitherForm,
    InputImagePart,
    JsonObjectFormat,
    JsonSchema,
    told,
)
from vlserve.doors.unasked import IGNORED_OF_PART, IGNORED_OF_REQUEST, IGNORED_OF_TURN
from vlserve.types import MAX_PARTS, SAMPLING

# By their names here: there is one answer to a request.
_NAMES: Final = {"max_tokens": "max_output_tokens", "logprobs": "top_logprobs"}
PARAMETERS: Final = {_NAMES.get(name, name): SAMPLING[name] for name in SAMPLING if name != "n"}


class InputText(Said):
    """A text of the caller, by its name here or as chat completions call it."""

    ignored = IGNORED_OF_PART
    type: Literal["input_text", "text"]
    text: Text


class OutputTextInput(Said):
    """A text that was an answer."""

    ignored = IGNORED_OF_PART
    type: Literal["output_text"]
    text: Text


InputPart = Annotated[InputText | InputImagePart | OutputTextInput, Field(discriminator="type")]
InputParts = Annotated[list[InputPart], Field(max_length=MAX_PARTS, fail_fast=True)]


class InputMessage(Said):
    """A turn. What this server answered may come back as a turn of the assistant."""

    ignored = IGNORED_OF_TURN
    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: (
        Annotated[
            Annotated[Text, Tag("text")] | Annotated[InputParts, Tag(EITHER_OBJECT)], EitherForm
        ]
        | None
    ) = None


InputMessages = Annotated[list[InputMessage], Field(max_length=MAX_PARTS, fail_fast=True)]


class JsonSchemaText(JsonSchema):
    """JSON that fits a schema. Its name and the like are given back as they came."""

    ignored = frozenset()
    type: Literal["json_schema"]
    name: Text | None = None
    description: Text | None = None
    strict: bool | None = None


TextFormat = Annotated[AnyText | JsonObjectFormat | JsonSchemaText, Field(discriminator="type")]


class TextConfig(Said):
    """What the answer must be."""

    format: TextFormat | None = None


class ResponseStreamOptions(Said):
    """What a stream holds beside the answer."""

    ignored = frozenset({"include_obfuscation"})


Included = Annotated[list[Literal["message.output_text.logprobs"]], Field(fail_fast=True)]


@with_parameters(PARAMETERS)
class ResponseRequest(Said):
    """A question: a text, or the turns of a conversation, and how to answer."""

    ignored = IGNORED_OF_REQUEST - {"metadata"}
    input: Annotated[
        Annotated[Text, Tag("text")]
        | Annotated[
            list[InputMessage], Field(max_length=MAX_PARTS, fail_fast=True), Tag(EITHER_OBJECT)
        ],
        EitherForm,
    ]
    model: str | None = Field(None, description="a name out of /v1/models; left out: the one here")
    instructions: Text | None = told("what the system says first")
    text: TextConfig | None = told("what the answer must be")
    ignore_eos: bool | None = told("no stop token before max_output_tokens")
    include: Included | None = told("log-probabilities")
    stream: bool | None = told("the answer in pieces, as server-sent events")
    stream_options: ResponseStreamOptions | None = told("with stream only")
    media_bounds: RequestBounds | None = told("what the request may hold of pictures")

    previous_response_id: None = told("only null: nothing is stored")
    tools: list[Any] | None = told("none are served: only with tool_choice none")
    tool_choice: Literal["none", "auto"] | None = told("auto only without tools")
    metadata: dict[Text, Text] | None = told("given back as it came")


class OutputText(BaseModel):
    """The text of the answer."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = []
    logprobs: list[TokenLogprobs] = []


ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputMessage(BaseModel):
    """The answer."""

    type: Literal["message"] = "message"
    id: str
    role: Literal["assistant"] = "assistant"
    status: ItemStatus
    content: list[OutputText]


class InputTokensDetails(BaseModel):
    """What the input is made of. `cached_tokens` were computed before."""

    cached_tokens: int
    image_tokens: int
    text_tokens: int


class OutputTokensDetails(BaseModel):
    """What the output is made of."""

    reasoning_tokens: Literal[0] = 0


class ResponseUsage(BaseModel):
    """Tokens."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int


class IncompleteDetails(BaseModel):
    """Why the answer is cut short."""

    reason: Literal["max_output_tokens"]


class ResponseFailure(BaseModel):
    """Why there is no answer."""

    code: str
    message: str


class ResponseObject(BaseModel):
    """An answer and what was asked for."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: ResponseFailure | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputMessage]
    parallel_tool_calls: bool = False
    previous_response_id: None = None
    store: Literal[False] = False
    temperature: float
    text: dict[str, Any]
    tool_choice: Literal["none"] = "none"
    tools: list[Any] = []
    top_logprobs: int | None
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None


class ResponseEvent(BaseModel):
    """A step in the coming of an answer. What it holds beside these is by its type."""

    type: Literal[
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    sequence_number: int
    response: ResponseObject | None = None
    item: OutputMessage | None = None
    part: OutputText | None = None
    delta: str | None = None
    text: str | None = None
    logprobs: list[TokenLogprobs] | None = None
    item_id: str | None = None
    output_index: int | None = None
    content_index: int | None = None
