"""The native engine's process, whose device is lost in the step of a request that says so:
python -m tests.engines.native.lost_device.
"""

from unittest import mock

import torch

from vlserve.engines import worker
from vlserve.engines.native.cpu.runner import SlotRunner
from vlserve.engines.native.scheduling.scheduler import Plan

COMMAND = "lose the device"


def main() -> None:
    """The worker, with this in it."""
    run, prepare = SlotRunner.run, SlotRunner.prepare
    doomed: list[tuple[int, ...]] = []

    def noted(runner, messages, seen):  # type: ignore[no-untyped-def]
        prompt = prepare(runner, messages, seen)
        if COMMAND in messages[-1].content:
            doomed.append(prompt.token_ids)
        return prompt

    def losing(runner: SlotRunner, plan: Plan):  # type: ignore[no-untyped-def]
        if any(each.prompt.token_ids in doomed for each in plan.participants):
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        return run(runner, plan)

    mock.patch.object(SlotRunner, "prepare", noted).start()
    mock.patch.object(SlotRunner, "run", losing).start()
    worker.main()


if __name__ == "__main__":
    main()
