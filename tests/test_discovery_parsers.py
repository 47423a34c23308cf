"""tracer.discovery's parsers: each file's form, and arbitrary content, which is never more than a line of problems."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tracer.discovery.buildkit import parse_buildkit
from tracer.discovery.commands import parse_command
from tracer.discovery.containerd import parse_containerd, parse_hosts
from tracer.discovery.containers import parse_registries
from tracer.discovery.docker import parse_credentials, parse_daemon
from tracer.discovery.documents import DocumentError, parse_json, parse_toml, parse_yaml
from tracer.discovery.found import FOUND_MAX, Reading
from tracer.discovery.gathering import PROBLEMS_MAX
from tracer.discovery.proxies import parse_environ, parse_environment
from tracer.discovery.rancher import parse_rancher
from tracer.discovery.units import Service, parse_variables
from tracer.endpoints import parse_endpoint
from tracer.roles import Role

PLACE = "/etc/file"
CRI = "io.containerd.grpc.v1.cri"
PARSERS: dict[str, Callable[[str], Reading]] = {
    "daemon.json": lambda text: parse_daemon(text, PLACE),
    "config.json": lambda text: parse_credentials(text, PLACE),
    "config.toml": lambda text: parse_containerd(text, PLACE).reading,
    "hosts.toml": lambda text: parse_hosts(text, PLACE, "docker.io"),
    "registries.conf": lambda text: parse_registries([(text, PLACE)]),
    "buildkitd.toml": lambda text: parse_buildkit(text, PLACE),
    "registries.yaml": lambda text: parse_rancher(text, PLACE),
}
SKELETONS: dict[str, list[tuple[str, ...]]] = {
    "daemon.json": [("registry-mirrors",), ("insecure-registries",), ("proxies",), ("proxies", "http-proxy")],
    "config.json": [("auths",), ("credHelpers",), ("auths", "a.example")],
    "config.toml": [
        ("imports",), ("plugins",), ("plugins", CRI), ("plugins", CRI, "registry"), ("plugins", CRI, "registry", "config_path"),
        ("plugins", CRI, "registry", "mirrors"), ("plugins", CRI, "registry", "mirrors", "docker.io"),
        ("plugins", CRI, "registry", "mirrors", "docker.io", "endpoint"), ("plugins", "cri", "registry", "configs"),
        ("plugins", "cri", "registry", "auths"), ("plugins", "io.containerd.transfer.v1.local"),
    ],
    "hosts.toml": [("server",), ("host",), ("host", "https://a.example"), ("host", "https://a.example", "capabilities")],
    "registries.conf": [
        ("unqualified-search-registries",), ("registry",), ("registries",), ("registries", "search"), ("registries", "block"),
        ("registries", "insecure", "registries"), ("registries", "block", "registries"),
    ],
    "buildkitd.toml": [("registry",), ("registry", "a.example"), ("registry", "a.example", "mirrors"), ("registry", "b", "http")],
    "registries.yaml": [
        ("mirrors",), ("mirrors", "docker.io"), ("mirrors", "docker.io", "endpoint"), ("mirrors", "*"), ("configs",),
        ("configs", "a.example"),
    ],
}  # fmt: skip
"""Where each parser looks: anything may stand there."""
WORDS = st.sampled_from(
    [
        "a.example",
        "https://b.example:5000/x",
        "docker.io",
        "*",
        "*.c.example",
        "",
        "10.0.0.0/8",
        "a b",
        "prefix",
        "location",
        "mirror",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def specs(reading: Reading) -> list[str]:
    return [found.spec for found in reading.found]


def at(keys: tuple[str, ...], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return value


def as_toml(value: Any) -> str:
    """A value inline; TOML has no null and, here, no strange floats."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {as_toml(inner)}" for key, inner in value.items() if inner is not None) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(as_toml(inner) for inner in value if inner is not None) + "]"
    return json.dumps(value) if isinstance(value, str | bool) or value is None else "5"


