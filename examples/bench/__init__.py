"""What examples/benchmark.py is made of: processes that measure, peers that are measured, parts that compare."""
