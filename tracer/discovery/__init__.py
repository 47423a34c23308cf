"""The registries of this host, as its container engines are configured: files and processes in, endpoints out."""
