"""At load: the engine's steps against the model's own forward pass."""

import asyncio
from typing import Final

import numpy as np
import torch

from vlserve.engines.native.runners.batched import BatchedRunner
from vlserve.engines.native.scheduling.scheduler import Scheduler
from vlserve.engines.native.scheduling.sequence import Sequence
from vlserve.engines.native.text.detokenizer import Detokenizer
from vlserve.models.base import ModelAdapter
from vlserve.models.errors import ModelError
from vlserve.models.prompt import Prompt
from vlserve.models.rope import depends_on_longest
from vlserve.types import Image, Message, Role, SamplingParams

NUM_TOKENS: Final = 6
# Largest difference of two logits, as a share of the largest logit.
TOLERANCE: Final = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 1e-1}


class NotBatchedError(Exception):
    """Says why a model cannot be batched."""


def check_batching(adapter: ModelAdapter, runner: BatchedRunner) -> None:
    """Answer two short requests together, one about a picture, and compare their logits.

    Tokens are not compared: in half precision two equal ways may differ in the one that wins.
    Raises NotBatchedError where the engine computes something else than the model, ModelError
    where one of them computes NaN or infinity, and torch.OutOfMemoryError as it is.
    """
    if depends_on_longest(adapter.decoder):
        raise NotBatchedError("LongRoPE changes every sequence's positions with the longest one")
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    question = "What is in the picture?"
    contents: tuple[tuple[str | Image, ...], ...] = ((question,), (Image(noise, ""), question))
    asked = [(Message(Role.USER, content),) for content in contents]
    prompts = [adapter.prepare(messages) for messages in asked]
    try:
        answers = _answers(adapter, runner, prompts)
    except torch.OutOfMemoryError:
        raise
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise NotBatchedError(str(error)) from error
    for messages, (token_ids, logits) in zip(asked, answers, strict=True):
        with runner.plain_attention():
            whole = adapter.prepare_whole(messages)
            output = adapter.forward(whole, token_ids[:-1], use_cache=False)
        wanted = output.logits[0, -NUM_TOKENS:].float()
        if not (logits.isfinite().all() and wanted.isfinite().all()):
            raise ModelError(_not_finite(adapter.model.dtype))
        difference = float((logits - wanted).abs().max() / wanted.abs().max())
        if not difference <= TOLERANCE[adapter.model.dtype]:
            raise NotBatchedError(
                f"its logits differ from those of its own forward pass by {difference:.2g}"
                " of the largest"
            )


def _not_finite(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    others = ", ".join(sorted({"bfloat16", "float32"} - {name}))
    return (
        f"the model's logits are NaN or infinite in {name}: its weights are damaged, or its numbers"
        f" are larger than {name} holds, which engine.dtype {others} may hold"
    )


def _answers(
    adapter: ModelAdapter, runner: BatchedRunner, prompts: list[Prompt]
) -> list[tuple[list[int], torch.Tensor]]:
    """Greedy tokens of each prompt and the logits `f32[NUM_TOKENS, vocab_size]` they came from."""
    scheduler = Scheduler(runner.max_running, runner.memory())
    for prompt in prompts:
        for image in prompt.images:
            image.features = adapter.encode(image.inputs)
    sequences = [
        Sequence(
            id=str(index),
            prompt=prompt,
            sampling=SamplingParams(max_tokens=NUM_TOKENS),
            max_new_tokens=NUM_TOKENS,
            stop_token_ids=frozenset(),
            detokenizer=Detokenizer(adapter.tokenizer.decode),
            outbox=asyncio.Queue(),
        )
        for index, prompt in enumerate(prompts)
    ]
    for sequence in sequences:
        scheduler.add(sequence)
    ruled_out = torch.tensor([adapter.image_id, *adapter.rules.suppressed])
    rows: dict[str, list[torch.Tensor]] = {sequence.id: [] for sequence in sequences}
    while scheduler.has_work:
        plan = scheduler.plan()
        logits = runner.run(plan).rows()
        for sequence, row in zip(plan.sequences, logits, strict=True):
            rows[sequence.id].append(row)
        allowed = logits.index_fill(1, ruled_out.to(logits.device), -torch.inf)
        picked = allowed.argmax(-1).tolist() if len(allowed) else []
        scheduler.commit(plan, zip(plan.sequences, picked, strict=True))
    return [(sequence.token_ids, torch.stack(rows[sequence.id])) for sequence in sequences]
