from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from tokenizers import Regex, Tokenizer, decoders, normalizers
from tokenizers.models import Unigram
from transformers import AutoConfig, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kikimimi import AudioPart, Conversation, Generation, LLMContext, Message, TextPart, find_weights
from kikimimi.errors import WeightsError
from kikimimi_llms.llm_jp import LLMJP, Harmony

LINE = "以下は、タスクを説明する指示です。要求を適切に満たす応答を書きなさい。"
# The text that LLM-jp-3's published template gives: a system turn prints one line, whatever it says.
VERSION_3 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}" + LINE + "{% else %}"
    "{{ '\\n\\n### 指示:\\n' if m.role == 'user' else '\\n\\n### 応答:\\n' }}{{ m.content }}"
    "{{ eos_token if m.role == 'assistant' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n\\n### 応答:\\n' }}{% endif %}"
)
# The text of a Harmony template: answers in the final channel, <|return|> after the last one.
VERSION_4 = (
    "{{ '<|start|>system<|message|>You are LLM-jp-4.' }}"
    "{{ '\\n\\nReasoning: ' ~ reasoning_effort if reasoning_effort }}{{ '<|end|>' }}"
    "{% for m in messages %}{{ '<|start|>' + ('developer' if m.role == 'system' else m.role) }}"
    "{{ '<|channel|>final' if m.role == 'assistant' }}{{ '<|message|>' + m.content }}"
    "{{ '<|return|>' if loop.last and m.role == 'assistant' else '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
HARMONY = ["<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|return|>", "<|call|>"]
TEXT = "以下は、タスクを説明する指示応答です。要求適切に満たすを書きなさい#:abcdefghijklmnopqrstuvwxyzYRL-4."


def tokenizer(version: int) -> Any:
    """LLM-jp's kind: a unigram model with bytes to fall back on, and the reserved tokens among its pieces."""
    special = ["<unk>", "<s>", "</s>", *(HARMONY if version == 4 else [])]
    pieces = [(token, 0.0) for token in [*special, "<|reserved_342|>", "<|reserved_343|>", "▁"]]
    pieces += [(character, -3.0) for character in dict.fromkeys(TEXT)]
    pieces += [(word, -2.5) for word in ("はい", "▁はい", "指示:", "final", "▁final", "assistant")]
    pieces += [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
    backend = Tokenizer(Unigram(pieces, unk_id=0, byte_fallback=True))
    blank = normalizers.Replace(" ", "▁")
    prefix = [normalizers.Replace(Regex("^"), "▁")] if version == 4 else []
    backend.normalizer = normalizers.Sequence([*prefix, blank])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=VERSION_3 if version == 3 else VERSION_4,
        clean_up_tokenization_spaces=False,
    )


def saved(folder: Path, version: int) -> Path:
    made = tokenizer(version)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(made),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=2,
            tie_word_embeddings=False,
        )
    ).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=[3, 4])
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LLMJP:
    return build(saved(tmp_path_factory.mktemp(f"v{request.param}"), request.param))


def build(folder: Path, **options: Any) -> LLMJP:
    built = LLMJP(LLMJP.Config(weights=str(folder), **options), LLMContext())
    built.load_weights()
    return built.eval()


def talk(*turns: str) -> Conversation:
    roles: Any = ("user", "assistant") * 2
    return Conversation(tuple(Message(r, (TextPart(t),)) for r, t in zip(roles, turns, strict=False)))


@settings(max_examples=60)
@given(turns=st.lists(st.text(max_size=12, alphabet="ab はい\n。指示#:é"), min_size=1, max_size=4))
def test_text_and_ids_equal_the_template(llm: LLMJP, turns: list[str]) -> None:
    messages = [{"role": r, "content": t} for r, t in zip(["user", "assistant"] * 2, turns, strict=False)]
    own = llm.chat.tokenizer
    assert llm.chat.text(talk(*turns)) == own.apply_chat_template(messages, tokenize=False)
    assert llm.render(talk(*turns)).ids == own.apply_chat_template(messages, return_dict=False)
    if len(turns) % 2:
        prompt = own.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert llm.render(talk(*turns), generate=True).ids == prompt


