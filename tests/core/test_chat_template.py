from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kikimimi import AudioPart, Conversation, Message, TextPart
from kikimimi.chat_template import ChatTemplate
from kikimimi_llms.scratch_tokenizer import CONTROL, build_tokenizer

LLAMA3 = (
    "{{ '<|assistant|>' }}{% for m in messages %}"
    "{{ '<|user|>' + m.role + '<|system|>\n\n' + m.content | trim + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|user|>assistant<|system|>\n\n' }}{% endif %}"
)


def chat(template: str | None = None) -> ChatTemplate:
    tokenizer = build_tokenizer("bytes", ())
    if template is not None:
        tokenizer.chat_template = template
    return ChatTemplate(tokenizer, source="test")


def conversation(*turns: tuple[Any, Any]) -> Conversation:
    return Conversation(
        tuple(
            Message(role, parts if isinstance(parts, tuple) else (TextPart(parts),)) for role, parts in turns
        )
    )


TEXT = st.text(max_size=30) | st.lists(
    st.sampled_from([*CONTROL, "<|", "|>", "end", "a", "\n", "<|end|", "あ"]), max_size=8
).map("".join)
FINE = TEXT.filter(lambda text: not set(text) & {"\ufdd0", "\ufdd1"})


@given(FINE, FINE, st.sampled_from([None, LLAMA3]))
def test_nobody_can_spell_a_control_token(question: str, answer: str, template: str | None) -> None:
    rendering = chat(template)
    turns = conversation(("user", question), ("assistant", answer))
    harmless = conversation(("user", "x"), ("assistant", "y"))
    control = set(rendering.tokenizer.all_special_ids)
    ids = rendering.render(turns).ids
    assert [i for i in ids if i in control] == [i for i in rendering.render(harmless).ids if i in control]
    assert rendering.tokenizer.decode(ids) == rendering.text(turns)


@given(st.text(max_size=20, alphabet="ab \n。あ"), st.text(max_size=20, alphabet="cd \n。い"))
@pytest.mark.parametrize("template", [None, LLAMA3])
def test_text_and_ids_are_the_template_s_own(template: str | None, question: str, answer: str) -> None:
    rendering = chat(template)
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    turns = conversation(("user", question), ("assistant", answer))
    tokenizer = rendering.tokenizer
    assert rendering.text(turns) == tokenizer.apply_chat_template(messages, tokenize=False)
    rendered = rendering.render(turns)
    assert rendered.ids == tokenizer.apply_chat_template(messages, return_dict=False)
    loss = tokenizer.decode([i for i, wanted in zip(rendered.ids, rendered.loss, strict=True) if wanted])
    assert loss == (answer if template is None else answer.strip()) + "<|end|>"


def test_every_assistant_turn_is_learnt() -> None:
    rendering = chat(LLAMA3)
    rendered = rendering.render(
        conversation(("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "b"), ("assistant", "a"))
    )
    learnt = [i for i, wanted in zip(rendered.ids, rendered.loss, strict=True) if wanted]
    assert rendering.tokenizer.decode(learnt) == "b<|end|>a<|end|>"


def test_audio_becomes_slots_in_order() -> None:
    rendering = chat()
    rendered = rendering.render(
        conversation(
            ("user", (AudioPart("0.flac"), TextPart("ab"), AudioPart("1.flac"))),
            ("assistant", "c"),
            ("user", (AudioPart("2.flac"),)),
        ),
        generate=True,
    )
    without = [i for n, i in enumerate(rendered.ids) if n not in rendered.slots]
    assert rendered.slots == [1, 4, 10]
    assert (
        rendering.tokenizer.decode(without)
        == "<|user|>ab<|end|><|assistant|>c<|end|><|user|><|end|><|assistant|>"
    )


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}<|end|>", "drops or rewrites"),
        (
            "{% for m in messages %}{{ m.content }}{% endfor %}",
            "ends an assistant turn with no control token",
        ),
        ("{{ raise_exception('no such role') }}", "refuses the conversation"),
    ],
)
def test_templates_that_cannot_work(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chat(template)


def test_a_template_that_drops_a_turn() -> None:
    rendering = chat("{% for m in messages if m.role != 'system' %}{{ m.content }}<|end|>{% endfor %}")
    with pytest.raises(ValueError, match="drops or rewrites the system turn 0"):
        rendering.render(conversation(("system", "s"), ("user", "a")))


def test_noncharacters_are_refused() -> None:
    with pytest.raises(ValueError, match="noncharacter"):
        chat().render(conversation(("user", "a\ufdd1b")))
