"""Stub until the report is written."""

from pathlib import Path

from kikimimi.sweeps.sweep_folder import SweepFolder


def write_sweep_report(folder: SweepFolder) -> Path:
    return folder.report
