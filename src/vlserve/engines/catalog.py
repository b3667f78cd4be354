"""Which engine stands behind which name, imported when it is asked for: echo needs no torch."""

from collections.abc import Callable
from importlib import import_module

from vlserve.engines.base import Engine
from vlserve.settings import EngineSettings, ModelSettings

ENGINES = {
    "native": ("vlserve.engines.native.engine", "NativeEngine"),
    "echo": ("vlserve.engines.echo", "EchoEngine"),
}


def import_engine(kind: str) -> Callable[[ModelSettings, EngineSettings], Engine]:
    """The class of the engine of that kind, with all that it imports."""
    module, name = ENGINES[kind]
    made: Callable[[ModelSettings, EngineSettings], Engine] = getattr(import_module(module), name)
    return made


def make_engine(model: ModelSettings, settings: EngineSettings) -> Engine:
    """The engine that `settings.kind` names, not started yet."""
    return import_engine(settings.kind)(model, settings)
