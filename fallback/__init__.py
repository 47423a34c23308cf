"""Hosts without eBPF: polled /proc data and sock_diag events, as the same `EventBatch` that eBPF gives.

Empty in this version: `tracer.source` knows no fallback yet and says so.
"""
