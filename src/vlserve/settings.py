"""One frozen tree of settings: the only reader of the environment and of vlserve.toml.

Later wins: defaults < vlserve.toml < environment (VLSERVE_ENGINE__MAX_RUNNING) < flags
(--engine.max-running), one name in all four. Unknown keys are refused.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from vlserve import example
from vlserve.types import DEFAULT_MAX_TOKENS, DEFAULT_VIDEO_FRAMES
from vlserve.words import sentence

SETTINGS_FILE = Path("vlserve.toml")
MIB = 1024 * 1024
CPU_CACHE_MIB = 512  # where cache_mib is not set: memory there has other uses
PILLOW_MAX_PIXELS = 89_478_485  # above it the decoder itself speaks of a bomb


_CLOSE = 0.8  # of 1: a letter or two are otherwise
# What a TOML parser says of the place of a fault.
_WHERE = re.compile(r", at line \d+, column \d+|, at end of document")
# As a browser writes one: no path, no user, no slash at the end.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")


def _listed(value: str) -> list[str]:
    return [each.strip() for each in value.split(",") if each.strip()]


class _Room(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSettings(_Room):
    """Which model, and the name it is served under."""

    path: str = Field("embedded", description="a model folder, or 'embedded' for the one inside")
    name: str = Field("", description="the served name; empty: the folder's name")


class EngineSettings(_Room):
    """How requests are answered."""

    kind: Literal["native", "echo"] = Field(
        "native", description="native: the model; echo: no model, says what it was given"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the model runs")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto",
        description="number format; auto: float32 on cpu, the checkpoint's own on cuda (float16 for"
        " bfloat16 where the GPU has none)",
    )
    max_running: int = Field(32, ge=1, le=1024, description="requests in one batch (slots)")
    cache_mib: int | None = Field(
        None,
        ge=1,
        description="bound of the KV cache in MiB, work beyond it waits; unset:"
        f" {CPU_CACHE_MIB} on cpu, on cuda what weights and work leave of nine tenths",
    )
    image_cache_mib: int = Field(
        64, ge=0, description="bound of kept picture features in MiB, for questions that follow"
    )


class LimitSettings(_Room):
    """Bounds of one request and of the queue: the same at each door."""

    max_waiting: int = Field(64, ge=0, description="requests that may wait for a slot")
    max_message_mib: int = Field(64, ge=1, le=1024, description="largest message, MiB")
    max_bodies_mib: int = Field(
        1024,
        ge=1,
        description="messages that are here and not answered yet, all together, MiB",
    )
    max_images: int = Field(
        32,
        ge=0,
        description="pictures in a request, the frames of its videos among them; a request may"
        " lower it",
    )
    max_video_frames: int = Field(
        32,
        ge=1,
        le=256,
        description="most frames that a model is given of a video, of which a request that names no"
        f" number gets {DEFAULT_VIDEO_FRAMES}; a request may lower it",
    )
    max_image_pixels: int = Field(
        50_000_000,
        ge=example.PIXELS,
        le=PILLOW_MAX_PIXELS,
        description="width times height of a picture, judged before decoding; a request may lower"
        " it",
    )
    max_decoded_pixels: int = Field(
        200_000_000,
        ge=example.PIXELS,
        description="decoded pixels that wait to be seen, of all requests; more wait encoded",
    )
    max_new_tokens: int = Field(
        4096, ge=1, description="longest answer in tokens; what asks for more gets as many"
    )
    timeout_s: float = Field(120.0, gt=0, description="longest time of a request, s")
    drain_s: float = Field(
        30.0, ge=0, description="longest time that running requests get at shutdown, s"
    )

    @model_validator(mode="after")
    def _one_message_has_room(self) -> Self:
        if self.max_bodies_mib < self.max_message_mib:
            least = self.max_message_mib
            raise ValueError(
                f"max_bodies_mib must be at least max_message_mib, {least}, not"
                f" {self.max_bodies_mib}"
            )
        return self

    @property
    def default_max_tokens(self) -> int:
        """The longest answer where the caller asks for no length."""
        return min(DEFAULT_MAX_TOKENS, self.max_new_tokens)


class MediaSettings(_Room):
    """Where pictures come from, and what decoding one may use."""

    workers: int | None = Field(
        None,
        ge=1,
        le=64,
        description="pictures decoded at a time; unset: one for each processor, at most 4",
    )
    decode_mib: int = Field(
        1024,
        ge=64,
        description="memory that decoding a picture may use, MiB; larger ones want more",
    )
    decode_cpu_s: int = Field(
        10, ge=1, description="time of a processor that decoding a picture may use, s"
    )
    decode_s: float = Field(30.0, gt=0, description="longest time that decoding a picture takes, s")
    fetch_urls: bool = Field(False, description="fetch pictures by http and https, if public")
    fetch_hosts: str = Field(
        "", description="hosts to fetch from, separated by commas; empty: any that is public"
    )
    fetch_mib: int = Field(16, ge=1, le=1024, description="largest picture that is fetched, MiB")
    fetch_s: float = Field(10.0, gt=0, description="longest time of a fetch, redirects and all, s")
    uploads_mib: int = Field(256, ge=0, description="bound of kept uploads, MiB; 0 keeps none")
    max_uploads: int = Field(1024, ge=1, description="bound of kept uploads, their number")
    keep_uploads_s: float = Field(3600.0, gt=0, description="how long an upload is kept, s")


class _DoorSettings(_Room):
    host: str = Field("127.0.0.1", description="address to listen on")

    def address(self, port: int) -> str:
        """`host:port`, with brackets around an IPv6 host."""
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"


class GrpcSettings(_DoorSettings):
    """The gRPC door."""

    port: int = Field(50051, ge=0, le=65535, description="port; 0 takes a free one")


class HttpSettings(_DoorSettings):
    """The HTTP door: OpenAI's API, the REST call and the playground."""

    port: int = Field(8000, ge=0, le=65535, description="port; 0 takes a free one")
    keep_alive_s: float = Field(
        75.0, gt=0, description="how long a connection is kept without a request, s"
    )
    allowed_origins: str = Field(
        "",
        description="origins whose pages may ask, separated by commas, such as"
        " https://example.com; * is any; empty: this server's own alone",
    )

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, value: str) -> str:
        for origin in _listed(value):
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is not an origin: write the scheme, the host and a port that is"
                    " not the usual one, such as https://example.com or http://localhost:3000"
                )
        return value

    @property
    def origins(self) -> list[str]:
        """`allowed_origins`, one by one."""
        return _listed(self.allowed_origins)


