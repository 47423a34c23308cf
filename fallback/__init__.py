"""Hosts without eBPF: sockets looked at through sock_diag and /proc, as the same `EventBatch` that eBPF gives."""
