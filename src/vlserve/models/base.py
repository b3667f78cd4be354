"""One loaded model, as the engine sees it: how its prompts are made and where its parts are.

What stands here fits every decoder-only vision-language model of Transformers. A family whose
processor or decoder needs something of its own says so in a file of its own.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from vlserve.models.chat import ChatEncoder, Special
from vlserve.models.errors import ModelError
from vlserve.models.expansion import expand
from vlserve.models.generation import GenerationRules
from vlserve.models.prompt import Prompt
from vlserve.types import Image, Message, Role


@dataclass(frozen=True, slots=True, eq=False)
class PromptInputs:
    """What the decoder is given for a prompt of T tokens.

    `embeddings` `[T, hidden_size]`, pictures in their places. `positions` `i64[P, T]`: P is 1, or 3
    where rotary positions have a time, a height and a width. `blocks` `i64[T]`: tokens of the same
    number see each other in both directions, those of -1 only what is before them. `deepstack`:
    one `[N, hidden_size]` a layer, added there to the N tokens that `is_visual` `bool[T]` marks.
    """

    embeddings: torch.Tensor
    positions: torch.Tensor
    blocks: torch.Tensor | None = None
    is_visual: torch.Tensor | None = None
    deepstack: tuple[torch.Tensor, ...] = ()

    @property
    def next_position(self) -> int:
        """The position of the first token of the answer."""
        return int(self.positions.max()) + 1


class _DecoderReachedError(Exception):
    """Carries what the model was about to give its decoder."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.arguments = arguments


class ModelAdapter:
    """A model with its processor.

    `rules` are read off the model's generation config; `longest_token` is the most characters of
    a text that one token can stand for. Raises ModelError when the files are not
    what the family needs.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self.processor = processor
        self.tokenizer: Tokenizer = processor.tokenizer.backend_tokenizer
        self.rules = GenerationRules.of(model.generation_config)
        self.longest_token = max(map(len, self.tokenizer.get_vocab()))
        self.image_id: int = model.config.image_token_id
        self.chat = ChatEncoder(processor)
        self._accepted = set(inspect.signature(model.model.forward).parameters)
        self._check_tokenizer()

    @property
    def decoder(self) -> nn.Module:
        """The text model without its head: a stack of decoder layers with registered attention."""
        decoder: nn.Module = self.model.get_decoder()
        return decoder

    @property
    def head(self) -> nn.Module:
        """From the decoder's last hidden state to logits."""
        head: nn.Module = self.model.get_output_embeddings()
        return head

    @property
    def text_config(self) -> Any:
        """The decoder's configuration."""
        return self.model.config.get_text_config()

    def prepare(self, messages: Sequence[Message[Image]]) -> Prompt:
        """The prompt of a conversation that an answer follows. Safe to call from any thread.

        Raises ServeError(INVALID_ARGUMENT, field="messages") for what the model cannot be asked.
        """
        rendered, texts = self.chat.render(messages)
        images = [part for message in messages for part in message.pictures()]
        expanded, image_inputs = expand(self.processor, rendered, images)
        pieces = self.chat.pieces(expanded, texts)
        token_ids: list[int] = []
        for piece in pieces:
            if isinstance(piece, Special):
                token_ids.append(self.chat.token_id(piece.text))
            else:
                token_ids += self.chat.encode(piece)
        return Prompt(
            token_ids=self.chat.framed(pieces, token_ids),
            num_image_tokens=token_ids.count(self.image_id),
            image_inputs=image_inputs,
        )

    def embed(self, prompt: Prompt) -> PromptInputs:
        """The decoder's inputs for a prompt, from the model's own code, stopped at its decoder."""
        return self.prompt_inputs(prompt, self._until_decoder(**self._inputs(prompt, ())))

    def plain_logits(self, prompt: Prompt, token_ids: Sequence[int]) -> torch.Tensor:
        """`[num_tokens, vocab_size]` of the model's own forward pass over a prompt and what
        follows it."""
        logits: torch.Tensor = self.model(**self._inputs(prompt, token_ids)).logits
        return logits[0]

    def prompt_inputs(self, prompt: Prompt, arguments: dict[str, Any]) -> PromptInputs:
        """What the engine needs of the `arguments` that the model gave its decoder."""
        embeddings: torch.Tensor = arguments["inputs_embeds"][0]
        positions: torch.Tensor | None = arguments.get("position_ids")
        if positions is None:
            places = torch.arange(len(prompt.token_ids), device=embeddings.device)
            return PromptInputs(embeddings, places.unsqueeze(0))
        return PromptInputs(embeddings, positions.reshape(-1, positions.shape[-1])[-3:])

    def _inputs(self, prompt: Prompt, token_ids: Sequence[int]) -> dict[str, Any]:
        device = self.model.device
        ids = torch.tensor([[*prompt.token_ids, *token_ids]], device=device)
        is_image = (ids == self.image_id).long()
        inputs = {name: torch.from_numpy(a).to(device) for name, a in prompt.image_inputs.items()}
        inputs |= {"token_type_ids": is_image, "mm_token_type_ids": is_image}
        accepted = {name: value for name, value in inputs.items() if name in self._accepted}
        return {"input_ids": ids, "use_cache": False, **accepted}

    def _until_decoder(self, **inputs: Any) -> dict[str, Any]:
        def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if args:
                raise ModelError("the model calls its decoder with unnamed arguments")
            raise _DecoderReachedError(kwargs)

        hook = self.decoder.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self.model.model(**inputs)
        except _DecoderReachedError as reached:
            return reached.arguments
        finally:
            hook.remove()
        raise ModelError("the model does not call its decoder")

    def _check_tokenizer(self) -> None:
        """Encoding by sections must give what the processor makes of the whole text.

        Raises ModelError where it does not: with a tokenizer for which the place of a section
        matters, say.
        """
        image = Image(np.full((8, 8, 3), 127, np.uint8), sha256="")
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
        if list(self.prepare(messages).token_ids) != self._processed(text, [image] * 3):
            raise ModelError("the tokenizer does not encode a conversation section by section")

    def _processed(self, text: str, images: list[Image]) -> list[int]:
        """The token ids that the processor itself makes of a rendered conversation."""
        inputs = self.processor(text=text, images=[[image.pixels for image in images]])
        return list(inputs["input_ids"][0])
