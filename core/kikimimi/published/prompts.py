"""A run's chat template for those who serve: messages of parts in, one token for each clip out."""

import json
from typing import Any

from kikimimi.text.guarded_tokenizer import AUDIO

_SLOT = json.dumps(AUDIO)
_MESSAGES = """\
{%- set given = namespace(messages=[], around=AROUND) -%}
{%- for message in messages -%}
{%- set turn = namespace(content='') -%}
{%- if message.audio is defined -%}
{%- set given.around = KEPT -%}
{%- set turn.content = message.audio ~ message.content -%}
{%- elif message.content is string -%}
{%- set turn.content = message.content | replace(TOKEN, SLOT) -%}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type in ['audio', 'input_audio', 'audio_url'] -%}
{%- set turn.content = turn.content + SLOT -%}
{%- else -%}
{%- set turn.content = turn.content + part.text -%}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- set rest = turn.content.lstrip(SLOT) -%}
{%- set heard = turn.content[:turn.content | length - rest | length] -%}
{%- set given.messages = given.messages + [dict(message, content=CONTENT, audio=heard)] -%}
{%- endfor -%}
{%- set messages = given.messages -%}
"""


def served_template(llm: Any, token: str) -> str:
    """Return Jinja that writes what the run's own template does, for messages as the API of OpenAI has them.

    `ChatTemplate` takes it, too, where an export is taken in again: its messages have `audio`.

    Args:
        llm: The run's LLM, with `chat`, and in its options `audio_start` and `audio_end`.
        token: What stands for a clip.
    """
    chat = llm.chat
    start, end = llm.config.audio_start or "", llm.config.audio_end or ""
    around, kept = (json.dumps(start + clip + end, ensure_ascii=False) for clip in (token, AUDIO))
    # A template that places the clips itself gets the rest of the turn without them.
    content = "rest" if "message.audio" in chat.jinja else "turn.content"
    messages = _MESSAGES
    for name, said in {
        **{"TOKEN": json.dumps(token), "SLOT": _SLOT, "CONTENT": content},
        **{"AROUND": around, "KEPT": kept},
    }.items():
        messages = messages.replace(name, said)
    variables = "".join(
        f"{{%- if {name} is not defined -%}}{{%- set {name} = {_literal(value)} -%}}{{%- endif -%}}\n"
        for name, value in chat.variables.items()
    )
    own = chat.jinja.removesuffix("\n")
    return (
        f"{messages}{variables}{{%- set written +%}}{own}{{%+ endset -%}}\n"
        f"{{{{- written | replace({_SLOT}, given.around) -}}}}"
    )


def _literal(value: bool | str | None) -> str:
    if isinstance(value, str):
        return json.dumps(value)
    return "none" if value is None else str(value).lower()
