"""The KV cache of a GPU gets what weights and the most work leave (tensors counted on a CPU)."""

import random
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.asked import picture
from tests.engines.collect import answer, on_pages, paged_runner_of, running
from tests.families import write_family
from tests.tiny_model import write_tiny_model
from vlserve.engines.native import loading
from vlserve.engines.native.gpu.peak import bytes_left, largest_picture
from vlserve.engines.native.gpu.runner import PEAK_TOKENS, PagedRunner
from vlserve.engines.native.runners.self_check import NotBatchedError
from vlserve.engines.native.runners.serial import SerialRunner
from vlserve.engines.native.sampling.logits import Logits
from vlserve.engines.native.scheduling.pages import PAGE
from vlserve.engines.native.scheduling.scheduler import Plan
from vlserve.models.catalog import load
from vlserve.settings import EngineSettings
from vlserve.types import Message, Request, Role, SamplingParams

MIB = 1024 * 1024
GIB = 1024 * MIB


class Tally(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that are made and not freed yet, and the most of them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._tensors: dict[int, int] = {}
        self._bytes: dict[int, int] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        out = function(*arguments, **(options or {}))
        given = {_storage(each) for each in tree_leaves((arguments, options)) if _is(each)}
        for tensor in filter(_is, tree_leaves(out)):
            name = _storage(tensor)
            if name in given and name not in self._tensors:
                continue  # a view of what was there before
            if name not in self._tensors:
                self._tensors[name], self._bytes[name] = 0, tensor.untyped_storage().nbytes()
                self.now += self._bytes[name]
            self._tensors[name] += 1
            weakref.finalize(tensor, self._drop, name)
        self.most = max(self.most, self.now)
        return out

    def _drop(self, name: int) -> None:
        self._tensors[name] -= 1
        if not self._tensors[name]:
            del self._tensors[name]
            self.now -= self._bytes.pop(name)


def _is(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def _storage(tensor: torch.Tensor) -> int:
    name: int = tensor.untyped_storage()._cdata
    return name


class TallyMeter:
    """A Meter of a device with so much memory."""

    def __init__(self, free: int, total: int) -> None:
        self._memory = free, total
        self.peaks: list[int] = []

    def memory(self) -> tuple[int, int]:
        return self._memory

    def peak(self, run: Callable[[], object]) -> int:
        with Tally() as tally:
            run()
        most: int = tally.most
        self.peaks.append(most)
        return most


def make(folder: Path, max_running: int = 4) -> PagedRunner:
    adapter = load(str(folder), device=torch.device("cpu"), dtype=torch.float32)
    return PagedRunner(adapter, EngineSettings(max_running=max_running, cache_mib=8))


def test_a_gpu_gives_what_weights_and_work_leave() -> None:
    # 80 GiB, of which weights have 16: a tenth is left alone, and what work takes.
    assert bytes_left(64 * GIB, 80 * GIB, 3 * GIB) == 53 * GIB
    assert bytes_left(7 * GIB, 80 * GIB, 0) == 0
    assert bytes_left(12 * GIB, 80 * GIB, 5 * GIB) == 0


@pytest.mark.parametrize("family", ["llava", "qwen3_vl", "gemma3", "idefics2", "internvl"])
async def test_no_step_takes_more_than_was_found(family: str, tmp_path: Path) -> None:
    """The measured peaks against those of an engine that is asked all sorts of things."""
    folder = write_family(family, tmp_path)
    meter = TallyMeter(64 * MIB, 70 * MIB)
    make(folder).measured_pages(meter)
    prefill, decode, tower = meter.peaks
    taken: dict[str, int] = {"prefill": 0, "decode": 0, "tower": 0}

    def tallied(work: Callable[[], Any], name: str) -> Any:
        with Tally() as tally:
            result = work()
        taken[name] = max(taken[name], tally.most)
        return result

    rng = random.Random(family)
    with on_pages():
        async with running(folder, max_running=4, cache_mib=64) as engine:
            runner, adapter = paged_runner_of(engine), engine.intake.adapter
            run, encode = runner.run, adapter.encode

            def run_and_copy(plan: Plan) -> Logits:
                logits = run(plan)
                logits.rows()
                return logits

            def count(plan: Plan) -> Logits:
                name = "prefill" if plan.prefills else "decode"
                made: Logits = tallied(lambda: run_and_copy(plan), name)
                return made

            with (
                mock.patch.object(runner, "run", count),
                mock.patch.object(
                    adapter, "encode", lambda inputs: tallied(lambda: encode(inputs), "tower")
                ),
            ):
                for index in range(6):
                    words = " ".join(["shapes"] * 60 * index)
                    turn = Message(Role.USER, (picture(rng), words, picture(rng), "?"))
                    await answer(engine, Request(str(index), (turn,), SamplingParams(max_tokens=4)))
    assert 0 < taken["prefill"] <= prefill + decode
    assert 0 < taken["decode"] <= decode
    assert 0 < taken["tower"] <= tower


def test_pages_and_features_share_what_is_left(tiny_folder: Path) -> None:
    runner, meter = make(tiny_folder), TallyMeter(64 * MIB, 70 * MIB)
    pages = runner.measured_pages(meter)
    left = 64 * MIB - 7 * MIB - sum(meter.peaks)
    page = runner._shape.page_bytes(torch.float32)
    features = runner._adapter.text_config.hidden_size * 4 * PAGE
    assert pages == left // (page + features)
    # More work, fewer pages.
    assert make(tiny_folder, max_running=64).measured_pages(TallyMeter(64 * MIB, 70 * MIB)) < pages


def test_a_decoder_that_does_not_run_in_a_batch_is_said_so(tiny_folder: Path) -> None:
    runner = make(tiny_folder)
    refusing = mock.patch.object(runner, "_step", side_effect=NotImplementedError("softcap"))
    with refusing, pytest.raises(NotBatchedError, match="softcap"):
        runner.measured_pages(TallyMeter(64 * MIB, 70 * MIB))
    assert runner._adapter.text_config._attn_implementation == runner._plain_attention


def test_a_model_that_cannot_be_measured_is_served_one_at_a_time(tiny_folder: Path) -> None:
    adapter = load(str(tiny_folder), device=torch.device("cpu"), dtype=torch.float32)
    kind = mock.Mock(side_effect=NotBatchedError("softcap"))
    with mock.patch("vlserve.engines.native.loading.runner_kind", return_value=kind):
        runner = loading._runner(adapter, EngineSettings(max_running=2, cache_mib=8))
    assert isinstance(runner, SerialRunner)


def test_a_device_that_work_fills_has_no_room_for_a_cache(tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match="two pages of 32 tokens"):
        make(tiny_folder).measured_pages(TallyMeter(1 * MIB, 10 * MIB))


def test_the_prefill_is_the_longest_at_the_end_of_the_context(tiny_folder: Path) -> None:
    runner = make(tiny_folder)
    with mock.patch.object(runner, "run", wraps=runner.run) as run:
        runner.measured_pages(TallyMeter(64 * MIB, 70 * MIB))
    (plan,) = run.call_args.args
    (prefill,) = plan.prefills
    most = runner._adapter.text_config.max_position_embeddings
    assert (prefill.start, prefill.end) == (max(0, most - PEAK_TOKENS), most)


def test_the_largest_picture_fits_the_context(tmp_path: Path) -> None:
    adapter = load(
        str(write_family("qwen3_vl", tmp_path)), device=torch.device("cpu"), dtype=torch.float32
    )
    most = largest_picture(adapter, 1_000_000)
    assert most is not None
    smaller = largest_picture(adapter, most.num_tokens)
    assert smaller is None or smaller.num_tokens < most.num_tokens
    assert largest_picture(adapter, 1) is None


def test_only_a_gpu_without_a_bound_is_measured(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path)
    adapter = load(str(folder), device=torch.device("cpu"), dtype=torch.float32)
    with mock.patch.object(PagedRunner, "measured_pages", side_effect=AssertionError):
        PagedRunner(adapter, EngineSettings(max_running=2, cache_mib=8))
