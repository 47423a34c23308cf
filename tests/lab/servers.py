"""HAProxy and nginx in front of a registry: rate limits, time-outs, slow bodies, broken upstreams."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.lab.daemon import Daemon, free_port

Certificate = tuple[Path, Path]

# As recorded from Docker Hub in October 2020 (registry-facts.md, section 1.2), with CRLF: HAProxy reads nothing else.
HAP429 = (
    "HTTP/1.1 429 Too Many Requests\r\nCache-Control: no-cache\r\nConnection: close\r\nContent-Type: text/plain\r\n"
    "{retry_after}\r\nToo Many Requests (HAP429).\n"
)
# Docker Hub's pull limit, on the manifest.
PULL_LIMIT = (
    '{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit. You may increase the limit by '
    'authenticating and upgrading: https://www.docker.com/increase-rate-limit"}]}'
)


def abuse_limit(requests: int, period_s: int) -> tuple[str, ...]:
    """HAProxy's lines for Docker Hub's limit of all requests; refused ones count too, so a storm keeps itself out."""
    return (
        f"stick-table type ip size 1k expire {period_s}s store http_req_rate({period_s}s)",
        "http-request track-sc0 src",
        f"http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt {requests} }}",
    )


def pull_limit(manifests: int, period_s: int) -> tuple[str, ...]:
    """HAProxy's lines for Docker Hub's limit of pulls: only GETs of manifests count and are refused; the connection is kept."""
    manifest = "{ method GET } { path_sub /manifests/ }"
    answer = "status 429 content-type application/json file {folder}/pull-limit.json"
    return (
        f"stick-table type ip size 1k expire {period_s}s store http_req_rate({period_s}s)",
        f"http-request track-sc0 src if {manifest}",
        f"http-request return {answer} if {manifest} {{ sc_http_req_rate(0) gt {manifests} }}",
    )


class HAProxy(Daemon):
    """HAProxy on a free port, in front of other servers or of none."""

    def __init__(
        self,
        folder: Path,
        upstreams: Sequence[str] = (),
        *,
        lines: Sequence[str] = (),
        address: str = "127.0.2.1",
        certificate: Certificate | None = None,
        keep_alive_s: float = 60,
        retry_after: str = "",
    ) -> None:
        """Write its configuration.

        Args:
            folder: made here.
            upstreams: ADDRESS:PORT of the servers behind it.
            lines: of the frontend: `abuse_limit(...)`, `http-request silent-drop` and the like.
            address: it listens on.
            certificate: PEM files of certificate and key, for TLS.
            keep_alive_s: an idle connection is closed after this time.
            retry_after: value of that header in a 429 of `deny`; none by default.
        """
        folder.mkdir(parents=True)
        port = free_port(address)
        header = f"Retry-After: {retry_after}\r\n" if retry_after else ""
        (folder / "429.http").write_bytes(HAP429.format(retry_after=header).encode())
        (folder / "pull-limit.json").write_text(PULL_LIMIT)
        tls = ""
        if certificate:
            (folder / "server.pem").write_text(certificate[0].read_text() + certificate[1].read_text())
            tls = f" ssl crt {folder}/server.pem"
        milliseconds = int(keep_alive_s * 1000)
        config = [
            "global",
            "  log stdout format raw local0",
            "defaults",
            "  mode http",
            "  log global",
            '  log-format "%[var(txn.at)] %ST %HM %HP %ci:%cp %B %ts"',
            "  timeout connect 5s",
            "  timeout client 60s",
            "  timeout server 60s",
            "  timeout tarpit 20s",
            f"  timeout http-keep-alive {milliseconds}ms",
            f"  errorfile 429 {folder}/429.http",
            "frontend front",
            f"  bind {address}:{port}{tls}",
            "  http-request set-var(txn.at) date(0,us)",
            *(f"  {line.replace('{folder}', str(folder))}" for line in lines),
        ]
        if upstreams:
            config += ["  default_backend back", "backend back"]
            config += [f"  server s{number} {upstream}" for number, upstream in enumerate(upstreams)]
        (folder / "haproxy.cfg").write_text("\n".join(config) + "\n")
        super().__init__(["haproxy", "-db", "-f", str(folder / "haproxy.cfg")], address, port, folder / "log")

    def answered(self, status: int) -> list[int]:
        """When it was asked what it answered with this status: µs since 1970, from its log."""
        rows = [line.split() for line in self.log().splitlines()]
        return [int(row[0]) for row in rows if len(row) >= 2 and row[0].isdigit() and row[1] == str(status)]


class Nginx(Daemon):
    """nginx on a free port, in front of one server."""

    def __init__(
        self,
        folder: Path,
        upstream: str,
        *,
        http: Sequence[str] = (),
        server: Sequence[str] = (),
        address: str = "127.0.2.2",
        certificate: Certificate | None = None,
    ) -> None:
        """Write its configuration.

        Args:
            folder: made here.
            upstream: ADDRESS:PORT of the server behind it.
            http: directives of `http`, such as `limit_req_zone`.
            server: directives of `server`: `limit_rate 2m`, `keepalive_requests 5`, `keepalive_timeout 3s`.
            address: it listens on.
            certificate: PEM files of certificate and key, for TLS.
        """
        folder.mkdir(parents=True)
        port = free_port(address)
        listen = f"listen {address}:{port};"
        if certificate:
            listen = f"listen {address}:{port} ssl; ssl_certificate {certificate[0]}; ssl_certificate_key {certificate[1]};"
        temporary = " ".join(
            f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = f"""
            user root; daemon off; master_process off; pid {folder}/pid; error_log stderr warn;
            events {{ worker_connections 512; }}
            http {{
                {temporary} access_log {folder}/access.log; client_max_body_size 0;
                {" ".join(f"{line};" for line in http)}
                server {{
                    {listen}
                    {" ".join(f"{line};" for line in server)}
                    location / {{
                        proxy_pass http://{upstream}; proxy_http_version 1.1; proxy_set_header Connection "";
                        proxy_set_header Host $http_host; proxy_max_temp_file_size 0;
                    }}
                }}
            }}
        """
        (folder / "nginx.conf").write_text(config)
        super().__init__(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")], address, port, folder / "log")
