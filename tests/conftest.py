"""Settings and small parts that many tests share."""

from __future__ import annotations

import os

# Two cores: one thread per test process keeps runs side by side fast and repeatable.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
