"""Makes tiny random models for vLLM: Llamas of 370,000 parameters with a byte-level tokenizer and a chat template.

Runs in vLLM's own environment: python tests/vllm/make_models.py DIRECTORY
"""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXT = ["the quick brown fox jumps over the lazy dog " * 20]
SPECIAL = ["<|im_start|>", "<|im_end|>", "<pad>", "<tool_call>", "</tool_call>"]
TOOLS = (
    "{% if tools %}<|im_start|>system\n# Tools\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "<|im_end|>\n{% endif %}"
)
CALLS = "{% for call in message.tool_calls or [] %}<tool_call>\n{{ call.function | tojson }}\n</tool_call>{% endfor %}"


def template(content: str) -> str:
    """Like ChatML. `content`: how a message's text is written."""
    return (
        TOOLS + "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{% if message['content'] %}{{ " + content + " }}{% endif %}" + CALLS + "{% if not (loop.last and "
        "continue_final_message) %}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


TEMPLATES = {"plain": template("message['content']"), "trimming": template("message['content'] | trim")}
"""The second one cuts off blanks around a message's text, as Llama 3's does."""


def make(directory: Path, chat_template: str) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=SPECIAL[:3])
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_tokens(SPECIAL[3:])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<pad>")
    fast.chat_template = chat_template
    fast.save_pretrained(directory)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)


if __name__ == "__main__":
    for name, chat_template in TEMPLATES.items():
        make(Path(sys.argv[1]) / name, chat_template)
