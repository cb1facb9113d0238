"""An exported model, opened where kikimimi cannot be imported: python served_alone.py FOLDER CLIP.wav OUT."""

import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any


class NoKikimimi(MetaPathFinder):
    """Refuses to find kikimimi and its plugins."""

    def find_spec(self, name: str, *_: Any) -> None:
        """Raise where it is asked for them."""
        if name.partition(".")[0].startswith("kikimimi"):
            raise ImportError(f"{name} is not there")


def read_updates(model: Any, folder: Path) -> None:
    """Put in low-rank updates, which transformers of some versions leaves to a later peft."""
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    inject_adapter_in_model(LoraConfig.from_pretrained(str(folder)), model)
    held = load_file(folder / "adapter_model.safetensors")
    state = {name.removeprefix("base_model.model."): value for name, value in held.items()}
    missing = set_peft_model_state_dict(model, state)
    assert not missing.unexpected_keys


def main(folder: Path, clip: Path, out: Path) -> None:
    """Write ids, logits and the greedy answer's ids of one conversation."""
    import soundfile
    import torch
    import transformers

    processor: Any = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    wave, rate = soundfile.read(clip, dtype="float32")
    words = {"type": "text", "text": "Tell me."}
    if (folder / "tekken.json").exists():
        messages = [{"role": "user", "content": [{"type": "audio", "path": str(clip)}, words]}]
        inputs = dict(processor.apply_chat_template(messages, return_tensors="pt"))
    else:
        messages = [{"role": "user", "content": [{"type": "audio"}, words]}]
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        granite = type(processor).__name__ == "GraniteSpeechProcessor"
        options = {} if granite else {"sampling_rate": rate}
        given = [torch.from_numpy(wave)[None]] if granite else [wave]
        inputs = dict(processor(text=[text], audio=given, return_tensors="pt", **options))
    made: dict[str, Any] = {"ids": inputs["input_ids"][0]}
    config = transformers.PretrainedConfig.get_config_dict(folder)[0]
    model_class = getattr(transformers, config["architectures"][0], None)
    if model_class is not None:
        model = model_class.from_pretrained(folder).eval()
        updates = folder.with_name("updates")
        if updates.exists():
            read_updates(model, updates)
        with torch.inference_mode():
            made["logits"] = model(**inputs).logits[0]
            new = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        made["new"] = new[0, len(made["ids"]) :]
    assert not [name for name in sys.modules if name.partition(".")[0].startswith("kikimimi")]
    torch.save(made, out)


if __name__ == "__main__":
    sys.meta_path.insert(0, NoKikimimi())
    main(*map(Path, sys.argv[1:]))
