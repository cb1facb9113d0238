"""The recogniser `transformers` against calls of processor and generate by hand, on the real classes."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import (
    AudioFlamingo3ForConditionalGeneration,
    AutoProcessor,
    GenerationConfig,
    GraniteSpeechConfig,
    GraniteSpeechFeatureExtractor,
    GraniteSpeechForConditionalGeneration,
    GraniteSpeechProcessor,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)
from typer.testing import CliRunner

from kikimimi import AudioError, AudioPart, Conversation, Message, TextPart, WeightsError, encode_audio
from kikimimi.cli import app
from kikimimi.data.corpus import Corpus
from kikimimi.evaluation.predictions import read_predictions, row_keys
from kikimimi.evaluation.score import read_scores
from kikimimi.recipe import load_recipe
from kikimimi.run.folder import RunFolder
from kikimimi.testing import Check, parametrize_checks, tiny_recipe, write_shard
from kikimimi.training.train import train
from kikimimi_recognisers.tiny_audio_flamingo import TINY_LLM, byte_tokenizer, write_tiny_audio_flamingo
from kikimimi_recognisers.transformers_model import TransformersRecogniser

GRANITE_TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] + '\\n' + m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"


@parametrize_checks(TransformersRecogniser)
def test_contract(check: Check) -> None:
    check()


def noise(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.1, int(seconds * 16_000)).astype(np.float32)


CLIPS = [noise(seconds, seed) for seed, seconds in enumerate((0.5, 1.2, 0.3))]


def opened(folder: Path, **options: Any) -> TransformersRecogniser:
    options = {"max_new_tokens": 4, "device": "cpu", **options}
    return TransformersRecogniser(TransformersRecogniser.Config(weights=str(folder), **options))


def asking(words: str, *, system: str | None = None) -> Conversation:
    turns = [Message("user", (AudioPart("0.flac"), TextPart(words)))]
    if system is not None:
        turns.insert(0, Message("system", (TextPart(system),)))
    return Conversation(tuple(turns))


def generated(model: Any, processor: Any, inputs: Any, **options: Any) -> list[str]:
    """Answer by hand."""
    settings = GenerationConfig(
        max_new_tokens=4,
        do_sample=False,
        eos_token_id=model.generation_config.eos_token_id,
        pad_token_id=model.generation_config.pad_token_id,
    )
    ids = model.eval().generate(**inputs, generation_config=settings, **options)
    ids = ids[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.tokenizer.batch_decode(ids, skip_special_tokens=True)]


@pytest.fixture(scope="module")
def qwen2_audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen2-audio")
    tokenizer = byte_tokenizer("<|im_end|>", "<|im_start|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
    tower = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16}
    config = Qwen2AudioConfig(
        audio_config={**tower, "num_mel_bins": 16},
        text_config={"model_type": "qwen2", "vocab_size": len(tokenizer), **TINY_LLM},
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    torch.manual_seed(0)
    model: Any = Qwen2AudioForConditionalGeneration(config)
    end = tokenizer.eos_token_id
    model.generation_config = GenerationConfig(
        eos_token_id=end, pad_token_id=end, do_sample=True, temperature=0.7, top_p=0.5, top_k=20
    )
    model.save_pretrained(folder)
    Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=16), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def granite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("granite")
    tokenizer = byte_tokenizer("<|end|>", "<|start|>", "<|audio|>")
    tokenizer.chat_template = GRANITE_TEMPLATE
    config = GraniteSpeechConfig(
        text_config={"model_type": "granite", "vocab_size": len(tokenizer), **TINY_LLM},
        encoder_config={
            **{"num_layers": 2, "hidden_dim": 16, "num_heads": 2, "dim_head": 8, "output_dim": 8},
            **{"context_size": 20, "max_pos_emb": 40},
        },
        projector_config={
            **{"model_type": "blip_2_qformer", "hidden_size": 16, "num_hidden_layers": 1},
            **{"num_attention_heads": 2, "intermediate_size": 16, "encoder_hidden_size": 16},
        },
        audio_token_index=tokenizer.convert_tokens_to_ids("<|audio|>"),
        has_lora_adapter=False,
    )
    torch.manual_seed(0)
    model: Any = GraniteSpeechForConditionalGeneration(config)
    ends = tokenizer.eos_token_id
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=ends)
    model.save_pretrained(folder)
    GraniteSpeechProcessor(GraniteSpeechFeatureExtractor(), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def flamingo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flamingo")
    write_tiny_audio_flamingo(folder)
    return folder


@pytest.fixture(scope="module")
def voxtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mistral_common", reason="Voxtral's tokenizer is that of mistral-common")
    from transformers import VoxtralConfig, VoxtralForConditionalGeneration

    folder = tmp_path_factory.mktemp("voxtral")
    marks = {
        **{0: "<unk>", 1: "<s>", 2: "</s>", 3: "[INST]", 4: "[/INST]", 11: "<pad>"},
        **{5: "[AVAILABLE_TOOLS]", 6: "[/AVAILABLE_TOOLS]", 7: "[TOOL_RESULTS]", 8: "[/TOOL_RESULTS]"},
        **{9: "[TOOL_CALLS]", 17: "[SYSTEM_PROMPT]", 18: "[/SYSTEM_PROMPT]", 19: "[TOOL_CONTENT]"},
        **{
            24: "[AUDIO]",
            25: "[BEGIN_AUDIO]",
            14: "[PREFIX]",
            16: "[SUFFIX]",
            32: "[ARGS]",
            33: "[CALL_ID]",
            34: "[TRANSCRIBE]",
        },
    }
    special = [
        {"rank": rank, "token_str": marks.get(rank, f"<SPECIAL_{rank}>"), "is_control": True}
        for rank in range(40)
    ]
    vocab = [
        {"rank": rank, "token_bytes": b64encode(bytes([rank])).decode(), "token_str": None}
        for rank in range(256)
    ]
    sizes = {"num_vocab_tokens": 256, "default_vocab_size": 296, "default_num_special_tokens": 40}
    mel = {"num_mel_bins": 16, "hop_length": 160, "window_size": 400}
    audio = {"sampling_rate": 16_000, "frame_rate": 12.5, "chunk_length_s": 30.0}
    tekken = {
        "config": {"pattern": r"\w+|\W+", **sizes, "version": "v11"},
        "vocab": vocab,
        "special_tokens": special,
        "audio": {**audio, "audio_encoding_config": mel},
    }
    (folder / "tekken.json").write_text(json.dumps(tekken))
    tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = VoxtralConfig(
        audio_config={**tower, "num_mel_bins": 16},
        text_config={"model_type": "llama", "vocab_size": 296, "head_dim": 16, **TINY_LLM},
        audio_token_id=24,
    )
    torch.manual_seed(0)
    model: Any = VoxtralForConditionalGeneration(config)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=11)
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=16, processor_class="VoxtralProcessor").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whisper")
    marks = (
        "<|endoftext|>",
        "<|startoftranscript|>",
        "<|en|>",
        "<|ja|>",
        "<|transcribe|>",
        "<|notimestamps|>",
    )
    tokenizer = byte_tokenizer(*marks)
    ids: Any = {mark: tokenizer.convert_tokens_to_ids(mark) for mark in marks}
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    special = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}
    config = WhisperConfig(
        **{"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "num_mel_bins": 16},
        **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32},
        **{"decoder_ffn_dim": 32, "vocab_size": len(tokenizer), "init_std": 0.5},
        **special,
    )
    torch.manual_seed(0)
    model: Any = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        **special,
        is_multilingual=True,
        lang_to_id={mark: ids[mark] for mark in ("<|en|>", "<|ja|>")},
        task_to_id={"transcribe": ids["<|transcribe|>"]},
        no_timestamps_token_id=ids["<|notimestamps|>"],
        max_length=448,
    )
    model.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(feature_size=16), tokenizer).save_pretrained(folder)
    return folder


def qwen2_audio_by_hand(folder: Path, clips: list[NDArray[np.float32]], words: str) -> list[str]:
    processor: Any = AutoProcessor.from_pretrained(folder)
    model = Qwen2AudioForConditionalGeneration.from_pretrained(folder)
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\n{words}<|im_end|>\n<|im_start|>assistant\n"
    )
    inputs = processor(
        text=[text] * len(clips), audio=clips, padding=True, padding_side="left", return_tensors="pt"
    )
    return generated(model, processor, inputs)


def test_qwen2_audio_is_as_by_hand(qwen2_audio: Path) -> None:
    recogniser = opened(qwen2_audio, prompt="What is said?", batch_size=2)
    alone = [qwen2_audio_by_hand(qwen2_audio, [clip], "What is said?")[0] for clip in CLIPS]
    assert recogniser.transcribe(CLIPS, "ja") == alone
    assert recogniser.transcribe(CLIPS[:1], None) == alone[:1]
    assert len(set(alone)) > 1


def test_a_batch_of_unequal_lengths_is_as_by_hand(qwen2_audio: Path) -> None:
    expected = qwen2_audio_by_hand(qwen2_audio, CLIPS, "Hm?")
    assert opened(qwen2_audio, prompt="Hm?").transcribe(CLIPS, None) == expected


def test_what_the_evaluation_asks_is_answered(qwen2_audio: Path) -> None:
    recogniser = opened(qwen2_audio)
    words = ["Who speaks?", "What is said?", "Who speaks?"]
    expected = [
        qwen2_audio_by_hand(qwen2_audio, [clip], word)[0] for clip, word in zip(CLIPS, words, strict=True)
    ]
    assert recogniser.respond([asking(word) for word in words], CLIPS, "en") == expected


def watched(recogniser: TransformersRecogniser) -> list[str]:
    """Return a list that fills with the prompts that the model reads."""
    read: list[str] = []
    generate = recogniser.model.generate

    def spy(**inputs: Any) -> Any:
        for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
            read.append(recogniser.processor.tokenizer.decode(ids[mask.bool()]))
        return generate(**inputs)

    recogniser.model.generate = spy
    return read


def test_prompt_and_system_go_before_those_of_the_evaluation(qwen2_audio: Path) -> None:
    recogniser = opened(qwen2_audio, prompt="Write the {language}.", system="Be brief.")
    read = watched(recogniser)
    recogniser.respond([asking("Who?", system="Be long.")], CLIPS[:1], "ja")
    (text,) = read
    assert "Write the Japanese." in text
    assert "<|im_start|>system\nBe brief.<|im_end|>" in text
    assert "Who?" not in text
    assert "Be long." not in text
    with pytest.raises(ValueError, match="the language of a clip is not known"):
        recogniser.transcribe(CLIPS[:1], None)
    with pytest.raises(ValueError, match=r"the language 'jaa' has no name here\. Did you mean 'ja'\?"):
        recogniser.transcribe(CLIPS[:1], "jaa")


def test_the_system_prompt_of_the_evaluation_is_kept(qwen2_audio: Path) -> None:
    recogniser = opened(qwen2_audio)
    read = watched(recogniser)
    recogniser.respond([asking("Who?", system="Be long.")], CLIPS[:1], "ja")
    assert "<|im_start|>system\nBe long.<|im_end|>" in read[0]
    assert "Who?" in read[0]


def test_a_base_model_is_asked_without_a_template(qwen2_audio: Path) -> None:
    recogniser = opened(qwen2_audio, chat=False, prompt="Say it:")
    read = watched(recogniser)
    recogniser.transcribe(CLIPS[:1], None)
    marks = "<|AUDIO|>" * read[0].count("<|AUDIO|>")
    assert marks
    assert read[0] == f"<|audio_bos|>{marks}<|audio_eos|>Say it:"


def test_the_published_sampling_is_left_out(qwen2_audio: Path) -> None:
    published = json.loads((qwen2_audio / "generation_config.json").read_text())
    assert published["do_sample"]
    assert published["temperature"] == 0.7
    recogniser = opened(qwen2_audio)
    first = recogniser.transcribe(CLIPS, None)
    assert all(recogniser.transcribe(CLIPS, None) == first for _ in range(3))


def test_an_answer_says_whether_it_was_cut(qwen2_audio: Path) -> None:
    recogniser = opened(qwen2_audio)
    assert recogniser.transcribe(CLIPS[:1], None)[0].cut
    end = recogniser.model.generation_config.eos_token_id
    answer = recogniser._answer([65, end, end, end])
    assert not answer.cut
    assert "<|im_end|>" not in answer
    assert len(answer) == 1


def granite_by_hand(folder: Path, clips: list[NDArray[np.float32]], words: str) -> list[str]:
    processor: Any = AutoProcessor.from_pretrained(folder)
    model = GraniteSpeechForConditionalGeneration.from_pretrained(folder)
    text = f"<|start|>user\n<|audio|>{words}<|end|><|start|>assistant\n"
    inputs = processor(
        text=[text] * len(clips), audio=clips, padding=True, padding_side="left", return_tensors="pt"
    )
    return generated(model, processor, inputs)


def test_granite_speech_is_as_by_hand(granite: Path) -> None:
    recogniser = opened(granite, prompt="can you transcribe the speech?", batch_size=1)
    expected = [granite_by_hand(granite, [clip], "can you transcribe the speech?")[0] for clip in CLIPS]
    assert recogniser.transcribe(CLIPS, "en") == expected
    assert recogniser.max_seconds is None
    # What is asked together is as by hand, too; the class itself answers otherwise than one by one.
    together = granite_by_hand(granite, CLIPS, "Hm?")
    assert opened(granite, prompt="Hm?").transcribe(CLIPS, "en") == together


def test_audio_flamingo_is_as_by_hand(flamingo: Path) -> None:
    processor: Any = AutoProcessor.from_pretrained(flamingo)
    model = AudioFlamingo3ForConditionalGeneration.from_pretrained(flamingo)
    inputs = processor.apply_transcription_request(audio=CLIPS, text_kwargs={"padding": True})
    expected = generated(model, processor, inputs)
    recogniser = opened(flamingo, transcription=True)
    assert recogniser.transcribe(CLIPS, "en") == expected
    # The request for transcripts is that prompt.
    assert opened(flamingo, prompt="Transcribe the input speech.").transcribe(CLIPS, "en") == expected
    assert recogniser.max_seconds == 600


def test_the_sentence_around_a_transcript_is_taken_off(flamingo: Path) -> None:
    said = 'The spoken content of the audio is "hello".'
    for options, text in (({"transcription": True}, "hello"), ({"prompt": "Hm?"}, said)):
        recogniser = opened(flamingo, **options)
        ids = recogniser.processor.tokenizer(said)["input_ids"]
        assert recogniser._answer(ids) == text


def test_voxtral_is_as_by_hand(voxtral: Path, tmp_path: Path) -> None:
    from transformers import VoxtralForConditionalGeneration, VoxtralProcessor

    processor: Any = VoxtralProcessor.from_pretrained(voxtral)
    model = VoxtralForConditionalGeneration.from_pretrained(voxtral)
    request = {"audio": CLIPS, "model_id": "v", "sampling_rate": 16_000, "format": ["WAV"] * 3}
    inputs = processor.apply_transcription_request(language="fr", **request)
    assert "lang:fr[TRANSCRIBE]" in processor.tokenizer.decode(inputs["input_ids"][0])
    recogniser = opened(voxtral, transcription=True)
    expected = generated(model, processor, inputs)
    assert recogniser.transcribe(CLIPS, "fr") == expected
    assert [recogniser.transcribe([clip], "fr")[0] for clip in CLIPS] == expected
    assert recogniser.max_seconds is None

    words = ["Who speaks?", "What?", "Where is it said?"]
    alone = []
    for number, (clip, word) in enumerate(zip(CLIPS, words, strict=True)):
        path = tmp_path / f"{number}.wav"
        path.write_bytes(encode_audio(clip, 16_000, kind="WAV", subtype="FLOAT"))
        content = [{"type": "audio", "path": str(path)}, {"type": "text", "text": word}]
        inputs = processor.apply_chat_template([{"role": "user", "content": content}])
        alone += generated(model, processor, inputs)
    answers = opened(voxtral).respond([asking(word) for word in words], CLIPS, "fr")
    assert answers == alone


OMNI_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.slow
def test_the_thinker_of_qwen_omni_is_as_by_hand_alone_and_out_of_the_whole(tmp_path: Path) -> None:
    pytest.importorskip("torchvision", reason="the processor of Qwen-Omni sees, too")
    from safetensors.torch import load_file, save_file
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2_5OmniProcessor,
        Qwen2_5OmniThinkerConfig,
        Qwen2_5OmniThinkerForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    names = ("IMAGE", "AUDIO", "VIDEO", "vision_bos", "vision_eos", "audio_bos", "audio_eos")
    bytewise = byte_tokenizer("<|im_end|>", "<|im_start|>", *(f"<|{name}|>" for name in names))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytewise.backend_tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        extra_special_tokens={f"{name.lower()}_token": f"<|{name}|>" for name in names},
    )
    ids: Any = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in names}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
    tower = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16}
    eyes = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": 32}
    config = Qwen2_5OmniThinkerConfig(
        audio_config={**tower, "num_mel_bins": 16, "output_dim": 32},
        vision_config=eyes,
        text_config={**TINY_LLM, "vocab_size": len(tokenizer), "rope_parameters": rope},
        audio_token_index=ids["AUDIO"],
        image_token_index=ids["IMAGE"],
        video_token_index=ids["VIDEO"],
        audio_start_token_id=ids["audio_bos"],
        audio_end_token_id=ids["audio_eos"],
        vision_start_token_id=ids["vision_bos"],
        vision_end_token_id=ids["vision_eos"],
    )
    torch.manual_seed(0)
    model: Any = Qwen2_5OmniThinkerForConditionalGeneration(config)
    end = tokenizer.eos_token_id
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=end)
    model.save_pretrained(tmp_path)
    features = WhisperFeatureExtractor(feature_size=16, chunk_length=300)
    sight = (Qwen2VLImageProcessor(), Qwen2VLVideoProcessor())
    processor: Any = Qwen2_5OmniProcessor(*sight, features, tokenizer, chat_template=OMNI_TEMPLATE)
    processor.save_pretrained(tmp_path)
    text = "<|im_start|>user\n<|audio_bos|><|AUDIO|><|audio_eos|>What?<|im_end|>\n<|im_start|>assistant\n"
    inputs = processor(text=[text] * 3, audio=CLIPS, return_tensors="pt", text_kwargs={"padding": True})
    expected = generated(model, processor, inputs)
    recogniser = opened(tmp_path, prompt="What?")
    assert recogniser.transcribe(CLIPS, "en") == expected
    assert recogniser.max_seconds == 300

    # As the whole is published: the thinker's weights and configuration inside those of a model that speaks.
    own = json.loads((tmp_path / "config.json").read_text())
    state = load_file(tmp_path / "model.safetensors")
    prefixed = {f"thinker.{name}": value for name, value in state.items()}
    save_file(prefixed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    whole = {"model_type": "qwen2_5_omni", "architectures": ["Qwen2_5OmniModel"], "thinker_config": own}
    (tmp_path / "config.json").write_text(json.dumps({**whole, "enable_audio_output": False}))
    assert opened(tmp_path, prompt="What?").transcribe(CLIPS, "en") == expected


def test_whisper_is_as_by_hand(whisper: Path) -> None:
    processor: Any = AutoProcessor.from_pretrained(whisper)
    model: Any = WhisperForConditionalGeneration.from_pretrained(whisper)
    inputs = processor(audio=CLIPS, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True)
    ids = model.eval().generate(**inputs, language="ja", task="transcribe", max_new_tokens=4)
    expected = [text.strip() for text in processor.batch_decode(ids, skip_special_tokens=True)]
    recogniser = opened(whisper)
    assert recogniser.transcribe(CLIPS, "ja") == expected
    assert [recogniser.transcribe([clip], "ja")[0] for clip in CLIPS] == expected
    assert recogniser.max_seconds == 30
    with pytest.raises(ValueError, match="jaa"):
        recogniser.transcribe(CLIPS, "jaa")


def test_a_longer_clip_is_refused(qwen2_audio: Path, granite: Path) -> None:
    with pytest.raises(AudioError, match=r"clip 1 lasts 30\.10 s \(481600 samples\).*at most 30\.00 s"):
        opened(qwen2_audio).transcribe([noise(0.5), noise(30.1)], None)
    with pytest.raises(AudioError, match=r"clip 1 and its prompt are \d+ tokens.*more than the 2048 that"):
        opened(granite, max_new_tokens=1985, batch_size=2).transcribe([noise(0.3), noise(4)], None)


def test_a_clip_that_the_class_cannot_place_is_refused(qwen2_audio: Path) -> None:
    with pytest.raises(AudioError, match="clip 1 is one audio token, too short for Qwen2-Audio's class"):
        opened(qwen2_audio).transcribe([noise(0.5), noise(0.025)], None)


def test_no_clips_no_answers(qwen2_audio: Path) -> None:
    assert opened(qwen2_audio).transcribe([], None) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "random"}, "weights: must be trained weights, not 'random'"),
        ({"transcription": True, "prompt": "Hm?"}, "prompt: goes unused with 'transcription: true'"),
        ({"transcription": True, "system": "Hm?"}, "system: goes unused with 'transcription: true'"),
        ({"chat": False, "system": "Hm?"}, "system: needs the chat template"),
        ({"chat": False, "transcription": True}, "transcription: needs the chat template"),
        ({"precision": "int8"}, "precision: 'int8' is not one of bf16, fp16, fp32, published"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformersRecogniser.Config(**{"weights": "./model", **options})


def test_settings_that_a_model_has_no_use_for_are_refused(whisper: Path, granite: Path) -> None:
    with pytest.raises(ValueError, match="prompt: WhisperForConditionalGeneration takes no requests"):
        opened(whisper, prompt="Hm?")
    with pytest.raises(ValueError, match="chat: WhisperForConditionalGeneration is asked in one way only"):
        opened(whisper, chat=False)
    with pytest.raises(ValueError, match=r"transcription: GraniteSpeechProcessor of .* has no request"):
        opened(granite, transcription=True)


def copied(source: Path, target: Path) -> Path:
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def changed(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_model_without_a_template_is_asked_for_one(granite: Path, tmp_path: Path) -> None:
    folder = copied(granite, tmp_path / "m")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match=r"has no chat template\. Set 'chat: false'"):
        opened(folder)


def test_code_and_pickles_are_never_run(qwen2_audio: Path, tmp_path: Path) -> None:
    folder = copied(qwen2_audio, tmp_path / "m")
    (folder / "modelling.py").write_text("raise SystemExit('was run')")
    names = {"AutoConfig": "modelling.C", "AutoModel": "modelling.M", "AutoProcessor": "modelling.P"}
    changed(folder, auto_map=names)
    assert opened(folder).transcribe(CLIPS[:1], None) == opened(qwen2_audio).transcribe(CLIPS[:1], None)
    changed(folder, auto_map=names, model_type="of_its_own")
    with pytest.raises(WeightsError, match="transformers cannot open it"):
        opened(folder)
    changed(folder, model_type="qwen2_audio")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"holds no \*\.safetensors, and pickled weights"):
        opened(folder)


def test_a_model_with_holes_is_refused(qwen2_audio: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copied(qwen2_audio, tmp_path / "m")
    state = load_file(folder / "model.safetensors")
    del state["multi_modal_projector.linear.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"lacks 1 weights of Qwen2Audio.*multi_modal_projector\.linear"):
        opened(folder)


def test_a_class_that_writes_nothing_is_refused(qwen2_audio: Path, tmp_path: Path) -> None:
    folder = copied(qwen2_audio, tmp_path / "m")
    changed(folder, architectures=["Qwen2AudioOfTomorrow"])
    with pytest.raises(WeightsError, match="architecture Qwen2AudioOfTomorrow, of which transformers"):
        opened(folder)


@pytest.mark.slow
def test_an_evaluation_has_its_row_by_the_command(flamingo: Path, tmp_path: Path) -> None:
    run = RunFolder.create(
        tmp_path / "run", tiny_recipe(load_recipe(QUICKSTART), write_shard(tmp_path / "d", 3))
    )
    train(run)
    options = f"name: transformers, weights: {flamingo}, max_new_tokens: 4, batch_size: 1, device: cpu"
    baselines = f"{{asked: {{{options}}}, told: {{{options}, prompt: Say it}}}}"
    command = ["evaluate", str(run.path), f"evaluate.held_out.baselines={baselines}"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "asked" in result.stdout
    assert "told" in result.stdout
    scores = read_scores(run.evaluation("held_out") / "scores.json")
    assert list(scores)[-2:] == ["asked", "told"]

    evaluation = run.recipe.evaluate["held_out"]
    corpus = Corpus.open("held_out", evaluation)
    for system, prompt in (("asked", None), ("told", "Say it")):
        lines = read_predictions(run.evaluation("held_out") / f"{system}.jsonl")
        recogniser = opened(flamingo, prompt=prompt)
        for row, key in enumerate(row_keys(corpus)):
            record = corpus.shards.read(row)
            conversation = corpus.conversation(record).prompt()
            (name,) = conversation.clips()
            clip = corpus.waveforms(record, [name], 16_000)[0].numpy()
            (expected,) = recogniser.respond([conversation], [clip], "ja")
            assert lines[key]["prediction"] == expected
