"""One module a command, each with `run(options) -> exit code`; imported by `tracer.main` when it is called."""
