from __future__ import annotations

import copy
import pickle
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram
from transformers import PreTrainedTokenizerFast

from kikimimi import AudioPart, Conversation, Message, TextPart
from kikimimi.text.chat_template import ChatTemplate
from kikimimi.text.templates import CHAT_TEMPLATES
from kikimimi_llms.scratch import CONTROL, build_tokenizer

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


@given(FINE, FINE, st.sampled_from([None, LLAMA3]))
def test_spans_tell_who_says_what(question: str, answer: str, template: str | None) -> None:
    rendering = chat(template)
    decode = rendering.tokenizer.decode
    asked = (TextPart(question), AudioPart("0"), AudioPart("1"), TextPart("."))
    rendered = rendering.render(conversation(("user", asked), ("assistant", answer)))
    ids, loss, spans = rendered.ids, rendered.loss, rendered.spans
    assert [0, *(span.end for span in spans)] == [*(span.start for span in spans), len(ids)]
    assert [(s.role, s.start) for s in spans if s.kind == "audio"] == [("user", i) for i in rendered.slots]
    said = [(s.role, decode(ids[s.start : s.end])) for s in spans if s.kind == "text"]
    texts = [question, ".", answer] if template is None else [question.lstrip(), ".", answer.strip()]
    assert said == [(who, t) for who, t in zip(("user", "user", "assistant"), texts, strict=True) if t]
    for span in spans:
        if span.kind != "template":
            assert set(loss[span.start : span.end]) == {span.role == "assistant"}
    added = [i for s in spans if s.kind == "template" for i in range(s.start, s.end)]
    assert [ids[i] for i in added if loss[i]] == [rendering.end_of_turn]


