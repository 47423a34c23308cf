"""tracer.names.hosts: the file as it is now, whatever somebody made of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.names.hosts import HostsFile, hosts_addresses
from tracer.names.records import Answer
from tracer.names.system_files import FILE_BYTES_MAX

NAME = "registry.example"
HOSTS = """
127.0.0.1 localhost
10.1.2.3  registry.example Registry-Alias   # comment
::1 localhost ip6-localhost
fe80::1%eth0 scoped.example
not-an-address registry.example
10.1.2.4 registry.example
10.1.2.3 registry.example
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "hosts"
    made.write_text(f"10.0.0.1 {NAME}\n")
    return made


def addresses(hosts: HostsFile, name: str = NAME) -> tuple[str, ...] | None:
    answer = hosts.look_up(name)
    return answer and answer.addresses


def test_an_answer_of_the_file_may_change_at_any_time(path: Path) -> None:
    assert HostsFile(path).look_up(NAME) == Answer(NAME, ("10.0.0.1",), 0)


def test_a_name_that_is_not_in_the_file_is_left_to_dns(path: Path) -> None:
    assert HostsFile(path).look_up("other.example") is None


def test_a_file_that_was_written_again_is_read_again(path: Path) -> None:
    hosts = HostsFile(path)
    before = addresses(hosts)
    path.write_text(f"10.0.0.22 {NAME}\n")
    assert (before, addresses(hosts)) == (("10.0.0.1",), ("10.0.0.22",))


def test_a_file_that_was_replaced_by_one_of_the_same_size_and_time_is_read_again(path: Path) -> None:
    hosts = HostsFile(path)
    addresses(hosts)
    new = path.with_name("new")
    new.write_text(f"10.0.0.2 {NAME}\n")
    os.utime(new, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    new.replace(path)
    assert addresses(hosts) == ("10.0.0.2",)


def test_a_file_that_came_and_went_is_seen(path: Path) -> None:
    hosts = HostsFile(path)
    text = path.read_text()
    path.unlink()
    gone = addresses(hosts)
    path.write_text(text)
    assert (gone, addresses(hosts)) == (None, ("10.0.0.1",))


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "registry.localhost"])
def test_localhost_and_all_below_it_is_loopback(tmp_path: Path, name: str) -> None:
    assert addresses(HostsFile(tmp_path / "none"), name) == ("127.0.0.1", "::1")


def test_a_name_that_ends_like_localhost_is_none(path: Path) -> None:
    assert HostsFile(path).look_up("notlocalhost") is None


def test_a_pipe_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hosts")
    hosts = HostsFile(tmp_path / "hosts")
    assert hosts.look_up(NAME) is None
    assert "no regular file" in hosts.problem


def test_a_directory_in_its_place_is_a_problem(tmp_path: Path) -> None:
    hosts = HostsFile(tmp_path)
    assert hosts.look_up(NAME) is None
    assert hosts.problem


def test_a_file_that_is_too_long_is_read_in_part_and_that_is_said(path: Path) -> None:
    path.write_text(f"10.0.0.1 {NAME}\n" + "10.0.0.3 padding.example\n" * (FILE_BYTES_MAX // 20) + f"10.0.0.2 {NAME}\n")
    answer = HostsFile(path).look_up(NAME)
    assert answer is not None
    assert answer.addresses == ("10.0.0.1",)
    assert "longer than" in answer.problem


def test_addresses_that_are_nobodys_are_ignored_and_dns_is_not_asked(path: Path) -> None:
    path.write_text(f"0.0.0.0 {NAME}\n")
    answer = HostsFile(path).look_up(NAME)
    assert answer is not None
    assert answer.addresses == ()
    assert "0.0.0.0" in answer.problem


def test_a_file_of_any_bytes_is_read(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\0 x\n10.0.0.1\n\n# 10.0.0.9 registry.example\n10.0.0.7\t" + NAME.encode() + b"\r\n")
    assert addresses(HostsFile(path)) == ("10.0.0.7",)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("registry.example", ["10.1.2.3", "10.1.2.4"]),
        ("REGISTRY-ALIAS", ["10.1.2.3"]),
        ("localhost", ["127.0.0.1", "::1"]),
        ("scoped.example", ["fe80::1"]),
        ("comment", []),
        ("absent", []),
    ],
)
def test_what_a_file_says_of_a_name(name: str, found: list[str]) -> None:
    assert hosts_addresses(HOSTS, name) == found


@given(
    st.lists(st.sampled_from(["10.0.0.1", "::1", NAME, "#", " ", "\t", "\n", "\0", "%eth0"]) | st.text(max_size=5), max_size=30)
)
def test_any_text_gives_addresses_or_none(pieces: list[str]) -> None:
    found = hosts_addresses("".join(pieces), NAME)
    assert len(found) == len(set(found))
