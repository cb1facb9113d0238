"""A recurrent language model of bytes: trained in parallel, and a state of fixed size to generate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kikimimi import (
    LLM,
    AudioPart,
    ComponentConfig,
    Conversation,
    Generation,
    LayerCount,
    LLMContext,
    Padded,
    PositiveInt,
    Rendered,
    Stretch,
    Vocabulary,
    full_precision,
)

CONTROL = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|audio|>")
"""What stands for no byte; their ids follow those of the 256 bytes."""
IDS = {token: 256 + number for number, token in enumerate(CONTROL)}
END, AUDIO = IDS["<|end|>"], IDS["<|audio|>"]
CHUNK = 128
"""Positions that are computed at once: sums of logarithms over more of them would lose digits."""


class ByteVocabulary(Vocabulary):
    """The 256 bytes of UTF-8, and the control tokens, which no text spells."""

    size = 256 + len(CONTROL)

    def encode(self, text: str) -> list[int]:
        """Return one id per byte."""
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text; control tokens are left out, and bytes that form no character replaced."""
        return bytes(i for i in ids if i < 256).decode(errors="replace")

    @property
    def control(self) -> Mapping[int, str]:
        """The control tokens."""
        return {i: token for token, i in IDS.items()}


class MinGRU(nn.Module):
    """A gated recurrent unit whose gate and candidate do not look at the state before (arXiv 2410.01201).

    h_t = (1 - z_t) h_(t-1) + z_t g(c_t), of which all t are computed at once, in logarithms
    (appendix B.2): g(c) = c + 0.5 where c is not negative, else sigmoid(c), is positive.
    """

    def __init__(self, dim: int, state_dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, state_dim)
        self.candidate = nn.Linear(dim, state_dim)
        self.out = nn.Linear(state_dim, dim, bias=False)

    def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map (B, L, D) and the state before to (B, L, D) and all states (B, L, H), in float32.

        Args:
            x: (B, L, D).
            state: (B, H) float32, or None for a sequence that begins.
        """
        gate, candidate = self.gate(x).float(), self.candidate(x).float()
        with full_precision(x.device):
            keep = -functional.softplus(gate)  # log(1 - z)
            positive = (functional.relu(candidate) + 0.5).log()
            take = torch.where(candidate >= 0, positive, -functional.softplus(-candidate))
            values = take - functional.softplus(-gate)  # log(z g(c))
            states: list[Tensor] = []
            for kept, value in zip(keep.split(CHUNK, 1), values.split(CHUNK, 1), strict=True):
                kept_so_far = kept.cumsum(1)
                found = (kept_so_far + (value - kept_so_far).logcumsumexp(1)).exp()
                if state is not None:
                    found = found + kept_so_far.exp() * state[:, None]
                states.append(found)
                state = found[:, -1]
            all_states = torch.cat(states, 1)
        out: Tensor = self.out(all_states.to(x.dtype))
        return out, all_states


class Block(nn.Module):
    """A recurrent unit and a feed-forward network, each normalised and with a residual connection."""

    def __init__(self, dim: int, state_dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.unit_norm = nn.LayerNorm(dim)
        self.unit = MinGRU(dim, state_dim)
        self.ffn_norm = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim), nn.GELU(), nn.Linear(ffn_dim, dim))

    def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map (B, L, D) and the state before to (B, L, D) and all states (B, L, H)."""
        added, states = self.unit(self.unit_norm(x), state)
        x = x + added
        fed: Tensor = self.ffn(self.ffn_norm(x))
        return x + fed, states


