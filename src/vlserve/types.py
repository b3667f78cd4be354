"""The nouns of a request's trip: ChatRequest -> Request -> (Sequence) -> Chunk."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Annotated, Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from vlserve.errors import invalid
from vlserve.parameters import (
    NOT_UNICODE,
    Biases,
    Number,
    Rule,
    Seed,
    Texts,
    TokenIds,
    Whole,
    WholeOrOff,
    hold,
    is_unicode,
    rules,
    shown_number,
)
from vlserve.timings import Timings

MAX_SEED = 2**63 - 1
MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 256
MAX_STOP_TOKENS = 64
MAX_BIASED_TOKENS = 1024
MAX_ANSWERS = 16
MAX_TOP_LOGPROBS = 20
MAX_GUIDE_CHARACTERS = 65_536
MAX_PARTS = 2048  # messages and their parts together
MAX_TOKEN_ID = 2**32 - 1  # of any vocabulary
DEFAULT_MAX_TOKENS = 200
DEFAULT_VIDEO_FRAMES: Final = 8  # of a video for which a request names no number


Picture_co = TypeVar("Picture_co", covariant=True)


class Role(StrEnum):
    """Who said a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class FinishReason(StrEnum):
    """Why an answer ended: the model or a stop string ended it, or it reached a bound."""

    STOP = "stop"
    LENGTH = "length"


