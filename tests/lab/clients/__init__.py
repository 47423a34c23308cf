"""Real registry clients of this machine, each with nothing of its own outside a temporary folder.

What they share: a pull says when it began and when its user was told what, on the tracer's clock, because a finding is only worth
something before that moment.
"""

from tests.lab.clients.base import NOBODY, Client, Credentials, Told, missing_programs, split_reference
from tests.lab.clients.commands import Curl, Skopeo
from tests.lab.clients.daemons import Containerd, Dockerd, write_hosts

__all__ = [
    "NOBODY",
    "Client",
    "Containerd",
    "Credentials",
    "Curl",
    "Dockerd",
    "Skopeo",
    "Told",
    "missing_programs",
    "split_reference",
    "write_hosts",
]
