"""Fuzzing: one harness for each surface that reads bytes from outside (docs/reliability.md)."""
