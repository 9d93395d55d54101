"""Benchmarks: what the kernel, the runtime and the service cost, beside a baseline of the same run."""
