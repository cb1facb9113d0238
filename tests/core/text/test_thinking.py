"""Templates that know of thinking: what is learnt, and what generation starts from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from kikimimi import AudioPart, Conversation, Message, TextPart
from kikimimi.contracts.answer import answer_text, open_thought
from kikimimi.contracts.batch import render_view
from kikimimi.contracts.component import Rendered
from kikimimi.text.chat_template import ChatTemplate
from kikimimi_llms.scratch import build_tokenizer

EMPTY = "<think>\n\n</think>\n\n"
# What Qwen3's published template does: no thoughts in earlier answers, an empty one before the last, and one
# in the prompt where thinking is off.
QWEN3 = (
    "{% set state = namespace(asked=0) %}"
    "{% for m in messages if m.role == 'user' %}{% set state.asked = state.asked + 1 %}{% endfor %}"
    "{% set seen = namespace(number=0) %}"
    "{% for m in messages %}{% set text = m.content %}"
    "{% if m.role == 'user' %}{% set seen.number = seen.number + 1 %}{% endif %}"
    "{% if m.role == 'assistant' %}{% set thought = '' %}"
    "{% if '</think>' in text %}"
    "{% set thought = text.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|assistant|>' }}{% if seen.number == state.asked and loop.last %}"
    "{{ '<think>\n' + thought + '\n</think>\n\n' + text.lstrip('\n') }}{% else %}{{ text }}{% endif %}"
    "{% else %}{{ '<|' + m.role + '|>' + text }}{% endif %}{{ '<|end|>' }}{% endfor %}"
)
QWEN3_PROMPT = "{{ '<think>\n\n</think>\n\n' if enable_thinking is defined and enable_thinking is false }}"
TURNS = "{% for m in messages %}{{ '<|' + m.role + '|>' + OPEN + m.content + '<|end|>' }}{% endfor %}"


def asks(prompt: str) -> str:
    return "{% if add_generation_prompt %}{{ '<|assistant|>' }}" + prompt + "{% endif %}"


def turns(opening: str = "''") -> str:
    return TURNS.replace("OPEN", f"({opening} if m.role == 'assistant' else '')")


TEMPLATES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": (QWEN3 + asks(QWEN3_PROMPT), {"enable_thinking": False}),
    # Qwen3.5: where it is on, the prompt opens the thought
    "qwen3.5": (
        QWEN3 + asks("{% if enable_thinking is false %}" + QWEN3_PROMPT + "{% else %}<think>\n{% endif %}"),
        {"enable_thinking": False},
    ),
    # Qwen3-Thinking: always, with no switch
    "always": (QWEN3 + asks("{{ '<think>\n' }}"), {}),
    # DeepSeek-R1: the prompt opens a thought that the conversation does not have
    "r1": (turns() + asks("{{ '<think>\n' }}"), {}),
    "deepseek3.1": (
        "{% if not thinking is defined %}{% set thinking = false %}{% endif %}"
        + turns("'</think>'")
        + asks("{{ '<think>' if thinking else '</think>' }}"),
        {"thinking": False},
    ),
    "granite": ("{{ 'Think first.' if thinking }}" + turns() + asks(""), {"thinking": False}),
    "gpt-oss": (
        "{% if reasoning_effort is not defined %}{% set reasoning_effort = 'medium' %}{% endif %}"
        "{{ 'Reasoning: ' + reasoning_effort }}" + turns() + asks(""),
        {"reasoning_effort": "low"},
    ),
    # Where nothing is written unless a level is given, that is the least.
    "silent": ("{{ 'Reasoning: ' + reasoning_effort if reasoning_effort }}" + turns() + asks(""), {}),
    "mistral": (
        "{{ '' if reasoning_effort == 'none' else '[HIGH]' }}" + turns() + asks(""),
        {"reasoning_effort": "none"},
    ),
    "seed-oss": (
        "{% set budget = thinking_budget | default(-1) %}"
        + turns()
        + asks("{{ '<seed:think>\n(no budget)\n</seed:think>' if budget == 0 }}"),
        {"thinking_budget": 0},
    ),
    "negative": (turns() + asks("{{ '' if skip_thinking else '<think>' }}"), {"skip_thinking": True}),
    "plain": (turns() + asks(""), {}),
}
SPELLED = sorted({"qwen3", "qwen3.5", "always", "r1", "deepseek3.1"})


def chat(template: str, **options: Any) -> ChatTemplate:
    tokenizer = build_tokenizer("bytes", ())
    tokenizer.chat_template = template
    return ChatTemplate(tokenizer, source="test", **options)


def talk(*texts: str) -> Conversation:
    roles: Any = ("user", "assistant")
    return Conversation(tuple(Message(roles[i % 2], (TextPart(text),)) for i, text in enumerate(texts)))


def learnt(rendered: Rendered) -> list[list[int]]:
    """Return the places of each run of targets."""
    runs: list[list[int]] = []
    for place, wanted in enumerate(rendered.loss):
        if wanted and runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        elif wanted:
            runs.append([place])
    return runs


def said(rendering: ChatTemplate, rendered: Rendered, places: list[int]) -> str:
    return str(rendering.tokenizer.decode([rendered.ids[place] for place in places]))


@pytest.mark.parametrize("name", TEMPLATES)
def test_thinking_is_off_by_default(name: str) -> None:
    template, switches = TEMPLATES[name]
    seen = chat(template)
    given = ChatTemplate(seen.tokenizer, source="test", variables=switches)
    for turns_ in (talk("a"), talk("a", "b", "c", "d")):
        assert seen.text(turns_, generate=True) == given.text(turns_, generate=True)
    prompt = seen.text(talk("a"), generate=True)
    assert open_thought(prompt) is None
    assert "Think first" not in prompt
    assert "HIGH" not in prompt
    assert ("Reasoning: low" in prompt) == (name == "gpt-oss")
    assert "medium" not in prompt


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("name", TEMPLATES)
def test_every_answer_begins_where_generation_does(name: str, thinking: bool) -> None:
    if thinking and name == "plain":
        pytest.skip("it knows of none")
    rendering = chat(TEMPLATES[name][0], thinking=thinking)
    whole = talk("a", "はい", "c", "いいえ", "e", "\n f")
    rendered = rendering.render(whole)
    runs = learnt(rendered)
    assert len(runs) == 3
    leads = set()
    for number, (places, answer) in enumerate(zip(runs, ("はい", "いいえ", "\n f"), strict=True)):
        asked = Conversation(whole.messages[: 2 * number + 1])
        assert rendered.ids[: places[0]] == rendering.render(asked, generate=True).ids
        target = said(rendering, rendered, places)
        assert target.rstrip().removesuffix("<|end|>").endswith(answer.strip())
        leads.add(target[: target.index(answer.strip())].strip())
    assert len(leads) == 1  # alike in every turn
    if not thinking:
        assert leads == {""}


@pytest.mark.parametrize("name", SPELLED)
def test_on_what_is_learnt_closes_the_thought(name: str) -> None:
    rendering = chat(TEMPLATES[name][0], thinking=True)
    rendered = rendering.render(talk("a", "b"))
    (places,) = learnt(rendered)
    before = rendering.text(talk("a"), generate=True)
    target = said(rendering, rendered, places)
    assert answer_text((open_thought(before) or "") + target.removesuffix("<|end|>")) == "b"
    assert "</think>" in target


def test_the_measured_case() -> None:
    """Qwen3's default: the empty thought was a target, a prediction, and a character error rate of 173 %."""
    template, _ = TEMPLATES["qwen3"]
    once, target = "今日は天気がいいですね", EMPTY
    assert round(100 * len(target) / len(once)) == 173
    on, off = chat(template, thinking=True), chat(template)
    rendered = on.render(talk("何", once))
    assert said(on, rendered, learnt(rendered)[0]) == f"{EMPTY}{once}<|end|>"
    rendered = off.render(talk("何", once))
    assert said(off, rendered, learnt(rendered)[0]) == f"{once}<|end|>"
    assert off.text(talk("何"), generate=True).endswith(f"<|assistant|>{EMPTY}")
    assert off.text(talk("a", "b", "c", "d")).count(EMPTY) == 2  # the template: before the last answer only