def written(name: str, content: dict[str, Any]) -> str:
    if name.endswith(".json"):
        return json.dumps(content)
    if name.endswith(".yaml"):
        return yaml.safe_dump(content)
    return "".join(f"{json.dumps(key)} = {as_toml(value)}\n" for key, value in content.items() if value is not None)


def assert_sensible(reading: Reading) -> None:
    assert len(reading.found) <= FOUND_MAX
    for found in reading.found:
        assert parse_endpoint(found.spec).label == found.spec
        assert found.origin.startswith(f"{PLACE}: ")
    for problem in reading.problems:
        assert problem.startswith(f"{PLACE}: ")
        assert "\n" not in problem


# --- arbitrary content ---


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.data())
def test_anything_may_stand_at_every_key(name: str, data: st.DataObject) -> None:
    keys = data.draw(st.sampled_from(SKELETONS[name]))
    assert_sensible(PARSERS[name](written(name, at(keys, data.draw(VALUES)))))


@pytest.mark.parametrize("name", PARSERS)
@given(text=st.text() | st.text("[]{}=\"'.:,-&*<\n ab#|>!%@", max_size=60))
def test_anything_may_be_the_whole_file(name: str, text: str) -> None:
    assert_sensible(PARSERS[name](text))


@given(
    st.lists(
        st.fixed_dictionaries({}, optional=dict.fromkeys(("prefix", "location", "insecure", "blocked", "mirror"), VALUES)),
        max_size=4,
    )
)
def test_anything_may_be_an_entry_of_registries_conf(entries: list[dict[str, Any]]) -> None:
    assert_sensible(PARSERS["registries.conf"](written("registries.conf", {"registry": entries})))


@given(st.text(max_size=40) | st.sampled_from(["_default", "a.example_5000_", "_5_", "__", "docker.io"]), VALUES)
def test_anything_may_be_the_name_of_a_registrys_folder(name: str, server: Any) -> None:
    assert_sensible(parse_hosts(written("hosts.toml", {"server": server}), PLACE, name))


@given(st.text("[]Service\n=Environmt\\\"'%#; $ab-+@/", max_size=80))
def test_anything_may_be_a_unit(text: str) -> None:
    service = Service()
    service.add(f"[Service]\nEnvironment={text}\n{text}", PLACE)
    service.add(f"[Service]\nExecStart={text}", PLACE)
    for words, place in service.commands:
        parse_command(service.command(words), place)
    parse_variables(text)


@given(st.lists(st.text(max_size=12) | st.sampled_from(["--registry-mirror", "--insecure-registry=a.example", "--config-file"])))
def test_anything_may_be_a_command_line(words: list[str]) -> None:
    assert_sensible(parse_command(["/usr/bin/dockerd", *words], PLACE).reading)
    parse_command(words, PLACE)


@pytest.mark.parametrize("name", PARSERS)
def test_what_is_nested_too_deeply_is_one_problem(name: str) -> None:
    deep = "[" * 100_000
    text = {"json": deep, "yaml": deep}.get(name.rpartition(".")[2], f"a = {deep}")
    assert PARSERS[name](text).problems == (f"{PLACE}: nested too deeply",)


@pytest.mark.parametrize("name", PARSERS)
def test_an_empty_file_says_nothing(name: str) -> None:
    assert PARSERS[name]("\n").problems == ()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("daemon.json", "[]"),
        ("daemon.json", "null"),
        ("daemon.json", '{"a": ' + "1" * 5000 + "}"),
        ("config.toml", "a = " + "1" * 5000),
        ("config.toml", "a = 2026-99-99"),
        ("registries.yaml", "- a"),
        ("registries.yaml", "a: 2026-99-99"),
        ("registries.yaml", "a: *b"),
        ("registries.yaml", "? [a]\n: b\n? {c: d}\n: e"),
        ("registries.yaml", "--- a\n--- b"),
        ("registries.yaml", "!!python/object/apply:os.getcwd []"),
        ("registries.yaml", "a: \x01"),
    ],
)
def test_what_can_not_be_parsed_is_one_problem(name: str, text: str) -> None:
    reading = PARSERS[name](text)
    assert (reading.found, len(reading.problems)) == ((), 1)


