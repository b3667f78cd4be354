"""One frozen tree of settings: the only reader of the environment and of vlserve.toml.

Later wins: defaults < vlserve.toml < environment (VLSERVE_ENGINE__MAX_RUNNING) < flags
(--engine.max-running), one name in all four. Unknown keys are refused.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

SETTINGS_FILE = Path("vlserve.toml")
MIB = 1024 * 1024


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
        "auto", description="number format; auto: float32 on cpu, float16 on cuda"
    )
    max_running: int = Field(16, ge=1, le=1024, description="requests in one batch (slots)")
    cache_mib: int = Field(
        512, ge=1, description="bound of the KV cache in MiB; work beyond it waits"
    )


class LimitSettings(_Room):
    """Bounds of one request and of the queue: the same at each door."""

    max_waiting: int = Field(64, ge=0, description="requests that may wait for a slot")
    max_message_mib: int = Field(64, ge=1, le=1024, description="largest message, MiB")
    max_images: int = Field(16, ge=0, description="pictures in a request")
    max_image_pixels: int = Field(
        50_000_000, ge=1, description="width times height of a picture, judged before decoding"
    )
    max_new_tokens: int = Field(4096, ge=1, description="largest max_tokens of a request")
    timeout_s: float = Field(120.0, gt=0, description="longest time of a request, s")


class GrpcSettings(_Room):
    """The gRPC door."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(50051, ge=0, le=65535, description="port; 0 takes a free one")


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
    grpc: GrpcSettings = GrpcSettings()

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
