from __future__ import annotations

import pytest
import torch
from kikimimi_mingru import MinGRU, MinGRULM, choose

from kikimimi import Conversation, Generation, LLMContext, Message, TextPart
from kikimimi.testing import Check, parametrize_checks


@parametrize_checks(MinGRULM, default=MinGRULM.Config())
def test_contract(check: Check) -> None:
    check()


def test_all_positions_at_once_are_what_one_after_the_other_is() -> None:
    torch.manual_seed(0)
    unit = MinGRU(8, 6)
    x = 3 * torch.randn(2, 300, 8)
    _, states = unit(x, None)
    state = torch.zeros(2, 6)
    for position in range(300):
        z = torch.sigmoid(unit.gate(x[:, position]))
        candidate = unit.candidate(x[:, position])
        g = torch.where(candidate >= 0, candidate + 0.5, torch.sigmoid(candidate))
        state = (1 - z) * state + z * g
        torch.testing.assert_close(states[:, position], state, rtol=1e-4, atol=1e-5)


def test_a_turn_is_its_role_its_bytes_and_an_end() -> None:
    llm = MinGRULM(MinGRULM.tiny_config(), LLMContext())
    turns = (Message("user", (TextPart("<|end|>"),)), Message("assistant", (TextPart("é"),)))
    rendered = llm.render(Conversation(turns))
    assert rendered.ids == [257, *b"<|end|>", 259, 258, 0xC3, 0xA9, 259]
    assert rendered.loss == [False] * 10 + [True] * 3


def test_what_is_drawn_is_in_the_nucleus() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log().expand(200, 3)
    torch.manual_seed(0)
    drawn = choose(logits, Generation(temperature=1.0, top_p=0.7))
    assert set(drawn.tolist()) == {0, 1}
    assert choose(logits, Generation(temperature=1.0, top_p=0.5)).tolist() == [0] * 200


def test_there_is_no_beam_search() -> None:
    llm = MinGRULM(MinGRULM.tiny_config(), LLMContext())
    with pytest.raises(ValueError, match="'mingru' has no beam search: num_beams must be 1, not 4"):
        llm.generate([torch.zeros(3, 64)], Generation(num_beams=4))