class Detail(StrEnum):
    """How closely a model looks at a picture: as its processor does of itself, or once, as a whole
    and not in tiles. Where the family knows but one way, both are that."""

    AUTO = "auto"
    LOW = "low"


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An untrusted picture in the caller's `field`: encoded `data` as it was sent, or else a `url`
    as it was written, `data:` ones and `sha256:` references to an upload among them."""

    data: bytes = field(default=b"", repr=False)
    url: str = field(default="", repr=False, kw_only=True)
    detail: Detail = field(default=Detail.AUTO, kw_only=True)
    field: str = "image"


@dataclass(frozen=True, slots=True)
class VideoRef:
    """An untrusted video, as an ImageRef is a picture. The model is given some of its frames, as
    several pictures of low detail in order: at most `max_frames`, or where it is 0 as many as
    MediaBounds names, or where that names none either as many as the server takes by default."""

    data: bytes = field(default=b"", repr=False)
    url: str = field(default="", repr=False, kw_only=True)
    max_frames: int = field(default=0, kw_only=True)
    field: str = "video"


@dataclass(frozen=True, slots=True)
class Upload:
    """What is kept of a caller's own, without its bytes: `reference` stands in the `url` of an
    ImageRef or a VideoRef. `name` and `purpose` are as the caller gave them, times Unix seconds.
    It may be gone before `expires_at`, where room is wanted."""

    reference: str
    num_bytes: int
    name: str
    purpose: str
    created_at: int
    expires_at: int


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """A trusted picture, made only by media: `pixels` uint8[height, width, 3] in sRGB order RGB.

    `sha256` is the hex digest of the size and the pixels: equal digests mean equal pictures.
    """

    pixels: npt.NDArray[np.uint8] = field(repr=False)
    sha256: str
    detail: Detail = Detail.AUTO

    @property
    def key(self) -> str:
        """Says what a model is shown: equal keys mean equal pictures, looked at as closely."""
        return f"{self.sha256} {self.detail}"

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.pixels.shape[1])


@dataclass(frozen=True, slots=True)
class Message(Generic[Picture_co]):
    """One turn: texts and pictures in the order in which the caller put them."""

    role: Role
    content: tuple[str | Picture_co, ...]

    def pictures(self) -> Iterator[Picture_co]:
        """The pictures of this turn, and its videos, in order."""
        return (part for part in self.content if not isinstance(part, str))


class GuideKind(StrEnum):
    """What a Guide holds an answer to."""

    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICE = "choice"


@dataclass(frozen=True, slots=True)
class Guide:
    """What an answer must be: tokens that lead elsewhere are not picked.

    A JSON object of any content, JSON that fits the schema in `text`, a text that the regular
    expression in `text` matches as a whole (the syntax of Rust's regex crate, without look-around
    and back-references), or one of `choices`. An answer that `max_tokens` or a stop string cuts
    short is only the beginning of one.

    Raises ServeError(INVALID_ARGUMENT, field="guide") for a guide without its content or with
    another kind's, and beyond MAX_GUIDE_CHARACTERS.
    """

    kind: GuideKind
    text: str = ""
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        wants_text = self.kind in (GuideKind.JSON_SCHEMA, GuideKind.REGEX)
        num_characters = len(self.text) + sum(map(len, self.choices))
        for is_right, message in (
            (bool(self.text) or not wants_text, "must not be empty"),
            (wants_text or not self.text, f"{self.kind} has no text"),
            (bool(self.choices) == (self.kind is GuideKind.CHOICE), "choices belong to a choice"),
            (all(self.choices), "no choice may be empty"),
            (num_characters <= MAX_GUIDE_CHARACTERS, f"at most {MAX_GUIDE_CHARACTERS} characters"),
            (all(map(is_unicode, (self.text, *self.choices))), NOT_UNICODE),
        ):
            if not is_right:
                raise invalid("guide", message)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen and when to stop.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 switch those filters off. `seed`
    makes a sampled answer repeatable, whatever else runs beside it; None draws a fresh one. A stop
    string ends the answer and is not part of it; a token of `stop_token_ids` ends it as the
    model's own stop tokens do, none of them before `min_tokens` new tokens.

    `presence_penalty` is taken off the logit of a token that the answer holds,
    `frequency_penalty` as many times as it does (OpenAI's API reference). `repetition_penalty`
    divides positive logits of tokens in prompt or answer and multiplies negative ones (N. S.
    Keskar et al., "CTRL", 2019); None is the model's own. `logit_bias` maps token ids to what is
    added to their logits.

    `n` answers are drawn, each as if asked for alone, the i-th with `seed` + i. `logprobs` asks for
    the log-probability of each token of the answer, and for those of the `logprobs` likeliest at
    its place; None asks for nothing. They are the model's own: the log-softmax of its logits before
    temperature, penalties, biases, filters and guide. Where a `guide` and the other rules
    (`min_tokens`, or tokens that the model never says) leave no token together, the guide wins.

    Raises ServeError(INVALID_ARGUMENT) naming the field of a value out of bounds.
    """

    max_tokens: Annotated[int, Whole("longest answer in tokens", 1)] = DEFAULT_MAX_TOKENS
    temperature: Annotated[float, Number("0 is greedy", 0, 2)] = 0.0
    top_p: Annotated[float, Number("1 is off", 0, 1, is_above=True)] = 1.0
    top_k: Annotated[int, WholeOrOff("0 or -1 is off", 0, MAX_TOKEN_ID)] = 0
    seed: Annotated[int | None, Seed("makes a sampled answer repeatable", MAX_SEED)] = None
    stop: Annotated[
        tuple[str, ...],
        Texts("each ends the answer and is not part of it", MAX_STOP_STRINGS, MAX_STOP_CHARACTERS),
    ] = ()
    min_p: Annotated[float, Number("0 is off", 0, 1)] = 0.0
    presence_penalty: Annotated[
        float, Number("taken off the score of a token that the answer holds", -2, 2)
    ] = 0.0
    frequency_penalty: Annotated[float, Number("and once more for each time it does", -2, 2)] = 0.0
    repetition_penalty: Annotated[float | None, Number("1 is off", 0, 2, is_above=True)] = None
    logit_bias: Annotated[
        Mapping[int, float],
        Biases("token id to what is added to its score", MAX_BIASED_TOKENS, MAX_TOKEN_ID, 100),
    ] = field(default_factory=dict)
    min_tokens: Annotated[int, Whole("no stop token before", 0)] = 0
    stop_token_ids: Annotated[
        tuple[int, ...], TokenIds("each ends the answer", MAX_STOP_TOKENS, MAX_TOKEN_ID)
    ] = ()
    n: Annotated[int, Whole("so many answers", 1, MAX_ANSWERS)] = 1
    logprobs: Annotated[
        int | None, Whole("and so many likeliest tokens at its place", 0, MAX_TOP_LOGPROBS)
    ] = None
    guide: Guide | None = None

    def __post_init__(self) -> None:
        hold(self, SAMPLING)
        if self.min_tokens > self.max_tokens:
            most = shown_number(self.max_tokens)
            message = f"must be at most max_tokens, {most}, not {shown_number(self.min_tokens)}"
            raise invalid("min_tokens", message)


