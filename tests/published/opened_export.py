"""Opens an export in a process of its own, in which kikimimi cannot be imported, and answers with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Forbidden:
    """A finder that lets nobody import kikimimi."""

    def find_spec(self, name: str, *_: Any) -> None:
        """Refuse kikimimi's packages."""
        if name.startswith("kikimimi"):
            raise ImportError(f"{name} is imported by an export")


def heard_one_by_one(body: Any, features: torch.Tensor, masks: torch.Tensor) -> None:
    """Hear clips as vLLM gives those of unequal lengths: a tensor of one, and its mask in a list."""
    together = body.get_audio_features(features, masks).pooler_output
    alone = [
        body.get_audio_features(row[None], [mask]).pooler_output
        for row, mask in zip(features, masks, strict=True)
    ]
    assert (torch.cat(alone) - together).abs().max() < 1e-4


def until_stop(ids: list[int], stops: list[int]) -> list[int]:
    """Return the ids of an answer before the first that ends it."""
    return next((ids[:place] for place, token in enumerate(ids) if token in stops), ids)


def heard(folder: Path) -> None:
    """Answer the batches of `asked` in a folder with the model in its `export`; write to `found` there."""
    from transformers import AutoModel, AutoModelForCausalLM, AutoProcessor

    export = folder / "export"
    processor: Any = AutoProcessor.from_pretrained(export, trust_remote_code=True)
    opened = {"trust_remote_code": True, "output_loading_info": True}
    model, report = AutoModelForCausalLM.from_pretrained(export, **opened)
    body, body_report = AutoModel.from_pretrained(export, **opened)
    for said in (report, body_report):
        assert not said["missing_keys"], said
    assert not report["unexpected_keys"], report
    # vLLM opens the body, and reads the head's weights for one of its own unless the body ignores them.
    head = set() if model.config.tie_word_embeddings else {"llm.lm_head.weight"}
    assert set(body_report["unexpected_keys"]) == head, body_report
    model, body = model.eval(), body.eval()
    stops = model.generation_config.eos_token_id
    asked = torch.load(folder / "asked", weights_only=False)
    answers = []
    for batch in asked["batches"]:
        texts = [
            processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            for turns, _ in batch
        ]
        clips = [np.asarray(clip) for _, own in batch for clip in own]
        inputs = processor(text=texts, return_tensors="pt", **({"audio": clips} if clips else {}))
        with torch.inference_mode():
            logits = model(**inputs).logits
            hidden = body(**inputs, return_dict=False)[0]
            headed = model.get_output_embeddings()(hidden)
            cap = getattr(model.config.text_config, "final_logit_softcapping", None)
            headed = headed if cap is None else cap * (headed / cap).tanh()
            assert (headed - logits).abs().max() < 1e-4
            if clips:
                heard_one_by_one(body, inputs["input_features"], inputs["input_features_mask"])
            ids = model.generate(**inputs, max_new_tokens=8)[:, inputs["input_ids"].shape[1] :]
        masks = inputs["attention_mask"].bool()
        heard_masks = masks
        if hasattr(model, "expand_inputs"):  # a placeholder for a clip: logits have places of their own
            with torch.inference_mode():
                heard_masks = model.expand_inputs(**inputs)[1].bool()
        answers.append(
            {
                "ids": [row[mask].tolist() for row, mask in zip(inputs["input_ids"], masks, strict=True)],
                "logits": [row[mask] for row, mask in zip(logits, heard_masks, strict=True)],
                "new": [until_stop(row, stops) for row in ids.tolist()],
                "texts": [text.strip() for text in processor.batch_decode(ids, skip_special_tokens=True)],
            }
        )
    counts = [processor.num_audio_tokens(length) for length in asked["lengths"]]
    refused = []
    for length in (0, asked["lengths"][0] + 1):
        try:
            processor(text=[processor.audio_token], audio=[np.zeros(length, np.float32)])
        except ValueError as error:
            refused.append(str(error))
    made = {"answers": answers, "counts": counts, "audio": processor.audio_token_id, "refused": refused}
    torch.save(made, folder / "found")
    assert not any(name.startswith("kikimimi") for name in sys.modules)


if __name__ == "__main__":
    sys.meta_path.insert(0, Forbidden())
    for argument in sys.argv[1:]:
        heard(Path(argument))