# --- bounds ---


def test_of_a_hundred_thousand_mirrors_a_thousand_are_kept_and_the_rest_is_counted() -> None:
    text = json.dumps({"registry-mirrors": [f"a{number}.example" for number in range(100_000)]})
    reading = parse_daemon(text, PLACE)
    assert len(reading.found) == FOUND_MAX
    assert reading.problems == (f"{PLACE}: {100_000 - FOUND_MAX} entries are left out: it names more than {FOUND_MAX} endpoints",)


def test_the_problems_of_one_file_are_bounded_and_counted() -> None:
    reading = parse_daemon(json.dumps({"registry-mirrors": [None] * 1000}), PLACE)
    assert len(reading.problems) == PROBLEMS_MAX + 1
    assert reading.problems[-1] == f"{PLACE}: {1000 - PROBLEMS_MAX} more problems"


BOMBS = {
    "lists": "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
    "merged mappings": "a0: &a0 {x: y}\n"
    + "".join(f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
    "a list in itself": "mirrors: &a [*a]\n",
    "a mapping in itself": "mirrors: &a {docker.io: *a}\n",
    "very many": "mirrors: [" + "a, " * 60_000 + "]",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_yaml_that_stands_for_more_than_it_is_is_refused(bomb: str) -> None:
    with pytest.raises(DocumentError, match="more than 50000 values"):
        parse_yaml(BOMBS[bomb])


def test_yaml_with_aliases_and_merged_mappings_of_ordinary_size_is_read() -> None:
    text = "a: &a {x: [m.example]}\nb: {<<: *a, y: *a}\n"
    assert parse_yaml(text) == {"a": {"x": ["m.example"]}, "b": {"x": ["m.example"], "y": {"x": ["m.example"]}}}


def test_toml_under_a_deep_header_takes_no_minutes() -> None:
    parts = ".".join("a" * 5_000)
    below = "".join(f"k{number}=1\n" for number in range(100_000))
    before = time.monotonic()
    for line in (f"[{parts}]", f"['='.{parts}]", f'["\\"".{parts}."\\""]', f"{parts}=1", f"x={{{parts}=1}}"):
        with pytest.raises(DocumentError, match=r"nested too deeply \(line 1\)"):
            parse_toml(f"{line}\n{below}")
    assert time.monotonic() - before < 30


def test_toml_with_a_key_hidden_behind_a_string_of_several_lines_takes_no_minutes() -> None:
    before = time.monotonic()
    with pytest.raises(DocumentError, match=r"more than 10000 dots in a line \(line 2\)"):
        parse_toml('x = {a = """\n\' """, ' + ".".join("a" * 400_000) + " = '1'}")
    assert time.monotonic() - before < 30


def test_dots_in_the_values_of_toml_are_no_depth() -> None:
    names = ["a.b.example"] * 200
    assert parse_toml(f"x = {json.dumps(names)} # and\n# {'.' * 200}") == {"x": names}


@pytest.mark.parametrize("parse", [parse_json, parse_toml, parse_yaml])
@pytest.mark.parametrize(
    "text", ['{"mArKeD" "x"}', "[mArKeD\n", "mArKeD = mArKeD", "a: 'mArKeD", "[mArKeD]\n[mArKeD]", "!mArKeD x"]
)
def test_what_is_wrong_is_told_without_quoting_the_file(parse: Callable[[str], Any], text: str) -> None:
    try:
        parse(text)
    except DocumentError as error:
        assert "mArKeD" not in str(error)


# --- Docker ---


def test_flags_of_dockerd_are_taken_in_both_forms() -> None:
    words = (
        "/usr/bin/dockerd --registry-mirror=https://a.example --registry-mirror b.example -H fd:// --insecure-registry 10.0.0.0/8"
    )
    command = parse_command(words.split(), PLACE)
    assert [(found.spec, found.role) for found in command.reading.found] == [
        ("a.example:443", Role.MIRROR), ("b.example:443", Role.MIRROR), ("10.0.0.0/8:*", Role.PRIVATE),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "files"),
    [
        ("dockerd --config-file=/srv/a.json", ("/srv/a.json",)),
        ("/usr/bin/containerd -c /srv/c.toml", ("/srv/c.toml",)),
        ("buildkitd --config /srv/b.toml", ("/srv/b.toml",)),
        ("k3s server --private-registry /srv/r.yaml", ("/srv/r.yaml",)),
        ("bash --config-file=/srv/a.json", ()),
        ("dockerd --config-file", ()),
    ],
)
def test_files_that_engines_are_told_to_use_are_named(line: str, files: tuple[str, ...]) -> None:
    assert parse_command(line.split(), PLACE).files == files


def test_a_file_with_a_relative_path_can_not_be_told() -> None:
    command = parse_command(["dockerd", "--config-file=a.json"], PLACE)
    assert (command.files, len(command.reading.problems)) == ((), 1)


def test_only_the_names_of_credentials_are_taken() -> None:
    text = json.dumps(
        {"auths": {"a.example": 5, "https://u:p@b.example/v1/": None}, "credsStore": "c.example", "credHelpers": {}}
    )
    assert specs(parse_credentials(text, PLACE)) == ["a.example:443", "b.example:443"]


# --- containerd ---


@pytest.mark.parametrize(
    ("folder", "spec"),
    [
        ("a.example", "a.example:443"),
        ("a.example:5000", "a.example:5000"),
        ("a.example_5000_", "a.example:5000"),
        ("a_b.example", "a_b.example:443"),
        ("docker.io", "registry-1.docker.io:443"),
    ],
)
def test_a_folder_is_called_after_its_registry(folder: str, spec: str) -> None:
    assert specs(parse_hosts(None, PLACE, folder))[0] == spec


def test_the_default_folder_is_no_registry_and_its_hosts_are_mirrors_of_any() -> None:
    assert specs(parse_hosts("", PLACE, "_default")) == []
    (found,) = parse_hosts('[host."http://m.example"]', PLACE, "_default").found
    assert (found.spec, found.role, found.mirror_of) == ("m.example:80", Role.MIRROR, "*")


def test_another_server_is_asked_instead_of_the_registry() -> None:
    (found,) = parse_hosts('server = "https://other.example"', PLACE, "a.example").found
    assert (found.spec, found.role, found.mirror_of) == ("other.example:443", Role.MIRROR, "a.example")


def test_several_folders_may_be_named() -> None:
    text = f'[plugins."{CRI}".registry]\nconfig_path = "/a:/b::relative"\n'
    assert parse_containerd(text, PLACE).folders == ("/a", "/b")


@pytest.mark.parametrize("plugin", ["cri", CRI, "io.containerd.cri.v1.images"])
def test_mirrors_are_found_under_the_plugins_name_of_each_version(plugin: str) -> None:
    text = f'[plugins."{plugin}".registry.mirrors."a.example"]\nendpoint = ["m.example:5000"]\n'
    assert specs(parse_containerd(text, PLACE).reading) == ["a.example:443", "m.example:5000"]


# --- registries.conf ---


def test_later_files_replace_the_entry_of_the_same_prefix() -> None:
    first = '[[registry]]\nprefix = "a.example"\nlocation = "b.example"\n'
    later = '[[registry]]\nprefix = "a.example"\nlocation = "c.example"\n'
    assert specs(parse_registries([(first, PLACE), (later, PLACE)])) == ["c.example:443"]


def test_a_later_list_of_searched_registries_replaces_the_one_before() -> None:
    texts = [f'unqualified-search-registries = ["{name}.example"]\n' for name in "ab"]
    assert specs(parse_registries([(text, PLACE) for text in texts])) == ["b.example:443"]


def test_what_is_blocked_is_not_watched_nor_are_its_mirrors() -> None:
    text = '[[registry]]\nlocation = "a.example"\nblocked = true\n[[registry.mirror]]\nlocation = "m.example"\n'
    assert parse_registries([(text, PLACE)]) == Reading()


# --- systemd and environments ---


@pytest.mark.parametrize(
    ("lines", "variables"),
    [
        ("Environment=A=1 \"B=2 3\" 'C=4'", {"A": "1", "B": "2 3", "C": "4"}),
        ("Environment=A=1\nEnvironment=B=2\nEnvironment=A=3", {"A": "3", "B": "2"}),
        ("Environment=A=1\nEnvironment=\nEnvironment=B=2", {"B": "2"}),
        ("Environment=A=1 \\\n# between\n  B=2", {"A": "1", "B": "2"}),
        ("Environment=A=100%%", {"A": "100%"}),
        ("Environment = A=1", {"A": "1"}),
        ("#Environment=A=1\n;Environment=A=1", {}),
        ("[Unit]\nEnvironment=A=1", {}),
    ],
)
def test_the_environment_of_a_unit_is_read_as_systemd_does(lines: str, variables: dict[str, str]) -> None:
    service = Service()
    service.add(f"[Service]\n{lines}\n", PLACE)
    assert {name: value for name, (value, _) in service.variables.items()} == variables


def test_an_open_quote_is_a_problem_that_does_not_quote() -> None:
    service = Service()
    service.add('[Service]\nEnvironment="HTTP_PROXY=http://u:mArKeD@p.example\nEnvironment=B=2\n', PLACE)
    assert (list(service.variables), len(service.problems)) == (["B"], 1)
    assert "mArKeD" not in service.problems[0]


def test_a_command_has_its_variables_replaced() -> None:
    service = Service()
    service.add("[Service]\nEnvironment='OPTIONS=--a --b'\nExecStart=-/usr/bin/dockerd $OPTIONS ${OPTIONS} $OTHER\n", PLACE)
    ((words, _),) = service.commands
    assert service.command(words) == ["/usr/bin/dockerd", "--a", "--b", "--a --b", "$OTHER"]


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("A=1\nB=2", {"A": "1", "B": "2"}),
        ("export A=\"1 2\"\nB='3'", {"A": "1 2", "B": "3"}),
        ("# A=1\nA = 2", {"A": "2"}),
        ("no assignment\n=\n1=2", {}),
        ('A="open', {"A": "open"}),
    ],
)
def test_environment_files_are_read_line_by_line(text: str, variables: dict[str, str]) -> None:
    assert parse_variables(text) == variables


