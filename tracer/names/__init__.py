"""Names of registries: their addresses now, kept up while a trace runs, from look-ups and from answers seen on this host."""
