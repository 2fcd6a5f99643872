"""One file over HTTP, against a real server: resumed, checked, tried again, never half under its name."""

import hashlib
import random
import threading

import pytest
from http_server import Fault, Site, serve

from asdray.dcase.fetch import (
    BLOCK,
    PATIENCE,
    FetchError,
    Patience,
    Session,
    Stopped,
    fetch,
)

FAST = Patience(tries=3, first=0.001, longest=0.01, connect=5, read=5)
CONTENT = random.Random(0).randbytes(3 * BLOCK + 1000)
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve(Site(files={"a.zip": CONTENT})) as it:
        yield it


@pytest.fixture
def get(site, tmp_path):
    def run(**options):
        options = {"size": len(CONTENT), "checksum": MD5, **options}
        session = Session(
            options.pop("patience", FAST), options.pop("stop", None), options.pop("on_wait", None)
        )
        fetch(session, f"{site.url}/a.zip", tmp_path / "a.zip", **options)
        assert {p.name for p in tmp_path.iterdir()} == {"a.zip"}
        return (tmp_path / "a.zip").read_bytes()

    return run


def part_of(tmp_path, content, tag=None):
    (tmp_path / "a.zip.part").write_bytes(content)
    if tag:
        (tmp_path / "a.zip.part.etag").write_text(tag)


def test_a_file_comes_with_its_progress(get):
    seen = []
    assert get(on_bytes=lambda done, total: seen.append((done, total))) == CONTENT
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_what_is_there_is_not_asked_for_again(get, site):
    get()
    get()
    assert len(site.requests) == 1


def test_a_wrong_file_that_is_there_is_replaced(get, tmp_path):
    (tmp_path / "a.zip").write_bytes(CONTENT[:-1] + b"?")
    assert get() == CONTENT


@pytest.mark.parametrize("known", [{}, {"size": None}, {"checksum": None}, {"size": None, "checksum": None}])
def test_cut_connections_are_resumed_where_they_were_cut(get, site, known):
    site.faults["a.zip"] = Fault(2, cut_after=BLOCK + 100)
    waits = []
    assert get(on_wait=waits.append, **known) == CONTENT
    ranges = [h.get("Range") for h in site.asked("a.zip")]
    assert ranges == [None, f"bytes={BLOCK}-", f"bytes={2 * BLOCK}-"]
    assert all(h["If-Range"] for h in site.asked("a.zip")[1:])
    assert len(waits) == 2


