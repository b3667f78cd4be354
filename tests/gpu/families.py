"""Every family over pages, decode steps recorded under a CUDA graph's rules, against `generate`.

As a program it writes a table, here on a CPU: python -m tests.gpu.families [NAME ...].
"""

import argparse
import asyncio
import json
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from unittest import mock

import torch
import transformers

from tests.engines.collect import on_pages, paged_runner_of, recorded_logits, running
from tests.engines.graph_tape import GRAPHED, TapeRecorder
from tests.engines.native.trial import alone, crowded, empty_memory, publish, requests, shortened
from tests.families import FAMILIES, write_family
from tests.oracle import Oracle
from vlserve.engines.native.sampling.logits import Logits
from vlserve.engines.native.scheduling.pages import num_pages

NUM_SLOTS = 5
# InternVL3's own setting.
DYNAMIC = "internvl, dynamic RoPE"
NAMES = (*FAMILIES, DYNAMIC)


@dataclass(frozen=True, slots=True)
class PagedTrial:
    """What came of it: answers that are `generate`'s, of `tried`, one request after the other, in a
    crowd, and with room running out."""

    family: str
    tried: int
    equal_alone: int
    equal_together: int
    equal_squeezed: int
    replays: int
    chunks: int
    cached_tokens: int
    preempted: int

    @property
    def is_passed(self) -> bool:
        """All equal, and everything that was to be forced has happened."""
        return (
            self.equal_alone == self.equal_together == self.equal_squeezed == self.tried
            and min(self.replays, self.chunks, self.cached_tokens, self.preempted) > 0
        )


def write(name: str, folder: Path) -> Path:
    """A model folder of one of NAMES."""
    if name != DYNAMIC:
        return write_family(name, folder)
    file = write_family("internvl", folder) / "config.json"
    config = json.loads(file.read_text())
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6}
    config["text_config"]["rope_parameters"] = rope
    file.write_text(json.dumps(config))
    return folder


async def tried(name: str, folder: Path, count: int = 18) -> PagedTrial:
    """Alone by the sampler, then in a crowd by tokens that the step chose, then short of room."""
    asked = requests(name, count)
    oracle = Oracle(folder)
    wanted = [oracle.answer(each.messages, each.sampling) for each in asked]
    there = "vlserve.engines.native.gpu.runner."
    with (
        on_pages(),
        mock.patch(f"{there}CudaRecorder", TapeRecorder),
        mock.patch(f"{there}choose_kernels", return_value=GRAPHED),
    ):
        async with running(folder, max_running=NUM_SLOTS, cache_mib=64) as engine:
            assert engine.info.is_batched
            recorder = paged_runner_of(engine)._graphs._recorder
            assert isinstance(recorder, TapeRecorder), "the step could not be recorded"
            logits = recorded_logits(engine)
            with mock.patch.object(engine._sampler, "is_greedy", return_value=False):
                by_itself = await alone(engine, asked)
            assert sum(map(len, logits.values())) == sum(map(len, wanted))
            del engine._sampler.pick
            # Not one row of logits is copied for the sampler.
            with mock.patch.object(Logits, "rows", side_effect=AssertionError):
                empty_memory(engine)
                together = await crowded(engine, asked)
                short = shortened(empty_memory(engine))
                squeezed = await crowded(engine, asked)
    equal = [
        sum(a.token_ids == w for a, w in zip(answers, wanted, strict=True))
        for answers in (by_itself, together, squeezed)
    ]
    return PagedTrial(
        name,
        count,
        equal_alone=equal[0],
        equal_together=equal[1],
        equal_squeezed=equal[2],
        replays=recorder.replays,
        chunks=sum(num_pages(a.usage.prompt_tokens) - 1 for a in together),
        cached_tokens=sum(a.usage.cached_tokens for a in together),
        preempted=short.num_preempted,
    )


def main() -> None:
    """Try them all, print and write the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.families", description=__doc__)
    parser.add_argument("names", nargs="*", default=list(NAMES), metavar="NAME")
    options = parser.parse_args()
    trials = []
    for name in options.names:
        with tempfile.TemporaryDirectory() as temporary:
            trials.append(asyncio.run(tried(name, write(name, Path(temporary)))))
        print(trials[-1], flush=True)
    try:
        torchvision = version("torchvision")
    except PackageNotFoundError:
        torchvision = "none"
    facts = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision,
    }
    publish("families-graphs", "python -m tests.gpu.families", trials, facts)
    sys.exit(not all(trial.is_passed for trial in trials))


if __name__ == "__main__":
    main()
