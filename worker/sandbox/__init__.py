"""Stand-ins for the servers around the worker: for the demo, the tests and the benchmarks."""
