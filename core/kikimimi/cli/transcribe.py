"""``kikimimi transcribe``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kikimimi.cli.listening import PIPE, listen, opened_source
from kikimimi.console.terminal import json_text, say, visible

if TYPE_CHECKING:
    from kikimimi.inference.transcriber import Transcriber
    from kikimimi.inference.transcript import Transcript

_SUBTITLES = ("srt", "vtt")


def transcribe(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    files: Annotated[
        list[Path] | None, typer.Argument(help="Audio files: any rate, mono or stereo, any length.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Language code such as ja; default: the task's own.")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="Words that help to hear, such as names: for runs whose task has the option context."
        ),
    ] = None,
    form: Annotated[
        Literal["text", "json", "verbose_json", "srt", "vtt"],
        typer.Option(
            "--format",
            help="text: one line per file. json, verbose_json: one JSON object per file, the latter with "
            "segments and their times. srt, vtt: subtitles.",
        ),
    ] = "text",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder in which each file's transcript is written: NAME.txt, NAME.srt and so on."),
    ] = None,
    cut: Annotated[
        Literal["silence", "quietest"] | None,
        typer.Option(
            help="Where a file is cut that is longer than the model's window. silence: where nobody speaks, "
            "which is left out. quietest: in the quietest place near the window's end; nothing is left out. "
            "Default: silence; without --pause, quietest where the run's task is not to transcribe.",
        ),
    ] = None,
    pause: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            help="Shortest silence, in seconds, that ends a segment; shorter files are cut as well. "
            "Default: 0.5 for subtitles and for what is still spoken; else segments are as long as the model "
            "takes.",
        ),
    ] = None,
    words: Annotated[
        bool,
        typer.Option(
            "--words",
            help="Times of words in verbose_json, of characters where a script has no spaces: for runs whose "
            "adapter has a CTC head (ctc, alignformer).",
        ),
    ] = False,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            help="Hear a WAV file while it is written, or - for the standard input: a line per segment, as "
            "soon as it ends. With --format json, also what is not finished. Ctrl-C ends it.",
        ),
    ] = False,
    idle: Annotated[
        float | None,
        typer.Option(
            min=0, help="Seconds without a new sample after which a file that is followed has ended."
        ),
    ] = None,
    microphone: Annotated[
        bool, typer.Option("--microphone", help="Hear the microphone until Ctrl-C; needs the extra mic.")
    ] = False,
) -> None:
    """Print the text of audio files, one line per file, or write it with times.

    With --follow or --microphone, of what is still spoken.
    """
    from kikimimi.errors import DataError, RequestError
    from kikimimi.files.writing import check_target, whole_file
    from kikimimi.run.folder import RunFolder

    # What can be wrong with the request is found before the model is loaded.
    files = files or []
    if follow or microphone:
        _check_live(files, form, follow=follow, microphone=microphone, recorded=out or cut)
    elif not files:
        raise RequestError("name an audio file, or --microphone")
    if idle is not None and not follow:
        raise RequestError("--idle: says when a file that is followed has ended; it goes with --follow")
    _check_there([file for file in files if not (follow and _can_be_followed(file))])
    if pause is not None and cut == "quietest":
        raise RequestError("--pause: pauses end segments with --cut silence only")
    if words and form != "verbose_json":
        raise RequestError(f"--words: times of words stand in --format verbose_json, not in {form}")
    if form in _SUBTITLES and out is None and len(files) > 1:
        raise RequestError(f"--format {form}: subtitles of several files need a folder: --out FOLDER")
    targets = {} if out is None else _targets(files, out, form)
    folder = RunFolder.open(run)
    folder.newest_weights()
    from kikimimi.inference.fixed_tasks import fixed_question, fixed_task

    fixed_question(fixed_task(folder), language, prompt)
    for target in targets.values():
        check_target(target)
    from kikimimi.inference.recording import SUBTITLE_PAUSE
    from kikimimi.inference.transcriber import Transcriber

    if follow or microphone:
        with opened_source(files[0] if follow else None, idle) as source:
            transcriber = Transcriber(folder)
            listen(
                transcriber, source, language=language, context=prompt, pause=pause, as_json=form == "json"
            )
        return
    transcriber = Transcriber(folder)
    if pause is None and form in _SUBTITLES and (cut or transcriber.usual_cut) == "silence":
        pause = SUBTITLE_PAUSE
    write = partial(_written, form=form, language=language, words=words)
    failures = 0
    for file in files:
        try:
            heard = transcriber.transcribe_file(
                file, language, cut=cut, pause=pause, words=words, context=prompt
            )
        except DataError as error:
            where = "" if str(error).startswith(f"{file}: ") else f"{file}: "
            say(f"error: {where}{error}", error=True)
            failures += 1
            continue
        _tell_cut(file, heard, transcriber)
        if out is not None:
            with whole_file(targets[file]) as unfinished:
                unfinished.write_text(write(heard), encoding="utf-8")
        elif form == "text":
            # One line for each file, whatever the model writes.
            say(*([visible(str(file))] if len(files) > 1 else []), visible(heard.text))
        else:
            said = write(heard, file=str(file) if len(files) > 1 else None)
            say(said.removesuffix("\n"))
    if failures:
        raise DataError(f"{failures} of {len(files)} files could not be transcribed")


def _check_there(files: Sequence[Path]) -> None:
    """Refuse what is no file."""
    from kikimimi.data.stream import no_file
    from kikimimi.errors import RequestError

    problems = defaultdict(list)
    for file in files:
        if file == PIPE and not file.exists():
            raise RequestError("-: the standard input is heard with --follow")
        if problem := no_file(file):
            problems[problem.removeprefix("is ")].append(str(file))
    if problems:
        raise RequestError("; ".join(f"{problem}: {', '.join(them)}" for problem, them in problems.items()))


def _can_be_followed(file: Path) -> bool:
    return file == PIPE or file.is_fifo() or file.is_char_device()


def _check_live(
    files: Sequence[Path], form: str, *, follow: bool, microphone: bool, recorded: object
) -> None:
    """Refuse what does not go with sound that is still being made."""
    from kikimimi.errors import RequestError

    if follow and microphone:
        raise RequestError("--follow and --microphone: one of them")
    option = "--follow" if follow else "--microphone"
    if follow and len(files) != 1:
        raise RequestError("--follow: one file, or - for the standard input")
    if microphone and files:
        raise RequestError("--microphone: goes without files")
    if recorded is not None:
        raise RequestError(f"{option}: --out and --cut are for files that are recorded already")
    if form not in ("text", "json"):
        raise RequestError(f"{option}: --format {form} needs the whole recording; allowed: text, json")


def _targets(files: Sequence[Path], out: Path, form: str) -> dict[Path, Path]:
    """Return the file that each transcript goes to."""
    from kikimimi.errors import RequestError

    suffix = {"text": "txt", "verbose_json": "json"}.get(form, form)
    targets = {file: out / f"{file.stem}.{suffix}" for file in files}
    sources = defaultdict(list)
    for file, target in targets.items():
        sources[target].append(str(file))
    for target, several in sources.items():
        if len(several) > 1:
            raise RequestError(f"--out: {' and '.join(several)} would both be written to {target}")
    return targets


def _written(
    heard: Transcript, *, form: str, language: str | None, words: bool, file: str | None = None
) -> str:
    """Return a transcript as it stands in a file, with a line feed at its end."""
    from kikimimi.inference.subtitles import srt, verbose_json, vtt

    if form in _SUBTITLES:
        return (srt if form == "srt" else vtt)(heard.segments)
    if form == "text":
        return f"{visible(heard.text)}\n"
    told = {"text": heard.text}
    if form == "verbose_json":
        told = verbose_json(heard, language=language, words=words)
    return json_text({**({} if file is None else {"file": file}), **told}) + "\n"


def _tell_cut(file: Path, heard: Transcript, transcriber: Transcriber) -> None:
    """Say into how many pieces a file was cut, and how much of it was left out."""
    if not heard.segments:
        say(f"{file}: silence, nothing to transcribe", error=True)
        return
    longest = transcriber.max_seconds
    left_out = f"; {heard.left_out:.1f} s are silent" if heard.left_out >= 0.05 else ""
    if longest is not None and heard.seconds > longest:
        say(
            f"{file}: {heard.seconds:.1f} s is longer than the encoder's {longest:g} s, so it is transcribed "
            f"in {len(heard.segments)} pieces{left_out}",
            error=True,
        )
    elif len(heard.segments) > 1 or left_out:
        say(f"{file}: transcribed in {len(heard.segments)} pieces{left_out}", error=True)
