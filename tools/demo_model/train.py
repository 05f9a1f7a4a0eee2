"""Trains demo.gguf (`python -m tools.demo_model.train -o demo.gguf`), from a fixed seed on one thread."""

import argparse
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional

from . import MODEL_PATH, corpus
from .export import write_gguf
from .network import Network, Shape

SEED = 2025
ROUNDS, CONVERSATIONS_PER_ROUND = 44, 1024
# Copying is learnt first, and by drill: names, places and numbers need it, conversations are too thin in it.
DRILL_STEPS, TOKENS_PER_DRILL = 600, 2048
TOKENS_PER_GROUP, GROUPS_PER_STEP = 1536, 3
LONGEST = 4096
# The first token of an answer decides which answer it is, and so do copied values, sums and the end of
# a count; the others mostly follow from those.
CHOICE_WEIGHT = 4.0
CHOICES = re.compile(r'(?<=": ")|(?<=\[")|(?<=, ")|(?<=":)(?= -?\d)|(?<= =)|(?<= is)(?= [A-Z])|(?<=\d)(?=\.<)')
MATRIX_RATE, OTHER_RATE = 5e-3, 3e-3
WARMUP_STEPS = 30


@dataclass(frozen=True, slots=True)
class Sample:
    tokens: list[int]
    positions: list[int]
    weights: list[float]


Batch = tuple[Tensor, Tensor, Tensor]
Step = list[Batch]


def make_tokenizer(shape: Shape) -> Tokenizer:
    """Byte-level, so that any text can be read and any grammar can be followed."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=shape.vocabulary,
        min_frequency=2,
        special_tokens=list(corpus.SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus.vocabulary_text(Random(SEED)), trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, conversation: corpus.Conversation) -> Sample:
    tokens: list[int] = []
    steps: list[int] = []
    weights: list[float] = []
    for segment in conversation:
        jump = segment.jump
        for text in filter(None, CHOICES.split(segment.text) if segment.learn else [segment.text]):
            ids = tokenizer.encode(text).ids
            tokens += ids
            steps += [1 + jump] + [1] * (len(ids) - 1)
            weights += [CHOICE_WEIGHT * segment.learn] + [float(segment.learn)] * (len(ids) - 1)
            jump = 0
    return Sample(tokens[:LONGEST], list(accumulate(steps))[:LONGEST], weights[:LONGEST])


def padded(rows: list[list[int]] | list[list[float]], dtype: torch.dtype) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], dtype=dtype)


def collate(samples: list[Sample]) -> Batch:
    return (
        padded([sample.tokens for sample in samples], torch.long),
        padded([sample.positions for sample in samples], torch.long),
        padded([sample.weights for sample in samples], torch.float32),
    )


def grouped(samples: list[Sample]) -> Iterator[list[Sample]]:
    """Samples of like length together, so that little is spent on padding."""
    group: list[Sample] = []
    for sample in sorted(samples, key=lambda sample: len(sample.tokens)):
        if group and (len(group) + 1) * len(sample.tokens) > TOKENS_PER_GROUP:
            yield group
            group = []
        group.append(sample)
    yield group


def mixed(groups: list[Batch], rng: Random) -> list[Step]:
    """Each step sees short, middling and long samples, lest it learn one kind and forget another."""
    count = -(-len(groups) // GROUPS_PER_STEP)
    kinds = [groups[at : at + count] for at in range(0, len(groups), count)]
    for kind in kinds:
        rng.shuffle(kind)
    return [[kind[at] for kind in kinds if at < len(kind)] for at in range(count)]


def drill(shape: Shape, rng: Random) -> Step:
    """Random tokens, a mark, and the same tokens again."""
    length = rng.randint(6, 20)
    rows: list[Sample] = []
    for _ in range(TOKENS_PER_DRILL // (2 * length)):
        given = [rng.randrange(len(corpus.SPECIAL_TOKENS), shape.vocabulary) for _ in range(length)]
        weights = [0.0] * (length + 2) + [1.0] * length
        rows.append(Sample([0, *given, 1, *given], list(range(2 * length + 2)), weights))
    return [collate(rows)]


def one_round(tokenizer: Tokenizer, rng: Random) -> list[Step]:
    samples = [encode(tokenizer, corpus.conversation(rng)) for _ in range(CONVERSATIONS_PER_ROUND)]
    # Some hold nothing to learn: only what a client made up, or an end beyond the longest.
    useful = [sample for sample in samples if any(sample.weights)]
    return mixed([collate(group) for group in grouped(useful)], rng)


def loss_of(network: Network, batch: Batch) -> Tensor:
    """The sum over the batch, not the mean."""
    tokens, positions, weights = batch
    wanted = weights[:, 1:] > 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = network(tokens[:, :-1], positions[:, :-1], wanted)
    each = functional.cross_entropy(scores.float(), tokens[:, 1:][wanted], reduction="none")
    return (each * weights[:, 1:][wanted]).sum()


def optimizers(network: Network) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside, Adam for the embedding and the norms."""
    inside = set(network.layers.parameters())
    matrices = [weights for weights in network.parameters() if weights in inside and weights.ndim == 2]
    others = [weights for weights in network.parameters() if weights not in inside or weights.ndim == 1]
    return [
        torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.Adam(others, lr=OTHER_RATE, betas=(0.9, 0.98)),
    ]


def learn(network: Network, groups: Step, tuning: list[torch.optim.Optimizer], rate: float) -> float:
    for optimizer, full in zip(tuning, (MATRIX_RATE, OTHER_RATE), strict=True):
        optimizer.param_groups[0]["lr"] = full * rate
        optimizer.zero_grad()
    total, lost = sum(weights[:, 1:].sum().item() for _, _, weights in groups), 0.0
    for batch in groups:
        loss = loss_of(network, batch) / total
        loss.backward()
        lost += loss.item()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    for optimizer in tuning:
        optimizer.step()
    return lost


def train(network: Network, tokenizer: Tokenizer, rounds: int) -> None:
    """The drill at a rising, then full rate; the rounds at one that falls to nothing in a straight line."""
    rng, tuning, began = Random(SEED), optimizers(network), time.monotonic()
    for done in range(DRILL_STEPS):
        loss = learn(network, drill(network.shape, rng), tuning, min(1.0, (done + 1) / WARMUP_STEPS))
        if done % 50 == 0:
            print(f"drill {done}/{DRILL_STEPS} loss {loss:.4f} {time.monotonic() - began:.0f} s", flush=True)
    for done in range(rounds):
        steps = one_round(tokenizer, rng)
        losses = [
            learn(network, groups, tuning, 1 - (done + at / len(steps)) / rounds) for at, groups in enumerate(steps)
        ]
        mean, spent = sum(losses) / len(losses), time.monotonic() - began
        print(f"round {done + 1}/{rounds} loss {mean:.4f} {spent:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=MODEL_PATH)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    shape = Shape()
    network, tokenizer = Network(shape), make_tokenizer(shape)
    train(network, tokenizer, options.rounds)
    write_gguf(network, tokenizer, options.output)


if __name__ == "__main__":
    main()