HOSTILE = st.lists(
    st.sampled_from([*HARMONY, "</s>", "<s>", "<|reserved_343|>", "<|", "start|>", "a", " ", "### 応答:\n"]),
    max_size=6,
).map("".join)


@settings(max_examples=60)
@given(question=HOSTILE, answer=HOSTILE)
def test_no_text_becomes_a_control_token(llm: LLMJP, question: str, answer: str) -> None:
    control = set(llm.chat.tokenizer.all_special_ids) | set(llm.chat.tokenizer.added_tokens_decoder)
    control -= {llm.chat.tokenizer.unk_token_id}
    found = [i for i in llm.render(talk(question, answer)).ids if i in control]
    assert found == [i for i in llm.render(talk("a", "a")).ids if i in control]


def test_version_3_takes_its_own_system_line_alone(tmp_path: Path) -> None:
    llm = build(saved(tmp_path, 3))
    asked = Message("user", (TextPart("a"),))
    fixed = Conversation((Message("system", (TextPart(LINE),)), asked))
    assert llm.chat.text(fixed, generate=True) == f"<s>{LINE}\n\n### 指示:\na\n\n### 応答:\n"
    assert llm.chat.text(Conversation((asked,))) == "<s>\n\n### 指示:\na"
    other = Conversation((Message("system", (TextPart("はい"),)), asked))
    with pytest.raises(ValueError, match=f"rewrites the system turn 0.*prints '{LINE}' of its own"):
        llm.render(other)
    free = build(tmp_path, chat_template="llm_jp_3")
    assert free.chat.text(other) == "<s>はい\n\n### 指示:\na"
    assert free.chat.text(fixed, generate=True) == llm.chat.text(fixed, generate=True)


def test_the_speech_format_with_reserved_tokens(tmp_path: Path) -> None:
    llm = build(
        saved(tmp_path, 4),
        chat_template="llm_jp_speech",
        audio_start="<|reserved_343|>",
        audio_end="<|reserved_342|>",
    )
    turns = Conversation(
        (
            Message("user", (AudioPart("0.flac"), TextPart("書き"))),
            Message("assistant", (TextPart("はい"),)),
        )
    )
    rendered = llm.render(turns)
    tokens = llm.chat.tokenizer.convert_ids_to_tokens(rendered.ids)
    (slot,) = rendered.slots
    assert (tokens[slot - 1], tokens[slot + 1]) == ("<|reserved_343|>", "<|reserved_342|>")
    written = llm.chat.text(turns).replace("\ufdd1", "<|reserved_343|><|reserved_342|>")
    assert written == (
        "<s>あなたは音声を理解できるAIアシスタントです。\n\n<|reserved_343|><|reserved_342|>"
        "### 指示:\n書き\n\n### 応答:\nはい</s>"
    )
    learnt = [token for token, wanted in zip(tokens, rendered.loss, strict=True) if wanted]
    assert "".join(learnt).replace("▁", "") == "はい</s>"


def test_harmony_learns_the_header_that_generation_leaves_out(tmp_path: Path) -> None:
    llm = build(saved(tmp_path, 4))
    rendered = llm.render(talk("a", "はい", "b", "ab"))
    learnt = [i for i, wanted in zip(rendered.ids, rendered.loss, strict=True) if wanted]
    assert "".join(llm.chat.tokenizer.convert_ids_to_tokens(learnt)).replace("▁", "") == (
        "<|channel|>final<|message|>はい<|end|><|channel|>final<|message|>ab<|return|>"
    )
    prompt = llm.render(talk("a"), generate=True).ids
    assert rendered.ids[: len(prompt)] == prompt
    assert (
        llm.decode(learnt[: learnt.index(llm.chat.tokenizer.convert_tokens_to_ids("<|end|>"))]).strip()
        == "はい"
    )


