"""What a chat completion answers: OpenAI's objects, and the OpenAPI document of them."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

# Never null: clients that build on it fail without one.
Fingerprint = Annotated[str, Field(description="equal where the same server and model answer")]


class TopLogprob(BaseModel):
    """A token and how likely it was. `bytes` may be a part of a character."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobs(TopLogprob):
    """A token of the answer, and the likeliest at its place."""

    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(BaseModel):
    """One for each token."""

    content: list[TokenLogprobs]
    refusal: None = None


class AnswerMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


FinishedBy = Literal["stop", "length"]


class Choice(BaseModel):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishedBy


class PromptTokensDetails(BaseModel):
    """What the prompt is made of. `cached_tokens` were computed before."""

    cached_tokens: int
    image_tokens: int
    text_tokens: int


class CompletionUsage(BaseModel):
    """Tokens. Those of the prompt count once, however many answers there are."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class ChatCompletion(BaseModel):
    """All answers to a request."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: Fingerprint
    choices: list[Choice]
    usage: CompletionUsage


class Delta(BaseModel):
    """What has come since the piece before."""

    role: Literal["assistant"] = "assistant"
    content: str = ""


class ChunkChoice(BaseModel):
    """A piece of one answer."""

    index: int
    delta: Delta
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishedBy | None


class ChatCompletionChunk(BaseModel):
    """A piece of the answers."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: Fingerprint
    choices: list[ChunkChoice]
    usage: CompletionUsage | None = None


class Model(BaseModel):
    """A model that is served here."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["vlserve"] = "vlserve"
    max_model_len: int
    capabilities: list[Literal["completion", "vision"]]


class ModelList(BaseModel):
    """The models that are served here."""

    object: Literal["list"] = "list"
    data: list[Model]
