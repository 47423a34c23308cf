"""A token server for docker-registry's `auth: token`, as a process of its own that can be told to misbehave.

It is told by a file, not over TCP: a control connection would be in the trace.

How long a token lives has two sides. `expires_in_s` is what the client is told and may plan by (no client here believes less
than 60 s); `lifetime_s` is how long the registry takes the token. docker-registry allows `exp` 60 s of leeway, so a token that is
to be refused after 5 s carries an `exp` that is 55 s in the past.
"""

from __future__ import annotations

import base64
import json
import socket
import ssl
import subprocess
import sys
import time
import uuid
from dataclasses import asdict, dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.lab.daemon import Daemon, free_port

ROOT = Path(__file__).resolve().parent.parent.parent
ISSUER = "regtrace-lab"
SERVICE = "lab-registry"
LEEWAY_S = 60  # distribution, registry/auth/token/token.go
_BACKDATED_S = 3600


@dataclass(frozen=True)
class Behaviour:
    """What the server does from now on.

    Attributes:
        user: the one user there is; empty for a server that gives everybody a token.
        password: theirs.
        expires_in_s: told to the client.
        lifetime_s: how long the registry takes a token.
        status: any other than 200 is the answer to every request.
        delay_s: waited before each answer.
    """

    user: str = ""
    password: str = ""
    expires_in_s: int = 300
    lifetime_s: float = 300
    status: int = 200
    delay_s: float = 0


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def make_token(folder: Path, access: list[dict[str, Any]], subject: str, lifetime_s: float) -> str:
    """Sign a JWT that the registry takes for `lifetime_s`."""
    now = time.time()
    certificate = "".join((folder / "token.pem").read_text().split("-----")[2].split())  # DER in base64, as x5c has it
    header = {"typ": "JWT", "alg": "RS256", "x5c": [certificate]}
    claims = {
        "iss": ISSUER,
        "sub": subject,
        "aud": SERVICE,
        "exp": int(now + lifetime_s - LEEWAY_S),
        "nbf": int(now - _BACKDATED_S),
        "iat": int(now - _BACKDATED_S),
        "jti": uuid.uuid4().hex,
        "access": access,
    }
    signed = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
    openssl = ["openssl", "dgst", "-sha256", "-sign", str(folder / "token.key")]
    signature = subprocess.run(openssl, input=signed.encode(), capture_output=True, check=True).stdout
    return f"{signed}.{_base64url(signature)}"


class TokenServer(Daemon):
    """The server, on a free port.

    A registry that trusts it is `DockerRegistry(..., extra=token_server.auth)`.
    """

    def __init__(
        self,
        folder: Path,
        behaviour: Behaviour | None = None,
        *,
        address: str = "127.0.3.1",
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        """Make its signing key and write what it shall do.

        Args:
            folder: made here.
            behaviour: at the start.
            address: it listens on.
            certificate: PEM files of certificate and key, for TLS.
        """
        folder.mkdir(parents=True)
        self._folder = folder
        self._scheme = "https" if certificate else "http"
        port = free_port(address)
        key = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={ISSUER}"]
        subprocess.run([*key, "-keyout", folder / "token.key", "-out", folder / "token.pem"], check=True, capture_output=True)
        listen = {"address": address, "port": port, "certificate": [str(path) for path in certificate or ()]}
        (folder / "listen.json").write_text(json.dumps(listen))
        self.behave(behaviour or Behaviour())
        program = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "tests.lab.token_server", str(folder)]
        super().__init__(program, address, port, folder / "log")

    @property
    def auth(self) -> dict[str, object]:
        """The part of a docker-registry's configuration that sends its clients here."""
        realm = f"{self._scheme}://{self.host}/token"
        token = {"realm": realm, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": str(self._folder / "token.pem")}
        return {"auth": {"token": token}}

    def behave(self, behaviour: Behaviour) -> None:
        """What it does from its next answer on."""
        self.behaviour = behaviour
        new = self._folder / "behaviour.new"
        new.write_text(json.dumps(asdict(behaviour)))
        new.rename(self._folder / "behaviour.json")  # never read half-written

    def change(self, **fields: Any) -> None:
        """Change some of what it does."""
        self.behave(replace(self.behaviour, **fields))

    def token(self, repository: str, lifetime_s: float, actions: tuple[str, ...] = ("pull",)) -> str:
        """A token for a client that is given one, as a CI job is, and does not renew it."""
        access = [{"type": "repository", "name": repository, "actions": list(actions)}]
        return make_token(self._folder, access, "ci", lifetime_s)

    def answers(self) -> list[int]:
        """The status of each answer so far."""
        return [int(line.split('" ')[1].split()[0]) for line in self.log().splitlines() if '" ' in line]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        user, password = "", ""
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        if scheme == "Basic":
            user, _, password = base64.b64decode(given).decode().partition(":")
        self._answer(query.get("scope", []), user, password)

    def do_POST(self) -> None:
        """The OAuth2 form, which containerd tries first."""
        form = parse_qs(self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode())
        scopes = [scope for scopes in form.get("scope", []) for scope in scopes.split()]
        self._answer(scopes, form.get("username", [""])[0], form.get("password", [""])[0])

    def _answer(self, scopes: list[str], user: str, password: str) -> None:
        behaviour = Behaviour(**json.loads((self.folder / "behaviour.json").read_text()))
        time.sleep(behaviour.delay_s)
        if behaviour.status != 200:
            self._send(behaviour.status, {"errors": [{"code": "DENIED", "message": "refused by the token server"}]})
        elif behaviour.user and (user, password) != (behaviour.user, behaviour.password):
            self._send(401, {"errors": [{"code": "UNAUTHORIZED", "message": "incorrect username or password"}]})
        else:
            access = []
            for scope in scopes:
                kind, _, rest = scope.partition(":")
                name, _, actions = rest.rpartition(":")
                access.append({"type": kind, "name": name, "actions": actions.split(",")})
            token = make_token(self.folder, access, user, behaviour.lifetime_s)
            self._send(200, {"token": token, "access_token": token, "expires_in": behaviour.expires_in_s})

    def _send(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    context: ssl.SSLContext | None = None

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.context is not None:  # the handshake is the handler's thread's: a slow client holds up nobody else
            connection = self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, or speaks plain HTTP first, is no error of ours."""


def serve(folder: Path) -> None:
    """Serve until killed."""
    listen = json.loads((folder / "listen.json").read_text())
    _Handler.folder = folder
    server = _Server((listen["address"], listen["port"]), _Handler)
    if listen["certificate"]:
        server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.context.load_cert_chain(*listen["certificate"])
    server.serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
