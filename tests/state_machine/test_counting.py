"""Counting changes and freeing the lock, against the deployed tables."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from chalicelib import config, counting, run_lock
from chalicelib.dataset_objects import hash_objects

from tests.state_machine.local_system import LocalSystem

pytestmark = pytest.mark.slow


@pytest.fixture
def tables(system: LocalSystem, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The table of datasets, with this process in the place of a function."""
    environment = system.cloud.environment() | {
        "BUCKET": system.bucket,
        "DATASETS_TABLE": system.outputs["DatasetsTable"],
        "RUNS_TABLE": system.outputs["RunsTable"],
        "IDEMPOTENCY_TABLE": system.outputs["RunsTable"].replace("-runs", "-idempotency"),
        "STATE_MACHINE_ARN": system.outputs["StateMachineArn"],
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config.client.cache_clear()
    config._table.cache_clear()
    yield config.datasets_table()
    config.client.cache_clear()
    config._table.cache_clear()


def test_each_change_is_counted_once(system: LocalSystem, tables: Any) -> None:
    # GIVEN more changes than one transaction takes, some announced twice
    changes = [f"b/datasets/counted/cat/{number} ü.jpg#Object Created:{number}" for number in range(250)]
    # WHEN they are counted, and later some of them again beside new ones
    first = counting.count("counted", changes + changes[:60], ready=False)
    again = counting.count("counted", changes, ready=False)
    mixed = counting.count("counted", ["b/x#new 1", *changes[:120], "b/x#new 2"], ready=True)
    # THEN only the new ones count
    assert (first, again, mixed) == (250, 0, 2)
    item = system.dataset_item("counted")
    assert item["uploads"] == 252
    assert item["first_upload_at"] <= item["last_upload_at"] == item["ready_at"]


def test_functions_that_count_at_the_same_time_count_each_change_once(system: LocalSystem, tables: Any) -> None:
    # GIVEN overlapping batches
    batches = [[f"b/datasets/busy/{number}#e" for number in range(start, start + 50)] for start in range(0, 400, 25)]
    # WHEN five functions count them
    with ThreadPoolExecutor(5) as pool:
        counted = list(pool.map(lambda batch: counting.count("busy", batch, ready=False), batches))
    # THEN nothing is lost or counted twice
    assert sum(counted) == system.dataset_item("busy")["uploads"] == 425


def test_a_conflict_is_tried_again_and_any_other_failure_is_raised(tables: Any) -> None:
    # GIVEN a table that another function writes at the same moment, and then one that is gone
    def canceled(stub: Stubber, code: str) -> None:
        stub.add_client_error(
            "transact_write_items",
            "TransactionCanceledException",
            modeled_fields={"CancellationReasons": [{"Code": "None"}, {"Code": code}]},
        )

    with Stubber(tables.meta.client) as stub:
        canceled(stub, "TransactionConflict")
        stub.add_response("transact_write_items", {})
        canceled(stub, "ValidationError")
        # THEN the first is counted after all, and the second is not passed over
        assert counting.count("contended", ["b/x#e"], ready=False) == 1
        with pytest.raises(ClientError, match="TransactionCanceled"):
            counting.count("contended", ["b/x#f"], ready=False)
        stub.assert_no_pending_responses()


def test_a_change_that_is_counted_after_its_seal_begins_no_new_burst(system: LocalSystem, tables: Any) -> None:
    # GIVEN a run that has sealed a dataset, and a change of the sealed content that was counted later
    tables.put_item(
        Item={
            "dataset": "tail",
            "run": "tail-261122143912-9f3a",
            "run_requested_at": "2026-11-22T14:39:12.000Z",
            "sealed_at": "2026-11-22T14:39:20.000Z",
            "sealed_run": "tail-261122143912-9f3a",
            "sealed_uploads": 1,
            "sealed_hash": hash_objects([]),
            "uploads": 2,
            "first_upload_at": "2026-11-22T14:39:21.000Z",
            "last_upload_at": "2026-11-22T14:39:21.000Z",
            "ready_at": "2026-11-22T14:39:21.000Z",
        }
    )
    # WHEN the run ends
    follow_up = run_lock.release("tail", "tail-261122143912-9f3a")
    # THEN there is no other run, and the next burst is waited for from its own first upload
    assert follow_up is None
    item = system.dataset_item("tail")
    assert not {"run", "run_uploads", "first_upload_at", "ready_at"} & set(item)
    # AND when that change is announced once more, it starts none either
    assert item["sealed_uploads"] == item["uploads"] == 2
    assert run_lock.ensure_run("tail") is None
