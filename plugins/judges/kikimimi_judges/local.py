"""A judge that runs on this machine: an LLM as recipes name it, or that of a trained run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from kikimimi import (
    Chosen,
    Conversation,
    Generation,
    Judge,
    JudgeConfig,
    JudgePrompt,
    JudgeReply,
    Message,
    NonNegativeFloat,
    PositiveInt,
    RunFolder,
    Text,
    TextPart,
    WrittenLLM,
)


class LocalJudge(Judge):
    """An LLM of this machine, asked in writing through its own chat template.

    Published models are named as a recipe's section `llm` names them (`{name: causal_lm, weights: ...}`): no
    remote code is run, and no pickle is read. Words of a prompt never become control tokens.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(JudgeConfig):
        """Options of the `local` judge: `llm` or `run`."""

        llm: Chosen | None = field(default=None, metadata={"kind": "llm"})
        """The LLM, as a recipe names it, with its `weights`, `dtype` and `lora`."""
        run: Text | None = None
        """Run folder whose LLM is asked, with the weights that it was trained to."""
        temperature: NonNegativeFloat = 0.0
        """Sampling temperature; 0 is greedy, of which all votes are the same."""
        max_tokens: PositiveInt = 512
        """Longest answer [tokens]; one that is cut there is a failure."""
        batch_size: PositiveInt = 8
        """Prompts that are answered together."""
        device: Literal["auto", "cpu", "cuda"] = "auto"
        """Where it runs; `auto` is a GPU if there is one."""

        def __post_init__(self) -> None:
            if (self.llm is None) == (self.run is None):
                raise ValueError("llm or run: one of them has to be given, and not both")

    config: Config

    @classmethod
    def identity(cls, config: Config) -> str:
        """Return the model, of a run what tells its newest weights from earlier ones, and how it answers."""
        how = f"temperature {config.temperature:g}, at most {config.max_tokens} tokens"
        if config.run is not None:
            return f"{config.run} {RunFolder.open(Path(config.run)).weights_identity()}, {how}"
        return f"{config.llm!r}, {how}"

    @classmethod
    def example(cls, folder: Path) -> Config:
        """Choose a tiny LLM with random weights."""
        llm = Chosen.of("llm", "llama")
        config = llm.component.tiny_config()
        tiny = replace(config, scratch=replace(config.scratch, tokenizer="bytes"))
        return cls.Config(llm=replace(llm, config=tiny), max_tokens=2, batch_size=2, device="cpu")

    def ask(self, prompts: Sequence[JudgePrompt]) -> Iterator[tuple[int, JudgeReply]]:
        """Yield the reply to each prompt, those of similar length together.

        Raises:
            RunError: The run holds no trained weights.
            WeightsError: Weights are missing or do not fit.
        """
        if not prompts:
            return
        config = self.config
        if config.run is not None:
            llm = WrittenLLM.of_run(Path(config.run), config.device)
        else:
            assert config.llm is not None
            llm = WrittenLLM.of(config.llm, config.device)
        generation = Generation(max_new_tokens=config.max_tokens, temperature=config.temperature)
        order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number].text))
        for start in range(0, len(order), config.batch_size):
            numbers = order[start : start + config.batch_size]
            asked = [prompts[number] for number in numbers]
            answers = llm.answer([_turns(one) for one in asked], generation, [one.vote for one in asked])
            for number, answer in zip(numbers, answers, strict=True):
                if isinstance(answer, str):
                    yield number, JudgeReply(failure=answer)
                    continue
                reply = JudgeReply(tokens_in=answer.tokens_in, tokens_out=answer.tokens_out)
                if answer.cut:
                    cut = f"cut after max_tokens ({config.max_tokens})"
                    yield number, replace(reply, failure=cut)
                else:
                    yield number, replace(reply, text=answer.text)


def _turns(prompt: JudgePrompt) -> Conversation:
    said = [Message("system", (TextPart(prompt.system),))] if prompt.system else []
    return Conversation((*said, Message("user", (TextPart(prompt.text),))))
