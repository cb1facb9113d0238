"""Writes a run as a custom model of transformers, which brings its own code (`trust_remote_code=True`)."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kikimimi.console.words import listing
from kikimimi.contracts.conversation import AudioPart, Conversation, Message, TextPart
from kikimimi.errors import RequestError, WriteError
from kikimimi.files.writing import writing
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.published.auto_map.encoders import ENCODERS, audio_settings, encoder_name, feature_extractor
from kikimimi.published.prompts import served_template
from kikimimi.recipe import Recipe
from kikimimi.text.guarded_tokenizer import AUDIO

HEARING = ("alignformer", "cif", "ctc")
"""Adapters whose number of audio tokens depends on what is said."""
ADAPTERS = {
    "alignformer": "AlignFormer",
    "cif": "CIF",
    "conv": "Conv",
    "conv_transformer": "ConvTransformer",
    "ctc": "CTC",
    "mlp": "MLP",
    "qformer": "QFormer",
    "tltr": "TLTR",
}
"""Adapters whose code is there, and how their classes begin."""
_PLACEHOLDERS = ("<|audio|>", "<|audio_clip|>", "<|kikimimi_audio|>")


def reasons(recipe: Recipe) -> list[str]:
    """Return why a recipe cannot be written as a custom model; nothing where it can."""
    found = []
    if recipe.encoder.name not in ENCODERS:
        found.append(f"encoder '{recipe.encoder.name}' has no code there: it takes {listing(ENCODERS)}")
    elif recipe.encoder.lora is not None and recipe.encoder.lora.modality != "any":
        found.append("encoder.lora.modality: updates that act only with audio have no code there")
    if recipe.adapter.name not in ADAPTERS:
        found.append(f"adapter '{recipe.adapter.name}' has no code there: it takes {listing(ADAPTERS)}")
    if recipe.llm.name == "seq2seq":
        found.append("llm 'seq2seq' has an encoder of its own: it takes decoders")
    elif not hasattr(recipe.llm.component, "model_classes"):
        found.append(f"llm '{recipe.llm.name}' is no model of transformers")
    if _gated(recipe) and recipe.adapter.name in HEARING:
        found.append(
            f"llm.lora.modality: updates that act only with audio have no code there beside adapter "
            f"'{recipe.adapter.name}'"
        )
    return found


def _gated(recipe: Recipe) -> bool:
    return recipe.llm.lora is not None and recipe.llm.lora.modality != "any"


def problems(model: SpeechLM, recipe: Recipe) -> list[str]:
    """Return why a model cannot be written so: its parts, or its prompts; nothing where it can.

    Args:
        model: The model; its weights are not asked for.
        recipe: Its recipe.
    """
    return reasons(recipe) or _template_problems(model.llm)


def notes(recipe: Recipe) -> list[str]:
    """Return what is to be known of a recipe's custom model, one sentence each."""
    told = ["It is opened with trust_remote_code=True: the code beside the weights is all that it needs."]
    if recipe.adapter.name in HEARING:
        told.append(
            f"Adapter '{recipe.adapter.name}' gives as many audio tokens as it hears things: transformers "
            "opens the model, and vLLM, which counts them before anything is heard, cannot."
        )
    if _gated(recipe):
        told.append(
            "Low-rank updates of the LLM stand beside its weights and act in conversations with audio alone: "
            "transformers opens the model, and vLLM, which runs several requests as one row, cannot."
        )
    return told


