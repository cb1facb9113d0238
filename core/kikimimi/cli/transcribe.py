"""``kikimimi transcribe``."""

from __future__ import annotations

from pathlib import Path

import typer


def transcribe(
    run: Path = typer.Argument(..., help="A run folder."),
    files: list[Path] = typer.Argument(..., help="Audio files: any rate, mono or stereo."),
    language: str = typer.Option(
        None, "--language", help="Language code such as ja; default: the task's own."
    ),
) -> None:
    """Print the text of audio files, one line per file."""
    from kikimimi.data.audio import decode, is_silent
    from kikimimi.errors import AudioError, RequestError
    from kikimimi.run_folder import RunFolder

    # What can be wrong with the request is found before the model is loaded.
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise RequestError("no such audio file: " + ", ".join(map(str, missing)))
    folder = RunFolder.open(run)
    folder.newest_weights()
    from kikimimi.transcriber import Transcriber, join_texts

    transcriber = Transcriber(folder)
    failures = 0
    for file in files:
        try:
            clip = decode(file, sample_rate=transcriber.sample_rate, name=str(file))
        except AudioError as error:
            typer.echo(f"error: {error}", err=True)
            failures += 1
            continue
        if is_silent(clip):
            typer.echo(f"{file}: silence, nothing to transcribe", err=True)
            text = ""
        else:
            pieces = transcriber.pieces(clip)
            if len(pieces) > 1:
                typer.echo(
                    f"{file}: {len(clip) / transcriber.sample_rate:.1f} s is longer than the encoder's "
                    f"{transcriber.max_seconds:g} s, so it is transcribed in {len(pieces)} pieces",
                    err=True,
                )
            text = join_texts(transcriber.transcribe(pieces, language))
        typer.echo(f"{file}\t{text}" if len(files) > 1 else text)
    if failures:
        raise AudioError(f"{failures} of {len(files)} files could not be transcribed")
