"""The kernel's side: the BPF program, the wire record, and all that is needed to load it and read its ring.

Imports nothing here, so that the compiling child (`bpf.attach`) starts without numpy.
"""