class Settings(BaseSettings):
    """Everything that can be set. Raises pydantic.ValidationError naming a wrong key."""

    model_config = SettingsConfigDict(
        env_prefix="VLSERVE_",
        env_nested_delimiter="__",
        toml_file=SETTINGS_FILE,
        frozen=True,
        extra="forbid",
    )

    model: ModelSettings = ModelSettings()
    engine: EngineSettings = EngineSettings()
    limits: LimitSettings = LimitSettings()
    media: MediaSettings = MediaSettings()
    grpc: GrpcSettings = GrpcSettings()
    http: HttpSettings = HttpSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags (given to the constructor), environment, file: first wins."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


class Origin(StrEnum):
    """Where a setting's value came from."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"
    FLAG = "flag"


class WrongSettings(Exception):  # noqa: N818  what it says is about the settings, not the code
    """Settings that cannot be used. The text names each wrong key and where it stands."""


def names() -> Iterator[tuple[str, str, str]]:
    """Room, name and description of each setting, in order."""
    for room, room_field in Settings.model_fields.items():
        for name, field in type(room_field.default).model_fields.items():
            yield room, name, field.description or ""


def default(room: str, name: str) -> Any:
    """The value of a setting that nobody set."""
    return getattr(Settings.model_fields[room].default, name)


def read(flags: Mapping[str, Mapping[str, str]]) -> tuple[Settings, dict[str, Origin]]:
    """The settings, and of each by its dotted name where it came from.

    `flags` is room -> name -> text. Raises WrongSettings.
    """
    given: dict[Origin, Any] = {Origin.FLAG: flags}
    try:
        given[Origin.ENVIRONMENT] = EnvSettingsSource(Settings)()
        given[Origin.FILE] = TomlConfigSettingsSource(Settings)()
    except tomllib.TOMLDecodeError as error:
        where = _WHERE.search(str(error).replace(" (at ", ", at "))
        raise WrongSettings(f"{SETTINGS_FILE} is not TOML{where[0] if where else ''}") from None
    except SettingsError:
        raise WrongSettings(_no_room()) from None
    _refuse_unknown_variables()

    def origin(*path: str | int) -> Origin:
        return next((o for o, tree in given.items() if _holds(tree, path)), Origin.DEFAULT)

    try:
        settings = Settings.model_validate({room: dict(named) for room, named in flags.items()})
    except ValidationError as error:
        raise WrongSettings(
            "\n".join(f"{_wrong(item)} ({origin(*item['loc'])})" for item in error.errors())
        ) from None
    return settings, {f"{room}.{name}": origin(room, name) for room, name, _ in names()}


def _wrong(item: ErrorDetails) -> str:
    """What is wrong with one setting, in our words."""
    path, kind = ".".join(map(str, item["loc"])), item["type"]
    if kind == "extra_forbidden":
        known = {f"{room}.{name}" for room, name, _ in names()}
        return f"{path}: there is no such setting{_close(path, known)}"
    if path in Settings.model_fields and kind != "value_error":
        example = next(f"{room}.{name}" for room, name, _ in names() if room == path)
        return f"{path} holds settings: set each by its own name, such as {example}"
    said = sentence([kind], item.get("ctx", {}), item["input"])
    return f"{path}: {said}" if kind == "value_error" else f"{path} {said}"


def _close(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), 1, _CLOSE)
    return f"; close to it: {close[0]}" if close else ""


def _no_room() -> str:
    """What is wrong with a variable that should hold a whole room, and is no JSON."""
    rooms = [f"VLSERVE_{room.upper()}" for room in Settings.model_fields]
    name = next(room for room in rooms if room in {each.upper() for each in os.environ})
    return f"{name} holds settings: set each by its own name, such as {name}__NAME (environment)"


def _holds(tree: Any, path: tuple[str | int, ...]) -> bool:
    for step in path:
        if not isinstance(tree, Mapping) or step not in tree:
            return False
        tree = tree[step]
    return True


def _refuse_unknown_variables() -> None:
    prefix = "VLSERVE_"
    known = {f"{prefix}{room}__{name}".upper() for room, name, _ in names()}
    known |= {f"{prefix}{room}".upper() for room in Settings.model_fields}
    for variable in os.environ:
        if variable.upper().startswith(prefix) and variable.upper() not in known:
            close = _close(variable.upper(), known)
            raise WrongSettings(f"{variable}: there is no such setting{close} (environment)")


# For activations, the pictures in work and the program itself.
HELD_BACK = 0.1
