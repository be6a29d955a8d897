"""Speed of this project beside the original llama-deploy 0.8.1, measured in one run.

`python -m benchmarks --help` (or `make bench`) is the entry. Nothing here is imported by the
runtime; `tests/compat` reuses `environment` and `servers` to drive the original software.
"""
