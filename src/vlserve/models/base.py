"""What is special about a model family, as the engine sees it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from vlserve.models.generation import GenerationRules
from vlserve.models.prompt import Prompt
from vlserve.types import Image, Message


class ModelAdapter(ABC):
    """One loaded model of a family: how its prompts are made and where its parts are.

    `model` and `processor` are the loaded Transformers objects; `rules` are read off the
    model's generation config. Raises ModelError when the files are not what the family needs.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self.processor = processor
        self.tokenizer: Tokenizer = processor.tokenizer.backend_tokenizer
        self.rules = GenerationRules.of(model.generation_config)

    @property
    @abstractmethod
    def decoder(self) -> nn.Module:
        """The text model without its head: a stack of decoder layers with registered attention."""

    @property
    @abstractmethod
    def head(self) -> nn.Module:
        """From the decoder's last hidden state to logits."""

    @property
    @abstractmethod
    def text_config(self) -> Any:
        """The decoder's configuration."""

    @abstractmethod
    def prepare(self, messages: Sequence[Message[Image]]) -> Prompt:
        """The prompt of a conversation that an answer follows. Safe to call from any thread.

        Raises ServeError(INVALID_ARGUMENT, field="messages") for what the model cannot be asked.
        """

    @abstractmethod
    def embed(self, prompt: Prompt) -> torch.Tensor:
        """`[num_tokens, hidden_size]`: the prompt's embeddings, pictures in their places."""
