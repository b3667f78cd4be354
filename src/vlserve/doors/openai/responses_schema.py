"""What a caller of `/v1/responses` may say, and what it answers: texts and pictures, no tools."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, Tag

from vlserve.doors.http.body_model import Said, Text
from vlserve.doors.http.parameters import with_parameters
from vlserve.doors.http.request_bounds import RequestBounds
from vlserve.doors.openai.chat_objects import TokenLogprobs
from vlserve.doors.openai.shared_schema import (
    IGNORED,
    AnyText,
    EitherForm,
    InputImagePart,
    JsonObjectFormat,
    JsonSchema,
    told,
)
from vlserve.types import MAX_PARTS, SAMPLING

# By their names here: there is one answer to a request.
_NAMES: Final = {"max_tokens": "max_output_tokens", "logprobs": "top_logprobs"}
PARAMETERS: Final = {_NAMES.get(name, name): SAMPLING[name] for name in SAMPLING if name != "n"}


class InputText(Said):
    """A text of the caller."""

    type: Literal["input_text"]
    text: Text


class OutputTextInput(Said):
    """A text that was an answer."""

    type: Literal["output_text"]
    text: Text
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    logprobs: list[Any] | None = Field(None, description=IGNORED)


InputPart = Annotated[InputText | InputImagePart | OutputTextInput, Field(discriminator="type")]
InputParts = Annotated[list[InputPart], Field(max_length=MAX_PARTS, fail_fast=True)]


class InputMessage(Said):
    """A turn. What this server answered may come back as a turn of the assistant."""

    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Annotated[Text, Tag("text")] | Annotated[InputParts, Tag("object")], EitherForm
    ]
    id: str | None = Field(None, description=IGNORED)
    status: str | None = Field(None, description=IGNORED)


class JsonSchemaText(JsonSchema):
    """JSON that fits a schema."""

    type: Literal["json_schema"]


TextFormat = Annotated[AnyText | JsonObjectFormat | JsonSchemaText, Field(discriminator="type")]


class TextConfig(Said):
    """What the answer must be."""

    format: TextFormat | None = None


class ResponseStreamOptions(Said):
    """What a stream holds beside the answer."""

    include_obfuscation: bool | None = Field(None, description=IGNORED)


Included = Annotated[list[Literal["message.output_text.logprobs"]], Field(fail_fast=True)]


@with_parameters(PARAMETERS)
class ResponseRequest(Said):
    """A question: a text, or the turns of a conversation, and how to answer."""

    input: Annotated[
        Annotated[Text, Tag("text")]
        | Annotated[list[InputMessage], Field(max_length=MAX_PARTS, fail_fast=True), Tag("object")],
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
    background: Literal[False] | None = told("only false")
    tools: Annotated[list[Any], Field(max_length=0)] | None = told("only an empty list")
    tool_choice: Literal["none", "auto"] | None = told("without tools, both mean none")
    truncation: Literal["disabled"] | None = told("only disabled")
    parallel_tool_calls: bool | None = told(IGNORED)
    store: bool | None = told("ignored: nothing is stored")
    metadata: dict[Text, Text] | None = told("given back as it came")
    service_tier: str | None = told(IGNORED)
    user: str | None = told(IGNORED)
    safety_identifier: str | None = told(IGNORED)
    prompt_cache_key: str | None = told(IGNORED)
    prompt_cache_retention: str | None = told(IGNORED)


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
    max_output_tokens: int
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
