"""Measures what the design promises, beside the tools of the field, in one run: `python -m tests.bench` (`make bench`).

Nothing here asserts a time. Only loopback is used, no sysctl is changed, and nothing is left behind.
"""
