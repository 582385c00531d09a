"""Variations of inputs: tokens are replaced by others, or by ones that are hard to read; bytes are changed.

JSON, CSV, composites and HTTP all consist of words, numbers, strings and brackets; nothing more is assumed.
"""

import re
from collections.abc import Sequence

from hypothesis import strategies as st

TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[A-Za-z_][\w.+/-]*|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|[^\s\w]|\s+')
HARD = [
    b"", b" ", b"\0", b"\r\n", b"\n\n", b'"', b"'", b"\\", b"{}", b"[]", b"null", b"true", b"-1", b"0", b"-0.0", b"1.5",
    b"1e999", b"NaN", b"-Infinity", b"9" * 400, b"9" * 5000, b"9223372036854775807", b"9223372036854775808",
    b"253402300799999", b"253402300800000", b"18446744073709551616", b"9007199254740993.0", b"2.0",
    b'""', b'" "', b'"\\u0000"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u202e\\u0007"', b'"\x1b[2J"', b'"\xc2\x9b31m"',
    b'"\xe2\x80\xae"', b'"\xff"', b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x85",
    b"\xe2\x80\xa8", b'"' + b"A" * 300 + b'"', b'"AQ=="', b'"////////////////////////"',
    b'{"scale":-38,"value":"f///////"}', b"[" * 500 + b"]" * 500, b'{"a":' * 500 + b"1" + b"}" * 500, b"[" * 200_000,
    b"2100-01-01T00:00:00Z", b"2024-02-30T00:00:00Z", b"2099-12-31T23:59:60+23:59", b"2000-01-01T00:00:00+23:59",
    b"#5B", b"#FF", b"#ED#A0#80", b"][", b"={}", b"{INCONNU}", b"#rows", b"2,99E+07", b"=1+1", b"../../etc/passwd",
    b"<script>", b"%0d%0a", b"X: y", b"Content-Encoding: gzip", b"Location: http://[", b"Transfer-Encoding: chunked",
]  # fmt: skip


@st.composite
def variations(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """Change one of the seeds in one place, or in a few."""
    text = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        start, end = draw(_places(text))
        other = draw(st.sampled_from(seeds))
        elsewhere = draw(_places(other))
        new = draw(
            st.sampled_from([other[slice(*elsewhere)], b"", text[start:end] * 2, text[:end]])
            | st.sampled_from(HARD)
            | st.binary(max_size=4)
        )
        text = text[:start] + new + text[end:]
    return text


@st.composite
def _places(draw: st.DrawFn, text: bytes) -> tuple[int, int]:
    """Choose a token, or any bytes."""
    tokens = [found.span() for found in TOKEN.finditer(text)]
    if tokens and draw(st.integers(0, 4)) > 0:
        return draw(st.sampled_from(tokens))
    start = draw(st.integers(0, len(text)))
    return start, min(len(text), start + draw(st.integers(0, 8)))