def write_auto_map(
    model: SpeechLM, recipe: Recipe, folder: Path, *, dtype: torch.dtype | None = None
) -> None:
    """Write a model as transformers' `AutoModelForCausalLM` and `AutoProcessor` open it, without kikimimi.

    Low-rank updates are merged, but for those that act with audio alone. All weights have one number format.

    Args:
        model: The model of a run.
        recipe: Its recipe.
        folder: A folder to write into; it is made where it is not there.
        dtype: Number format of the weights; None is that of the LLM's.

    Raises:
        RequestError: The recipe has no such form, or the chat template cannot be written so that it renders
            as the run's own.
        WriteError: The model has other weights than the code.
    """
    wrong = problems(model, recipe)
    if wrong:
        raise RequestError(f"cannot be written as a custom model: {'; '.join(wrong)}")
    adapter = recipe.adapter.name
    llm: Any = model.llm
    stored: torch.dtype = dtype or next(llm.parameters()).dtype
    tokenizer, placeholder = _own_tokenizer(llm)
    audio, adapting = audio_settings(model), _adapter_settings(model, adapter)
    processing = import_module(f"{__package__}.processing_speech_lm")
    processor = processing.SpeechModelProcessor(
        feature_extractor(model, audio),
        tokenizer,
        chat_template=tokenizer.chat_template,
        audio_token=placeholder,
        audio_config=audio,
        adapter_config=adapting,
    )
    audio["max_source_positions"] = processor.num_audio_tokens(audio["max_samples"])
    folder.mkdir(parents=True, exist_ok=True)
    processor.save_pretrained(folder)
    _amend(
        folder / "processor_config.json",
        {"auto_map": {"AutoProcessor": "processing_speech_lm.SpeechModelProcessor"}},
    )
    gated = _gated(recipe)
    config = _config(model, audio, adapting, processor.audio_token_id, stored)
    lora = recipe.llm.lora
    if gated and lora is not None:
        config.updates = {"rank": lora.rank, "scale": lora.alpha / lora.rank, "targets": list(lora.targets)}
    modeling = import_module(f"{__package__}.modeling_{adapter}")
    begins = ADAPTERS[adapter]
    state = {name: _cast(value, stored) for name, value in _state(model, keep=gated).items()}
    with torch.device("meta"):
        whole = getattr(modeling, f"{begins}SpeechModelForCausalLM")(config)
    check_tensors({**dict(whole.named_parameters()), **_kept_buffers(whole)}, state)
    _save(state, folder)
    config.save_pretrained(folder)
    classes = {
        "AutoConfig": f"modeling_{adapter}.{begins}SpeechModelConfig",
        "AutoModel": f"modeling_{adapter}.{begins}SpeechModel",
        "AutoModelForCausalLM": f"modeling_{adapter}.{begins}SpeechModelForCausalLM",
    }
    _amend(
        folder / "config.json",
        {
            "auto_map": classes,
            "architectures": [f"{begins}SpeechModelForCausalLM"],
        },
    )
    for name in ("processing_speech_lm", f"modeling_{adapter}"):
        _write_code(name, folder)
    if gated:
        _amend_code(folder / "modeling_speech_lm.py", "SERVED = True", "SERVED = False")
    stops = list(llm.chat.stop_ids)
    generation = {"eos_token_id": stops, "pad_token_id": stops[0], "do_sample": False}
    with writing(folder / "generation_config.json"):
        (folder / "generation_config.json").write_text(
            json.dumps(generation, indent=2) + "\n", encoding="utf-8"
        )


def check_tensors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Check that a model has all weights, each of its shape, and no other: nothing that opens it may notice.

    Raises:
        WriteError: It has not.
    """
    wanted = {name: tuple(value.shape) for name, value in expected.items()}
    held = {name: tuple(value.shape) for name, value in found.items()}
    wrong = sorted(name for name in wanted.keys() | held.keys() if wanted.get(name) != held.get(name))
    if wrong:
        raise WriteError(
            f"the custom model has other tensors than this one: {listing(wrong)} "
            f"(there {wanted.get(wrong[0])}, here {held.get(wrong[0])})"
        )


def _adapter_settings(model: SpeechLM, name: str) -> dict[str, Any]:
    adapter: Any = model.adapter
    context = adapter.context
    options = asdict(adapter.config)
    for source in ("weights", "head_weights"):
        options.pop(source, None)
    labels = {}
    if hasattr(adapter, "ctc"):
        labels = {"blank_id": adapter.ctc.blank_id, "num_labels": adapter.ctc.head.out_features}
    return {
        "name": name,
        **options,
        "in_dim": context.in_dim,
        "out_dim": context.out_dim,
        "num_concat_layers": context.num_concat_layers,
        "window": getattr(adapter, "window", None),
        **labels,
    }


def _config(
    model: SpeechLM, audio: dict[str, Any], adapter: dict[str, Any], audio_token_id: int, dtype: torch.dtype
) -> Any:
    modeling = import_module(f"{__package__}.modeling_{adapter['name']}")
    text_model = _text_model(model)
    text = text_model.config.to_dict()
    number_format = str(dtype).removeprefix("torch.")
    text["dtype"] = number_format
    text.pop("_name_or_path", None)
    return getattr(modeling, f"{ADAPTERS[adapter['name']]}SpeechModelConfig")(
        text_config=text,
        audio_config=audio,
        adapter_config=adapter,
        audio_token_id=audio_token_id,
        text_prefix=text_model.base_model_prefix,
        dtype=number_format,
    )


def _text_model(model: SpeechLM) -> Any:
    llm: Any = model.llm
    return llm.model


def _state(model: SpeechLM, *, keep: bool) -> dict[str, Tensor]:
    """Return the weights by their names there, tied ones once; low-rank updates merged, or the LLM's kept."""
    parts: tuple[tuple[str, Any], ...] = (
        ("encoder", model.encoder),
        ("adapter", model.adapter),
        ("llm", model.llm),
    )
    found = {}
    for part, module in parts:
        for name, value in _merged(module, keep=keep and part == "llm").items():
            first, _, rest = name.partition(".")
            if part == "adapter":
                found[f"adapter.{name}"] = value
            elif part == "llm":
                found[f"llm.{rest}"] = value
            elif first == "taps":
                found["encoder.taps"] = value
            elif first == "model":  # a mask for training has parameters, too
                found[f"encoder.{encoder_name(model, rest)}"] = value
    return found


