"""One loaded model, as the engine sees it: how its prompts are made and where its parts are.

What stands here fits every decoder-only vision-language model of Transformers. A family whose
processor or decoder needs something of its own says so in a file of its own.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import nn

from vlserve.errors import invalid
from vlserve.models.chat import ChatEncoder, Special
from vlserve.models.detail import at_a_glance
from vlserve.models.errors import ModelError
from vlserve.models.expansion import expand, image_mark
from vlserve.models.features import ImageFeatures, image_features
from vlserve.models.generation import GenerationRules
from vlserve.models.marks import own_marks
from vlserve.models.prompt import Arrays, Prompt, PromptImage
from vlserve.models.transfer import to_device
from vlserve.types import Detail, Image, ImageCount, Message, Role, TokenCount

Seen = Callable[[Image], PromptImage | None]
_GREY = Image(np.full((8, 8, 3), 127, np.uint8), sha256="")
# A conversation to try a processor with.
_PROBE: Sequence[Message[Image]] = (
    Message(Role.USER, (_GREY, "What is this?", _GREY, _GREY, " And this? ")),
    Message(Role.ASSISTANT, ("A circle.",)),
    Message(Role.USER, ("Where?",)),
)


def nothing_seen(picture: Image) -> None:
    """A Seen that knows no picture."""
    del picture


class ModelAdapter:
    """A model with its processor.

    `rules` are read off the model's generation config; `longest_token` is the most characters of
    a text that one token can stand for. Raises ModelError when the files are not
    what the family needs.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self.processor = processor
        self._glancing = at_a_glance(processor)
        self.tokenizer: Tokenizer = processor.tokenizer.backend_tokenizer
        self.rules = GenerationRules.of(model.generation_config)
        self.longest_token = max(map(len, self.tokenizer.get_vocab()))
        self.image_id: int = model.config.image_token_id
        probe = self._probe_text()
        marks = own_marks(processor, model.config, probe + self.prompt_image(_GREY).text)
        self.chat = ChatEncoder(processor, marks)
        if self.image_id not in self.chat.mark_ids:
            raise ModelError("the tokenizer has no token of its own for a picture")
        self._accepted = set(inspect.signature(model.model.forward).parameters)
        self._image_arguments = set(inspect.signature(model.model.get_image_features).parameters)
        self._check_tokenizer(probe)

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

    def prepare(self, messages: Sequence[Message[Image]], seen: Seen = nothing_seen) -> Prompt:
        """The prompt of a conversation that an answer follows. Safe to call from any thread.

        `seen` gives a picture that was prepared before. Raises
        ServeError(INVALID_ARGUMENT, field="messages") for what the model cannot be asked.
        """
        rendered, texts = self.chat.render(messages)
        pictures = [part for message in messages for part in message.pictures()]
        images = tuple(seen(picture) or self.prompt_image(picture) for picture in pictures)
        for image in images:
            image.num_tokens = image.num_tokens or self._num_features(image)
        pieces = self.chat.pieces(self._expanded(rendered, images), texts)
        token_ids = self.chat.framed(pieces, self.token_ids(pieces))
        places = np.flatnonzero(np.array(token_ids) == self.image_id)
        positions = self.positions(token_ids, images)
        shift = 0 if positions is None else int(positions.max()) + 1 - len(token_ids)
        return Prompt(
            token_ids=token_ids,
            num_image_tokens=self.num_image_tokens(token_ids),
            images=images,
            places=places,
            positions=positions,
            position_shift=shift,
            blocks=self.blocks(places),
        )

    def count(self, messages: Sequence[Message[Image]]) -> TokenCount:
        """What `prepare` makes of a conversation, counted. Raises as it does."""
        prompt = self.prepare(messages)
        pictures = [part for message in messages for part in message.pictures()]
        images = (
            ImageCount(picture.width, picture.height, image.num_tokens, _num_tiles(image))
            for picture, image in zip(pictures, prompt.images, strict=True)
        )
        return TokenCount(len(prompt.token_ids), prompt.num_image_tokens, tuple(images))

    def prompt_image(self, picture: Image) -> PromptImage:
        """A picture as this model's processor has it."""
        return expand(self.processor_for([picture]), [picture])

    def token_ids(self, pieces: Sequence[Special | str]) -> list[int]:
        """The ids of a rendered conversation's sections."""
        token_ids: list[int] = []
        for piece in pieces:
            if isinstance(piece, Special):
                token_ids.append(self.chat.token_id(piece.text))
            else:
                token_ids += self.chat.encode(piece)
        return token_ids

    def num_image_tokens(self, token_ids: Sequence[int]) -> int:
        """How many of `token_ids` stand for pictures."""
        return token_ids.count(self.image_id)

    def positions(
        self, token_ids: Sequence[int], images: Sequence[PromptImage]
    ) -> npt.NDArray[np.int64] | None:
        """Rotary positions as in Prompt."""
        del token_ids, images
        return None

    def blocks(self, places: npt.NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
        """Blocks as in Prompt, of pictures at `places`."""
        del places
        return ()

    def encode(self, inputs: Arrays) -> ImageFeatures:
        """What the vision tower makes of one picture. Under `torch.inference_mode`."""
        output = self.model.model.get_image_features(**self._tensors(inputs), return_dict=True)
        return ImageFeatures.of(output.pooler_output)

    def embed(self, prompt: Prompt, token_ids: Sequence[int], start: int, end: int) -> torch.Tensor:
        """`[end - start, hidden_size]`: what the decoder reads for tokens `start` to `end`.

        `token_ids` are the prompt's, and those of the answer so far.
        """
        device = self.model.device
        first, last = np.searchsorted(prompt.places, (start, end))
        places = to_device(prompt.places[first:last] - start, device)
        ids = to_device(torch.tensor(token_ids[start:end]), device)
        # The id that stands for pictures may lie beyond the embedding.
        embeddings: torch.Tensor = self.model.get_input_embeddings()(ids.index_fill(0, places, 0))
        if first < last:
            rows = torch.cat([image_features(image).rows for image in prompt.images])[first:last]
            embeddings[places] = rows.to(embeddings.dtype)
        return embeddings

    def prepare_whole(self, messages: Sequence[Message[Image]]) -> Prompt:
        """As `prepare`, for `forward`: all pictures' inputs together, and in one block.

        Raises ServeError(INVALID_ARGUMENT, field="messages") for pictures of several details where
        these differ.
        """
        pictures = [part for message in messages for part in message.pictures()]
        if len({id(self.processor_for([picture])) for picture in pictures}) > 1:
            one = "this model takes pictures of one detail in a request, and frames are of low"
            raise invalid("messages", one)
        prompt = self.prepare(messages)
        inputs = self.joint_inputs(pictures) if pictures else {}
        whole = ((0, len(prompt.token_ids)),)
        nowhere = np.empty(0, np.int64)
        return replace(prompt, images=(), places=nowhere, blocks=whole, inputs=inputs)

    def joint_inputs(self, pictures: Sequence[Image]) -> Arrays:
        """What the processor makes of the pictures of one conversation."""
        return expand(self.processor_for(pictures), pictures).inputs

    def processor_for(self, pictures: Sequence[Image]) -> Any:
        """The processor that looks at pictures of one detail as closely as they want."""
        is_low = pictures[0].detail is Detail.LOW
        return self._glancing if is_low else self.processor

    def forward(self, prompt: Prompt, token_ids: Sequence[int], *, use_cache: bool) -> Any:
        """What the model itself gives for a prompt of `prepare_whole` and what follows it."""
        ids = torch.tensor([[*prompt.token_ids, *token_ids]], device=self.model.device)
        is_image = (ids == self.image_id).long()
        tensors = {"token_type_ids": is_image, "mm_token_type_ids": is_image}
        tensors |= {name: self._tensor(value) for name, value in prompt.inputs.items()}
        accepted = {name: value for name, value in tensors.items() if name in self._accepted}
        return self.model(input_ids=ids, use_cache=use_cache, **accepted)

    def _tensor(self, array: npt.NDArray[Any]) -> torch.Tensor:
        return to_device(array, self.model.device)

    def _tensors(self, inputs: Arrays) -> dict[str, torch.Tensor]:
        return {k: self._tensor(v) for k, v in inputs.items() if k in self._image_arguments}

    def _expanded(self, rendered: str, images: Sequence[PromptImage]) -> str:
        """`rendered` with each picture's mark as the tokens that stand for it."""
        sections = rendered.split(image_mark(self.processor)) if images else [rendered]
        if len(sections) != len(images) + 1:
            raise ModelError("the chat template does not write one mark for each picture")
        rest = (image.text + section for image, section in zip(images, sections[1:], strict=True))
        return sections[0] + "".join(rest)

    def _num_features(self, image: PromptImage) -> int:
        """Tokens that the features of a picture take the places of."""
        return self.token_ids(self.chat.pieces(image.text, ())).count(self.image_id)

    def _probe_text(self) -> str:
        """What the chat template writes of the probe."""
        conversation = [
            {
                "role": message.role.value,
                "content": [
                    {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
                    for part in message.content
                ],
            }
            for message in _PROBE
        ]
        text: str = self.processor.apply_chat_template(conversation, add_generation_prompt=True)
        return text

    def _check_tokenizer(self, probe: str) -> None:
        """Encoding by sections must give what the processor makes of the whole text.

        Raises ModelError where it does not: with a tokenizer for which the place of a section
        matters, say.
        """
        if list(self.prepare(_PROBE).token_ids) != self._processed(probe, [_GREY] * 3):
            raise ModelError("the tokenizer does not encode a conversation section by section")

    def _processed(self, text: str, images: list[Image]) -> list[int]:
        """The token ids that the processor itself makes of a rendered conversation."""
        inputs = self.processor(text=text, images=[[image.pixels for image in images]])
        return list(inputs["input_ids"][0])


def _num_tiles(image: PromptImage) -> int:
    """Tiles of a picture that the tower has not seen yet: `[..., tiles, 3, height, width]`, or one
    where its patches lie in a row."""
    shape = image.inputs["pixel_values"].shape
    return int(shape[-4]) if len(shape) >= 4 else 1
