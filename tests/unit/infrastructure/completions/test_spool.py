"""What a writer promises: it is there when `append` returns, once, and what is not there is counted."""

import errno
import os
import resource
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from app.infrastructure.completions import spool
from app.infrastructure.completions.segments import FRAME, HEADER, MAX_BODY_BYTES, segment_sizes
from app.infrastructure.completions.spool import SpoolBusy, SpoolLimits, SpoolWriter
from app.infrastructure.completions.spool_reader import SpoolReader, SpoolStats


def read_all(folder: Path) -> list[bytes]:
    reader = SpoolReader(folder)
    found: list[bytes] = []
    with reader.locked() as mine:
        assert mine
        while batch := reader.next_batch(70, 10_000):
            found += batch
            reader.advance()
    reader.close()
    return found


def stats(folder: Path) -> SpoolStats:
    reader = SpoolReader(folder)
    try:
        return reader.stats()
    finally:
        reader.close()


def bodies(count: int, label: str = "event") -> list[bytes]:
    return [f'{{"{label}":{number}}}'.encode() for number in range(count)]


def in_child(work: object) -> int:
    """Run something in the child of a fork, and return its exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            assert callable(work)
            work()
        except BaseException:
            os._exit(9)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_events_come_back_in_order(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path / "spool")
    events = bodies(50)
    assert all(writer.append(body) for body in events[:20])
    assert writer.append_many(events[20:]) == 30
    assert writer.append_many([]) == 0
    assert read_all(tmp_path / "spool") == events


def test_nothing_is_made_before_the_first_event(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path / "spool")
    writer.sync()
    writer.close()
    assert not (tmp_path / "spool").exists()
    assert writer.path is None


def test_order_is_kept_across_files(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, SpoolLimits(segment_bytes=4096))
    events = bodies(2_000)
    for start in range(0, 2_000, 10):
        assert writer.append_many(events[start : start + 10]) == 10
    assert len(segment_sizes(tmp_path)) > 5
    assert read_all(tmp_path) == events


def test_a_body_that_no_reader_would_take_is_not_written(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path)
    with pytest.raises(ValueError, match="at most"):
        writer.append(b"x" * (MAX_BODY_BYTES + 1))
    assert writer.append(b"x" * MAX_BODY_BYTES)
    assert len(read_all(tmp_path)) == 1


def test_threads_share_a_writer(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, SpoolLimits(segment_bytes=8192))
    threads = [
        threading.Thread(target=lambda one=one: [writer.append(body) for body in bodies(500, f"t{one}")])
        for one in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read_all(tmp_path)) == sorted(body for one in range(8) for body in bodies(500, f"t{one}"))


def test_what_does_not_fit_is_counted_and_survives_the_process(tmp_path: Path) -> None:
    limits = SpoolLimits(max_bytes=64 << 10, segment_bytes=8 << 10)
    event, accepted = b"e" * 500, 0

    def work() -> None:
        writer = SpoolWriter(tmp_path, limits)
        for _ in range(400):
            writer.append(event)
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(work) == -signal.SIGKILL
    accepted = len(read_all(tmp_path))
    assert 60 < accepted < 64 << 10
    assert accepted + stats(tmp_path).dropped == 400
    assert sum(size for _, size in segment_sizes(tmp_path)) <= limits.max_bytes + 4 * HEADER.size


def test_a_batch_that_fits_in_part_is_taken_in_part(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, SpoolLimits(max_bytes=64 << 10))
    events = [b"%04d" % number + b"e" * 1_000 for number in range(100)]
    accepted = writer.append_many(events)
    assert 50 < accepted < 100
    assert read_all(tmp_path) == events[:accepted]
    assert stats(tmp_path).dropped == 100 - accepted


def test_room_comes_back_when_events_were_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_LOOK_WHEN_FULL_EVERY_S", 0.0)
    writer = SpoolWriter(tmp_path, SpoolLimits(max_bytes=64 << 10))
    event = b"e" * 1_000
    while writer.append(event):
        pass
    reader = SpoolReader(tmp_path)
    with reader.locked():
        while reader.next_batch(100, 1 << 20):
            reader.advance()
        reader.sweep()
    reader.close()
    assert writer.append(event)
    assert read_all(tmp_path) == [event]
    assert stats(tmp_path).dropped == 1


@pytest.mark.parametrize("partial", [0, 1, 30, 45, 90])
def test_a_full_disk_drops_and_counts(partial: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole frames that reached the file stay: a reader may have taken them already."""
    writer = SpoolWriter(tmp_path)
    frame = FRAME.size + 20
    assert writer.append(b"first" + b"." * 15)
    real, full = os.pwrite, [True]

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if full[0] and len(data) > 16:
            if offset == HEADER.size + frame and partial:
                return real(fd, data[:partial], offset)
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    events = [b"%d" % number + b"." * 19 for number in range(4)]
    taken = writer.append_many(events)
    assert taken == partial // frame
    full[0] = False
    assert writer.append(b"last" + b"." * 16)
    assert read_all(tmp_path) == [b"first" + b"." * 15, *events[:taken], b"last" + b"." * 16]
    assert stats(tmp_path).dropped == 4 - taken


def test_a_disk_that_takes_no_file_drops_and_counts_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SpoolWriter(tmp_path)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        assert not writer.append(b"lost")
        assert not writer.append(b"lost")
        writer.count_refused()
    assert list(tmp_path.glob("*.new")) == []
    assert writer.append(b"kept")
    assert read_all(tmp_path) == [b"kept"]
    assert (stats(tmp_path).dropped, stats(tmp_path).refused) == (2, 1)


