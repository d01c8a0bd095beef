"""What a scope costs, beside everything else that one could pick: ``python -m benchmarks``."""

ADDRESS = "SCOPED_ASYNC_BENCHMARK_URL"
"""The environment variable by which the processes of one run know where the server is."""
