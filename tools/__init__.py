"""What developers run: benchmarks, chaos, fuzzing, and generators of documents and dashboards."""
