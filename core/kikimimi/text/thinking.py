"""Which variables of a chat template switch thinking, and how answers begin where one opens thoughts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kikimimi.contracts.answer import THINKING, answer_text, open_thought
from kikimimi.text.template_sandbox import TemplateReads

_ON = frozenset(
    [
        "enable_thinking",
        "thinking",
        "think",
        "thinking_enabled",
        "use_thinking",
        "add_thinking",
        "enable_reasoning",
        "reasoning",
        "reasoning_enabled",
        "use_reasoning",
        "thinking_on",
    ]
)
"""Variables that are true where the model is to think: Qwen3, GLM-4.5, SmolLM3 (`enable_thinking`),
DeepSeek-V3.1, Granite (`thinking`), Command A (`reasoning`)."""
_OFF = frozenset(
    [
        "disable_thinking",
        "no_think",
        "no_thinking",
        "nothink",
        "skip_thinking",
        "skip_think",
        "disable_reasoning",
    ]
)
"""Variables that are true where it is not to."""
_BUDGETS = frozenset(["thinking_budget", "reasoning_budget", "max_thinking_tokens"])
"""Variables that say for how many tokens it may think: Seed-OSS."""
_LEVELS = frozenset(
    [
        "reasoning_effort",
        "thinking_effort",
        "effort",
        "thinking_mode",
        "reasoning_mode",
        "thinking_level",
        "reasoning_level",
        "thinking_option",
        "reasoning_strategy",
    ]
)
"""Variables that say how, by a word: gpt-oss, Mistral (`reasoning_effort`), MiniMax (`thinking_mode`)."""
_LEAST = ("none", "off", "no_think", "/no_think", "nothink", "disabled", "disable", "minimal")
"""Words for not thinking, and at last for the least of it."""
_LOW = "low"


def thinking_off(reads: TemplateReads, render: Callable[[dict[str, Any]], str]) -> dict[str, Any]:
    """Return the variables that switch thinking off in a template, or to the least that it knows.

    Args:
        reads: What the template reads.
        render: Renders a conversation that ends in a generation's prompt, with these variables.
    """
    switches: dict[str, Any] = {}
    for name in sorted(reads.variables & (_ON | _OFF | _BUDGETS | _LEVELS)):
        if name in _LEVELS:
            least = next((word for word in _LEAST if word in reads.words), None)
            if least is None and _has_default(render, name):
                least = _LOW
            if least is not None:
                switches[name] = least
        else:
            switches[name] = 0 if name in _BUDGETS else name in _OFF
    return switches


def thinking_on(reads: TemplateReads) -> dict[str, Any]:
    """Return the variables that switch thinking on in a template; how much of it stays the template's own."""
    return {name: name in _ON for name in sorted(reads.variables & (_ON | _OFF))}


def knows_thinking(source: str, reads: TemplateReads) -> bool:
    """Whether a template has a switch of thinking, or spells thoughts."""
    spelled = any(tag in source for pair in THINKING for tag in pair)
    return spelled or bool(reads.variables & (_ON | _OFF | _BUDGETS | _LEVELS))


def _has_default(render: Callable[[dict[str, Any]], str], name: str) -> bool:
    """Whether a template writes a level of its own where none is given: then silence is not the least."""
    silent, low = render({}), render({name: _LOW})
    start = next((i for i, (a, b) in enumerate(zip(silent, low, strict=False)) if a != b), len(silent))
    end = 0
    while end < min(len(silent), len(low)) - start and silent[-1 - end] == low[-1 - end]:
        end += 1
    return len(silent) - start - end > 0


@dataclass(frozen=True)
class Opening:
    """How each answer begins where a template opens answers with a thought, which may be an empty one.

    Templates write it before the last answer only, or into a prompt but not into the conversation that goes
    on from it; here all answers begin alike, in training and in generation.

    Attributes:
        header: What the template puts at the end of a generation's prompt.
        lead: What it writes after that before the words of the last answer.
        prompt: What stands in place of the header: all that generation starts from.
        rest: What is learnt before the words.
    """

    header: str
    lead: str
    prompt: str
    rest: str

    @classmethod
    def find(cls, header: str, frame: str, *, thinking: bool) -> "Opening | None":
        """Return the opening, or None where the template opens no thoughts.

        Args:
            header: What the template puts at the end of a generation's prompt.
            frame: What stands between a question and the last answer.
            thinking: Whether the model is to think.
        """
        place = _place(frame, header)
        if place is None:
            return None
        start, end = place
        lead = frame[end:]
        tags = next((pair for pair in THINKING if any(tag in header + lead for tag in pair)), None)
        if tags is None or answer_text(lead) or answer_text(header[end - start :]):
            return None
        prompt, rest = header, lead
        if not thinking and any(tag in lead for tag in tags):
            prompt, rest = header + lead, ""
        if open_thought(prompt + rest) is not None:
            close = ("" if (prompt + rest).endswith("\n") else "\n") + tags[1] + "\n\n"
            prompt, rest = (prompt, rest + close) if thinking else (prompt + close, rest)
        return cls(header, lead, prompt, rest)

    def replace(self, frame: str) -> tuple[str, int] | None:
        """Return what stands before an answer, opened as all are, and where in it the answer begins.

        None is where the template does not open this one so that it can be told.
        """
        place = _place(frame, self.header)
        if place is None or frame[place[1] :] not in ("", self.lead):
            return None
        opened = frame[: place[0]] + self.prompt
        return opened + self.rest, len(opened)


def _place(frame: str, header: str) -> tuple[int, int] | None:
    """Return where a header, or the longest beginning of it before its thought, stands last in a frame."""
    thought = min((at for pair in THINKING for tag in pair if (at := header.find(tag)) >= 0), default=None)
    for length in (len(header), *range(len(header) if thought is None else thought, 0, -1)):
        start = frame.rfind(header[:length])
        if start >= 0 and header[:length].strip():
            return start, start + length
    return None
