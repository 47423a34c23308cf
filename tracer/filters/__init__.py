"""Filters: which connections, transitions and findings of a whole trace somebody wants to see. Pure: text in, masks out."""
