"""Writes the report of a sweep: a page, and its tables; the sweep may be running."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from kikimimi.files.writing import whole_file
from kikimimi.report.page import save_page
from kikimimi.sweeps.summarise import read_results, summarise
from kikimimi.sweeps.sweep_folder import SweepFolder
from kikimimi.sweeps.sweep_page import sweep_page
from kikimimi.sweeps.sweep_tables import results_csv, settings_latex, settings_markdown


def write_sweep_report(folder: SweepFolder) -> Path:
    """Write ``report.html``, ``results.csv``, ``results.md`` and ``results.tex`` of a sweep.

    Returns:
        The page's path.
    """
    results = read_results(folder)
    summary = summarise(folder, results)
    tables = {"Markdown": settings_markdown(summary), "LaTeX": settings_latex(summary)}
    texts = {
        "results.csv": results_csv(summary, results),
        "results.md": tables["Markdown"],
        "results.tex": tables["LaTeX"],
    }
    for name, text in texts.items():
        with whole_file(folder.path / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    save_page(folder.report, sweep_page(summary, datetime.now().astimezone(), tables))
    return folder.report
