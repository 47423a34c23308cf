"""regtrace: an eBPF-assisted high-resolution tracer for container-registry connections."""

__version__ = "0.1.0"
