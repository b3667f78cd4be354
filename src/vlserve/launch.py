"""Settings -> an engine in its process: what comes before the doors, and imports none of them."""

from vlserve.catalogue.judge import judge
from vlserve.engines.supervisor import STALLED_S, Supervisor
from vlserve.settings import Settings


def spawn_engine(settings: Settings) -> Supervisor:
    """An engine that is not started yet, whose process already imports what it will need.

    Raises ModelError where the model cannot be served here: before there is a process.
    """
    judge(settings.model, settings.engine)
    # A step may take as long as a request: what takes longer answers nobody.
    longest_step_s = max(STALLED_S, settings.limits.timeout_s)
    engine = Supervisor(settings.model, settings.engine, longest_step_s=longest_step_s)
    engine.spawn()
    return engine
