"""Whatever URL a client gives for its webhook, what is taken leads to a public place."""

import socket
from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from producer.webhooks.target import sendable
from tests.support.fuzz import examples

DIGITS = ("0123456789", "０１２３４５６７８９", "⓪①②③④⑤⑥⑦⑧⑨", "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗", "٠١٢٣٤٥٦٧٨٩")
DOTS = (".", "。", "．", "｡", "%2e", "․")
ADDRESSES = ("127.0.0.1", "169.254.169.254", "10.0.0.1", "0.0.0.0", "100.64.0.1", "192.168.0.1", "8.8.8.8")
HOSTS = (
    *("localhost", "LOCALHOST.", "ⓛocalhost", "localhost%00.example.com", "x.local", "metadata.google.internal"),
    *(
        "0x7f.1",
        "2130706433",
        "017700000001",
        "127.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[fe80::1%25a]",
    ),
    *("example.com", "user@example.com", "example.com@127.0.0.1", "example.com#@127.0.0.1", "127.0.0.1\\@example.com"),
    *(
        "例え.jp",
        "xn--r8jz45g.jp",
        "a..b",
        "-",
        "",
        " ",
        "example.com:22",
        "example.com:99999",
        "example.com\t.evil.test",
    ),
)
LOCAL_ENDS = ("localhost", ".local", ".internal", ".localdomain", ".home.arpa")


@st.composite
def disguised(draw: st.DrawFn) -> str:
    """An address in the digits and dots that a library may normalise."""
    digits, dot = draw(st.sampled_from(DIGITS)), draw(st.sampled_from(DOTS))
    return "".join(dot if each == "." else digits[int(each)] for each in draw(st.sampled_from(ADDRESSES)))


@st.composite
def urls(draw: st.DrawFn) -> str:
    host = draw(st.one_of(disguised(), st.sampled_from(HOSTS), st.text(max_size=15)))
    scheme = draw(st.sampled_from(["http://", "https://", "HTTP://", "http:", "//", "file://", "http:/\\", "ftp://"]))
    odd = draw(st.sampled_from(["", "", "", "\r\nx: y", "\x00", "%00", "\u202e", "/", "?", "#", "@", "\\"]))
    at = draw(st.integers(0, len(host)))
    return scheme + host[:at] + odd + host[at:] + draw(st.sampled_from(["", "/", "/a?b=c", ":80/", ":6379/", ":0"]))


@examples(400)
@given(url=urls())
def test_what_is_taken_is_public(url: str) -> None:
    target = sendable(url, private_allowed=False)
    if isinstance(target, URL):
        assert_public(target)
    else:
        assert target


def assert_public(target: URL) -> None:
    host = target.raw_host or ""
    assert target.scheme in ("http", "https")
    assert not (target.user or target.password)
    assert host.isascii(), host
    try:
        address = ip_address(host)
    except ValueError:
        assert "." in host, host
        assert not host.rstrip(".").endswith(LOCAL_ENDS), host
        assert not is_number(host), host
    else:
        assert address.is_global, host


def is_number(host: str) -> bool:
    """What a C library reads as an address: 127.1, 0x7f000001."""
    try:
        socket.inet_aton(host)
    except OSError:
        return False
    return True
