"""What people and programs see of a trace: JSON lines, plain text, and the live view. Each is a `tracer.pipeline.Listener`."""
