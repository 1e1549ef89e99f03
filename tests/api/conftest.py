"""One local cloud with a live model, and the API's function in this process, in the environment that it has there."""

from collections.abc import Iterator

import pytest

from tests.api.deployed import DATASET, Handler, SmallCloud, System
from tests.end_to_end.conftest import free_port_pair

LIVE = "pets-261122150000-0001"


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The deployed package; version 1 of `pets` is live."""
    cloud = SmallCloud(tmp_path_factory.mktemp("cloud"))
    try:
        cloud.up(port=free_port_pair(), backbone="resnet18", quiet_seconds=3600)
        system = System(cloud)
        system.put(f"datasets/{DATASET}/cat/1.jpg", b"a cat")
        system.release(LIVE, system.register(LIVE, "Approved", sample="fish"))
        yield system
        system.api.close()
    finally:
        cloud.down()


@pytest.fixture(scope="session")
def handler(system: System) -> Iterator[Handler]:
    """The function in this process, on the services of the local cloud."""
    import app
    from chalicelib import config

    environment = system.environment("api") | system.cloud.environment()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setenv("NO_PROXY", "127.0.0.1")
        config.client.cache_clear()
        config._table.cache_clear()
        yield Handler(app.app)
        config.client.cache_clear()
        config._table.cache_clear()
