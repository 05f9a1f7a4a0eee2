"""A small Llama in PyTorch that computes what llama.cpp computes with the exported weights."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Shape:
    vocabulary: int = 3072
    width: int = 160
    layers: int = 4
    heads: int = 5
    hidden: int = 448
    context: int = 8192
    rope_base: float = 10000.0
    norm_epsilon: float = 1e-5

    @property
    def head_width(self) -> int:
        return self.width // self.heads


def rotations(shape: Shape, positions: Tensor) -> tuple[Tensor, Tensor]:
    steps = torch.arange(0, shape.head_width, 2, dtype=torch.float32) / shape.head_width
    angles = positions[:, None, :, None].float() / shape.rope_base**steps
    return angles.cos(), angles.sin()


def rotate(heads: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Neighbouring values form the pairs, as the llama architecture of GGUF has it."""
    cos, sin = turns
    even, odd = heads.float()[..., 0::2], heads.float()[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.query = nn.Linear(shape.width, shape.width, bias=False)
        self.key = nn.Linear(shape.width, shape.width, bias=False)
        self.value = nn.Linear(shape.width, shape.width, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)

    def _split(self, values: Tensor) -> Tensor:
        return values.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, states: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        value = self._split(self.value(states)).float()
        query = rotate(self._split(self.query(states)), turns)
        key = rotate(self._split(self.key(states)), turns)
        # For heads this narrow, 32 bits are faster on a CPU than 16.
        with torch.autocast("cpu", enabled=False):
            mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate = nn.Linear(shape.width, shape.hidden, bias=False)
        self.up = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        return self.down(functional.silu(self.gate(states)) * self.up(states))


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(shape.width, eps=shape.norm_epsilon)
        self.attention = Attention(shape)
        self.forward_norm = nn.RMSNorm(shape.width, eps=shape.norm_epsilon)
        self.feed_forward = FeedForward(shape)

    def forward(self, states: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        states = states + self.attention(self.attention_norm(states), turns)
        return states + self.feed_forward(self.forward_norm(states))


class Network(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, eps=shape.norm_epsilon)
        self._set_weights()

    def _set_weights(self) -> None:
        nn.init.normal_(self.embedding.weight, std=0.05)
        for layer in self.layers:
            nn.init.zeros_(layer.attention.out.weight)
            nn.init.zeros_(layer.feed_forward.down.weight)

    def forward(self, tokens: Tensor, positions: Tensor, wanted: Tensor) -> Tensor:
        """The scores of the next token, at the wanted places only: they are the costly part."""
        turns = rotations(self.shape, positions)
        states = self.embedding(tokens)
        for layer in self.layers:
            states = layer(states, turns)
        return functional.linear(self.norm(states)[wanted], self.embedding.weight)
