"""What kikimimi does on a GPU: run by `benchmarks/gpu.sh`, one file for each thing that is measured."""
