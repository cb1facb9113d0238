"""``kikimimi transcribe``."""

from pathlib import Path

import typer


def transcribe(
    run: Path = typer.Argument(..., help="A run folder."),
    files: list[Path] = typer.Argument(..., help="Audio files: any rate, mono or stereo."),
    language: str = typer.Option(None, help="Language code such as ja; default: the task's own."),
) -> None:
    """Print the text of audio files, one line per file."""
    from kikimimi.errors import DataError, RequestError
    from kikimimi.run.folder import RunFolder

    # What can be wrong with the request is found before the model is loaded.
    if missing := [str(file) for file in files if not file.exists()]:
        raise RequestError(f"no such audio file: {', '.join(missing)}")
    if folders := [str(file) for file in files if file.is_dir()]:
        raise RequestError(f"a folder, not an audio file: {', '.join(folders)}")
    folder = RunFolder.open(run)
    folder.newest_weights()
    from kikimimi.inference.transcriber import Transcriber

    transcriber = Transcriber(folder)
    failures = 0
    for file in files:
        try:
            heard = transcriber.transcribe_file(file, language)
        except DataError as error:
            where = "" if str(error).startswith(f"{file}: ") else f"{file}: "
            typer.echo(f"error: {where}{error}", err=True)
            failures += 1
            continue
        if heard.silent == heard.pieces:
            typer.echo(f"{file}: silence, nothing to transcribe", err=True)
        elif heard.pieces > 1:
            silent = f", {heard.silent} of them silent" if heard.silent else ""
            typer.echo(
                f"{file}: {heard.seconds:.1f} s is longer than the encoder's {transcriber.max_seconds:g} s, "
                f"so it is transcribed in {heard.pieces} pieces{silent}",
                err=True,
            )
        typer.echo(f"{file}\t{heard.text}" if len(files) > 1 else heard.text)
    if failures:
        raise DataError(f"{failures} of {len(files)} files could not be transcribed")
