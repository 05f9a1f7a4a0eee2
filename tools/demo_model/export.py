"""Writes the network and its tokenizer as one GGUF file."""

import json
from pathlib import Path

import gguf
import numpy as np
from tokenizers import Tokenizer
from torch import Tensor

from worker.engines.demo_model import MODEL_PATH

from .corpus import BEGIN, END, SPECIAL_TOKENS
from .network import Network, Shape

DESCRIPTION = "A demo of a few megabytes that shows the pipe of Ignite, not quality: it knows a few dozen answers."
TEMPLATE = MODEL_PATH.with_name("chat_template.jinja")
# The marks around a tool call are text that a client may see; the other special tokens never are.
HIDDEN_TOKENS = SPECIAL_TOKENS[:3]

TENSORS = {
    "attention_norm": gguf.MODEL_TENSOR.ATTN_NORM,
    "attention.query": gguf.MODEL_TENSOR.ATTN_Q,
    "attention.key": gguf.MODEL_TENSOR.ATTN_K,
    "attention.value": gguf.MODEL_TENSOR.ATTN_V,
    "attention.out": gguf.MODEL_TENSOR.ATTN_OUT,
    "forward_norm": gguf.MODEL_TENSOR.FFN_NORM,
    "feed_forward.gate": gguf.MODEL_TENSOR.FFN_GATE,
    "feed_forward.up": gguf.MODEL_TENSOR.FFN_UP,
    "feed_forward.down": gguf.MODEL_TENSOR.FFN_DOWN,
}


def write_gguf(network: Network, tokenizer: Tokenizer, path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer)
    _add_shape(writer, network.shape)
    _add_tokenizer(writer, tokenizer)
    for name, weights in network.state_dict().items():
        writer.add_tensor(f"{_tensor_name(name)}.weight", _stored(weights))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: gguf.GGUFWriter) -> None:
    writer.add_name("demo")
    writer.add_description(DESCRIPTION)
    writer.add_license("Apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)


def _add_shape(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)
    writer.add_vocab_size(shape.vocabulary)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([_token_type(token) for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(tokenizer.token_to_id(BEGIN))
    writer.add_eos_token_id(tokenizer.token_to_id(END))
    writer.add_pad_token_id(tokenizer.token_to_id(BEGIN))
    writer.add_add_bos_token(True)
    writer.add_chat_template(TEMPLATE.read_text())


def _token_type(token: str) -> gguf.TokenType:
    if token in HIDDEN_TOKENS:
        return gguf.TokenType.CONTROL
    return gguf.TokenType.USER_DEFINED if token in SPECIAL_TOKENS else gguf.TokenType.NORMAL


def _tensor_name(name: str) -> str:
    parts = name.removesuffix(".weight").split(".", 2)
    if parts[0] == "layers":
        return gguf.TENSOR_NAMES[TENSORS[parts[2]]].format(bid=parts[1])
    return gguf.TENSOR_NAMES[gguf.MODEL_TENSOR.TOKEN_EMBD if parts[0] == "embedding" else gguf.MODEL_TENSOR.OUTPUT_NORM]


def _stored(weights: Tensor) -> np.ndarray:
    """Matrices in 16 bits; norms in 32, as llama.cpp wants them."""
    return weights.numpy().astype(np.float16 if weights.ndim > 1 else np.float32)
