"""The store: documents that survive a crash and concurrent writers."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from droptune.local_cloud.sagemaker.store import Store


@pytest.fixture
def store(tmp_path: Path):
    store = Store(tmp_path / "state" / "documents.sqlite")
    yield store
    store.close()


def test_documents_are_created_once_changed_and_deleted(store):
    # GIVEN a document
    store.create("job", "a", {"status": "InProgress", "n": 1})
    # WHEN it is created again, THEN that is refused and nothing has changed
    with pytest.raises(KeyError, match="job a exists already"):
        store.create("job", "a", {})
    assert store.get("job", "a") == {"status": "InProgress", "n": 1}
    # AND it can be updated, replaced and deleted
    assert store.update("job", "a", status="Failed") == {"status": "Failed", "n": 1}
    store.put("job", "a", {"status": "Done"})
    assert store.get("job", "a") == {"status": "Done"}
    assert store.delete("job", "a") is True
    assert store.delete("job", "a") is False
    assert store.get("job", "a") is None
    with pytest.raises(KeyError, match="there is no job a"):
        store.update("job", "a", status="Done")


def test_a_list_is_in_the_order_of_creation(store):
    # GIVEN documents whose names sort differently, of which the first was changed last
    for name in ("c", "a", "b"):
        store.create("job", name, {"name": name})
    store.create("model", "z", {"name": "z"})
    store.put("job", "c", {"name": "c", "changed": True})
    # WHEN a kind is listed
    # THEN it comes in the order of creation
    assert [document["name"] for document in store.list("job")] == ["c", "a", "b"]


def test_a_change_that_fails_changes_nothing(store):
    # GIVEN a document
    store.create("job", "a", {"n": 1})

    # WHEN a change fails half-way
    def fail(document):
        document["n"] = 2
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        store.mutate("job", "a", fail)
    # THEN the document is as it was, and the store goes on working
    assert store.get("job", "a") == {"n": 1}
    assert store.update("job", "a", n=3) == {"n": 3}
    # AND what is no JSON is refused
    with pytest.raises(ValueError, match="JSON"):
        store.put("job", "a", {"n": float("nan")})


def test_concurrent_changes_are_all_kept(store):
    # GIVEN a counter and four threads
    store.create("counter", "a", {"n": 0})

    def count():
        for _ in range(25):
            store.mutate("counter", "a", lambda document: document.update(n=document["n"] + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    # WHEN all of them count
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # THEN none of the steps is lost
    assert store.get("counter", "a") == {"n": 100}


def test_what_was_written_outlives_a_killed_process(tmp_path):
    # GIVEN a process that writes and kills itself before it can close anything
    path = tmp_path / "documents.sqlite"
    program = (
        "import os, signal, sys; from pathlib import Path; from droptune.local_cloud.sagemaker.store import Store; "
        "Store(Path(sys.argv[1])).create('job', 'a', {'n': 1}); os.kill(os.getpid(), signal.SIGKILL)"
    )
    process = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert process.returncode == -9
    # WHEN the store is opened again
    store = Store(path)
    # THEN the document is there
    assert store.get("job", "a") == {"n": 1}
    store.close()
