"""tracer.owners.masking: no secret gets through, and what an operator needs does."""

from __future__ import annotations

import shlex
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tracer.owners.masking import LENGTH_MAX, masked
from tracer.owners.secret_text import is_secret_name, without_secrets

MARK = "Qz7"
PLAIN = st.text("abcXYZ019", min_size=0, max_size=12).map(lambda text: f"{MARK}{text}")
ODD = st.text("ab9=:,;&@/+-_.%$!?#~^*()[]{}|<>'\"\\", max_size=12).map(lambda text: f"{MARK}{text}{MARK}")
BLANKS = st.text("ab9 \t'\"\\;&", max_size=12).map(lambda text: f"{MARK}{text}{MARK}")
NAMES = st.sampled_from(
    ["password", "db-password", "passwd", "pass", "token", "registry-token", "access_token", "secret", "client-secret", "api-key",
     "apikey", "key", "auth", "registry-auth", "cred", "creds", "src-creds", "dest-creds", "bearer", "DOCKER_PASSWORD",
     "aws_secret_access_key", "trustStorePassword"]
)  # fmt: skip
QUERY_NAMES = st.sampled_from(
    ["token", "access_token", "X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token", "X-Goog-Signature", "Signature",
     "sig", "Key-Pair-Id"]
)  # fmt: skip
HEADERS = st.sampled_from(["Authorization", "Proxy-Authorization", "X-Registry-Auth", "PRIVATE-TOKEN", "X-Api-Key", "Cookie"])
SCHEMES = st.sampled_from(["", "Basic ", "Bearer ", "bearer ", "token "])
BEFORE = st.lists(
    st.sampled_from(["curl", "-v", "pull", "--quiet", "registry.example:5000", "docker", "a b", "--no-auth"]), max_size=4
)
AFTER = st.lists(st.sampled_from(["-v", "image:tag", "registry.example", "x y"]), max_size=3)


def _shown(*argv: str) -> str:
    return masked([argument.encode() for argument in argv])


def _line(command: str) -> str:
    return _shown(*shlex.split(command))


def _after_option(name: str, secret: str) -> list[str]:
    return [f"--{name}", secret]


def _after_short_option(name: str, secret: str) -> list[str]:
    return [f"-{name}", secret]


def _with_option(name: str, secret: str) -> list[str]:
    return [f"--{name}={secret}"]


def _variable(name: str, secret: str) -> list[str]:
    return ["-e", f"{name}={secret}"]


@settings(max_examples=400, deadline=None)
@given(
    BEFORE,
    st.sampled_from([_after_option, _after_short_option, _with_option, _variable]),
    NAMES,
    ODD | BLANKS,
    AFTER,
)
def test_what_a_name_says_is_a_secret_is_hidden(
    before: list[str], form: object, name: str, secret: str, after: list[str]
) -> None:
    assert callable(form)
    assert MARK not in _shown("program", *before, *form(name, secret), *after)


@settings(max_examples=300, deadline=None)
@given(BEFORE, st.sampled_from(["-H", "--header", "--proxy-header"]), HEADERS, SCHEMES, ODD | BLANKS, AFTER)
def test_headers_with_credentials_are_hidden(
    before: list[str], option: str, name: str, scheme: str, secret: str, after: list[str]
) -> None:
    assert MARK not in _shown("curl", *before, option, f"{name}: {scheme}{secret}", *after)
    assert MARK not in _shown("wget", *before, f"{option}={name}: {scheme}{secret}", *after)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(
        ["https://{}:{}@registry.example/v2/", "http://{1}@registry.example:5000", "git+ssh://{}:{}@h/x.git", "{}:{}@h"]
    ),
    PLAIN,
    st.text("abcXYZ019.!$&*+=~:/-_%", max_size=12).map(lambda text: f"{MARK}{text}"),
)
def test_credentials_before_a_host_are_hidden(form: str, user: str, password: str) -> None:
    assert MARK not in _shown("git", "clone", form.format(user, password))
    assert MARK not in _shown("git", "clone", "--url=" + form.format(user, password))


@settings(max_examples=300, deadline=None)
@given(QUERY_NAMES, st.text("abcXYZ019.-_%~+=/&", max_size=12).map(lambda text: MARK + text), st.sampled_from("?&;"))
def test_query_parameters_that_sign_are_hidden(name: str, secret: str, separator: str) -> None:
    assert MARK not in _shown("curl", f"https://blobs.example/data?expires=9{separator}{name}={secret}")


