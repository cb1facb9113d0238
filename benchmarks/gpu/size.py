"""How large everything is that is measured: at full size, or so small that a CPU does it in the tests."""

from __future__ import annotations

from dataclasses import dataclass

_STAGES = """
stages:
  adapter:
    train: {{adapter: {{lr: 1.0e-4}}}}
    data: {{none: {{shards: none.tar, task: asr}}}}
    batch: {{tokens: {positions}}}
    steps: 1000
  lora:
    start_from: null
    train: {{adapter: {{lr: 1.0e-4}}, llm: {{lr: 1.0e-4, part: lora}}}}
    data: {{none: {{shards: none.tar, task: asr}}}}
    batch: {{tokens: {positions}}}
    steps: 1000
trainer: {{precision: bf16}}
"""
_FULL = """
name: full
encoder: {{name: whisper, weights: openai/whisper-large-v3}}
adapter: {{name: mlp, downsample: 4, pool: stack, hidden_dim: 4096}}
llm:
  name: llama
  weights: meta-llama/Llama-3.1-8B-Instruct
  dtype: bf16
  lora: {{rank: 16, alpha: 32}}
"""
_TINY = """
name: tiny
encoder:
  name: whisper
  weights: random
  sizes: {{dim: 32, num_layers: 2, num_heads: 2, ffn_dim: 64, num_positions: 300}}
  fixed: ["*"]
adapter: {{name: mlp, downsample: 4, pool: stack, hidden_dim: 32}}
llm:
  name: llama
  weights: random
  scratch: {{dim: 32, num_layers: 2, num_heads: 4, num_kv_heads: 2, ffn_dim: 64, tokenizer: bytes}}
  dtype: bf16
  fixed: ["*"]
  lora: {{rank: 2, alpha: 4}}
"""


@dataclass(frozen=True, kw_only=True)
class Size:
    """One size of everything.

    Attributes:
        name: What `--size` calls it.
        parts: The recipe's parts, as a template of its YAML.
        positions: Budget of a micro-batch [positions].
        clip_seconds: Length of each clip [s].
        prompt_tokens: Text tokens of each request, with all markup.
        answer_tokens: Targets of each conversation.
        warm_up: Steps that are not timed.
        steps: Steps that are.
        repeats: Repeats of what is timed outside training.
        new_tokens: Tokens that are generated for each prompt.
        prompts: Prompts that are continued together.
        num_heads: Attention heads, where attention is measured alone.
        num_kv_heads: Key-value heads there.
        head_dim: Width of a head there.
        copied: Numbers that are copied to measure the memory's rate.
        backend: What compiles: `torch.compile`'s backend.
    """

    name: str
    parts: str
    positions: int
    clip_seconds: float
    prompt_tokens: int
    answer_tokens: int
    warm_up: int
    steps: int
    repeats: int
    new_tokens: int
    prompts: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    copied: int
    backend: str

    @property
    def recipe(self) -> str:
        """The recipe in YAML."""
        return (self.parts + _STAGES).format(positions=self.positions)


SIZES = {
    "full": Size(
        name="full",
        parts=_FULL,
        positions=4096,
        clip_seconds=12.0,
        prompt_tokens=30,
        answer_tokens=60,
        warm_up=3,
        steps=10,
        repeats=20,
        new_tokens=64,
        prompts=8,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        copied=1 << 30,
        backend="inductor",
    ),
    "tiny": Size(
        name="tiny",
        parts=_TINY,
        positions=96,
        clip_seconds=1.0,
        prompt_tokens=12,
        answer_tokens=8,
        warm_up=1,
        steps=2,
        repeats=2,
        new_tokens=4,
        prompts=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        copied=1 << 16,
        backend="eager",
    ),
}
