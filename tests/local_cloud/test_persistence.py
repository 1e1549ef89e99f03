"""The log of writes between two snapshots."""

from pathlib import Path

from droptune.local_cloud.persistence import RequestLog

REQUEST = {
    "method": "POST",
    "path": "/",
    "query_string": "",
    "headers": [["x-amz-target", "DynamoDB_20120810.PutItem"]],
}


def test_what_was_appended_is_replayed_in_order(tmp_path: Path) -> None:
    # GIVEN requests in two files, the second begun by a snapshot that was never written
    log = RequestLog(tmp_path)
    log.append(REQUEST, b"\x00one")
    log.rotate()
    log.append(REQUEST, b"two")
    # WHEN the next process reads the log
    replayed = list(RequestLog(tmp_path).replay())
    # THEN it gets all of them, oldest first, body and headers as they were
    assert replayed == [(REQUEST, b"\x00one"), (REQUEST, b"two")]


def test_a_written_snapshot_drops_what_it_holds_and_nothing_else(tmp_path: Path) -> None:
    # GIVEN a request before, and one during, a snapshot
    log = RequestLog(tmp_path)
    log.append(REQUEST, b"before")
    number = log.rotate()
    log.append(REQUEST, b"during")
    # WHEN the snapshot is written
    log.drop_before(number)
    # THEN only the later one is kept
    assert [body for _, body in log.replay()] == [b"during"]


def test_a_line_that_the_kill_cut_off_is_left_out(tmp_path: Path) -> None:
    # GIVEN a log whose last line is half a line
    log = RequestLog(tmp_path)
    log.append(REQUEST, b"whole")
    file = next(tmp_path.glob("*.jsonl"))
    file.write_text(file.read_text() + '{"method": "PO')
    # WHEN it is read
    # THEN the answered request is there, and the unanswered one is not
    assert [body for _, body in RequestLog(tmp_path).replay()] == [b"whole"]


def test_a_new_process_never_writes_into_an_old_file(tmp_path: Path) -> None:
    # GIVEN a log left by a killed process, its last line half a line
    RequestLog(tmp_path).append(REQUEST, b"old")
    file = next(tmp_path.glob("*.jsonl"))
    file.write_text(file.read_text() + '{"method"')
    # WHEN the next process appends
    RequestLog(tmp_path).append(REQUEST, b"new")
    # THEN its line stands whole
    assert [body for _, body in RequestLog(tmp_path).replay()] == [b"old", b"new"]
