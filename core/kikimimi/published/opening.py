"""How an export is opened: code for its model card."""

from kikimimi.console.terminal import visible

HERE = "."
"""Stands for the folder itself, where it has no name on the Hub."""
_SAID = '[{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": REQUEST}]}]'
_ANSWERED = """\
ids = model.generate(**inputs, max_new_tokens=200)[:, inputs["input_ids"].shape[1] :]
print(processor.batch_decode(ids, skip_special_tokens=True)[0])
"""
_OPENED = """\
import soundfile
import torch
from transformers import AutoProcessor, CLASS

processor = AutoProcessor.from_pretrained(NAME)
model = CLASS.from_pretrained(NAME, dtype="auto").eval()
"""
_CLIP = 'clip, rate = soundfile.read("clip.wav", dtype="float32")  # 16 kHz, one channel\n'
_TEXT = f"""\
said = {_SAID}
text = processor.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
"""
_CALLED = (
    _OPENED.replace("import torch\n", "")
    + _CLIP
    + _TEXT
    + 'inputs = processor(text=[text], audio=[clip], sampling_rate=rate, return_tensors="pt")\n'
    + "inputs = inputs.to(model.dtype)\n"
    + _ANSWERED
)
_GRANITE = (
    _OPENED
    + _CLIP
    + _TEXT
    + 'inputs = processor(text=[text], audio=[torch.from_numpy(clip)[None]], return_tensors="pt")\n'
    + "inputs = inputs.to(model.dtype)\n"
    + _ANSWERED
)
_VOXTRAL = (
    _OPENED.replace("import soundfile\nimport torch\n", "")
    + "said = "
    + _SAID.replace('"type": "audio"', '"type": "audio", "path": "clip.wav"')
    + "\n"
    + 'inputs = processor.apply_chat_template(said, return_tensors="pt").to(model.dtype)\n'
    + _ANSWERED
)
_CUSTOM = (
    _CALLED.replace("CLASS", "AutoModelForCausalLM")
    .replace("from_pretrained(NAME", "from_pretrained(NAME, trust_remote_code=True")
    .replace("sampling_rate=rate, ", "")
)
_ASKED = """\
import base64
from pathlib import Path

from openai import OpenAI

clip = {"data": base64.b64encode(Path("clip.wav").read_bytes()).decode(), "format": "wav"}
said = [{"type": "input_audio", "input_audio": clip}, {"type": "text", "text": REQUEST}]
server = OpenAI(base_url="http://localhost:8000/v1", api_key="none")
answer = server.chat.completions.create(model=NAME, messages=[{"role": "user", "content": said}])
print(answer.choices[0].message.content)
"""
_CODE = {"granite_speech": _GRANITE, "voxtral": _VOXTRAL, "hf": _CUSTOM}
_SERVED = {
    "ultravox": "--trust-remote-code",
    "voxtral-mistral": "--tokenizer-mode mistral --config-format mistral --load-format mistral",
}
"""Options of `vllm serve` for shapes that transformers has no class for."""


def opening(format_: str, model_class: str | None, name: str, request: str) -> list[tuple[str, str]]:
    """Return how an export is opened and asked about a clip: language and code of each piece.

    Args:
        format_: Name of the format.
        model_class: Name of transformers' class; None where it has none.
        name: The repository on the Hub, or `HERE`.
        request: What is asked about the clip.
    """
    if format_ in _SERVED:
        pieces = [("bash", f"vllm serve {name} {_SERVED[format_]}\n"), ("python", _ASKED)]
    else:
        pieces = [("python", _CODE.get(format_, _CALLED).replace("CLASS", model_class or ""))]
    return [
        (language, code.replace("NAME", repr(name)).replace("REQUEST", repr(visible(request))))
        if language == "python"
        else (language, code)
        for language, code in pieces
    ]


def library_of(format_: str) -> str:
    """Return the library that opens a format, as the Hub calls it."""
    return "vllm" if format_ in _SERVED else "transformers"
