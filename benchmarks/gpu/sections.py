"""The sections, in the order in which they are run: what matters most comes first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .attention import attention
from .cuda_tests import cuda_tests
from .generation import generation
from .machine import machine
from .parity import parity
from .resume import resume
from .subject import Subject
from .training import adapter, compiled, fsdp, lora


@dataclass(frozen=True)
class Section:
    """Something that is measured by itself.

    Attributes:
        measure: Measures it.
        seconds: Most that it may take [s].
    """

    measure: Callable[[Subject], dict[str, Any]]
    seconds: float


SECTIONS: Mapping[str, Section] = {
    "machine": Section(machine, 45),
    "adapter": Section(adapter, 75),
    "lora": Section(lora, 75),
    "attention": Section(attention, 100),
    "generation": Section(generation, 60),
    "parity": Section(parity, 45),
    "resume": Section(resume, 60),
    "tests": Section(cuda_tests, 150),
    "fsdp": Section(fsdp, 75),
    "compile": Section(compiled, 120),
}
