"""Addresses and URLs that may be fetched."""

from __future__ import annotations

import pytest
from samserve.core.errors import InvalidInput
from samserve.infra.hosts import (
    MOST_URL,
    AllowedHost,
    check_url,
    host_of,
    is_allowed,
    parse_hosts,
)

PUBLIC = ("8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::808:808")
PRIVATE = ("127.0.0.1", "127.9.9.9", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1")
PRIVATE_6 = ("::1", "fd00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1")
NEVER = (
    "0.0.0.0",  # noqa: S104
    "169.254.169.254",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "192.0.2.1",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "ff02::1",
    "2001:db8::1",
    "::ffff:169.254.169.254",
    "2002:a9fe:a9fe::1",
    "64:ff9b::a9fe:a9fe",
    "no address",
)
HOSTS = (AllowedHost("images.example"), AllowedHost("lan", 8080, private=True))


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_allowed(address: str) -> None:
    assert is_allowed(address, private=False)


@pytest.mark.parametrize("address", PRIVATE + PRIVATE_6)
def test_a_private_address_is_allowed_for_hosts_marked_so(address: str) -> None:
    assert is_allowed(address, private=True)
    assert not is_allowed(address, private=False)


@pytest.mark.parametrize("address", NEVER)
def test_a_reserved_address_is_never_allowed(address: str) -> None:
    assert not is_allowed(address, private=True)


@pytest.mark.parametrize(
    ("url", "authority", "path"),
    [
        ("http://images.example/a.jpg", "images.example", "/a.jpg"),
        ("https://IMAGES.example:443?x=1", "images.example", "/?x=1"),
        ("http://lan:8080/a%20b", "lan:8080", "/a%20b"),
    ],
)
def test_a_listed_host_is_allowed_at_its_port(url: str, authority: str, path: str) -> None:
    target = check_url(url, HOSTS, "image.value")
    assert (target.authority, target.path) == (authority, path)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://images.example/a",
        "gopher://images.example/",
        "data:image/png;base64,AAAA",
        "//images.example/a",
        "images.example/a",
        "http://other.example/",
        "http://images.example:8080/",
        "http://images.example.other.example/",
        "http://images.example@other.example/",
        "http://user:password@images.example/",
        "http://other.example#@images.example/",
        "http://other.example\\@images.example/",
        "http://images.example/a b",
        "http://images.example/\r\nX: y",
        "http://images.example:99999/",
        "http://[::1/",
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://2130706433/",
        "http://0177.0.0.1/",
        "http:///a",
        "http://images.example/" + "a" * MOST_URL,
        "",
    ],
)
def test_any_other_url_is_refused_with_the_fields_name(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"^image\.value: ") as problem:
        check_url(url, HOSTS, "image.value")
    assert problem.value.field == "image.value"
    assert len(str(problem.value)) < 300


def test_a_list_of_hosts_is_parsed() -> None:
    assert parse_hosts(" a.example, B.example:81,[::1]:9 ,", private=True) == (
        AllowedHost("a.example", None, private=True),
        AllowedHost("b.example", 81, private=True),
        AllowedHost("::1", 9, private=True),
    )


@pytest.mark.parametrize("entry", ["http://a", "a/b", "a@b", ":80", "a:x", "a:99999"])
def test_an_invalid_host_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_hosts(entry)


def test_the_operators_own_url_may_be_private() -> None:
    assert host_of("http://studio.lan:8080/base") == AllowedHost("studio.lan", 8080, private=True)
    assert host_of("https://studio.example") == AllowedHost("studio.example", 443, private=True)
