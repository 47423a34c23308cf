"""Captures out of the text that other tools print: one module a format, and what all of them share."""
