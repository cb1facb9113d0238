"""``kikimimi transcribe``."""

from pathlib import Path

import typer

from kikimimi.console.terminal import say, visible


def transcribe(
    run: Path = typer.Argument(..., help="A run folder."),
    files: list[Path] = typer.Argument(..., help="Audio files: any rate, mono or stereo."),
    language: str = typer.Option(None, help="Language code such as ja; default: the task's own."),
) -> None:
    """Print the text of audio files, one line per file."""
    from kikimimi.data.audio import decode, is_silent
    from kikimimi.errors import DataError, RequestError
    from kikimimi.run.folder import RunFolder

    # What can be wrong with the request is found before the model is loaded.
    if missing := [str(file) for file in files if not file.exists()]:
        raise RequestError(f"no such audio file: {', '.join(missing)}")
    if folders := [str(file) for file in files if file.is_dir()]:
        raise RequestError(f"a folder, not an audio file: {', '.join(folders)}")
    folder = RunFolder.open(run)
    folder.newest_weights()
    from kikimimi.inference.transcriber import Transcriber, join_texts

    transcriber = Transcriber(folder)
    failures = 0
    for file in files:
        try:
            clip = decode(file, sample_rate=transcriber.sample_rate, name=str(file))
            pieces = transcriber.pieces(clip)
            heard = [piece for piece in pieces if not is_silent(piece)]
            if not heard:
                say(f"{file}: silence, nothing to transcribe", error=True)
            elif len(pieces) > 1:
                silent = f", {len(pieces) - len(heard)} of them silent" if len(heard) < len(pieces) else ""
                say(
                    f"{file}: {len(clip) / transcriber.sample_rate:.1f} s is longer than the encoder's "
                    f"{transcriber.max_seconds:g} s, so it is transcribed in {len(pieces)} pieces{silent}",
                    error=True,
                )
            text = join_texts(transcriber.transcribe(heard, language)) if heard else ""
        except DataError as error:
            where = "" if str(error).startswith(f"{file}: ") else f"{file}: "
            say(f"error: {where}{error}", error=True)
            failures += 1
            continue
        # One line for each file, whatever the model writes.
        say(*([visible(str(file))] if len(files) > 1 else []), visible(text))
    if failures:
        raise DataError(f"{failures} of {len(files)} files could not be transcribed")