@pytest.mark.parametrize(
    "command",
    [
        "docker login -u bob -p {}", "docker --debug login -p{} registry.example", "podman login -u bob -p={}",
        "skopeo login -p {} registry.example", "crane auth login registry.example -u bob -p {}", "helm registry login -p {}",
        "mysql -uroot -p{} db", "/usr/bin/mysqldump -p{}", "mysql -password{}", "redis-cli -a {}", "sshpass -p {} ssh h",
        "curl -u bob:{} https://h", "curl -sSfu bob:{} https://h", "curl -ubob:{}", "curl --user bob:{}", "curl --user=bob:{}",
        "curl http -u bob:{}", "http -a bob:{} h", "htpasswd -Bbn bob {}", "openssl enc -passin pass:{}",
        "ctr images pull -u bob:{} image", "ctr images pull --user bob:{} image", "skopeo inspect --registry-token {}",
        "skopeo copy --src-creds bob:{0} --dest-creds=bob:{0} docker://a dir:b",
        "kubectl create secret generic x --from-literal=name={}",
    ],
)  # fmt: skip
@settings(max_examples=30, deadline=None)
@given(PLAIN)
def test_options_of_programs_that_take_secrets(command: str, secret: str) -> None:
    assert MARK not in _line(command.format(secret))


@pytest.mark.parametrize(
    "command",
    [
        "docker login -u bob -p {}", "echo {} | docker login --password-stdin", "curl -u 'bob:{}' https://h | sh",
        "true; mysql -p{} db && true", 'curl -H "Authorization: Bearer {}" https://h', "TOKEN={} skopeo copy a b",
        "export API_KEY='{}'", "curl https://bob:{}@h/", "pass\"word\"={} x", "curl --password \\{}", "(docker login -p \"{}\")",
    ],
)  # fmt: skip
@pytest.mark.parametrize("shell", [["sh", "-c"], ["/bin/bash", "-lc"], ["ssh", "host"], ["su", "-", "user", "-c"]])
@settings(max_examples=15, deadline=None)
@given(PLAIN)
def test_commands_for_a_shell_are_looked_through(shell: list[str], command: str, secret: str) -> None:
    assert MARK not in _shown(*shell, command.format(secret))


@pytest.mark.parametrize(
    "prefix",
    ["ghp_", "gho_", "ghs_", "github_pat_", "glpat-", "gldt-", "dckr_pat_", "dckr_oat_", "xoxb-", "xoxp-", "AKIA", "ASIA", "hvs.",
     "npm_", "pypi-", "hf_", "sk-", "AIza", "ya29.", "eyJ"],
)  # fmt: skip
@settings(max_examples=20, deadline=None)
@given(
    st.text("abcXYZ019", min_size=16, max_size=24).map(lambda text: text + MARK), st.sampled_from(["", "x=", "a:", '"', "pull "])
)
def test_tokens_of_known_forms_are_hidden_wherever_they_stand(prefix: str, secret: str, before: str) -> None:
    assert MARK not in _shown("program", f"{before}{prefix}{secret}")


@given(st.text("abcXYZ0189_-", min_size=8), st.text("abcXYZ0189_-", min_size=8), st.text("abcXYZ0189_-", max_size=30))
def test_json_web_tokens_are_hidden(head: str, body: str, signature: str) -> None:
    shown = _shown("program", "pull", f"eyJ{head}.eyJ{body}.{signature}")
    assert shown == "program pull ***"


@settings(max_examples=200, deadline=None)
@given(
    st.text("abcdefXYZ01234+/", min_size=32, max_size=88).filter(lambda text: text[0] != "/"), st.sampled_from(["", "x=", "id:"])
)
def test_long_words_of_base64_are_hidden(text: str, before: str) -> None:
    secret = f"{text}aZ9"
    assert secret not in _shown("program", f"{before}{secret}==")


@given(st.binary(min_size=16, max_size=40).map(bytes.hex).filter(lambda text: any(digit.isdigit() for digit in text)))
def test_long_words_of_hex_digits_are_hidden(secret: str) -> None:
    assert _shown("program", secret) == "program ***"


