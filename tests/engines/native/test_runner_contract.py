"""What every runner promises, by all that there are: a new one joins RUNNERS."""

import asyncio
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.asked import request
from tests.oracle import Oracle
from vlserve.engines.native.cpu.runner import SlotRunner
from vlserve.engines.native.gpu.runner import PagedRunner
from vlserve.engines.native.runners.base import Runner
from vlserve.engines.native.runners.serial import SerialRunner
from vlserve.engines.native.scheduling.pages import page_digests
from vlserve.engines.native.scheduling.scheduler import Plan, Scheduler
from vlserve.engines.native.scheduling.sequence import Sequence
from vlserve.engines.native.text.detokenizer import Detokenizer
from vlserve.models.base import ModelAdapter, nothing_seen
from vlserve.models.catalog import load
from vlserve.settings import EngineSettings
from vlserve.types import Request, SamplingParams

SETTINGS = EngineSettings(max_running=3, cache_mib=8)
RUNNERS: dict[str, Callable[[ModelAdapter], Runner]] = {
    "slots": lambda adapter: SlotRunner(adapter, SETTINGS),
    "pages": lambda adapter: PagedRunner(adapter, SETTINGS),
    "serial": SerialRunner,
}


@pytest.fixture
def adapter(tiny_folder: Path) -> ModelAdapter:
    return load(str(tiny_folder), device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(params=RUNNERS)
def runner(request: pytest.FixtureRequest, adapter: ModelAdapter) -> Runner:
    return RUNNERS[request.param](adapter)


def asked(count: int) -> list[Request]:
    rng = random.Random(21)
    return [request(rng, str(i), sampling=SamplingParams(max_tokens=7)) for i in range(count)]


def sequence(runner: Runner, adapter: ModelAdapter, each: Request) -> Sequence:
    """As the engine makes it: pictures seen, where they are seen before it runs."""
    prompt = runner.prepare(each.messages, nothing_seen)
    for image in prompt.images:
        image.features = adapter.encode(image.inputs)
    return Sequence(
        id=each.id,
        prompt=prompt,
        sampling=each.sampling,
        max_new_tokens=each.sampling.max_tokens,
        stop_token_ids=adapter.rules.stop_token_ids,
        detokenizer=Detokenizer(adapter.tokenizer.decode),
        outbox=asyncio.Queue(),
        digests=page_digests(prompt, ""),
    )


def answers(
    runner: Runner, sequences: list[Sequence], on_plan: Callable[[Plan], None] = lambda plan: None
) -> list[list[int]]:
    """Greedy tokens of each."""
    scheduler = Scheduler(runner.max_running, runner.memory(), runner.step_tokens)
    for each in sequences:
        scheduler.add(each)
    while scheduler.has_work:
        plan = scheduler.plan()
        on_plan(plan)
        best = runner.run(plan).best()
        assert all(isinstance(token, int) for token in best)
        scheduler.commit(plan, zip(plan.sequences, best, strict=True))  # type: ignore[arg-type]
    return [each.token_ids for each in sequences]


@torch.inference_mode()
def test_its_best_tokens_are_generates(
    runner: Runner, adapter: ModelAdapter, oracle: Oracle
) -> None:
    requests = asked(8)
    got = answers(runner, [sequence(runner, adapter, each) for each in requests])
    assert got == [oracle.answer(each.messages, each.sampling) for each in requests]


@torch.inference_mode()
def test_a_row_for_each_sequence_and_the_best_token_of_each_row(
    runner: Runner, adapter: ModelAdapter
) -> None:
    sequences = [sequence(runner, adapter, each) for each in asked(2 * runner.max_running)]
    suppressed = list(adapter.rules.suppressed)
    num_rows = 0

    def compare(plan: Plan) -> None:
        nonlocal num_rows
        if plan.decodes:
            return  # only a prompt's part may be computed twice, by every runner
        logits = runner.run(plan)
        rows = logits.rows()
        assert rows.shape == (len(plan.sequences), adapter.text_config.vocab_size)
        assert rows.dtype == torch.float32
        rows[:, suppressed] = -torch.inf
        assert logits.best() == rows.argmax(-1).tolist()
        num_rows += len(rows)

    answers(runner, sequences, compare)
    assert num_rows


@torch.inference_mode()
@pytest.mark.parametrize("kind", RUNNERS)
def test_a_row_that_is_not_finite_is_the_error_of_its_sequence(
    kind: str, adapter: ModelAdapter
) -> None:
    adapter.head.get_parameter("weight").fill_(torch.nan)
    runner = RUNNERS[kind](adapter)
    scheduler = Scheduler(runner.max_running, runner.memory())
    scheduler.add(sequence(runner, adapter, asked(1)[0]))
    (error,) = runner.run(scheduler.plan()).best()
    assert isinstance(error, ArithmeticError)


def test_its_facts_agree(runner: Runner) -> None:
    memory = runner.memory()
    assert 1 <= runner.max_context_tokens <= 512
    assert runner.step_tokens > 0
    assert runner.tower_threads > 0
    assert runner.is_batched == (runner.max_running > 1)
    assert (runner.cache_bytes > 0) == (memory.pages.num_pages > 0)
    assert runner.memory().pages is not memory.pages


@torch.inference_mode()
def test_another_thread_may_run_it(runner: Runner, adapter: ModelAdapter, oracle: Oracle) -> None:
    requests, got = asked(2), []
    sequences = [sequence(runner, adapter, each) for each in requests]

    def run() -> None:
        runner.enter_thread()
        with torch.inference_mode():
            got.extend(answers(runner, sequences))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert got == [oracle.answer(each.messages, each.sampling) for each in requests]


@torch.inference_mode()
def test_a_closed_one_leaves_the_model_as_it_was(adapter: ModelAdapter) -> None:
    before = adapter.text_config._attn_implementation
    for make in RUNNERS.values():
        runner = make(adapter)
        runner.close()
        assert adapter.text_config._attn_implementation == before
