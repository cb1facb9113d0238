"""Chat templates of exports: what a run's own template writes."""

from types import SimpleNamespace

import pytest

from kikimimi import CHAT_TEMPLATES, AudioPart, ChatTemplate, Conversation, Message, TextPart
from kikimimi.published.prompts import served_template
from kikimimi.text.guarded_tokenizer import AUDIO
from kikimimi_recognisers.tiny_audio_flamingo import byte_tokenizer

_MARKS = ("</s>", "<s>", "<|im_end|>", "<|im_start|>", "<|audio|>", "<a>", "</a>")
_TURNS = [
    ("system", ["Be brief."]),
    ("user", [None, None, " Who\nis this? "]),
    ("assistant", ["Nobody."]),
    ("user", [None, "And {{ this }}?"]),
]
THINKING = (
    "{% for m in messages %}\n  {% if m.role == 'user' %}<|im_start|>{{ m.content }}{% else %}{{ m.content }}"
    "<|im_end|>{% endif %}\n{% endfor %}{% if add_generation_prompt %}<s>\n"
    "{% if enable_thinking is defined and not enable_thinking %}off{% endif %}{% endif %}\n"
)


def _part(said: str | None) -> dict[str, str]:
    return {"type": "audio"} if said is None else {"type": "text", "text": said}


@pytest.mark.parametrize("name", [*sorted(CHAT_TEMPLATES), THINKING])
@pytest.mark.parametrize("turns", [_TURNS, _TURNS[1:], _TURNS[3:]])
@pytest.mark.parametrize("mark", [None, ("<a>", "</a>")])
def test_writes_what_the_run_s_template_writes(
    name: str, turns: list[tuple[str, list[str | None]]], mark: tuple[str, str] | None
) -> None:
    tokenizer = byte_tokenizer(*_MARKS)
    tokenizer.bos_token = "<s>"
    start, end = mark or (None, None)
    chat = ChatTemplate(tokenizer, source="a test", template=name, audio_start=start, audio_end=end)
    messages = [
        Message(role, tuple(AudioPart("a.flac") if said is None else TextPart(said) for said in parts))  # type: ignore[arg-type]
        for role, parts in turns
    ]
    expected = chat.text(Conversation(tuple(messages)), generate=True)
    clip = f"{start or ''}<|audio|>{end or ''}"
    llm = SimpleNamespace(chat=chat, config=SimpleNamespace(audio_start=start, audio_end=end))
    tokenizer.chat_template = served_template(llm, "<|audio|>")
    given = [{"role": role, "content": [_part(said) for said in parts]} for role, parts in turns]
    options = {"add_generation_prompt": True, "tokenize": False}
    assert tokenizer.apply_chat_template(given, **options) == expected.replace(AUDIO, clip)
    # Where an export is taken in again, marks are the template's.
    again = ChatTemplate(tokenizer, source="an export")
    conversation = Conversation(tuple(messages))
    assert again.text(conversation, generate=True) == expected.replace(
        AUDIO, f"{start or ''}{AUDIO}{end or ''}"
    )
    assert again.render(conversation, generate=True).ids == chat.render(conversation, generate=True).ids
    # The API's other form: texts that hold placeholders.
    texts = [
        {"role": role, "content": "".join("<|audio|>" if said is None else said for said in parts)}
        for role, parts in turns
    ]
    assert tokenizer.apply_chat_template(texts, **options) == expected.replace(AUDIO, clip)