@pytest.mark.parametrize(
    "argument",
    ['{"registry":{"auth":"Qz7"}}', "auth[password]=Qz7", 'os.environ["TOKEN"]="Qz7"; pull()', "{'a': 1, 'token': 'Qz7 Qz7'}"],
)
def test_names_in_brackets_and_quotes_are_told(argument: str) -> None:
    assert MARK not in _shown("program", argument)
    assert MARK not in _shown("python3", "-c", argument)


def test_a_private_key_is_hidden() -> None:
    assert MARK not in _shown("program", f"-----BEGIN EC PRIVATE KEY-----\n{MARK}\n-----END EC PRIVATE KEY-----")


def test_a_title_a_process_gave_itself_is_looked_through() -> None:
    assert _shown("worker: pull --password Qz7 https://bob:Qz7@h") == "'worker: pull --password *** https://***@h'"


@pytest.mark.parametrize(
    "command",
    [
        "docker pull registry.example:5000/team/auth:1.2",
        "podman run -p 80:80 --authfile /run/auth.json quay.example/keycloak/keycloak:26",
        "containerd-shim-runc-v2 -namespace moby -id " + "ab12" * 16 + " -address /run/containerd/containerd.sock",
        "runc --log /run/containerd/io.containerd.runtime.v2.task/moby/" + "ab12" * 16 + "/log.json",
        "skopeo copy docker://registry.example/a@sha256:" + "0f" * 32 + " dir:/tmp/x",
        "kubelet --kubeconfig=/etc/kubernetes/kubelet.conf --tls-private-key-file=/var/lib/kubelet/pki/kubelet.key",
        "curl -sSfL -H 'Accept: application/vnd.oci.image.index.v1+json' https://registry.example/v2/",
        "docker login -u bob --password-stdin registry.example",
        "crictl pull registry.example/kubernetes-service-account-controller:v1.2.3",
        "dockerd -H fd:// --containerd=/run/containerd/containerd.sock",
        "python3 -m http.server 80",
    ],
)
def test_what_is_no_secret_is_shown(command: str) -> None:
    assert shlex.split(_line(command)) == shlex.split(command)


@pytest.mark.parametrize("name", ["password-file", "authfile", "password-stdin", "key_path", "cert-dir", "author1ty"[:2]])
def test_a_name_that_says_where_a_secret_is_has_none(name: str) -> None:
    assert not is_secret_name(name)


def test_text_that_is_no_secret_stays_as_it_is() -> None:
    assert without_secrets("user@registry.example:/srv/x") == "user@registry.example:/srv/x"


def test_control_characters_are_written_out() -> None:
    assert masked([b"a\x1b[2Jb", b"\xff\n", "é".encode()]) == r"'a\x1b[2Jb' '\xff\n' é"


def test_a_long_line_ends_with_an_ellipsis() -> None:
    shown = masked([b"program", *([b"word"] * 1000)])
    assert (len(shown), shown[-1]) == (LENGTH_MAX, "…")


def test_an_argument_too_long_to_be_looked_through_is_hidden() -> None:
    assert masked([b"program", b"word " * 1000]) == "program ***"


def test_no_arguments_are_an_empty_line() -> None:
    assert masked([]) == ""


PIECES = st.sampled_from(
    [
        b"'",
        b'"',
        b"\\",
        b"@",
        b"://",
        b":",
        b"=",
        b"pass",
        b"-p",
        b"-",
        b"/",
        b" ",
        b"eyJ",
        b"A1a",
        b"-----BEGIN ",
        b"\xff",
        b"\x1b",
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(PIECES, max_size=30).map(b"".join), max_size=20))
@example([b""])
def test_any_arguments_make_one_safe_bounded_line(argv: list[bytes]) -> None:
    shown = masked(argv)
    assert shown.isprintable()
    assert len(shown) <= LENGTH_MAX


@pytest.mark.parametrize(
    "piece",
    [
        b"'",
        b'"\\',
        b"a://",
        b"@a://",
        b"a:",
        b"pass",
        b"-pass",
        b"=a",
        b"a" * 31 + b" ",
        b"Aa1",
        b"eyJ",
        b" =",
        b"(",
        b"a.",
        b"\\",
    ],
)
def test_no_arguments_take_long(piece: bytes) -> None:
    argument = (piece * 4096)[:4096]
    started = time.perf_counter()
    masked([b"curl", argument, argument])
    assert time.perf_counter() - started < 2
