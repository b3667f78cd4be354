"""Idefics2: a SigLIP tower, a perceiver and Mistral."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.image_utils import ChannelDimension

from vlserve.models.base import ModelAdapter
from vlserve.models.chat import ChatEncoder, Special
from vlserve.models.errors import ModelError
from vlserve.models.prompt import Prompt
from vlserve.types import Image, Message, Role


class Idefics2(ModelAdapter):
    """`Idefics2ForConditionalGeneration` and its processor."""

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        self._chat = ChatEncoder(processor)
        self._image = Special(processor.image_token)
        self._image_id = self._chat.token_id(processor.image_token)
        self._fake_id = self._chat.token_id(processor.fake_image_token)
        self._check_tokenizer()

    @property
    def decoder(self) -> nn.Module:
        """The Mistral stack."""
        decoder: nn.Module = self.model.model.text_model
        return decoder

    @property
    def head(self) -> nn.Module:
        """From the decoder's last hidden state to logits."""
        head: nn.Module = self.model.lm_head
        return head

    @property
    def text_config(self) -> Any:
        """The Mistral configuration."""
        return self.model.config.text_config

    def prepare(self, messages: Sequence[Message[Image]]) -> Prompt:
        """The prompt that `Idefics2Processor` makes of the same conversation."""
        pieces = self._chat.split(messages)
        token_ids: list[int] = []
        for piece in pieces:
            if piece == self._image:
                self._append_image(token_ids)
            elif isinstance(piece, Special):
                token_ids.append(self._chat.token_id(piece.text))
            else:
                token_ids += self._chat.encode(self._after_mark(token_ids, piece))
        return Prompt(
            token_ids=self._chat.framed(pieces, token_ids),
            num_image_tokens=sum(i in (self._image_id, self._fake_id) for i in token_ids),
            image_inputs=self._pixels([part for m in messages for part in m.pictures()]),
        )

    def embed(self, prompt: Prompt) -> torch.Tensor:
        """`[num_tokens, hidden_size]`; its pictures go through the tower together, and alone."""
        device = self.model.device
        token_ids = torch.tensor(prompt.token_ids, device=device)
        embeddings: torch.Tensor = self.model.get_input_embeddings()(token_ids)
        if not prompt.image_inputs:
            return embeddings
        inputs = {name: torch.from_numpy(a).to(device) for name, a in prompt.image_inputs.items()}
        features = torch.cat(self.model.get_image_features(**inputs).pooler_output)
        is_image = (token_ids == self._image_id).unsqueeze(-1)
        return embeddings.masked_scatter(is_image, features.to(embeddings.dtype))

    def _check_tokenizer(self) -> None:
        """Encoding by sections must give what the processor makes of the whole text.

        Raises ModelError where it does not: with a tokenizer for which the place of a section
        matters, say.
        """
        image = Image(np.zeros((8, 8, 3), np.uint8), sha256="")
        messages: tuple[Message[Image], ...] = (
            Message(Role.USER, (image, "What is this?", image, image, " And this? ")),
            Message(Role.ASSISTANT, ("A circle.",)),
            Message(Role.USER, ("Where?",)),
        )
        conversation = [
            {
                "role": message.role.value,
                "content": [
                    {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
                    for part in message.content
                ],
            }
            for message in messages
        ]
        text = self.processor.apply_chat_template(conversation, add_generation_prompt=True)
        inputs = self.processor(text=text)
        if list(self.prepare(messages).token_ids) != list(inputs["input_ids"][0]):
            raise ModelError("the tokenizer does not encode a conversation section by section")

    def _append_image(self, token_ids: list[int]) -> None:
        # Neighbouring pictures share a mark.
        parts = 5 if self.processor.image_processor.do_image_splitting else 1
        if not token_ids or token_ids[-1] != self._fake_id:
            token_ids.append(self._fake_id)
        for _ in range(parts):
            token_ids += [self._image_id] * self.processor.image_seq_len
            token_ids.append(self._fake_id)

    def _after_mark(self, token_ids: list[int], text: str) -> str:
        # The processor keeps words that follow a picture at a word boundary.
        follows_mark = bool(token_ids) and token_ids[-1] == self._fake_id
        return f" {text}" if follows_mark and not text[0].isspace() and text[0] != "<" else text

    def _pixels(self, images: list[Image]) -> dict[str, np.ndarray[Any, Any]]:
        if not images:
            return {}
        # Said rather than guessed: a picture three pixels high looks like three channels.
        features = self.processor.image_processor(
            [[image.pixels for image in images]],
            input_data_format=ChannelDimension.LAST,
            return_tensors="np",
        )
        return dict(features)
