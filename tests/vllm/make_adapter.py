"""`make_adapter.py MODEL OUT`: a random LoRA adapter of a model, in peft's layout. Runs in vLLM's environment."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig

RANK = 8


def main(model: str, out: Path) -> None:
    config = AutoConfig.from_pretrained(model)
    torch.manual_seed(sum(out.name.encode()))
    keys = config.num_key_value_heads * (config.hidden_size // config.num_attention_heads)
    tensors = {}
    for layer in range(config.num_hidden_layers):
        for name, size in (("q_proj", config.hidden_size), ("v_proj", keys)):
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(RANK, config.hidden_size) * 0.5
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(size, RANK) * 0.5
    out.mkdir(parents=True)
    save_file(tensors, out / "adapter_model.safetensors")
    described = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK, "bias": "none"}
    described |= {"lora_dropout": 0.0, "target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": model}
    (out / "adapter_config.json").write_text(json.dumps(described))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