class MinGRULM(LLM):
    """A language model of bytes whose layers are minGRUs (Feng et al. 2024, arXiv 2410.01201).

    It generates with a state of fixed size, and takes sequences of any length. The convolution of the
    paper's language models is left out, and embeddings are tied to the output.
    """

    contract_version = 1

    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        """What a recipe may set."""

        dim: PositiveInt = 384
        """Width D of the embeddings."""
        num_layers: LayerCount = 6
        """Recurrent layers."""
        state_dim: PositiveInt = 576
        """Width H of a layer's state."""
        ffn_dim: PositiveInt = 1536
        """Inner width of the feed-forward networks."""

    config: Config
    context_length = None
    causal = True

    def __init__(self, config: Config, context: LLMContext) -> None:
        super().__init__(config, context)
        self.dim = config.dim
        self.vocab_size = ByteVocabulary.size
        self.embedding = nn.Embedding(self.vocab_size, config.dim)
        self.blocks = nn.ModuleList(
            Block(config.dim, config.state_dim, config.ffn_dim) for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(config.dim)
        nn.init.normal_(self.embedding.weight, std=config.dim**-0.5)

    @property
    def vocabulary(self) -> Vocabulary:
        """Bytes and control tokens."""
        return ByteVocabulary()

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Config:
        """Return `config` with 2 layers of width 64."""
        return replace(config or cls.Config(), dim=64, num_layers=2, state_dim=96, ffn_dim=128)

    def render(self, conversation: Conversation, *, generate: bool = False) -> Rendered:
        """Render each turn as its role, its bytes and an end. No text spells a control token."""
        stretches: list[Stretch] = []
        for message in conversation.messages:
            wanted = message.role == "assistant"
            stretches.append(("template", None, [IDS[f"<|{message.role}|>"]], False))
            for part in message.parts:
                if isinstance(part, AudioPart):
                    stretches.append(("audio", message.role, [AUDIO], False))
                else:
                    stretches.append(("text", message.role, list(part.text.encode()), wanted))
            stretches.append(("template", None, [END], wanted))
        if generate:
            stretches.append(("template", None, [IDS["<|assistant|>"]], False))
        return Rendered.of(stretches)

    def embed(self, ids: Tensor) -> Tensor:
        """Embed (L,) ids to (L, D)."""
        embedded: Tensor = self.embedding(ids)
        return embedded

    def forward(self, embeddings: Tensor, lengths: Tensor, select: Tensor) -> Tensor:
        """Run sequences laid end to end (N, D); return (M, V) logits at the selected positions."""
        sequences = Padded.stack(embeddings.split(lengths.tolist()))
        hidden, _ = self.run(sequences.values, [None] * len(self.blocks))
        return self.logits(hidden[sequences.mask()][select])

    def run(self, x: Tensor, states: Sequence[Tensor | None]) -> tuple[Tensor, list[Tensor]]:
        """Run (B, L, D) from the states before; return (B, L, D) and each layer's states (B, L, H)."""
        found: list[Tensor] = []
        for block, state in zip(self.blocks, states, strict=True):
            x, new = block(x, state)
            found.append(new)
        return x, found

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (..., V) of hidden states (..., D)."""
        return functional.linear(self.norm(hidden), self.embedding.weight)

    def generate(self, prompts: Sequence[Tensor], generation: Generation) -> list[list[int]]:
        """Continue prompts of (L_i, D) together, each from the state at its own end.

        Raises:
            ValueError: Beam search is asked for.
        """
        if generation.num_beams > 1:
            raise ValueError(
                f"llm 'mingru' has no beam search: num_beams must be 1, not {generation.num_beams}"
            )
        with torch.inference_mode():
            padded = Padded.stack(list(prompts))
            hidden, states = self.run(padded.values, [None] * len(self.blocks))
            last = padded.lengths.to(hidden.device) - 1
            rows = torch.arange(len(prompts), device=hidden.device)
            now, carried = hidden[rows, last], [state[rows, last] for state in states]
            answers: list[list[int]] = [[] for _ in prompts]
            done = [False] * len(prompts)
            for _ in range(generation.max_new_tokens):
                chosen = choose(self.logits(now).float(), generation)
                for number, token in enumerate(chosen.tolist()):
                    done[number] = done[number] or token == END
                    if not done[number]:
                        answers[number].append(token)
                if all(done):
                    break
                hidden, states = self.run(self.embed(chosen)[:, None], carried)
                now, carried = hidden[:, -1], [state[:, -1] for state in states]
        return answers

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids without control tokens."""
        return self.vocabulary.decode(ids)


def choose(logits: Tensor, generation: Generation) -> Tensor:
    """Choose the next id (B,) by logits (B, V): the most probable, or one that is drawn."""
    if generation.temperature == 0:
        return logits.argmax(-1)
    probabilities, order = (logits / generation.temperature).softmax(-1).sort(-1, descending=True)
    # The first of them stays in any case: what stands before it has a probability of 0.
    before = probabilities.cumsum(-1) - probabilities
    drawn = torch.multinomial(probabilities.masked_fill(before >= generation.top_p, 0.0), 1)
    return order.gather(1, drawn)[:, 0]