def test_a_limit_on_the_size_of_files_is_a_full_disk(tmp_path: Path) -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        writer = SpoolWriter(tmp_path)
        taken = sum(writer.append(b"e" * 1_000) for _ in range(50))
        assert taken == 9, taken

    assert in_child(work) == 0
    assert len(read_all(tmp_path)) == 9
    assert stats(tmp_path).dropped == 41


def test_another_failure_of_the_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SpoolWriter(tmp_path)
    writer.append(b"first")
    real = os.pwrite

    def broken(fd: int, data: bytes, offset: int) -> int:
        if len(data) > 16:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", broken)
        with pytest.raises(OSError, match="Input/output"):
            writer.append(b"this is lost")
        writer.count_dropped()
    assert writer.append(b"second")
    assert read_all(tmp_path) == [b"first", b"second"]
    assert stats(tmp_path).dropped == 1


def test_a_folder_that_is_tidied_up_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_LOOK_EVERY_S", -1.0)
    folder = tmp_path / "spool"
    writer = SpoolWriter(folder)
    writer.append(b"first")
    writer.count_refused(3)
    assert writer.path is not None
    writer.path.unlink()
    folder.rmdir()
    assert writer.append(b"second")
    assert read_all(folder) == [b"second"]
    assert stats(folder).refused == 3


def test_a_writer_that_is_interrupted_by_itself_uses_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal's handler may capture while the thread under it is in the middle of a write."""
    writer = SpoolWriter(tmp_path)
    real = os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if data.endswith(b"outer"):
            assert writer.append(b"inner")
            assert writer.append_many([b"a", b"b"]) == 2
            writer.count_refused()
            writer.count_dropped()
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    assert writer.append(b"outer")
    writer.sync()
    writer.close()
    assert sorted(read_all(tmp_path)) == [b"a", b"b", b"inner", b"outer"]
    assert (stats(tmp_path).refused, stats(tmp_path).dropped) == (1, 1)


def test_a_writer_that_hangs_in_another_thread_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "LOCK_WAIT_S", 0.01)
    writer, hanging, go_on, real = SpoolWriter(tmp_path), threading.Event(), threading.Event(), os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if data.endswith(b"slow"):
            hanging.set()
            go_on.wait(10)
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    thread = threading.Thread(target=writer.append, args=(b"slow",))
    thread.start()
    hanging.wait(10)
    with pytest.raises(SpoolBusy):
        writer.append(b"lost")
    with pytest.raises(SpoolBusy):
        writer.sync()
    go_on.set()
    thread.join()
    assert read_all(tmp_path) == [b"slow"]


def test_a_child_writes_a_file_of_its_own(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path)
    writer.append(b"parent")
    writer.count_refused(5)

    def work() -> None:
        assert writer.path is None
        assert writer.append(b"child")
        writer.count_refused(2)

    assert in_child(work) == 0
    assert writer.append(b"parent again")
    assert len(segment_sizes(tmp_path)) == 2
    assert sorted(read_all(tmp_path)) == [b"child", b"parent", b"parent again"]
    assert stats(tmp_path).refused == 7


def test_a_fork_while_threads_write_neither_hangs_nor_doubles(tmp_path: Path) -> None:
    writer, stop = SpoolWriter(tmp_path, SpoolLimits(segment_bytes=4096)), threading.Event()
    written: dict[int, int] = {}

    def write(one: int) -> None:
        written[one] = 0
        while not stop.wait(0.0002):
            writer.append(b"t%d-%d" % (one, written[one]))
            written[one] += 1

    threads = [threading.Thread(target=write, args=(one,)) for one in range(3)]
    for thread in threads:
        thread.start()
    for child in range(10):
        assert in_child(lambda child=child: [writer.append(b"c%d-%d" % (child, one)) for one in range(20)]) == 0
    stop.set()
    for thread in threads:
        thread.join()
    expected = [b"t%d-%d" % (one, number) for one, count in written.items() for number in range(count)]
    expected += [b"c%d-%d" % (child, one) for child in range(10) for one in range(20)]
    assert sorted(read_all(tmp_path)) == sorted(expected)


def test_a_parents_file_is_free_when_it_is_closed_although_a_child_lives(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path)
    writer.append(b"event")
    held, release = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(release)
        os.read(held, 1)
        os._exit(0)
    writer.close()
    try:
        reader = SpoolReader(tmp_path)
        with reader.locked():
            assert reader.next_batch(10, 1_000) == [b"event"]
            reader.advance()
            reader.sweep()
        reader.close()
        assert segment_sizes(tmp_path) == []
    finally:
        os.close(release)
        os.close(held)
        os.waitpid(pid, 0)


def test_what_is_synced_is_known(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, SpoolLimits(durable=True))
    writer.append(b"one")
    assert writer.synced_bytes == HEADER.size
    writer.sync()
    assert writer.synced_bytes == writer.end == HEADER.size + FRAME.size + 3


def test_a_file_that_was_not_synced_when_it_was_left_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SpoolWriter(tmp_path, SpoolLimits(segment_bytes=4096, durable=True))
    writer.append(b"e" * 3_000)
    real: object = os.fdatasync

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    assert writer.append(b"e" * 3_000)
    monkeypatch.setattr(os, "fdatasync", real)
    with pytest.raises(OSError, match="Input/output"):
        writer.sync()
    writer.sync()


def test_sizes_of_a_folder_that_is_not_there_are_none(tmp_path: Path) -> None:
    sizes: Sequence[tuple[str, int]] = segment_sizes(tmp_path / "nowhere")
    assert sizes == []
