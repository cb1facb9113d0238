"""Stub until it is written."""

from collections.abc import Mapping
from datetime import datetime

from kikimimi.sweeps.summary import SweepSummary


def sweep_page(summary: SweepSummary, created: datetime, tables: Mapping[str, str]) -> str:
    return ""