@pytest.mark.parametrize("cut_after", [3 * BLOCK // 2, len(CONTENT) + 7, 2])
def test_a_cut_is_called_a_cut_however_the_server_sends(get, site, cut_after):
    site.faults["a.zip"] = Fault(2, cut_after=cut_after, chunked=True)
    waits = []
    assert get(on_wait=waits.append, size=None) == CONTENT
    assert all(why.startswith("the connection was cut; again in") for why in waits)
    assert len(waits) == 2 - (cut_after > len(CONTENT))


def test_nothing_is_made_where_nothing_comes(site, tmp_path):
    with pytest.raises(FetchError, match="404"):
        fetch(Session(FAST), f"{site.url}/b.zip", tmp_path / "new" / "b.zip")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_cuts_every_connection_still_brings_the_file(get, site):
    site.faults["a.zip"] = Fault(99, cut_after=BLOCK)
    assert get(patience=Patience(tries=2, first=0.001)) == CONTENT
    assert len(site.requests) == 4


def test_a_part_of_another_call_is_continued(get, site, tmp_path):
    part_of(tmp_path, CONTENT[:777])
    assert get() == CONTENT
    assert [h.get("Range") for h in site.asked("a.zip")] == ["bytes=777-"]


def test_a_whole_part_needs_no_request(get, site, tmp_path):
    part_of(tmp_path, CONTENT)
    assert get() == CONTENT
    assert site.requests == []


def test_a_whole_part_of_unknown_size_is_recognised(get, site, tmp_path):
    part_of(tmp_path, CONTENT)
    assert get(size=None, checksum=None) == CONTENT
    assert len(site.requests) == 1


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_part_that_is_too_long_is_discarded(get, tmp_path, size):
    part_of(tmp_path, CONTENT + b"more")
    assert get(size=size) == CONTENT


def test_a_server_that_ignores_ranges_sends_all_of_it_again(get, site, tmp_path):
    site.ranges = False
    part_of(tmp_path, CONTENT[:777])
    assert get() == CONTENT


@pytest.mark.parametrize("checksum", [MD5, None])
def test_a_file_that_has_changed_on_the_server_is_not_mixed_with_the_old_one(get, site, tmp_path, checksum):
    part_of(tmp_path, b"x" * 777, tag='"the old one"')
    assert get(checksum=checksum) == CONTENT
    assert len(site.requests) == 1


def test_a_part_of_an_older_file_is_found_out_by_the_checksum(get, site, tmp_path):
    site.etags = False
    part_of(tmp_path, b"x" * 777)
    waits = []
    assert get(on_wait=waits.append) == CONTENT
    assert "wrong checksum" in waits[0]
    assert [h.get("Range") for h in site.asked("a.zip")] == ["bytes=777-", None]


def test_a_wrong_checksum_is_tried_once_more_and_then_reported(get, site, tmp_path):
    with pytest.raises(FetchError, match="a.zip: it has the wrong checksum .*twice"):
        get(checksum="md5:" + "0" * 32)
    assert len(site.requests) == 2
    assert list(tmp_path.iterdir()) == []


def test_another_size_than_stated_is_reported(get, tmp_path):
    with pytest.raises(FetchError, match=rf"offers {len(CONTENT)} bytes, the file should have 5"):
        get(size=5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_what_may_pass_is_tried_again(get, site, status):
    site.faults["a.zip"] = Fault(2, status=status)
    assert get() == CONTENT


@pytest.mark.parametrize("status", [404, 403, 410])
def test_what_will_not_pass_is_final(get, site, tmp_path, status):
    site.faults["a.zip"] = Fault(9, status=status)
    with pytest.raises(FetchError, match=rf"{site.url}/a.zip: the server answers {status}"):
        get()
    assert len(site.requests) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_stays_broken_is_given_up(get, site):
    site.faults["a.zip"] = Fault(99, status=500)
    with pytest.raises(FetchError, match="500 .*given up after 3 attempts"):
        get()
    assert len(site.requests) == 3


def test_nobody_listening_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve(Site()) as gone:
        pass
    with pytest.raises(FetchError, match=r"127.0.0.1:\d+/x: ConnectionRefusedError.*given up"):
        fetch(Session(FAST), f"{gone.url}/x", tmp_path / "x")


def test_a_hanging_server_is_not_waited_for_forever(get, site):
    site.faults["a.zip"] = Fault(1, hang_after=BLOCK)
    assert get(patience=Patience(tries=3, first=0.001, read=0.1)) == CONTENT
    assert site.asked("a.zip")[1]["Range"] == f"bytes={BLOCK}-"


def test_a_call_can_be_stopped_and_continued(get, site, tmp_path):
    stop = threading.Event()
    with pytest.raises(Stopped):
        get(stop=stop, on_bytes=lambda done, total: stop.set())
    assert not (tmp_path / "a.zip").exists()
    assert get() == CONTENT
    assert site.asked("a.zip")[1]["Range"] == f"bytes={BLOCK}-"


def test_waits_double_with_jitter_and_respect_the_longest(get, site):
    site.faults["a.zip"] = Fault(4, status=500)
    waits = []
    get(patience=Patience(first=100.0, longest=0.01), on_wait=waits.append)
    assert waits == ["the server answers 500 Internal Server Error; again in 0 s"] * 4
    for seed in range(20):
        random.seed(seed)
        waits = [PATIENCE.wait(failures, 0.0) for failures in (1, 2, 3, 4)]
        assert all(2 ** (i - 1) <= 2 * wait <= 2**i for i, wait in enumerate(waits, 1))
    assert PATIENCE.wait(1, 7.0) == 7.0
    assert PATIENCE.wait(1, 3600.0) == PATIENCE.longest


@pytest.mark.parametrize(("asked", "wait"), [("12", 12), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("soon", 0)])
def test_retry_after_is_seconds_or_a_date(get, site, asked, wait, monkeypatch):
    site.faults["a.zip"] = Fault(1, status=429, headers={"Retry-After": asked})
    stop, waits = threading.Event(), []
    monkeypatch.setattr(stop, "wait", waits.append)
    get(patience=Patience(first=0.0), stop=stop)
    assert waits == [wait]


def test_json(site):
    site.files |= {"good": b'{"a": 1}', "bad": b"<html>"}
    site.faults["good"] = Fault(1, status=500)
    session = Session(FAST)
    assert session.json_at(f"{site.url}/good") == {"a": 1}
    with pytest.raises(FetchError, match="no JSON"):
        session.json_at(f"{site.url}/bad")
    with pytest.raises(FetchError, match="404"):
        session.json_at(f"{site.url}/nowhere")
