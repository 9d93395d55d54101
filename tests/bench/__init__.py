"""Benchmarks: what kernel, runtime and service cost, beside a baseline of the same run."""
