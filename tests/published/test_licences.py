"""What weights and data say of their licences, and what that means to whoever publishes."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from kikimimi.published.licences import Licence, licence_of, spelling, terms_of, together
from kikimimi.published.provenance import hub_name

TEXTS = {
    "             Apache License\n       Version 2.0, January 2004": "apache-2.0",
    "MIT License\n\nCopyright (c) 2022 OpenAI": "mit",
    "Permission is hereby granted, free of charge, to any person": "mit",
    "LLAMA 3.1 COMMUNITY LICENSE AGREEMENT\nLlama 3.1 Version Release Date": "llama3.1",
    "META LLAMA 3 COMMUNITY LICENSE AGREEMENT": "llama3",
    "Attribution-NonCommercial-NoDerivatives 4.0 International": "cc-by-nc-nd-4.0",
    "Attribution-NonCommercial 4.0 International": "cc-by-nc-4.0",
    "Creative Commons Attribution 4.0 International": "cc-by-4.0",
}


@pytest.mark.parametrize(
    ("said", "spelled"),
    [
        ("Apache-2.0", "apache-2.0"),
        ("CC BY-NC-ND 4.0", "cc-by-nc-nd-4.0"),
        ("CC_BY_4.0", "cc-by-4.0"),
        ("CC0", "cc0-1.0"),
        ("https://creativecommons.org/licenses/by-nc/4.0/", "cc-by-nc-4.0"),
        ("", "unknown"),
    ],
)
def test_licences_are_spelled_as_on_the_hub(said: str, spelled: str) -> None:
    assert spelling(said) == spelled


@pytest.mark.parametrize(
    ("identifier", "name", "forbids", "shut"),
    [
        ("apache-2.0", "", (), False),
        ("MIT", "", (), False),
        ("cc-by-sa-4.0", "", (), False),
        ("cc-by-nc-4.0", "", ("commercial use",), False),
        ("CC BY-NC-SA 3.0", "", ("commercial use",), False),
        ("cc-by-nd-4.0", "", ("to pass on changed versions",), True),
        ("cc-by-nc-nd-4.0", "", ("commercial use", "to pass on changed versions"), True),
        ("apple-amlr", "", ("any use but research",), True),
        ("other", "qwen-research", ("any use but research",), True),
        ("other", "mrl", ("any use but research",), True),
        ("other", "nvidia-oneway-noncommercial-license", ("commercial use",), False),
    ],
)
def test_what_licences_forbid(identifier: str, name: str, forbids: tuple[str, ...], shut: bool) -> None:
    terms = terms_of(identifier, name)
    assert (terms.forbids, terms.shut, terms.known) == (forbids, shut, True)


def test_llama_s_licences_ask_for_its_name() -> None:
    assert terms_of("llama2").begins == ""
    assert terms_of("llama3").begins == "Llama 3"
    assert [terms_of(name).begins for name in ("llama3.1", "llama3.2", "llama3.3", "llama4")] == ["Llama"] * 4
    assert any("Built with Llama" in ask for ask in terms_of("llama3.2").asks)
    assert any("ai.google.dev/gemma/terms" in ask for ask in terms_of("gemma").asks)


@pytest.mark.parametrize("identifier", ["other", "unknown", "cc-by-xx-4.0", "llama9", "our own"])
def test_what_is_in_no_table_is_not_known(identifier: str) -> None:
    terms = terms_of(identifier)
    assert not terms.known
    assert not terms.forbids


@pytest.mark.parametrize(("text", "identifier"), TEXTS.items())
def test_a_licence_is_known_by_its_own_text(tmp_path: Path, text: str, identifier: str) -> None:
    (tmp_path / "LICENSE").write_text(text, encoding="utf-8")
    found = licence_of(str(tmp_path))
    assert (found.id, found.files) == (identifier, (tmp_path / "LICENSE",))


def test_the_model_card_goes_before_the_text(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "---\nlicense: other\nlicense_name: qwen-research\nlicense_link: LICENSE\n---\n# A model\n"
    )
    (tmp_path / "LICENSE").write_text("Qwen RESEARCH LICENSE AGREEMENT")
    found = licence_of(str(tmp_path))
    assert found == Licence("other", "qwen-research", "LICENSE", (tmp_path / "LICENSE",))
    assert found.title == "other (qwen-research)"


@pytest.mark.parametrize(
    "card",
    [
        "# No metadata",
        "---\nlicense: [\n---\n",
        "---\nlicense: 3\n---\n",
        "---\n- license\n---\n",
        "---\nlicense: unknown\n---\n",
        "---\nlicense: ''\n---\n",
        "\xff\xfe",
    ],
)
def test_cards_that_say_nothing_of_it_leave_it_unknown(tmp_path: Path, card: str) -> None:
    (tmp_path / "README.md").write_bytes(card.encode("latin-1"))
    assert licence_of(str(tmp_path)).id == "unknown"


def test_hostile_names_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text('---\nlicense: "x\\e[2J: [y"\n---\n')
    found = licence_of(str(tmp_path))
    assert found.id == "other"
    assert found.name == r"x\x1b[2J: [y"


def test_a_copy_of_the_hub_tells_its_licence_and_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--org--ears"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    (snapshot / "README.md").write_text("---\nlicense: [mit]\n---\n")
    (snapshot / "config.json").write_text("{}")
    assert licence_of("org/ears").id == "mit"
    assert licence_of("org/ears/sub/model.safetensors").id == "mit"
    assert licence_of("org/eyes").id == "unknown"
    assert hub_name("org/ears/sub/model.safetensors@main") == "org/ears"
    assert hub_name(str(snapshot)) == "org/ears"


def test_a_folder_is_known_by_what_its_settings_say(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    for said, known in {
        '{"_name_or_path": "org/llm"}': "org/llm",
        '{"_name_or_path": "/home/me/llm"}': None,
        '{"_name_or_path": 3}': None,
        "[": None,
        "{}": None,
    }.items():
        config.write_text(said)
        assert hub_name(str(tmp_path)) == known
    assert hub_name("package:numpy") is None


def test_packages_state_it_in_their_metadata() -> None:
    assert licence_of("package:numpy").id != "unknown"


def test_a_whole_states_the_licence_of_all_its_parts_or_where_each_stands() -> None:
    free, other = Licence("mit"), Licence("apache-2.0")
    assert together([]) is None
    assert together([free, free]) == free
    assert together([free, Licence()]) == Licence("unknown")
    mixed = together([free, other])
    assert mixed is not None
    assert (mixed.id, mixed.link) == ("other", "LICENSE.md")
