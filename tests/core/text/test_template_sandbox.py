"""Chat templates that strangers wrote: the text that transformers gives, and no more work than that needs."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kikimimi.text import template_sandbox
from kikimimi.text.chat_template import ChatTemplate
from kikimimi.text.template_sandbox import MAX_TEMPLATE, TemplateLimitError, render_template
from kikimimi_llms.scratch import build_tokenizer

pytestmark = pytest.mark.fault(
    "Limits: chat templates", "no more output, work and time than a template needs"
)

MESSAGES = [{"role": "system", "content": " s "}, {"role": "user", "content": 'a "b" <c>\nd'}]
TOO_MUCH = "makes a text or a list of more than"
TOO_LONG = r"works for more than 0\.05 s"
WIDTH = "asks for .* where at most 1,000 is allowed"
SEEKS = r"looks for a text of 10,00\d characters where at most 1,000 are allowed"
PADS = "pads to a width of more than 999"
DOUBLING = (
    "{% set ns = namespace(a='aaaaaaaa') %}{% for i in range(60) %}"
    "{% set ns.a = DOUBLE %}{% endfor %}{{ ns.a }}"
)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.role ~ ': ' ~ m['content'] | trim }}{% if not loop.last %};"
        "{% endif %}{% endfor %}",
        "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ messages[0] | string }}",
        "{% set ns = namespace(n=0, all=[]) %}{% for m in messages %}{% set ns.n = ns.n + loop.index0 %}"
        "{% set ns.all = ns.all + [m.role] %}{% endfor %}{{ ns.n }}{{ ns.all }}",
        "{% macro f(x, y=2) %}<{{ x }}{{ y * '-' }}>{% endmacro %}{{ f('a') }}{{ f('b', y=3) }}",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}",
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ loop.length }}"
        "{{ m.content }}{% endfor %}",
        "{{ messages | map(attribute='role') | join(', ') }}"
        "{{ messages | selectattr('role', 'equalto', 'user') | list }}",
        "{{ 'a,b'.split(',') | join('|') }}{{ 'abc'.replace('b', 'x').upper() }}{{ 'x'.join(['1', '2']) }}",
        "{{ '%s=%05d' % ('a', 3) }}{{ '{:>6}|{x}'.format('a', x=2024) }}{{ 'é' | tojson }}"
        "{{ 'x'.ljust(5) }}|",
        "{{ dict(a=1).items() | list }}{{ dict.fromkeys(['a'], 2) }}{{ {'b': 1} | dictsort }}"
        "{{ (1, 2) + (3,) }}",
        "{{ messages[1:] | length }}{{ messages[::-1][0].role }}{{ 2 ** 10 }}{{ 7 % 4 }}{{ 3 * 'ab' }}"
        "{{ [0] * 3 }}",
        "{{ bos_token }}{% if tools is not none %}t{% endif %}{% if add_generation_prompt %}g"
        "{% endif %}{{ none }}",
        "{% set x %}a{{ messages | length }}{% endset %}{{ x }}{{ x is string }}{{ 'a' in x }}"
        "{{ undefined_one }}",
        "{% for a in [[1, [2, []]]] recursive %}{{ a if a is number }}{{ loop(a) if a is not number }}"
        "{% endfor %}",
        "{{ '%(a)s %(b)5.1f%%' % {'a': 'x', 'b': 2} }}{{ 'a-b' | replace(new='+', old='-') }}"
        "{{ [1, 2] | join(d='-') }}{{ [[1], [2]] | sum(start=[]) }}{{ ('<' | e).center(9) }}"
        "{{ 'xax'.strip('x') }}{{ '--a' | trim('-') }}{{ 'a b'.rsplit(' ', 1) }}"
        "{{ [[1]] | tojson(indent=2) }}",
        "{{ 'a\nb' | indent(4, true) }}{{ ('word ' * 3) | trim }}{{ [3, 1] | sort }}{{ '<' | e }}"
        "{{ 2.5 | round }}",
        "  {% if true %}\n    x\n  {% endif %}\n{#- c -#} y\n",
    ],
)
def test_the_text_is_that_of_transformers(template: str) -> None:
    tokenizer = build_tokenizer("bytes", ())
    variables = {**tokenizer.special_tokens_map, "tools": None, "documents": None, "messages": MESSAGES}
    wanted = tokenizer.apply_chat_template(
        MESSAGES, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    assert render_template(template, {**variables, "add_generation_prompt": True}) == wanted


BOMBS = [
    ("{{ 'a' * 10**10 }}", TOO_MUCH),
    ("{{ 10**10 * [1] }}", TOO_MUCH),
    ("{{ 'a' | center(10**9) }}", WIDTH),
    ("{{ 'a' | indent(10**9) }}", WIDTH),
    ("{{ messages | tojson(indent=10**9) }}", WIDTH),
    ("{{ ('\n' * 900000) | indent(900) }}", TOO_MUCH),
    ("{{ ['a'] | map('center', 10**9) | list }}", WIDTH),
    ("{{ 1.5 | round(10**9, 'ceil') }}", WIDTH),
    ("{{ 'a'.ljust(10**9) }}", WIDTH),
    ("{{ 'a'.zfill(10**9) }}", WIDTH),
    ("{{ '%1000000000d' % 1 }}", PADS),
    ("{{ '%*d' % (10**9, 1) }}", PADS),
    ("{{ '%1000000000d' | format(1) }}", PADS),
    ("{{ '{:>1000000000}'.format(1) }}", PADS),
    ("{{ '{:>{}}'.format(1, 10**9) }}", PADS),
    ("{{ strftime_now('%1000000000d') }}", PADS),
    ("{{ range(100000) | join('a' * 1000) }}", TOO_MUCH),
    ("{{ ('a' * 1000).join(range(100000) | map('string')) }}", f"{TOO_MUCH}|{TOO_LONG}"),
    ("{{ ('a' * 100000) | replace('a', 'b' * 100000) }}", TOO_MUCH),
    ("{{ ('a' * 100000).replace('a', 'b' * 100000) }}", TOO_MUCH),
    ("{{ range(100000) | map('replace', '0', 'b' * 500000) | join }}", TOO_MUCH),
    ("{{ namespace(*(range(100000) | map('replace', '0', 'b' * 500000))) }}", "far more on its way|works"),
    ("{{ 'a'.expandtabs(10**9) }}", r"calls str\.expandtabs, which a template may not"),
    ("{{ 'ab'.translate({97: 'x' * 1000}) }}", r"calls str\.translate"),
    ("{{ (1).to_bytes(10**9, 'big') }}", r"calls int\.to_bytes"),
    ("{{ 9 ** (9 ** 9) }}", "number of more than 10,000 bits"),
    ("{{ (9 ** 3000) * (9 ** 3000) }}", "number of more than 10,000 bits"),
    (DOUBLING.replace("DOUBLE", "ns.a ~ ns.a"), TOO_MUCH),
    (DOUBLING.replace("DOUBLE", "ns.a + ns.a"), TOO_MUCH),
    (DOUBLING.replace("DOUBLE", "ns.a | replace('a', 'aa')"), TOO_MUCH),
    ("{% set x = 'a' * 99999 %}{% for i in range(99999) %}{{ x }}{% endfor %}", TOO_MUCH),
    ("{% set x %}{% for i in range(99999) %}" + "b" * 1000 + "{% endfor %}{% endset %}", TOO_MUCH),
    ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", TOO_LONG),
    (
        "{% for i in range(9) recursive %}{% if loop.depth < 50 %}{{ loop(range(9)) }}{% endif %}"
        "{% endfor %}",
        TOO_LONG,
    ),
    ("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}", TOO_LONG),
    ("{% for i in range(99999) if range(99999) | list | length == 0 %}{% endfor %}", TOO_LONG),
    (" " * (MAX_TEMPLATE + 1), r"has 100,001 characters; at most 100,000 are read"),
    ("{{ " + "a<" * 15_000 + "a }}", r"has more than 20,000 tokens of Jinja"),  # 4 s to compile, at 100,000
    ("{{ [" + "[]," * 10_000 + "] }}", r"has more than 20,000 tokens of Jinja"),
    ("{{a}}" * 10_000, r"has more than 20,000 tokens of Jinja"),
    ("{%for a in b%}{%endfor%}" * 3_000, r"has more than 20,000 tokens of Jinja"),
    ("{{ '%(a)1000000000d' % {'a': 1} }}", PADS),
    ("{{ '%((a))1000000000d' % {'(a)': 1} }}", PADS),
    ("{{ ('%999d' * 2000) % ((1,) * 2000) }}", TOO_MUCH),
    ("{{ strftime_now('%999d' * 2000) }}", TOO_MUCH),
    ("{{ ('{0}' * 20).format('a' * 99999) }}", TOO_MUCH),
    ("{{ ('{a}' * 20).format(a='a' * 99999) }}", TOO_MUCH),
    ("{{ ('{a}' * 20).format_map({'a': 'a' * 99999}) }}", TOO_MUCH),
    ("{{ ('%(a)s' * 20) % {'a': 'a' * 99999} }}", TOO_MUCH),
    ("{{ ('%(a)s' * 20) | format(a='a' * 99999) }}", TOO_MUCH),
    ("{{ range(20) | join(attribute='real', d='a' * 99999) }}", TOO_MUCH),
    ("{{ ('x' * 20) | replace(new='a' * 99999, old='x') }}", TOO_MUCH),
    ("{{ ('a' | safe).center(10**9) }}", WIDTH),
    ("{{ ('a' | e).ljust(width=10**9) }}", WIDTH),
    ("{{ (('a' * 99999) | e).join(range(20)) }}", TOO_MUCH),
    ("{{ (('x' * 20) | e).replace('x', 'a' * 99999) }}", TOO_MUCH),
    ("{{ ('<' | e).unescape() }}", r"calls Markup\.unescape, which a template may not"),
    ("{{ ([2 ** 4999] * 900) | join }}", TOO_MUCH),
    ("{{ ([2 ** 4999] * 900) | string }}", TOO_MUCH),
    ("{{ ([[1]] * 99999) | sum(start=[]) }}", f"far more on its way|{TOO_LONG}"),
    ("{{ ('a' * 99999).strip('b' * 9999 + 'a') }}", SEEKS),
    ("{{ ('a' * 99999) | trim('b' * 9999 + 'a') }}", SEEKS),
    ("{{ ('a' * 99999).rfind('ab' + 'a' * 9999) }}", SEEKS),
    (
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x] %}{% endfor %}"
        "{{ ns.x | tojson(indent=1000) }}",
        TOO_MUCH,
    ),
]


@pytest.mark.parametrize(("template", "said"), BOMBS, ids=range(len(BOMBS)))
def test_bombs_are_refused(monkeypatch: pytest.MonkeyPatch, template: str, said: str) -> None:
    monkeypatch.setattr(template_sandbox, "MAX_SECONDS", 0.05)
    with pytest.raises(TemplateLimitError, match=said):
        render_template(template, {"messages": MESSAGES})


@pytest.mark.parametrize(
    "double", ["[ns.a, ns.a]", "(ns.a, ns.a)", "{'a': ns.a, 'b': ns.a}", "dict(a=ns.a, b=ns.a)"]
)
def test_lists_that_double_are_refused(monkeypatch: pytest.MonkeyPatch, double: str) -> None:
    monkeypatch.setattr(template_sandbox, "MAX_OUTPUT", 1000)
    with pytest.raises(TemplateLimitError, match=TOO_MUCH):
        render_template(DOUBLING.replace("DOUBLE", double), {})


@pytest.mark.parametrize(
    "template",
    ["{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"],
)
def test_recursion_without_end_is_an_error(template: str) -> None:
    with pytest.raises(RecursionError):
        render_template(template, {})


@pytest.mark.parametrize("name", ["pprint", "striptags", "urlize", "wordwrap"])
def test_slow_filters_are_not_there(name: str) -> None:
    with pytest.raises(Exception, match=f"No filter named '{name}'"):
        render_template("{{ 'a' | " + name + " }}", {})


@pytest.mark.parametrize(
    "template", ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ messages[0].update(a=1) }}"]
)
def test_nothing_leaves_the_sandbox(template: str) -> None:
    messages = [dict(message) for message in MESSAGES]
    with pytest.raises(Exception, match="unsafe"):
        render_template(template, {"messages": messages})
    assert messages == MESSAGES


def test_what_is_given_may_be_long() -> None:
    text = "あ" * 3_000_000
    assert render_template("{{ m | trim }}{{ m }}", {"m": text}) == text * 2


def test_limits_hold_in_each_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_sandbox, "MAX_SECONDS", 0.05)
    endless, _ = BOMBS[32]

    def render(number: int) -> Any:
        if number % 2:
            return render_template("{{ n }}", {"n": number})
        with pytest.raises(TemplateLimitError, match=TOO_LONG):
            render_template(endless, {})
        return None

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(render, range(8))) == [None, "1", None, "3", None, "5", None, "7"]


@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer_config.json"])
def test_the_file_of_a_bad_template_is_named(tmp_path: Path, file: str) -> None:
    from transformers import AutoTokenizer

    build_tokenizer("bytes", ()).save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    bomb = "{{ 'a' * 10**10 }}"
    if file.endswith(".jinja"):
        (tmp_path / file).write_text(bomb)
    else:
        settings = json.loads((tmp_path / file).read_text())
        (tmp_path / file).write_text(json.dumps({**settings, "chat_template": bomb}))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"not safe to run: it makes a text .* \({tmp_path / file}\)"):
        ChatTemplate(tokenizer, source="org/name")
    shutil.rmtree(tmp_path)
    with pytest.raises(ValueError, match=r"not safe to run: .* \(chat_template: \{\{ 'a' \* 10\*\*10 \}\}\)"):
        ChatTemplate(build_tokenizer("bytes", ()), source="org/name", template=bomb)
