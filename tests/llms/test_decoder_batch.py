"""RunningAnswers that enter and leave have the logits that each has alone."""

from __future__ import annotations

from pathlib import Path

import torch
from tests.llms.test_causal_lm import loaded, saved
from tests.llms.test_rope import MODELS, SIZES
from torch import Tensor

from kikimimi import Generation, LLMContext
from kikimimi_llms.decoder import PACKED, CausalLM, Llama

GREEDY = Generation(max_new_tokens=8)


def ids_of(length: int, seed: int) -> Tensor:
    return torch.randint(3, 300, (length,), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def test_every_packed_model_type(tmp_path: Path) -> None:
    for model_type in sorted(PACKED):
        saved(tmp_path / model_type, model_type)
        check_rows(loaded(tmp_path / model_type))


@torch.inference_mode()
def test_frequencies_that_depend_on_the_length(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from kikimimi_llms.scratch import build_tokenizer

    torch.manual_seed(0)
    config = AutoConfig.for_model("phi3", **SIZES, **MODELS["phi3"])
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    build_tokenizer("bytes", ()).save_pretrained(tmp_path)
    llm = loaded(tmp_path)
    rows = llm.running_batch()
    assert rows is not None
    # The factors switch behind position 16.
    assert [rows.takes(n, GREEDY) for n in (8, 9, 16, 17, 40)] == [True, False, False, True, True]
    check_rows(llm, lengths=(8, 17, 5))


def check_rows(llm: CausalLM, lengths: tuple[int, int, int] = (11, 1, 7)) -> None:
    """Three rows, of which the second enters late, the first leaves, and the third comes last."""
    rows = llm.running_batch()
    assert rows is not None
    asked = [ids_of(length, number) for number, length in enumerate(lengths)]
    new = [ids_of(6, 10 + number) for number in range(3)]
    prompts = [llm.embed(ids) for ids in asked]
    found: list[list[Tensor]] = [[], [], []]

    def take(numbers: list[int], logits: Tensor) -> None:
        for number, row in zip(numbers, logits, strict=True):
            found[number].append(row)

    def step(numbers: list[int]) -> None:
        take(numbers, rows.step(torch.stack([new[n][len(found[n]) - 1] for n in numbers])))

    take([0], rows.enter(prompts[:1]))
    step([0])
    take([1], rows.enter(prompts[1:2]))
    step([0, 1])
    step([0, 1])
    rows.keep([1])
    step([1])
    take([2], rows.enter(prompts[2:]))
    for _ in range(3):
        step([1, 2])
    assert [len(logits) for logits in found] == [4, 7, 4]
    for number, logits in enumerate(found):
        ids = torch.cat([asked[number], new[number][: len(logits) - 1]])
        select = torch.arange(lengths[number] - 1, len(ids))
        wanted = llm(llm.embed(ids), torch.tensor([len(ids)]), select)
        torch.testing.assert_close(
            torch.stack(logits),
            wanted,
            atol=1e-5,
            rtol=1e-5,
            msg=f"{llm.model.config.model_type}, row {number}",
        )
    rows.keep([])
    torch.testing.assert_close(rows.enter(prompts[:1])[0], found[0][0], atol=1e-5, rtol=1e-5)


def test_which_rows_are_taken(tmp_path: Path) -> None:
    saved(tmp_path, "opt")
    assert loaded(tmp_path).running_batch() is None  # a padded batch
    rows = Llama(Llama.tiny_config(), LLMContext()).running_batch()
    assert rows is not None
    assert rows.takes(10_000, GREEDY)
    assert not rows.takes(3, Generation(num_beams=2))


def test_where_an_answer_ends() -> None:
    llm = Llama(Llama.tiny_config(), LLMContext())
    rows = llm.running_batch()
    assert rows is not None
    stop = llm.chat.stop_ids[0]
    others = [token for token in range(10, 14) if token not in llm.chat.stop_ids]
    assert rows.ended(others) is None
    assert rows.ended([*others, stop]) == others
    assert rows.ended([stop]) == []
