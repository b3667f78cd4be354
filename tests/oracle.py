"""What `model.generate` says, one request at a time: the truth that the engine is held to."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image as PILImage
from transformers import AutoConfig, AutoModelForImageTextToText

from vlserve.models.processors import load_processor
from vlserve.types import Image, Message, SamplingParams


class Oracle:
    """The Transformers model and processor of a folder, called as their documentation says."""

    def __init__(self, folder: Path) -> None:
        self.processor: Any = load_processor(folder, AutoConfig.from_pretrained(folder))
        model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        self.model = model.eval()

    def inputs(self, messages: tuple[Message[Image], ...]) -> Any:
        """The processor's inputs for a conversation that an answer follows."""
        text = self.processor.apply_chat_template(
            conversation(messages), tokenize=False, add_generation_prompt=True
        )
        pictures = [PILImage.fromarray(p.pixels) for m in messages for p in m.pictures()]
        return self.processor(
            text=text, images=[pictures] if pictures else None, return_tensors="pt"
        )

    def answer(self, messages: tuple[Message[Image], ...], sampling: SamplingParams) -> list[int]:
        """The new tokens."""
        inputs = self.inputs(messages)
        chosen: dict[str, Any] = {"do_sample": False}
        if sampling.temperature > 0:
            torch.manual_seed(sampling.seed or 0)
            chosen = {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_k": sampling.top_k,
                "top_p": sampling.top_p,
                "min_p": sampling.min_p or None,
            }
        if sampling.repetition_penalty is not None:
            chosen["repetition_penalty"] = sampling.repetition_penalty
        with torch.inference_mode():
            ids = self.model.generate(**inputs, max_new_tokens=sampling.max_tokens, **chosen)
        answer: list[int] = ids[0, inputs["input_ids"].shape[1] :].tolist()
        return answer

    def text(self, token_ids: list[int]) -> str:
        """The tokens as the processor decodes them."""
        text: str = self.processor.decode(token_ids, skip_special_tokens=True)
        return text


def conversation(messages: tuple[Message[Image], ...]) -> list[dict[str, Any]]:
    """Messages as chat templates want them."""
    return [
        {
            "role": message.role.value,
            "content": [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
                for part in message.content
            ],
        }
        for message in messages
    ]
