"""The demo's traffic: a registry stand-in and a client that pulls from it, well and badly, in a process of their own."""