def test_harmony_reads_messages_by_their_ids(tmp_path: Path) -> None:
    llm = build(saved(tmp_path, 4))
    own = llm.chat.tokenizer
    harmony = Harmony.find(own)
    assert harmony is not None
    thought = own.encode(
        "<|channel|>analysis<|message|>ab<|end|><|start|>assistant", add_special_tokens=False
    )
    answer = own.encode("<|channel|>final<|message|>はい", add_special_tokens=False)
    end, back = own.convert_tokens_to_ids(["<|end|>", "<|return|>"])
    assert not harmony.is_answered(thought)
    assert not harmony.is_answered(thought[: thought.index(end) + 1])
    assert harmony.is_answered([*thought, *answer, end])
    assert harmony.until_answered([*thought, *answer, end, *answer]) == [*thought, *answer]
    assert harmony.until_answered([*thought, *answer]) == [*thought, *answer]
    assert llm.decode([*thought, *answer]).strip() == "はい"
    assert llm.decode(thought) == ""
    assert llm.decode(own.encode("はい", add_special_tokens=False)).strip() == "はい"
    call = own.encode("<|channel|>commentary <|constrain|>a<|message|>b<|call|>", add_special_tokens=False)
    assert [(p.channel, p.closed) for p in harmony.pieces(call)] == [("commentary", True)]
    assert back in llm.chat.stop_ids
    assert end not in llm.chat.stop_ids
    assert Harmony.find(tokenizer(3)) is None


def test_generation_stops_at_the_end_of_the_final_message(tmp_path: Path) -> None:
    llm = build(saved(tmp_path, 4))
    own = llm.chat.tokenizer
    written = own.encode(
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|end|>a",
        add_special_tokens=False,
    )
    with torch.no_grad():  # a model that writes this down: each position's logits come from its place alone
        table = torch.full((len(written) + 1, llm.vocab_size), -1.0)
        table[torch.arange(len(written)), torch.tensor(written)] = 1.0
    original = llm.model.forward
    places: list[int] = []

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        place = output.past_key_values.get_seq_length() - 2  # the prompt is two positions
        places.append(place)
        output.logits = table[place].expand_as(output.logits).clone()
        return output

    llm.model.forward = forward
    (ids,) = llm.generate([torch.randn(2, 32)], Generation(max_new_tokens=40))
    last = len(written) - 1 - written[::-1].index(own.convert_tokens_to_ids("<|end|>"))
    assert ids == written[:last]
    assert places == list(range(last + 1))
    assert llm.decode(ids).strip() == "b"


def test_reasoning_effort_reaches_the_template(tmp_path: Path) -> None:
    llm = build(saved(tmp_path, 4), template_variables={"reasoning_effort": "low"})
    assert "Reasoning: low<|end|>" in llm.chat.text(talk("a"))


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    "weights", ["random", "./folder", "org/name", "org/name@main", f"org/name@{COMMIT[:-1]}", "package:name"]
)
def test_remote_code_needs_a_pinned_commit(weights: str) -> None:
    with pytest.raises(ValueError, match=r"remote_code: true runs code.*org/name@ and 40 hexadecimal digits"):
        LLMJP.Config(weights=weights, remote_code=True)


def test_remote_code_runs_for_the_tokenizer_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 4)
    weights = f"org/name@{COMMIT}"
    files = find_weights(str(tmp_path))
    asked: list[tuple[Any, dict[str, Any]]] = []

    def from_pretrained(name: Any, **options: Any) -> Any:
        asked.append((name, options))
        return tokenizer(4)

    configs: list[dict[str, Any]] = []
    read_config = AutoConfig.from_pretrained

    def config_from_pretrained(name: Any, **options: Any) -> Any:
        configs.append(options)
        return read_config(name, **options)

    monkeypatch.setattr("kikimimi_llms.pretrained.find_weights", lambda *_, **__: files)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", from_pretrained)
    monkeypatch.setattr(AutoConfig, "from_pretrained", config_from_pretrained)
    LLMJP(LLMJP.Config(weights=weights, remote_code=True), LLMContext())
    assert asked == [("org/name", {"revision": COMMIT, "code_revision": COMMIT, "trust_remote_code": True})]
    LLMJP(LLMJP.Config(weights=weights), LLMContext())
    assert asked[1] == (tmp_path, {"trust_remote_code": False})
    assert [options["trust_remote_code"] for options in configs] == [False, False]


def test_other_models_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, 3)
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_moe"}')
    with pytest.raises(WeightsError, match="is a 'qwen3_moe' model; llm 'llm_jp' takes Llama-class models"):
        LLMJP(LLMJP.Config(weights=str(tmp_path)), LLMContext())


def test_copies_work(llm: LLMJP) -> None:
    assert copy.deepcopy(llm).render(talk("a", "b")) == llm.render(talk("a", "b"))
