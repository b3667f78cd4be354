"""From a model folder and settings to what an engine steps with."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from vlserve.engines.base import EngineInfo
from vlserve.engines.native.cpu.runner import SlotRunner
from vlserve.engines.native.gpu.runner import PagedRunner
from vlserve.engines.native.runners.base import Runner
from vlserve.engines.native.runners.self_check import NotBatchedError, check_batching
from vlserve.engines.native.runners.serial import SerialRunner
from vlserve.engines.native.sampling.sampler import Sampler
from vlserve.engines.native.scheduling.scheduler import Scheduler
from vlserve.engines.native.text.vocabulary import Vocabulary
from vlserve.models.base import ModelAdapter
from vlserve.models.catalog import load as load_model
from vlserve.models.catalog import model_dtype
from vlserve.models.errors import ModelError
from vlserve.settings import EngineSettings, ModelSettings

NO_MEMORY = (
    "the device's memory does not hold the model, its KV cache and a step: set engine.cache_mib"
    " lower, or serve a smaller model"
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready to answer."""

    adapter: ModelAdapter
    runner: Runner
    scheduler: Scheduler
    sampler: Sampler
    vocabulary: Vocabulary
    info: EngineInfo


def load(model: ModelSettings, settings: EngineSettings) -> Loaded:
    """Load and check a model. Takes seconds to minutes.

    Raises ModelError for a folder, a device or a cache with which it cannot be served.
    """
    device = _device(settings.device)
    dtype = model_dtype(model.path, settings.dtype, device)
    adapter = load_model(model.path, device=device, dtype=dtype)
    # Before a runner has packed them.
    parameters = list(adapter.model.parameters())
    num_parameters = sum(p.numel() for p in parameters)
    weight_bytes = sum(p.nbytes for p in parameters)
    del parameters
    runner = _runner(adapter, settings)
    vocab_size = adapter.text_config.vocab_size
    vocabulary = Vocabulary(adapter.tokenizer, vocab_size, adapter.rules.stop_token_ids)
    info = EngineInfo(
        model=model.name or Path(model.path).resolve().name,
        engine="native",
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        num_parameters=num_parameters,
        weight_bytes=weight_bytes,
        cache_bytes=runner.cache_bytes,
        max_context_tokens=runner.max_context_tokens,
        max_running=runner.max_running,
        is_batched=runner.is_batched,
        generation=adapter.rules.drawing,
    )
    return Loaded(
        adapter,
        runner,
        Scheduler(runner.max_running, runner.memory(), runner.step_tokens),
        Sampler(adapter.rules, device, vocabulary),
        vocabulary,
        info,
    )


def runner_kind(device: torch.device) -> type[SlotRunner] | type[PagedRunner]:
    """The runner of a device: attention of a CPU wants keys in one piece, that of a GPU pages."""
    return PagedRunner if device.type == "cuda" else SlotRunner


def _runner(adapter: ModelAdapter, settings: EngineSettings) -> Runner:
    """The device's runner; for a model that it would answer for wrongly, the model's own forward
    pass. Raises ModelError where the cache is too small, or too large for the device."""
    try:
        runner = runner_kind(adapter.model.device)(adapter, settings)
    except NotBatchedError as error:
        return _serial(adapter, error)
    except ValueError as error:
        raise ModelError(f"engine.cache_mib is too small: {error}") from error
    except torch.OutOfMemoryError as error:
        raise ModelError(NO_MEMORY) from error
    try:
        with torch.inference_mode():
            check_batching(adapter, runner)
    except NotBatchedError as error:
        runner.close()
        return _serial(adapter, error)
    except torch.OutOfMemoryError as error:
        raise ModelError(NO_MEMORY) from error
    return runner


def _serial(adapter: ModelAdapter, error: NotBatchedError) -> SerialRunner:
    _log.warning("this model cannot be batched, requests run one at a time: %s", error)
    return SerialRunner(adapter)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelError("engine.device is cuda, and there is no such device here")
    return torch.device(name)
