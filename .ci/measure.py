"""Runs a command; prints how long it took and the most memory that one of its processes held."""

import resource
import subprocess
import sys
import time

start = time.monotonic()
code = subprocess.run(sys.argv[1:], check=False).returncode
minutes = (time.monotonic() - start) / 60
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
print(f"{minutes:.1f} minutes, peak {peak:.2f} GiB", flush=True)
if peak > 4:
    sys.exit(f"peak memory {peak:.2f} GiB is above 4 GiB")
sys.exit(code)
