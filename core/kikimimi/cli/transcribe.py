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
            say(f"error: {where}{error}", error=True)
            failures += 1
            continue
        heard_seconds = sum(segment.end - segment.start for segment in heard.segments)
        if not heard.segments:
            say(f"{file}: silence, nothing to transcribe", error=True)
        elif len(heard.segments) > 1:
            silent = heard.seconds - heard_seconds
            say(
                f"{file}: {heard.seconds:.1f} s is longer than the encoder's {transcriber.max_seconds:g} s, "
                f"so it is transcribed in {len(heard.segments)} pieces"
                + (f"; {silent:.1f} s are silent" if silent > 0.05 else ""),
                error=True,
            )
        # One line for each file, whatever the model writes.
        say(*([visible(str(file))] if len(files) > 1 else []), visible(heard.text))
    if failures:
        raise DataError(f"{failures} of {len(files)} files could not be transcribed")
