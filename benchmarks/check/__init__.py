"""The first hour on a GPU, part by part: `python -m benchmarks check`. docs/benchmarks.md explains."""
