from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kikimimi.contracts.layout import Layout, Row
from kikimimi.errors import DataError, RequestError
from kikimimi_layouts.clotho import Clotho

CAPTIONS = (
    "file_name,caption_1,caption_2,caption_3,caption_4,caption_5\n"
    'Distorted AM Radio noise.wav,"A muddled noise, of radio.",b,c,d,e\n'
    "Gone.wav,a,b,c,d,e\n"
)
METADATA = (
    "file_name,keywords,sound_id,sound_link,start_end_samples,manufacturer,license\n"
    'Distorted AM Radio noise.wav,noise;radio,1,https://freesound.org/1,"[1, 2]",J\xe9r\xf4me,'
    "http://creativecommons.org/licenses/by/3.0/\n"
)
AUDIO = "Distorted AM Radio noise.wav"


@pytest.mark.parametrize(("tables", "clips"), [("", ""), ("clotho_csv_files/", "clotho_audio_files/")])
def test_rows(
    write: Callable[..., Path], read: Callable[[Layout], list[Row]], tables: str, clips: str
) -> None:
    folder = write(
        {f"{tables}clotho_captions_development.csv": CAPTIONS, f"{clips}development/{AUDIO}": None}
    )
    (folder / f"{tables}clotho_metadata_development.csv").write_bytes(METADATA.encode("iso-8859-1"))
    assert Clotho.matches(folder)
    first, second = read(Clotho(str(folder), Clotho.Config()))
    assert first.record == {
        "text": "A muddled noise, of radio.",
        "language": "en",
        "meta": {
            "source": "clotho",
            "captions": ["A muddled noise, of radio.", "b", "c", "d", "e"],
            "keywords": ["noise", "radio"],
            "link": "https://freesound.org/1",
            "uploader": "Jérôme",
            "license": "CC-BY-3.0",
        },
    }
    assert first.clips[0].is_file()  # type: ignore[union-attr]
    assert second.name == "Gone.wav"
    assert "license" not in second.record["meta"]


def test_refuses(write: Callable[..., Path]) -> None:
    names = [f"clotho_{what}_evaluation.csv" for what in ("captions", "metadata")]
    folder = write({names[0]: CAPTIONS, names[1]: METADATA, "evaluation/a.wav": None})
    with pytest.raises(
        RequestError, match=r"no clotho_captions_development\.csv .* There is: clotho_captions_ev"
    ):
        Clotho(str(folder), Clotho.Config())
    with pytest.raises(ValueError, match=r"split: 'dev' is not one of development, evaluation, validation"):
        Clotho.Config(split="dev")  # type: ignore[arg-type]
    (folder / names[0]).write_text("file_name,caption\na.wav,x\n")
    with pytest.raises(RequestError, match=r"csv:2: no column 'caption_1': not a table of Clotho's captions"):
        Clotho(str(folder), Clotho.Config(split="evaluation"))
    (folder / names[1]).write_text("name,license\na.wav,x\n")
    with pytest.raises(DataError, match=r"metadata_evaluation\.csv: not a table of Clotho's metadata"):
        Clotho(str(folder), Clotho.Config(split="evaluation"))
