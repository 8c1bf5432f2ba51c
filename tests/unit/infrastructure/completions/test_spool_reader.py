"""What a reader promises: every whole event once a cursor, in its writer's order, and nothing else."""

import os
import sqlite3
import threading
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.infrastructure.completions import spool_reader
from app.infrastructure.completions.segments import FRAME, HEADER, MAGIC, MAX_BODY_BYTES, SIGNATURE, segment_sizes
from app.infrastructure.completions.spool import SpoolLimits, SpoolWriter
from app.infrastructure.completions.spool_reader import SpoolReader

Bodies = st.lists(st.binary(max_size=40), min_size=1, max_size=8)


def framed(body: bytes) -> bytes:
    return FRAME.pack(MAGIC, len(body), zlib.crc32(body)) + body


def segment(folder: Path, frames: bytes, name: str = "w-00000000.seg") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(HEADER.pack(SIGNATURE, 1, 1, 0, 0) + frames)
    return path


def read(folder: Path, *, sweep: bool = False, events: int = 100) -> list[bytes]:
    reader, found = SpoolReader(folder), list[bytes]()
    with reader.locked() as mine:
        assert mine
        while batch := reader.next_batch(events, 1 << 20):
            found += batch
            reader.advance()
        if sweep:
            reader.sweep()
    reader.close()
    return found


def test_a_last_write_that_was_cut_off_anywhere_is_no_event(tmp_path: Path) -> None:
    whole, last = framed(b"one") + framed(b"two"), framed(b'{"three":3}')
    for cut in range(len(last)):
        folder = tmp_path / str(cut)
        segment(folder, whole + last[:cut])
        assert read(folder, sweep=True) == [b"one", b"two"]
        reader = SpoolReader(folder)
        assert (reader.stats().torn, reader.stats().relayed) == (int(cut > 0), 2)
        reader.close()
        assert segment_sizes(folder) == []


def test_the_rest_of_a_write_is_read_when_it_comes(tmp_path: Path) -> None:
    frame = framed(b"second")
    path = segment(tmp_path, framed(b"first") + frame[:9])
    assert read(tmp_path) == [b"first"]
    with path.open("ab") as file:
        file.write(frame[9:])
    assert read(tmp_path) == [b"second"]


