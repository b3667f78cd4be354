"""What llama.cpp's server can be asked of an Idefics2: its text decoder, prompts as token ids.

llama.cpp knows no Idefics2 vision. The decoder is a Mistral, which is its `llama` kind, so that is
converted, all of it in float32; in place of a picture a prompt has as many other tokens.
"""

import asyncio
import shutil
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import openai
from transformers import AutoConfig, AutoTokenizer

from vlserve.bench.targets import AskFailed
from vlserve.types import ChatRequest, Chunk, FinishReason, Usage

BUILT: Final = Path("build") / "bench" / "llama.cpp"
PREFIX: Final = "model.text_model."
FAKE: Final = "<fake_token_around_image>"
NAMES: Final = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def server_binary() -> str | None:
    """The server that `make bench-peers` built, or one on the path."""
    built = BUILT / "bin" / "llama-server"
    return str(built.resolve()) if built.is_file() else shutil.which("llama-server")


def server_version() -> str:
    """Which release of llama-cpp-python the server's sources came with, "" for another's."""
    said = BUILT / "version.txt"
    return f"llama-cpp-python {said.read_text().strip()}" if said.is_file() else ""


def gguf_file(folder: Path, target: Path) -> Path:
    """The text decoder of the Idefics2 in `folder` as a GGUF file in float32. Made once."""
    import gguf  # noqa: PLC0415 - of the peers
    from safetensors.numpy import load_file  # noqa: PLC0415

    if target.is_file():
        return target
    text: Any = AutoConfig.from_pretrained(folder).text_config
    heads, kv_heads = text.num_attention_heads, text.num_key_value_heads
    unfinished = target.with_suffix(".part")
    writer = gguf.GGUFWriter(unfinished, "llama")
    writer.add_name(folder.name)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(text.max_position_embeddings)
    writer.add_embedding_length(text.hidden_size)
    writer.add_block_count(text.num_hidden_layers)
    writer.add_feed_forward_length(text.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(text.head_dim)
    writer.add_value_length(text.head_dim)
    writer.add_rope_dimension_count(text.head_dim)
    writer.add_rope_freq_base(text.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(text.rms_norm_eps)
    writer.add_vocab_size(text.vocab_size)
    _add_words(writer, folder, text.vocab_size)
    for name, stored in load_file(folder / "model.safetensors").items():
        weight = stored.astype(np.float32)
        if name == "lm_head.weight":
            writer.add_tensor("output.weight", weight)
        elif name == f"{PREFIX}embed_tokens.weight":
            writer.add_tensor("token_embd.weight", weight)
        elif name == f"{PREFIX}norm.weight":
            writer.add_tensor("output_norm.weight", weight)
        elif name.startswith(f"{PREFIX}layers."):
            layer, _, part = name.removeprefix(f"{PREFIX}layers.").partition(".")
            part = part.removesuffix(".weight")
            if part in ("self_attn.q_proj", "self_attn.k_proj"):
                weight = _interleaved(weight, heads if part.endswith("q_proj") else kv_heads)
            writer.add_tensor(f"blk.{layer}.{NAMES[part]}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return unfinished.rename(target)


def _interleaved(weight: Any, num_heads: int) -> Any:
    """Rows in the order in which llama.cpp turns pairs: float32[heads * head_dim, hidden]."""
    paired = weight.reshape(num_heads, 2, -1, weight.shape[1])
    return np.ascontiguousarray(paired.swapaxes(1, 2).reshape(weight.shape))


def _add_words(writer: Any, folder: Path, vocab_size: int) -> None:
    import gguf  # noqa: PLC0415 - of the peers

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    word_of = {number: word for word, number in tokenizer.get_vocab().items()}
    special = set(tokenizer.all_special_ids)
    kinds = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([word_of.get(i, f"[unused{i}]") for i in range(vocab_size)])
    writer.add_token_types(
        [kinds.CONTROL if i in special else kinds.NORMAL for i in range(vocab_size)]
    )
    writer.add_token_merges([" "])  # prompts come as token ids
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)


class TokenTarget:
    """A Target that asks llama.cpp's server to go on from the request's token ids."""

    def __init__(self, client: openai.AsyncOpenAI, folder: Path) -> None:
        self._client = client
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        config: Any = AutoConfig.from_pretrained(folder)
        self._image_id: int = config.image_token_id
        self._num_image_tokens: int = config.perceiver_config.resampler_n_latents
        self._fake_id: int = self._tokenizer.get_vocab()[FAKE]

    async def ask(self, request: ChatRequest) -> AsyncGenerator[Chunk]:
        """The answer as the server streams it."""
        forbidden: Any = {str(self._image_id): -100, str(self._fake_id): -100}
        usage, is_done = None, False
        try:
            stream = await self._client.completions.create(
                model="peer",
                prompt=self.prompt(request),
                max_tokens=request.sampling.max_tokens,
                temperature=0,
                logit_bias=forbidden,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"ignore_eos": True, "cache_prompt": False},
            )
            async with stream:
                async for piece in stream:
                    if piece.usage is not None:
                        usage = Usage(piece.usage.prompt_tokens, 0, piece.usage.completion_tokens)
                    for choice in piece.choices:
                        is_done = is_done or choice.finish_reason is not None
                        if choice.text:
                            yield Chunk(choice.text)
        except openai.APIError as error:
            raise AskFailed(type(error).__name__, error.message) from None
        if not is_done:
            raise AskFailed("incomplete", "the stream ended without a finish reason")
        yield Chunk("", (), FinishReason.LENGTH, usage)

    def prompt(self, request: ChatRequest) -> list[int]:
        """The ids of the chat template's text; other words stand where the picture's would."""
        turns = [
            {
                "role": message.role.value,
                "content": [
                    {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
                    for part in message.content
                ],
            }
            for message in request.messages
        ]
        text = self._tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=False
        )
        ids: list[int] = []
        chance = np.random.default_rng(len(text))
        words = [i for i in range(len(self._tokenizer)) if i not in self._special()]
        for token in self._tokenizer(text)["input_ids"]:
            if token == self._image_id:
                others = chance.choice(words, self._num_image_tokens).tolist()
                ids += [self._fake_id, *others, self._fake_id]
            else:
                ids.append(token)
        return ids

    def _special(self) -> set[int]:
        return set(self._tokenizer.all_special_ids) | {self._image_id, self._fake_id}


@asynccontextmanager
async def token_target(port: int, folder: Path) -> AsyncIterator[TokenTarget]:
    """The server on that port."""
    async with openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=None
    ) as client:
        yield await asyncio.to_thread(TokenTarget, client, folder)
