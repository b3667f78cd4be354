"""Which engine stands behind which name, imported when it is asked for: echo needs no torch."""

from importlib import import_module

from vlserve.engines.base import Engine
from vlserve.settings import EngineSettings, ModelSettings

ENGINES = {
    "native": ("vlserve.engines.native.engine", "NativeEngine"),
    "echo": ("vlserve.engines.echo", "EchoEngine"),
}


def make_engine(model: ModelSettings, settings: EngineSettings) -> Engine:
    """The engine that `settings.kind` names, not started yet."""
    module, name = ENGINES[settings.kind]
    engine: Engine = getattr(import_module(module), name)(model, settings)
    return engine
