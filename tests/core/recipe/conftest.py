"""Recipes over pretended components, whose options cover every form that a plugin's may take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kikimimi.errors import RecipeError
from kikimimi.recipe import Recipe, load_recipe

PARTS = """
from __future__ import annotations
import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Optional

from kikimimi.contracts.component import LLM, Adapter, ComponentConfig, Encoder
from kikimimi.contracts.recogniser import Recogniser, RecogniserConfig
from kikimimi.contracts.task import Task, TaskConfig

class Size(enum.Enum):
    SMALL = 1
    LARGE = 2

@dataclass(kw_only=True, frozen=True)
class Norm:
    kind: Literal["layer", "rms"] = "layer"
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if self.epsilon <= 0:
            raise ValueError(f"epsilon must be above 0, not {self.epsilon}")

class Ear(Encoder):
    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        weights: str = "random"
        pad: Literal["none", "window"] = "none"
        layers: list[int] = field(default_factory=lambda: [-1])
        size: Size = Size.SMALL

class Plain(Adapter):
    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        downsample: int = 4
        hidden_dim: Optional[int] = None
        dropout: float = 0.0
        bias: bool = True
        activation: Literal["gelu", "relu"] = "gelu"
        norm: Norm = field(default_factory=Norm)
        extra: Norm | None = None
        norms: list[Norm] = field(default_factory=list)
        shape: tuple[int, int] = (1, 2)
        scales: dict[str, float] = field(default_factory=dict)
        layer: int | str = "last"
        cache: Path = Path("cache")
        free: Any = None
        words: list[str] = field(default_factory=list)

        def __post_init__(self) -> None:
            if self.downsample < 1:
                raise ValueError(f"downsample must be at least 1, not {self.downsample}")
            if self.dropout and not self.bias:
                raise ValueError("without bias there is no dropout")

class Query(Adapter):
    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        num_queries: int = 64
        downsample: int = 1

class Unreadable(Adapter):
    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        steps: set[int] = field(default_factory=set)

class Reserved(Adapter):
    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        lora: int = 0

class Bare(Adapter):
    pass

class Talker(LLM):
    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        weights: str = "random"

class WriteDown(Task):
    @dataclass(kw_only=True, frozen=True)
    class Config(TaskConfig):
        language: str | None = None
        prompt: str = ""

class Talk(Task):
    @dataclass(kw_only=True, frozen=True)
    class Config(TaskConfig):
        turns: int = 1

class Rival(Recogniser):
    @dataclass(kw_only=True, frozen=True)
    class Config(RecogniserConfig):
        weights: str = "random"
"""

BASE = """\
name: base
encoder: {name: ear, weights: org/ear}
adapter:
  name: plain
  downsample: 8
llm: {name: talker, weights: org/talker, lora: {rank: 4}}
stages:
  align:
    train: {adapter: {lr: 1e-3}}
    data:
      clips: {shards: "clips-{00..11}.tar", task: write_down}
    batch: {seconds: 30, global: 4}
    steps: 100
  tune:
    train: {adapter: {}, llm: {lr: 1.0e-5, part: lora}}
    data:
      clips: {shards: clips.tar, task: {name: write_down, language: ja}, weight: 6}
      talk: {shards: talk.tar, task: talk, weight: 1}
    steps: 50
evaluate:
  held_out:
    shards: test.tar
    task: write_down
    normaliser: none
    baselines: {rival: {name: rival, weights: org/rival}}
"""


@pytest.fixture(autouse=True)
def parts(install: Any) -> None:
    """Install the pretended components."""
    adapters = {
        name.lower(): f"third_parts:{name}" for name in ("Plain", "Query", "Unreadable", "Reserved", "Bare")
    }
    install(
        "third-parts",
        {
            "kikimimi.encoders": {"ear": "third_parts:Ear"},
            "kikimimi.adapters": adapters | {"broken": "third_broken:Broken"},
            "kikimimi.llms": {"talker": "third_parts:Talker"},
            "kikimimi.tasks": {"write_down": "third_parts:WriteDown", "talk": "third_parts:Talk"},
            "kikimimi.recognisers": {"rival": "third_parts:Rival"},
        },
        {"third_parts": PARTS, "third_broken": "raise OSError('no such device')\n"},
    )


@pytest.fixture
def base() -> str:
    """A recipe that is right."""
    return BASE


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write files and return the path of the last, relative to the working folder."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "x.yaml") -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return path

    return write


@pytest.fixture
def load(write: Callable[..., Path]) -> Callable[..., Recipe]:
    """Load a recipe from its text."""
    return lambda text, *overrides: load_recipe(write(text), overrides)


@pytest.fixture
def problems(write: Callable[..., Path]) -> Callable[..., list[str]]:
    """Return the problems of a recipe from its text."""

    def problems(text: str, *overrides: str) -> list[str]:
        with pytest.raises(RecipeError) as raised:
            load_recipe(write(text), overrides)
        return list(raised.value.problems)

    return problems
