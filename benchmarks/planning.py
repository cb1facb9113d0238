"""How long planning an epoch takes, and what sorting by length buys: padding against randomness.

    python benchmarks/planning.py [--rows 1000000]

For each budget and size of bucket: the share of computed positions that is padding, how full micro-batches
are, how many other lengths a clip meets (the spread of lengths inside a micro-batch, as a share of the spread
over all clips: 1 where company is random), and the time to plan an epoch.
"""

from __future__ import annotations

import argparse
import time
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from kikimimi.data.order.plan import Plan, Source

MIXES = {
    "2 to 30 s, log-normal, mean 8 s": lambda rng, rows: np.clip(rng.lognormal(1.9, 0.6, rows), 2, 30),
    "2 to 30 s, uniform": lambda rng, rows: rng.uniform(2, 30, rows),
}


def measure(lengths: NDArray[np.float32], plan: Plan) -> tuple[float, float, float]:
    """Return the shares of padding, of the budget that is used, and of the spread that is left."""
    epoch = islice(plan.micro_batches(), plan.num_micro_batches(0))
    batches = [lengths[[planned.row for planned in batch]] for batch in epoch]
    computed = sum(float(batch.max()) * len(batch) for batch in batches)
    total = float(lengths.sum(dtype=np.float64))
    inside = np.sqrt(np.average([batch.var() for batch in batches], weights=[len(b) for b in batches]))
    return 1 - total / computed, total / (plan.budget * len(batches)), float(inside / lengths.std())


def main() -> None:
    """Print one table for each mix of lengths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    for title, draw in MIXES.items():
        lengths = draw(np.random.default_rng(0), rows).astype(np.float32)
        table = Table(title=f"{title}; {rows:,} clips")
        for name in (
            "batch.seconds",
            "batch.bucket",
            "padding",
            "budget used",
            "spread left",
            "planning [s]",
        ):
            table.add_column(name, justify="right")
        for budget in (60, 240, 960):
            for bucket in (1, 8, 16, 32, 64):
                plan = Plan([Source("clips", lengths)], budget=budget, seed=0, bucket=bucket)
                start = time.perf_counter()
                plan.num_micro_batches(0)
                seconds = time.perf_counter() - start
                padding, used, spread = measure(lengths, plan)
                table.add_row(
                    f"{budget}",
                    f"{bucket}",
                    f"{padding:.1%}",
                    f"{used:.1%}",
                    f"{spread:.1%}",
                    f"{seconds:.2f}",
                )
        Console(width=100).print(table)


if __name__ == "__main__":
    main()
