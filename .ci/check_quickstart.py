"""Checks what the quickstart left: its error rate is at most 3 %, and Whisper's stands beside it."""

import json
from pathlib import Path

run = Path("runs/quickstart")
scores = json.loads((run / "evaluations/held_out/scores.json").read_text())
own, whisper = scores["quickstart"]["cer"], scores["whisper-base"]["cer"]
print(f"held-out CER: quickstart {own} %, whisper-base {whisper} %")
assert own <= 3, f"held-out CER {own} % is above 3 %"
assert whisper > own, f"Whisper-base's CER {whisper} % is not above the quickstart's"
assert (run / "report.html").stat().st_size > 10_000
