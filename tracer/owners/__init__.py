"""Owners: who a process is, as its operator would name it. `book` puts together what the other modules read and tell."""