def _merged(module: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    state = {}
    for name, value in (*module.named_parameters(), *_kept_buffers(module).items()):
        if ".lora_" in name:
            if keep:
                beside = name.replace(".lora_A.default.", ".update_in.")
                state[beside.replace(".lora_B.default.", ".update_out.")] = value.detach().cpu()
            continue
        owner_name, _, kind = name.rpartition(".")
        if owner_name.endswith(".base_layer"):
            layer: Any = module.get_submodule(owner_name.removesuffix(".base_layer"))
            if kind == "weight" and not keep:
                value = value.detach().float() + layer.get_delta_weight("default").float()
            name = f"{owner_name.removesuffix('.base_layer')}.{kind}"
        state[name] = value.detach().cpu()
    return state


def _kept_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that files of weights hold."""
    held = module.state_dict()
    return {name: value for name, value in module.named_buffers() if name in held}


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    return (value.to(dtype) if value.is_floating_point() else value).contiguous()


def _save(state: dict[str, Tensor], folder: Path) -> None:
    from huggingface_hub import save_torch_state_dict

    save_torch_state_dict(state, folder, metadata={"format": "pt"})


def _write_code(name: str, folder: Path) -> None:
    """Write a module of this folder, and those that it imports from here, which lie beside it there."""
    code = Path(__file__).with_name(f"{name}.py").read_bytes().decode()
    code = code.replace(f"from {__package__}.", "from .")
    assert "kikimimi." not in code, name
    for other in re.findall(r"^from \.(\w+) import", code, re.MULTILINE):
        _write_code(other, folder)
    with writing(folder / f"{name}.py"):
        (folder / f"{name}.py").write_text(code, encoding="utf-8")


def _amend_code(file: Path, old: str, new: str) -> None:
    code = file.read_text(encoding="utf-8")
    assert code.count(old) == 1, old
    with writing(file):
        file.write_text(code.replace(old, new), encoding="utf-8")


def _amend(file: Path, added: dict[str, Any]) -> None:
    held = json.loads(file.read_bytes())
    with writing(file):
        file.write_text(json.dumps(held | added, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _own_tokenizer(llm: Any) -> tuple[Any, str]:
    """Return the tokenizer with a new token for clips and the template that writes it, and that token."""
    tokenizer = copy.deepcopy(llm.tokenizer)
    placeholder = next(token for token in _PLACEHOLDERS if token not in tokenizer.get_vocab())
    tokenizer.add_tokens([placeholder], special_tokens=True)
    tokenizer.chat_template = served_template(llm, placeholder)
    return tokenizer, placeholder


def _template_problems(llm: Any) -> list[str]:
    """Render conversations both ways, and return where they differ."""
    tokenizer, placeholder = _own_tokenizer(llm)
    clip, words = AudioPart("clip.flac"), TextPart("Some words.")
    user, answer = Message("user", (clip, words)), Message("assistant", (TextPart("An answer."),))
    tried = [(user,), (Message("user", (words,)),), (user, answer, user)]
    marks = f"{llm.config.audio_start or ''}{placeholder}{llm.config.audio_end or ''}"
    for messages in tried:
        conversation = Conversation(messages)
        try:
            expected = llm.chat.text(conversation, generate=True).replace(AUDIO, marks)
        except ValueError:
            continue  # the template takes no such conversation
        turns = [
            {
                "role": message.role,
                "content": [
                    {"type": "audio"} if isinstance(part, AudioPart) else {"type": "text", "text": part.text}
                    for part in message.parts
                ],
            }
            for message in messages
        ]
        rendered = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        if rendered != expected:
            return [
                f"the chat template cannot be written for transformers: it gives {rendered!r}, "
                f"and the run's own prompts read {expected!r}"
            ]
    return []
