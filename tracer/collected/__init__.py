"""A whole trace in arrays, and what is asked of it: tables, order, choice, one connection in full. Pure."""