def test_clips_outside_the_content_are_their_speaker_s() -> None:
    rendering = chat(
        "{% for message in messages %}"
        "{{ message.audio + '<|' + message.role + '|>' + message.content + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    asked = (AudioPart("0"), TextPart("a"))
    rendered = rendering.render(
        conversation(("user", asked), ("assistant", "b"), ("user", (AudioPart("1"),)))
    )
    assert [(s.kind, s.role) for s in rendered.spans] == [
        ("audio", "user"),
        ("template", None),
        ("text", "user"),
        ("template", None),
        ("text", "assistant"),
        ("template", None),
        ("audio", "user"),
        ("template", None),
    ]


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


SENTENCEPIECE = ("first", "always", "prepend", "start")
"""Where a SentencePiece tokenizer puts its blank: before the text, or after each control token too."""

WORDS = [("▁a", -2.5), ("▁user", -2.5), ("▁answer", -2.5), ("answer", -2.6), ("はい", -2.0), ("▁はい", -1.9)]
SHIPPED = sorted(CHAT_TEMPLATES)
MARKED = {name: ["<|im_start|>", "<|im_end|>"] for name in ("chatml", "qwen2_audio")}
"""Control tokens that templates of one family of models spell."""


@cache
def sentencepiece(kind: str) -> Any:
    characters = sorted(set("abcdefghijklmnopqrstuvwxyzUSERAITN|<>[]/_.:#応答指示"))
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("<|bos|>", 0.0), ("<|eos|>", 0.0), ("▁", -2.0)]
    pieces += [(character, -3.0) for character in characters] + WORDS
    pieces += [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
    backend = Tokenizer(Unigram(pieces, unk_id=0, byte_fallback=True))
    blank = normalizers.Replace(" ", "▁")
    if kind == "prepend":  # as Llama 2's tokenizer.json
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), blank])
    elif kind == "start":  # as LLM-jp-4's
        backend.normalizer = normalizers.Sequence([normalizers.Replace(Regex("^"), "▁"), blank])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(steps)
    backend.add_special_tokens(["<s>", "</s>", "<unk>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


@cache
def shipped(tokenizer: str, template: str) -> ChatTemplate:
    built = build_tokenizer("bytes", ()) if tokenizer == "bytes" else copy.deepcopy(sentencepiece(tokenizer))
    if template in MARKED:
        built.add_special_tokens({"additional_special_tokens": MARKED[template]})
    return ChatTemplate(built, source="test", template=template)


HOSTILE = st.lists(
    st.sampled_from(
        ["<s>", "</s>", "<unk>", "<|end|>", "<|user|>", "<", "/s>", "s>", " ", "\n", "a", "answer", "はい"]
    ),
    max_size=7,
).map("".join)
PLAIN = st.text(max_size=20, alphabet="a answer\n。はい#")


@pytest.mark.parametrize("tokenizer", ["bytes", *SENTENCEPIECE])
@pytest.mark.parametrize("template", SHIPPED)
@settings(max_examples=20)
@given(turns=st.lists(PLAIN, min_size=2, max_size=4))
def test_shipped_templates_give_the_tokenizer_s_ids(tokenizer: str, template: str, turns: list[str]) -> None:
    rendering = shipped(tokenizer, template)
    roles = ["user", "assistant"] * 2
    messages = [{"role": r, "content": t, "audio": ""} for r, t in zip(roles, turns, strict=False)]
    talk = conversation(*zip(roles, turns, strict=False))
    assert rendering.text(talk) == rendering.tokenizer.apply_chat_template(messages, tokenize=False)
    assert rendering.render(talk).ids == rendering.tokenizer.apply_chat_template(messages, return_dict=False)


@pytest.mark.parametrize("tokenizer", ["bytes", *SENTENCEPIECE])
@pytest.mark.parametrize("template", SHIPPED)
@settings(max_examples=20)
@given(question=HOSTILE, answer=HOSTILE)
def test_no_text_becomes_a_control_token(tokenizer: str, template: str, question: str, answer: str) -> None:
    rendering = shipped(tokenizer, template)
    control = set(rendering.tokenizer.all_special_ids) - {rendering.tokenizer.unk_token_id}
    harmless = rendering.render(conversation(("user", "a"), ("assistant", "a"))).ids
    found = rendering.render(conversation(("user", question), ("assistant", answer))).ids
    assert [i for i in found if i in control] == [i for i in harmless if i in control]


@pytest.mark.parametrize("kind", SENTENCEPIECE)
@given(text=st.lists(st.sampled_from(["</s>", "<s>", "<", "/s>", "a", " "]), max_size=6).map("".join))
def test_cutting_changes_no_character(kind: str, text: str) -> None:
    rendering = shipped(kind, "plain")
    ids = rendering.render(conversation(("user", f"x{text}"), ("assistant", f"y{text}"))).ids
    written = (
        "".join(rendering.tokenizer.convert_ids_to_tokens(ids[1:-1]))
        .replace("▁", " ")
        .replace("<0x0A>", "\n")
    )
    blank = "" if kind == "first" else " "  # the tokenizer's own, after <s>
    line = " " if kind == "start" else ""  # its pattern finds the start of every line
    assert written == f"{blank}x{text}\n{line}y{text}"


def test_what_follows_a_clip_is_in_the_middle_of_a_text() -> None:
    talk = conversation(("user", (AudioPart("0.flac"), TextPart("answer"))), ("assistant", "answer"))
    for kind, after in {"first": "answer", "always": "▁answer", "prepend": "▁answer"}.items():
        rendering = shipped(kind, "plain")
        rendered = rendering.render(talk)
        tokens = rendering.tokenizer.convert_ids_to_tokens(rendered.ids)
        assert tokens[rendered.slots[0] + 1] == after, kind
        # the same as after a control token of the tokenizer
        spelled = rendering.tokenizer.tokenize("<s></s>answer", add_special_tokens=False)
        assert spelled[-1] == after


@pytest.mark.parametrize("tokenizer", ["bytes", *SENTENCEPIECE])
@pytest.mark.parametrize("template", SHIPPED)
def test_training_continues_the_prompt(tokenizer: str, template: str) -> None:
    rendering = shipped(tokenizer, template)
    asked = conversation(("user", (AudioPart("0.flac"), TextPart("a"))))
    answered = conversation(("user", (AudioPart("0.flac"), TextPart("a"))), ("assistant", "はい"))
    prompt, rendered = rendering.render(asked, generate=True), rendering.render(answered)
    start = rendered.loss.index(True)
    assert rendered.ids[:start] == prompt.ids
    last = max(place for place, wanted in enumerate(rendered.loss) if wanted)
    assert all(rendered.loss[start : last + 1])
    assert rendered.slots == prompt.slots
    assert rendering.tokenizer.decode(rendered.ids[start:last]).strip() == "はい"
    assert rendered.ids[last] == rendering.end_of_turn
    if template not in MARKED:  # those end a turn with a token of their own, and a line
        assert rendered.ids[-1] == rendering.end_of_turn == rendering.tokenizer.eos_token_id


@cache
def merging() -> Any:
    """A byte-level BPE with GPT-2's pre-tokeniser: blanks and line breaks merge with what follows."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    blank, line = "\u0120", "\u010a"  # how it spells a blank and a line feed
    merges = [(blank, "a"), (blank, "h"), (line, line), (line, "a"), (blank, blank), (":", line), ("a", "n")]
    tokens = [*CONTROL, *alphabet, *dict.fromkeys("".join(pair) for pair in merges)]
    backend = Tokenizer(BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(CONTROL)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=CONTROL[0],
        eos_token="<|end|>",
        clean_up_tokenization_spaces=False,
    )


ENDINGS = {
    "blank": "{{ m.content ~ (eos_token if m.role == 'assistant' else ' ') }}",
    "two blanks": "{{ m.content ~ (eos_token if m.role == 'assistant' else '  ') }}",
    "lines": "{{ m.content ~ (eos_token if m.role == 'assistant' else ':\n\n') }}",
    "nothing": "{{ m.content ~ (eos_token if m.role == 'assistant' else '') }}",
    "before": "{{ 'a: ' ~ m.content ~ eos_token if m.role == 'assistant' else m.content }}",
}


def ending(kind: str) -> str:
    asked = "{% if add_generation_prompt %}a: {% endif %}" if kind == "before" else ""
    return f"{{% for m in messages %}}{ENDINGS[kind]}{{% endfor %}}{asked}"


BEGINNINGS = st.sampled_from(["hello", "answer", " a", "  a", "\n", "\n\na", "3", "はい", "n", "", "'s"])


@pytest.mark.parametrize("tokenizer", ["merging", *SENTENCEPIECE])
@pytest.mark.parametrize("template", [*SHIPPED, *ENDINGS])
@settings(max_examples=20)
@given(first=BEGINNINGS, answer=BEGINNINGS)
def test_no_answer_changes_the_tokens_before_it(
    tokenizer: str, template: str, first: str, answer: str
) -> None:
    """A blank of the prompt would merge into the first word: what is trained is never generated."""
    built = copy.deepcopy(merging() if tokenizer == "merging" else sentencepiece(tokenizer))
    if template in MARKED:
        built.add_special_tokens({"additional_special_tokens": MARKED[template]})
    rendering = ChatTemplate(
        built, source="t", template=ending(template) if template in ENDINGS else template
    )
    asked = ("user", (AudioPart("0.flac"), TextPart("what did she say?")))
    for turns in ((asked,), (asked, ("assistant", first), ("user", "a"))):
        prompt = rendering.render(conversation(*turns), generate=True)
        rendered = rendering.render(conversation(*turns, ("assistant", answer)))
        assert rendered.ids[: len(prompt.ids)] == prompt.ids
        start = len(prompt.ids)
        assert any(rendered.loss[start:])
        whole = rendering.text(conversation(*turns, ("assistant", answer)))
        said = whole[len(rendering.text(conversation(*turns), generate=True)) :]
        if tokenizer == "merging":
            assert built.decode(rendered.ids[start:]) == said


def test_a_blank_before_an_answer_stays_a_token() -> None:
    """WavPrompt: the prompt ends in a blank of its own, in training as in generation."""
    rendering = ChatTemplate(copy.deepcopy(merging()), source="t", template=ending("blank"))
    rendered = rendering.render(conversation(("user", "say?"), ("assistant", "hello")))
    tokens = rendering.tokenizer.convert_ids_to_tokens(rendered.ids)
    assert tokens == ["s", "a", "y", "?", "\u0120", "h", "e", "l", "l", "o", "<|end|>"]
    assert rendered.loss == [False] * 5 + [True] * 6


def test_texts_of_the_shipped_templates() -> None:
    talk = conversation(("user", "Q"), ("assistant", "A"), ("user", "R"), ("assistant", "B"))
    expected = {
        "plain": "<s>Q\nA</s>R\nB</s>",
        "vicuna": "<s>USER: Q\nASSISTANT: A</s>USER: R\nASSISTANT: B</s>",
        "alpaca": "<s>Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nQ\n\n### Response:A</s>"
        "\n\n### Instruction:\nR\n\n"
        "### Response:B</s>",
        "alpaca_short": "<s>### Instruction:\nQ\n\n### Response:\nA</s>### Instruction:\nR\n\n"
        "### Response:\nB</s>",
        "llama2": "<s>[INST] Q [/INST] A </s><s>[INST] R [/INST] B </s>",
        "llm_jp_3": "<s>以下は、タスクを説明する指示です。要求を適切に満たす応答を書きなさい。\n\n"
        "### 指示:\nQ\n\n### 応答:\nA</s>\n\n### 指示:\nR\n\n### 応答:\nB</s>",
        "llm_jp_speech": "<s>あなたは親切なAIアシスタントです。\n\n### 指示:\nQ\n\n### 応答:\nA\n\n"
        "### 指示:\nR\n\n### 応答:\nB</s>",
        **dict.fromkeys(
            ("chatml", "qwen2_audio"),
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n"
            "<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nR<|im_end|>\n"
            "<|im_start|>assistant\nB<|im_end|>\n",
        ),
        "voxtral": "<s>[INST]Q[/INST]A</s>[INST]R[/INST]B</s>",
    }
    assert {name: shipped("first", name).text(talk) for name in SHIPPED} == expected


def test_system_turns_of_the_shipped_templates() -> None:
    talk = conversation(("system", "S"), ("user", "Q"), ("assistant", "A"))
    texts = {name: shipped("first", name).text(talk) for name in SHIPPED}
    assert texts == {
        "plain": "<s>S\nQ\nA</s>",
        "vicuna": "<s>S\nUSER: Q\nASSISTANT: A</s>",
        "alpaca": "<s>S\n\n### Instruction:\nQ\n\n### Response:A</s>",
        "alpaca_short": "<s>S\n\n### Instruction:\nQ\n\n### Response:\nA</s>",
        "llama2": "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nQ [/INST] A </s>",
        "llm_jp_3": "<s>S\n\n### 指示:\nQ\n\n### 応答:\nA</s>",
        "llm_jp_speech": "<s>S\n\n### 指示:\nQ\n\n### 応答:\nA</s>",
        **dict.fromkeys(
            ("chatml", "qwen2_audio"),
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n"
            "<|im_start|>assistant\nA<|im_end|>\n",
        ),
        "voxtral": "<s>[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][INST]Q[/INST]A</s>",
    }


def test_clips_stand_before_the_instruction_where_the_template_says_so() -> None:
    tokenizer = copy.deepcopy(sentencepiece("first"))
    rendering = ChatTemplate(
        tokenizer, source="test", template="llm_jp_speech", audio_start="<|bos|>", audio_end="<|eos|>"
    )
    talk = conversation(
        ("user", (AudioPart("0.flac"), TextPart("a"))),
        ("assistant", "はい"),
        ("user", (AudioPart("1.flac"), TextPart("b"), AudioPart("2.flac"))),
        ("assistant", "answer"),
    )
    assert rendering.text(talk).replace("\ufdd1", "@") == (
        "<s>あなたは音声を理解できるAIアシスタントです。\n\n@### 指示:\na\n\n### 応答:\nはい\n\n"
        "@### 指示:\nb@\n\n### 応答:\nanswer</s>"
    )
    rendered = rendering.render(talk)
    tokens = tokenizer.convert_ids_to_tokens(rendered.ids)
    assert len(rendered.slots) == 3
    assert all(tokens[slot - 1] == "<|bos|>" and tokens[slot + 1] == "<|eos|>" for slot in rendered.slots)
    # the first answer has no end of its own: the loss is on its words alone, then on the last one and </s>
    learnt = [token for token, wanted in zip(tokens, rendered.loss, strict=True) if wanted]
    assert learnt == ["はい", "answer", "</s>"]


def test_markers_are_never_spelled_by_a_text() -> None:
    tokenizer = copy.deepcopy(sentencepiece("first"))
    rendering = ChatTemplate(tokenizer, source="t", template="plain", audio_start="<|bos|>")
    marker = tokenizer.convert_tokens_to_ids("<|bos|>")
    assert (
        tokenizer.encode("a<|bos|>", add_special_tokens=False).count(marker) == 1
    )  # no added token: a piece
    rendered = rendering.render(conversation(("user", (TextPart("a<|bos|>b"), AudioPart("0.flac")))))
    assert rendered.ids.count(marker) == 1
    assert rendered.ids[rendered.slots[0] - 1] == marker


def test_options_that_cannot_work() -> None:
    with pytest.raises(ValueError, match=r"'<\|boss\|>' is not one control token.*mean '<\|bos\|>'"):
        ChatTemplate(sentencepiece("first"), source="t", template="plain", audio_start="<|boss|>")
    with pytest.raises(ValueError, match="audio_end: 'a' is not one control token"):
        ChatTemplate(sentencepiece("first"), source="t", template="plain", audio_end="a")
    with pytest.raises(ValueError, match=r"is neither Jinja.*mean 'vicuna'\? Templates: alpaca,"):
        ChatTemplate(sentencepiece("first"), source="t", template="vicunna")
    with pytest.raises(ValueError, match="the chat template reads no variable 'enable_thinking'"):
        ChatTemplate(
            sentencepiece("first"), source="t", template="plain", variables={"enable_thinking": False}
        )


def test_variables_reach_the_template() -> None:
    template = (
        "{% for m in messages %}{{ '<|' + m.role + '|>' }}{{ '<|assistant|>' if think }}{{ m.content }}"
        "<|end|>{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    texts = [
        ChatTemplate(
            build_tokenizer("bytes", ()), source="t", template=template, variables={"think": think}
        ).text(conversation(("user", "a")))
        for think in (True, False)
    ]
    assert texts == ["<|user|><|assistant|>a<|end|>", "<|user|>a<|end|>"]


def test_what_generation_has_to_write_before_the_words_is_learnt() -> None:
    """A header that the template writes after generation's starting point, as Harmony's channels."""
    template = (
        "{% for m in messages %}{{ '<|' + m.role + '|>' }}{{ 'final<|system|>' if m.role == 'assistant' }}"
        "{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    rendering = chat(template)
    rendered = rendering.render(
        conversation(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    )
    learnt = [i for i, wanted in zip(rendered.ids, rendered.loss, strict=True) if wanted]
    assert rendering.tokenizer.decode(learnt) == "final<|system|>b<|end|>final<|system|>d<|end|>"


def test_a_fixed_system_line() -> None:
    line = "以下は、タスクを説明する指示です。"
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}" + line + "{% else %}"
        "{{ '\n\n' + m.content }}{% endif %}{% endfor %}<|end|>"
    )
    rendering = chat(template)
    assert rendering.text(conversation(("system", line), ("user", "a"))) == f"{line}\n\na<|end|>"
    with pytest.raises(ValueError, match=rf"rewrites the system turn 0.*prints '{line}' of its own"):
        rendering.render(conversation(("system", "以下は"), ("user", "a")))


def test_a_template_that_loses_clips() -> None:
    rendering = chat("{# message.audio #}{% for m in messages %}{{ m.content }}<|end|>{% endfor %}")
    with pytest.raises(ValueError, match="drops, repeats or moves clips"):
        rendering.render(conversation(("user", (AudioPart("0.flac"),))))


def test_added_tokens_that_are_ordinary_text_stay_so() -> None:
    tokenizer = build_tokenizer("bytes", ())
    tokenizer.add_tokens(["<table>", "<think>", "\n\n"])
    template = tokenizer.chat_template + "{# <think> #}"
    rendering = ChatTemplate(tokenizer, source="t", template=template)
    ids = rendering.render(conversation(("user", "<table>\n\n<think>"))).ids
    assert [i in ids for i in tokenizer.convert_tokens_to_ids(["<table>", "\n\n", "<think>"])] == [
        True,
        True,
        False,
    ]


def test_copies_render_alike() -> None:
    rendering = shipped("first", "vicuna")
    talk = conversation(("user", "a</s>"), ("assistant", "b"))
    for other in (copy.deepcopy(rendering), pickle.loads(pickle.dumps(rendering))):
        assert other.render(talk) == rendering.render(talk)
