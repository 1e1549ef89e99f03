"""Approve and roll back: a registered model goes live by the same steps as a run's, or the one before stays."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.conftest import LIVE
from tests.api.deployed import CLASSES, DATASET, Handler, System
from tests.api.test_predict import JPEG, error_of
from tests.state_machine.local_system import wait_for

REJECTED, EARLIER, LIAR = "pets-261122150000-0002", "pets-261122140000-0003", "pets-261122140000-0004"


@pytest.fixture(scope="module")
def versions(system: System) -> dict[str, int]:
    """Besides the live model: one that was rejected, an approved one, and one that does not prove itself."""
    return {
        "live": 1,
        "rejected": system.register(REJECTED, "Rejected", classes=CLASSES[::-1], constant=True, sample="fish"),
        "earlier": system.register(EARLIER, "Approved", constant=True, sample="bird"),
        "liar": system.register(LIAR, "Approved", constant=True, sample="another label"),
    }


@pytest.fixture(autouse=True)
def back_to_the_first(system: System) -> Iterator[None]:
    """The other tests of this cloud expect version 1."""
    yield
    if system.endpoint()["EndpointConfigName"] != LIVE:
        system.sagemaker.update_endpoint(EndpointName=f"droptune-{DATASET}", EndpointConfigName=LIVE)
        wait_for("version 1", lambda: serving(system) == (LIVE, "InService"))


def serving(system: System) -> tuple[str, str]:
    endpoint = system.endpoint()
    return endpoint["EndpointConfigName"], endpoint["EndpointStatus"]


def ended(system: System, answer: Any) -> dict[str, Any]:
    """The release that an answer began, when it has ended."""
    assert answer.status_code == 202, answer.text
    release = answer.json()
    assert release["status"] == "RUNNING"

    def look() -> dict[str, Any] | None:
        document: dict[str, Any] = system.api.get(f"/releases/{release['id']}").json()
        return document if document["status"] != "RUNNING" else None

    document: dict[str, Any] = wait_for("the release", look)
    assert (document["id"], document["dataset"]) == (release["id"], DATASET)
    assert document["ended_at"]
    return document


def status_of(system: System, version: int) -> str:
    models = system.api.get(f"/models/{DATASET}").json()["models"]
    (status,) = [model["status"] for model in models if model["version"] == version]
    return str(status)


class TestApprove:
    def test_a_rejected_model_goes_live(self, system: System, versions: dict[str, int]) -> None:
        # GIVEN a model that the gate rejected, so that nothing but the registry knows it
        version = versions["rejected"]
        assert status_of(system, version) == "Rejected"
        # WHEN a person approves it
        release = ended(system, system.api.post(f"/models/{DATASET}/{version}/approve"))
        # THEN it is live, answers, and is approved
        assert (release["status"], release["error"]) == ("SUCCEEDED", None)
        assert system.api.get(f"/models/{DATASET}").json()["live"] == version
        assert status_of(system, version) == "Approved"

        def answers() -> bool:
            answer = system.api.post(f"/predict/{DATASET}?top_k=1", content=b"x", headers=JPEG).json()
            return bool(answer["model_version"] == version and answer["predictions"][0]["label"] == "fish")

        wait_for("answers of the new model", answers)


class TestRollback:
    def test_there_and_back(self, system: System, versions: dict[str, int]) -> None:
        # GIVEN an approved version whose configuration is made first, and the live one, which has its own
        for name, run in (("earlier", EARLIER), ("live", LIVE)):
            # WHEN it is rolled back to
            release = ended(system, system.api.post(f"/models/{DATASET}/{versions[name]}/rollback"))
            # THEN it is live
            assert (release["status"], release["version"]) == ("SUCCEEDED", versions[name])
            assert serving(system) == (run, "InService")

    def test_one_that_does_not_prove_itself(self, system: System, versions: dict[str, int]) -> None:
        # GIVEN a model that calls the sample otherwise than it was evaluated
        # WHEN it is rolled back to
        release = ended(system, system.api.post(f"/models/{DATASET}/{versions['liar']}/rollback"))
        # THEN the release says why it failed, and the model before serves again
        assert (release["status"], release["error"]["code"]) == ("FAILED", "VerificationFailed")
        assert "another label" in release["error"]["message"]
        wait_for("version 1", lambda: serving(system) == (LIVE, "InService"))


class TestRefusals:
    def test_what_cannot_go_live(self, handler: Handler, system: System, versions: dict[str, int]) -> None:
        fresh = system.register("pets-261122140000-0005", "Rejected")
        for path, status, code in (
            (f"/models/{DATASET}/{fresh}/rollback", 409, "ModelNotApproved"),
            (f"/models/{DATASET}/1/rollback", 409, "AlreadyLive"),
            (f"/models/{DATASET}/1/approve", 409, "AlreadyLive"),
            (f"/models/{DATASET}/99/rollback", 404, "UnknownModel"),
            (f"/models/{DATASET}/99/approve", 404, "UnknownModel"),
            (f"/models/{DATASET}/one/approve", 400, "InvalidParameter"),
            (f"/models/{DATASET}/0/rollback", 400, "InvalidParameter"),
            ("/models/nobody/1/rollback", 404, "UnknownDataset"),
            ("/models/No Name/1/rollback", 404, "UnknownDataset"),
        ):
            assert error_of(handler("POST", path), status)["code"] == code, path

    def test_a_prediction_of_another_version(self, handler: Handler, versions: dict[str, int]) -> None:
        for name, way in (("earlier", "rollback"), ("liar", "rollback")):
            query = {"model_version": str(versions[name])}
            error = error_of(handler("POST", f"/predict/{DATASET}", b"x", JPEG, query), 409)
            assert error["code"] == "ModelNotLive"
            assert f"/models/{DATASET}/{versions[name]}/{way}" in error["hint"]

    def test_an_endpoint_that_is_being_changed(self, handler: Handler, monkeypatch: pytest.MonkeyPatch) -> None:
        from chalicelib import models

        busy = models.LiveModel(version=1, run=LIVE, endpoint_config=LIVE, status="Updating")
        monkeypatch.setattr(models, "find_live_model", lambda _: busy)
        error = error_of(handler("POST", f"/models/{DATASET}/1/approve"), 409)
        assert error["code"] == "ReleaseInProgress"

    @pytest.mark.parametrize("release", ["none", "pets-261122150000-ffff", "..", "x" * 300])
    def test_an_unknown_release(self, handler: Handler, release: str) -> None:
        assert error_of(handler("GET", f"/releases/{release}"), 404)["code"] == "NotFound"


def test_pages_of_models(system: System, versions: dict[str, int]) -> None:
    # GIVEN several versions WHEN they are listed two at a time
    everything = system.api.get(f"/models/{DATASET}").json()
    assert everything["next"] is None
    found, token = [], None
    while True:
        page = system.api.get(f"/models/{DATASET}", params={"limit": 2} | ({"next": token} if token else {})).json()
        assert len(page["models"]) <= 2
        found += [model["version"] for model in page["models"]]
        token = page["next"]
        if token is None:
            break
    # THEN each comes once, newest first
    assert found == [model["version"] for model in everything["models"]]
    assert found == sorted(found, reverse=True)