def test_of_a_process_environment_only_what_is_about_proxies_is_kept() -> None:
    content = "TOKEN=mArKeD\0HTTP_PROXY=http://p.example\0no_proxy=*\0HTTP_PROXY_X=1\0\xff"
    assert parse_environ(content) == {"HTTP_PROXY": "http://p.example", "no_proxy": "*"}


@pytest.mark.parametrize(
    ("value", "spec"),
    [
        ("http://p.example:3128", "p.example:3128"),
        ("http://p.example", "p.example:80"),
        ("https://p.example/", "p.example:443"),
        ("socks5h://p.example", "p.example:1080"),
        ("p.example", "p.example:80"),
        ("p.example:3128", "p.example:3128"),
        ("http://u:dummy@[fd00::1]:3128", "[fd00::1]:3128"),
    ],
)
@pytest.mark.parametrize("name", ["HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_has_the_port_of_its_url_or_scheme(name: str, value: str, spec: str) -> None:
    (found,) = parse_environment({name: value}, PLACE).found
    assert (found.spec, found.role, found.origin) == (spec, Role.PROXY, f"{PLACE}: {name}")


def test_an_empty_proxy_is_none_and_nothing_is_proxied_where_all_is_excepted() -> None:
    assert parse_environment({"HTTP_PROXY": ""}, PLACE) == Reading()
    assert parse_environment({"HTTP_PROXY": "http://p.example", "NO_PROXY": "*"}, PLACE) == Reading()