# The table of sampling parameters: what every door takes, but for `guide`.
SAMPLING: Final[Mapping[str, Rule]] = rules(SamplingParams)


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """How a model's generation configuration has the next token chosen, as in SamplingParams."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


GREEDY: Final = GenerationDefaults()
LEFT_TO_MODEL: Final = frozenset(field.name for field in fields(GenerationDefaults))


@dataclass(frozen=True, slots=True)
class MediaBounds:
    """What a caller lets a request hold: `max_images` pictures, the frames of its videos among
    them; `max_image_bytes` bytes of each picture or video as it is encoded; `max_image_pixels`
    pixels (width times height) of each picture or frame; `max_video_frames` frames that the model
    is given of each video. None leaves the server's limit as it is, which media holds them to:
    they may lower it and not raise it.

    Raises ServeError(INVALID_ARGUMENT) naming `media_bounds` and the field of a value below 1.
    """

    max_images: Annotated[int | None, Whole("pictures, the frames of videos among them", 1)] = None
    max_image_bytes: Annotated[
        int | None, Whole("bytes of each picture or video, as it is encoded", 1)
    ] = None
    max_image_pixels: Annotated[
        int | None, Whole("width times height of each picture or frame", 1)
    ] = None
    max_video_frames: Annotated[
        int | None, Whole("frames that the model is given of each video", 1)
    ] = None

    def __post_init__(self) -> None:
        hold(self, MEDIA_BOUNDS, "media_bounds.")


MEDIA_BOUNDS: Final[Mapping[str, Rule]] = rules(MediaBounds)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a door hands over. `model` is "" where the caller named none. Requests of the same
    `tenant` share caches and take turns with those of others. `left_to_model` names the sampling
    parameters, out of LEFT_TO_MODEL, that are as the model's generation configuration says."""

    messages: tuple[Message[ImageRef | VideoRef], ...]
    sampling: SamplingParams = SamplingParams()
    model: str = ""
    tenant: str = ""
    media_bounds: MediaBounds = MediaBounds()
    left_to_model: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Request:
    """What an engine is given: admitted, its pictures decoded. From here on no fault is the
    caller's, but for a prompt that is longer than the model's context and a guide that cannot be
    followed. It asks for one answer: `sampling.n` is 1."""

    id: str
    messages: tuple[Message[Image], ...]
    sampling: SamplingParams = SamplingParams()
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request. `image_tokens` counts the part of `prompt_tokens` that
    stands for pictures, marks included; `cached_tokens` the part that was computed before."""

    prompt_tokens: int
    image_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    @property
    def text_tokens(self) -> int:
        """The part of `prompt_tokens` that is text."""
        return self.prompt_tokens - self.image_tokens


@dataclass(frozen=True, slots=True)
class ImageCount:
    """What one picture takes of a prompt: the `tokens` that its features stand for, without marks
    around them, and the `tiles` that the model looks at. `width` and `height` are the decoded
    picture's, in pixels."""

    width: int
    height: int
    tokens: int
    tiles: int


@dataclass(frozen=True, slots=True)
class TokenCount:
    """What a request takes of the context before its answer. `image_tokens` is the part of
    `prompt_tokens` that stands for pictures, marks included; `images` are in the order of the
    request's pictures."""

    prompt_tokens: int
    image_tokens: int
    images: tuple[ImageCount, ...] = ()

    @property
    def text_tokens(self) -> int:
        """The part of `prompt_tokens` that is text."""
        return self.prompt_tokens - self.image_tokens


def total_usage(usages: Iterable[Usage]) -> Usage:
    """The usage of a request with several answers: its prompt counts once.

    `usages` must not be empty.
    """
    each = list(usages)
    return replace(each[0], completion_tokens=sum(usage.completion_tokens for usage in each))


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely a token was: `logprob` is the natural logarithm, 0 at most.

    `data` are the token's bytes, which may be a part of a character; `text` shows them, such a
    part as U+FFFD. Of a token of an answer they are those that are in its text, of one of `top` its
    own; a special token is its name there. `top` are the likeliest tokens at the same place,
    the likeliest first.
    """

    token_id: int
    logprob: float
    data: bytes
    top: tuple["TokenLogprob", ...] = ()

    @property
    def text(self) -> str:
        """The token as text."""
        return self.data.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer. The last one, and only it, has `finish_reason`.

    `text` may be empty while a character or a possible stop string is still incomplete. `logprobs`
    are the tokens whose text has come with this piece as a whole, where the request asks for them:
    of all pieces together their bytes make exactly the text. A token that is not in the text, of an
    end or a stop string, is none of them. `index` says which of a request's answers this is a piece
    of; each answer has its own last piece. `usage`, of that answer alone and so far, and `timings`
    are with its first token and with its last piece.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    index: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    timings: Timings | None = None
