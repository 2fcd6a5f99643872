"""Mutations of files for `test_fuzz_*`: bytes of a good file that are damaged, and values that do not belong.

``make fuzz`` draws ``ASDRAY_FUZZ`` new inputs per test; otherwise a few are drawn, always the same ones.
"""

import contextlib
import copy
import datetime
import math
import os
import signal

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

LONG = int(os.environ.get("ASDRAY_FUZZ", 0))
SECONDS = 20
"""Longest time for one input, on a busy machine."""


def inputs(few):
    """How many inputs a test draws: ``few``, or those of the long run."""
    return settings(
        max_examples=LONG or few,
        derandomize=not LONG,
        database=None,
        deadline=None,
        print_blob=True,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


class Outcome:
    """The fault of an input, None for an accepted one."""

    fault = None


@contextlib.contextmanager
def one_clear_error(*names):
    """Context of reading a damaged file: ends in time, and with no exception but one that names the file.

    Yields:
        The `Outcome`, known after the block.
    """

    def fail(number, frame):
        raise AssertionError(f"no end after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    outcome = Outcome()
    try:
        yield outcome
    except ValueError as error:
        outcome.fault = str(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if outcome.fault is not None:
        assert any(str(name) in outcome.fault for name in names), f"no file is named: {outcome.fault[:500]!r}"
        assert len(outcome.fault) < 20_000, f"{len(outcome.fault)} characters: {outcome.fault[:500]!r}"


# -------------------------------------------------------------------------------------------------- bytes

TOKENS = [
    b"", b"\0", b"\n", b"\r", b"\r\n", b",", b'"', b"'", b"\t", b" ", b":", b"-", b"0", b"1", b"-1", b"1e999", b"nan",
    b"inf", b"1_0", "\u0661".encode(), b"0x10", b"9" * 30, b"9" * 5000, b"0." + b"3" * 400, b"true", b"null", b"None",
    b"[", b"]", b"{", b"}", b"[" * 200, b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", "\u2028".encode(), "\x85".encode(),
    b"\x1b[2J", b"=1+1", b"../../x", b"/etc/passwd", "\u00e4".encode(), b"\xed\xa0\x80", b"#", b"&a ", b"*a", b"!!", b"|",
    b"\x00\x00\x00\x80", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00" * 8, b"x" * 300,
]  # fmt: skip


@st.composite
def damaged(draw, content, tokens=()):
    """``content`` after one to four damages: bits, bytes, spans and lines flipped, lost, repeated, moved."""
    data = bytearray(draw(st.sampled_from(content)) if isinstance(content, list) else content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.sampled_from([1, 1, 2, 4, 8, 40, 1000])))
        kind = draw(
            st.sampled_from(["bit", "byte", "cut", "end", "again", "token", "replace", "line", "swap"])
        )
        if kind == "bit" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte" and at < len(data):
            data[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[at:end]
        elif kind == "end":
            del data[at:]
        elif kind == "again":
            data[end:end] = data[at:end]
        elif kind == "token":
            data[at:at] = draw(st.sampled_from([*TOKENS, *tokens]))
        elif kind == "replace":
            data[at:end] = draw(st.sampled_from([*TOKENS, *tokens]))
        else:
            lines = bytes(data).split(b"\n")
            i, j = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
            if kind == "swap":
                lines[i], lines[j] = lines[j], lines[i]
            else:
                lines.insert(i, lines[j])
            data = bytearray(b"\n".join(lines))
    return bytes(data)


# ------------------------------------------------------------------------------------------------- values

SCALARS = st.one_of(
    st.sampled_from([
        None, True, False, 0, 1, -1, 2, 10**30, -(10**400), 2**63, 1.5, -0.0, 1e308, 1e-320, math.nan, math.inf, -math.inf,
        "", " ", "x", "all", "none", "name", "1", "\0", "\x1b[2J", "a\nb", "\u2028", "\u00e4", "../x", "/", "~", "x" * 3000, "=1",
        datetime.date(2001, 1, 1), datetime.datetime(2001, 1, 1, 2, 3), b"bytes",
    ]),
    st.integers(-(2**65), 2**65),
    st.floats(),
    st.text(max_size=5),
)  # fmt: skip


def _is_key(value):
    return isinstance(value, str | int | float | bool | type(None))


VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS.filter(_is_key), inner, max_size=3),
    max_leaves=5,
)


def _places(value, place=()):
    """The place of every value inside, as the keys and indices that lead there."""
    yield place
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from _places(part, (*place, key))


@st.composite
def misplaced(draw, value, values=VALUES):
    """``value``, of lists and dictionaries, after one to three changes of its parts."""
    value = copy.deepcopy(draw(st.sampled_from(value)) if isinstance(value, list) else value)
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from([place for place in _places(value) if place] or [(None,)]))
        if last is None and not way:
            return draw(values)
        parent = value
        for key in way:
            parent = parent[key]
        kind = draw(st.sampled_from(["replace", "replace", "replace", "remove", "wrap", "move", "rename"]))
        if kind == "remove":
            del parent[last]
        elif kind == "wrap":
            parent[last] = draw(
                st.sampled_from([[parent[last]], {"name": parent[last]}, {str(last): parent[last]}])
            )
        elif kind == "move":
            other = draw(st.sampled_from(list(_places(value))))
            part = value
            for key in other:
                part = part[key]
            parent[last] = copy.deepcopy(part)
        elif kind == "rename" and isinstance(parent, dict):
            parent[draw(SCALARS.filter(_is_key))] = parent.pop(last)
        else:
            parent[last] = draw(values)
    return value
