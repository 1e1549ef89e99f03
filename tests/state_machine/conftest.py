"""One local cloud for all tests of the deployed package."""

from collections.abc import Iterator

import pytest

from tests.end_to_end.conftest import free_port_pair
from tests.state_machine.local_system import LocalSystem, SmallCloud


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSystem]:
    """The package as it is deployed, in a cloud of its own."""
    cloud = SmallCloud(tmp_path_factory.mktemp("cloud"))
    try:
        cloud.up(port=free_port_pair(), backbone="resnet18", quiet_seconds=1)
        system = LocalSystem(cloud)
        system.upload("weights/resnet18/resnet18-00000000.pth")
        yield system
        system.api.close()
    finally:
        cloud.down()
