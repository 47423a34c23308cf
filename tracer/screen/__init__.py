"""The live view on a terminal: what is to be shown, how it is drawn, and the terminal itself."""