def test_what_is_named_goes_first() -> None:
    template, _ = TEMPLATES["gpt-oss"]
    assert "Reasoning: high" in chat(template, variables={"reasoning_effort": "high"}).text(talk("a"))
    assert "Reasoning: medium" in chat(template, thinking=True).text(talk("a"))
    assert "Think first" in chat(TEMPLATES["granite"][0], thinking=True).text(talk("a"))


def test_thinking_that_no_template_knows_of() -> None:
    with pytest.raises(ValueError, match=r"test: thinking is true, and the chat template knows of none"):
        chat(TEMPLATES["plain"][0], thinking=True)


def test_only_a_variable_that_is_read_can_be_given() -> None:
    """Text that looks like one, and a name that the template sets itself, are none."""
    for template in ("{# enable_thinking #}", "{% set enable_thinking = true %}"):
        with pytest.raises(ValueError, match="reads no variable 'enable_thinking'"):
            chat(template + TEMPLATES["plain"][0], variables={"enable_thinking": False})


def test_a_thought_in_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rewrites .* turn.*An answer holds a thought.*the answer alone"):
        chat(TEMPLATES["qwen3"][0]).render(talk("a", "<think>so</think>b"))


def test_the_teacher_is_asked_as_the_model_is() -> None:
    """What `distill` reads in writing opens the answer as the spoken conversation does."""
    rendering: Any = chat(TEMPLATES["qwen3"][0])
    asked = Message("user", (AudioPart("0.flac", "やあ"), TextPart("何")))
    spoken = Conversation((asked, Message("assistant", (TextPart("b"),))))
    decode: Callable[[list[int]], str] = rendering.tokenizer.decode
    for view in ("prompt", "written_prompt"):
        assert decode(render_view(rendering, spoken, view).ids).endswith(f"<|assistant|>{EMPTY}")
    written = render_view(rendering, spoken, "written")
    assert decode(written.ids).endswith(f"<|assistant|>{EMPTY}b<|end|>")
    assert said(rendering, written, learnt(written)[0]) == "b<|end|>"


def thinker() -> PreTrainedTokenizerFast:
    tokenizer: PreTrainedTokenizerFast = build_tokenizer("bytes", ())
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    return tokenizer


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("[THINK]so[/THINK]b", "b"),
        ("so[/THINK]b", "b"),
        ("[THINK]so", ""),
        ("b", "b"),
        ("a[THINK]so[/THINK]b", "ab"),
    ],
)
def test_thoughts_between_tokens_that_decoding_leaves_out(written: str, kept: str) -> None:
    tokenizer = thinker()
    rendering = ChatTemplate(tokenizer, source="test")
    ids = rendering.outside_thoughts(tokenizer.encode(written, add_special_tokens=False))
    assert tokenizer.decode(ids, skip_special_tokens=True) == kept
