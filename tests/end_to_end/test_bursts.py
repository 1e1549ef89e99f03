"""One burst, one run, with the AWS CLI as people use it.

One class of photos, so that a run ends when the data doctor has seen it: what counts here is which run saw what.
"""

import json
from pathlib import Path

import pytest

from droptune.local_cloud.processes import wait_until
from tests.end_to_end.conftest import System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def ended(system: System, count: int) -> list[dict[str, object]]:
    """Wait until the dataset has so many runs, and all have ended; returns them, newest first."""

    def are_ended() -> bool:
        runs = system.runs("synced")
        return len(runs) >= count and all(run["status"] != "RUNNING" for run in runs)

    assert wait_until(are_ended, 240, step=1), system.runs("synced")
    return system.runs("synced")


def test_sync_and_rm_of_the_aws_cli(system: System, few_photos: Path) -> None:
    # GIVEN a folder of photos
    bucket = system.json("env")["DROPTUNE_BUCKET"]
    folder, target = str(few_photos / "bird"), f"s3://{bucket}/datasets/synced/bird/"
    # WHEN it is synchronized
    system.aws("s3", "sync", "--no-progress", folder, target)
    # THEN one run takes all of it
    (run,) = ended(system, 1)
    assert run["dataset_version"] == 1
    # AND a synchronization that has nothing to do starts none
    assert system.aws("s3", "sync", "--no-progress", folder, target) == ""

    # WHEN some are taken out of the bucket
    photos = sorted(path.name for path in Path(folder).iterdir())
    options = [option for name in photos[:3] for option in ("--include", name)]
    system.aws("s3", "rm", "--recursive", "--quiet", target, "--exclude", "*", *options)
    # THEN one more run is without them
    newest, _ = ended(system, 2)
    assert newest["dataset_version"] == 2
    seal = system.session().client("s3").get_object(Bucket=bucket, Key="versions/synced/2/seal.json")["Body"]
    document = json.load(seal)
    assert (document["objects"], document["removed"], document["added"], document["parent"]) == (5, 3, 0, 1)
    # AND nothing was too much for its handler
    assert system.json("status")["dead_letters"] == 0