@settings(max_examples=60, deadline=None)
@given(bodies=Bodies, data=st.data())
def test_a_flipped_byte_costs_the_event_that_it_is_in(
    bodies: list[bytes], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    frames = [framed(b"%d:" % index + body) for index, body in enumerate(bodies)]
    whole = bytearray(b"".join(frames))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    hit = next(index for index in range(len(frames)) if at < sum(map(len, frames[: index + 1])))
    folder = tmp_path_factory.mktemp("spool")
    segment(folder, bytes(whole))
    expected = [frame[FRAME.size :] for index, frame in enumerate(frames) if index != hit]
    assert read(folder) == expected


@settings(max_examples=60, deadline=None)
@given(bodies=Bodies, junk=st.binary(max_size=60), data=st.data())
def test_junk_between_events_is_passed_over(
    bodies: list[bytes], junk: bytes, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    frames = [framed(body) for body in bodies]
    at = data.draw(st.integers(0, len(frames)))
    folder = tmp_path_factory.mktemp("spool")
    segment(folder, b"".join(frames[:at]) + junk + b"".join(frames[at:]))
    assert read(folder, events=2) == bodies


def test_damage_larger_than_any_event_is_passed_over(tmp_path: Path) -> None:
    large = b"x" * MAX_BODY_BYTES
    segment(tmp_path, framed(b"one") + bytes(5 << 20) + framed(large) + bytes(300 << 10) + framed(b"two"))
    assert read(tmp_path, sweep=True) == [b"one", large, b"two"]
    assert segment_sizes(tmp_path) == []


def test_a_damaged_header_costs_no_event(tmp_path: Path) -> None:
    path = segment(tmp_path, framed(b"one"))
    path.write_bytes(b"\0" * HEADER.size + path.read_bytes()[HEADER.size :])
    assert read(tmp_path, sweep=True) == [b"one"]


def test_an_empty_file_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "w-00000000.seg").touch()
    assert read(tmp_path, sweep=True) == []
    assert segment_sizes(tmp_path) == []


def test_a_batch_comes_again_until_it_has_arrived(tmp_path: Path) -> None:
    segment(tmp_path, framed(b"one") + framed(b"two") + framed(b"three"))
    for _ in range(2):
        reader = SpoolReader(tmp_path)
        with reader.locked():
            assert reader.next_batch(2, 1_000) == [b"one", b"two"]
            assert reader.next_batch(2, 1_000) == [b"one", b"two"]
        reader.close()
    assert read(tmp_path) == [b"one", b"two", b"three"]
    assert read(tmp_path) == []


def test_a_batch_is_bounded_by_bytes_but_holds_one(tmp_path: Path) -> None:
    segment(tmp_path, framed(b"a" * 50) + framed(b"b" * 50) + framed(b"c" * 500))
    reader = SpoolReader(tmp_path)
    with reader.locked():
        assert [len(body) for body in reader.next_batch(10, 120)] == [50, 50]
        reader.advance()
        assert [len(body) for body in reader.next_batch(10, 120)] == [500]
    reader.close()


def test_every_writer_gets_its_turn_and_keeps_its_order(tmp_path: Path) -> None:
    busy = b"".join(framed(b"busy%d" % number) for number in range(6))
    segment(tmp_path, busy, "a-00000000.seg")
    segment(tmp_path, framed(b"busy6") + framed(b"busy7"), "a-00000001.seg")
    segment(tmp_path, framed(b"calm0") + framed(b"calm1"), "b-00000000.seg")
    found = read(tmp_path, events=2)
    assert found[:4] == [b"busy0", b"busy1", b"calm0", b"calm1"]
    assert [body for body in found if body.startswith(b"busy")] == [b"busy%d" % number for number in range(8)]


def test_only_one_reads_at_a_time(tmp_path: Path) -> None:
    first, second = SpoolReader(tmp_path), SpoolReader(tmp_path)
    with first.locked() as mine, second.locked() as also_mine:
        assert mine
        assert not also_mine
    with second.locked() as mine:
        assert mine
    first.close()
    second.close()


def test_the_folder_is_free_when_its_reader_is_killed_or_done_although_a_child_lives(tmp_path: Path) -> None:
    reader = SpoolReader(tmp_path)
    held, release = os.pipe()
    with reader.locked():
        pid = os.fork()
        if pid == 0:
            os.close(release)
            os.read(held, 1)
            os._exit(0)
    other = SpoolReader(tmp_path)
    try:
        with other.locked() as mine:
            assert mine
    finally:
        os.close(release)
        os.close(held)
        os.waitpid(pid, 0)
        reader.close()
        other.close()


def test_a_file_that_is_being_written_is_not_deleted(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path)
    writer.append(b"one")
    assert read(tmp_path, sweep=True) == [b"one"]
    assert writer.append(b"two")
    assert read(tmp_path, sweep=True) == [b"two"]
    writer.close()
    assert read(tmp_path, sweep=True) == []
    assert segment_sizes(tmp_path) == []


def test_counts_are_exact_over_files_that_are_gone(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, SpoolLimits(segment_bytes=4096))
    for number in range(30):
        writer.append(b"x" * 500)
        writer.count_refused(number % 2)
    read(tmp_path, sweep=True)
    reader = SpoolReader(tmp_path)
    assert (reader.stats().refused, reader.stats().relayed, reader.stats().waiting_bytes) == (15, 30, 0)
    writer.close()
    with reader.locked():
        reader.sweep()
    assert (reader.stats().refused, reader.stats().relayed, reader.stats().torn) == (15, 30, 0)
    reader.close()


def test_a_reader_that_was_killed_before_it_deleted_goes_on(tmp_path: Path) -> None:
    path = segment(tmp_path, framed(b"one"))
    assert read(tmp_path) == [b"one"]
    cursor = sqlite3.connect(tmp_path / "cursor.db")
    with cursor:
        cursor.execute("UPDATE segments SET finished = 1")
        cursor.execute("INSERT INTO totals VALUES ('dropped', 4)")
    cursor.close()
    reader = SpoolReader(tmp_path)
    assert (reader.stats().dropped, reader.stats().waiting_bytes) == (4, 0)
    with reader.locked():
        reader.sweep()
    assert reader.stats().dropped == 4
    reader.close()
    assert not path.exists()


def test_what_is_put_aside_is_kept(tmp_path: Path) -> None:
    reader = SpoolReader(tmp_path)
    reader.put_aside(b"bad", "refused: " + "x" * 900)
    assert reader.stats().put_aside == 1
    reader.close()
    cursor = sqlite3.connect(tmp_path / "cursor.db")
    body, reason = cursor.execute("SELECT body, reason FROM put_aside").fetchone()
    cursor.close()
    assert (body, len(reason)) == (b"bad", 500)


def test_a_place_has_been_passed_when_it_was_read_or_its_file_is_gone(tmp_path: Path) -> None:
    path = segment(tmp_path, framed(b"one") + framed(b"two"))
    after_one = HEADER.size + len(framed(b"one"))
    watcher = SpoolReader(tmp_path)
    assert not watcher.passed((path.name, after_one))
    reader = SpoolReader(tmp_path)
    with reader.locked():
        reader.next_batch(1, 1_000)
        reader.advance()
    reader.close()
    assert watcher.passed((path.name, after_one))
    assert not watcher.passed((path.name, after_one + 1))
    path.unlink()
    assert watcher.passed((path.name, after_one + 1))
    watcher.close()


def test_the_file_of_a_writer_that_died_while_it_made_it_is_deleted(tmp_path: Path) -> None:
    old, new = tmp_path / "w-00000000.new", tmp_path / "w-00000001.new"
    old.touch()
    new.touch()
    os.utime(old, (time.time() - 3_600,) * 2)
    read(tmp_path, sweep=True)
    assert not old.exists()
    assert new.exists()


def test_a_fork_waits_for_the_cursor_and_the_child_has_one_of_its_own(tmp_path: Path) -> None:
    segment(tmp_path, framed(b"one"))
    reader, stop = SpoolReader(tmp_path), threading.Event()

    def put_aside() -> None:
        while not stop.is_set():
            reader.put_aside(b"bad", "wrong")

    thread = threading.Thread(target=put_aside)
    thread.start()
    try:
        for _ in range(5):
            pid = os.fork()
            if pid == 0:
                own = SpoolReader(tmp_path)
                own.put_aside(b"child", "wrong")
                own.close()
                os._exit(0 if len(spool_reader._inherited) == 1 else 1)
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        stop.set()
        thread.join()
    children = reader._cursor.execute("SELECT count(*) FROM put_aside WHERE body = CAST('child' AS BLOB)").fetchone()
    assert children == (5,)
    reader.close()
