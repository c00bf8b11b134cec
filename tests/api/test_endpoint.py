"""Where servers outside of the cluster are, and which addresses may be asked."""

import pytest

from vllm_operator.api.endpoint import Server, is_address, may_be_asked, read_networks, read_server


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("https://api.example.com", Server("api.example.com")),
        ("https://API.example.com/v1", Server("api.example.com")),
        ("https://api.example.com/v1/", Server("api.example.com")),
        ("https://api.example.com:8443/openai/v1", Server("api.example.com", 8443, path_prefix="/openai")),
        ("https://api.example.com/v1beta/openai/", Server("api.example.com", path_prefix="/v1beta/openai")),
        ("http://10.1.2.3:8000", Server("10.1.2.3", 8000, tls=False)),
        ("http://models", Server("models", 80, tls=False)),
    ],
)
def test_servers_of_urls(url: str, server: Server) -> None:
    assert read_server(url) == server


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.example.com",
        "ftp://a.example.com",
        "https://",
        "https://user@a.example.com",
        "https://a.example.com?x=1",
        "https://a.example.com#x",
        "https://a.example.com:0",
        "https://a.example.com:65536",
        "https://a.example.com:",
        "https://a..example.com",
        "https://-a.example.com",
        "https://a.example.com/../b",
        "https://a.example.com/./b",
        "https://a.example.com/a b",
        "https://a.example.com/a\n",
        "https://a.example.com\n",
        "https://1.2.3",
        "https://2130706433",
        "https://0177.0.0.1",
        "https://[::1]",
        f"https://{'a' * 64}.example.com",
    ],
)
def test_urls_of_no_server(url: str) -> None:
    with pytest.raises(ValueError, match="is no "):
        read_server(url)


@pytest.mark.parametrize(
    "fields",
    [
        {"host": "a b"},
        {"host": "a\r\nx: y"},
        {"host": "a\n"},
        {"host": "user@example.com"},
        {"host": "example.com:80"},
        {"host": "-a"},
        {"host": ""},
        {"host": "a", "port": 0},
        {"host": "a", "path_prefix": "v1"},
        {"host": "a", "path_prefix": "/"},
        {"host": "a", "path_prefix": "/a b"},
        {"host": "a", "path_prefix": "/a?b="},
        {"host": "a", "path_prefix": "/a\n"},
        {"host": "a", "path_prefix": "/a/../b"},
    ],
)
def test_what_is_no_server(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"is no (name of a host|port|beginning of a path)"):
        Server(**fields)  # type: ignore[arg-type]


def test_what_a_server_is_called() -> None:
    assert Server("a").authority == Server("a", 80, tls=False).authority == "a"
    assert Server("a", 80).authority == "a:80"
    assert Server("2001:db8::1", 8443).authority == "[2001:db8::1]:8443"
    assert Server("a", 8443, path_prefix="/x").url("/v1/models") == "https://a:8443/x/v1/models"
    assert Server("a", tls=False, port=80).url("/v1", address="2001:db8::1") == "http://[2001:db8::1]:80/v1"
    assert is_address("10.0.0.1")
    assert not is_address("a")


INSIDE = (
    "127.0.0.1",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "0.0.0.0",
    "255.255.255.255",
    "224.0.0.1",
    "::1",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "fd00::1",
    "fd00:ec2::254",
    "ff02::1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::a00:1",
    "2002:a00:1::1",
    "2001:db8::1",
)


@pytest.mark.parametrize("address", INSIDE)
def test_addresses_that_only_the_cluster_sees(address: str) -> None:
    assert not may_be_asked(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "140.82.112.3", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_addresses_of_the_internet(address: str) -> None:
    assert may_be_asked(address)


def test_networks_of_ones_own() -> None:
    networks = read_networks("10.1.0.0/16, fd00:1::/64")
    assert may_be_asked("10.1.2.3", networks)
    assert may_be_asked("::ffff:10.1.2.3", networks)
    assert may_be_asked("fd00:1::2", networks)
    assert not may_be_asked("10.2.0.1", networks)
    assert not may_be_asked("169.254.169.254", networks)
    assert may_be_asked("1.1.1.1", networks)
    with pytest.raises(ValueError, match=r"10\.1\.2\.3/16 has host bits set"):
        read_networks("10.1.2.3/16")
