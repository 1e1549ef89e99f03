"""The functions of this process, before an AWS inside this process or a deployed local cloud."""

import logging
from collections.abc import Iterator

import pytest

from tests.bursts.aws_in_process import ENVIRONMENT, InProcessAws
from tests.bursts.world import Clock, forget, use
from tests.end_to_end.conftest import free_port_pair
from tests.state_machine.local_system import LocalSystem, SmallCloud


@pytest.fixture(scope="module")
def aws() -> Iterator[InProcessAws]:
    """ministack in this process, with the stack's tables and bucket."""
    with pytest.MonkeyPatch.context() as patch:
        # ministack reads them when it is imported; the clients when they are made.
        for name, value in {**ENVIRONMENT, "LOG_LEVEL": "CRITICAL"}.items():
            patch.setenv(name, value)
        aws = InProcessAws()
        aws.prepare()
        # Tens of thousands of lines that nobody reads cost a third of the time.
        logging.disable(logging.CRITICAL)
        yield aws
        logging.disable(logging.NOTSET)
        aws.close()


@pytest.fixture(scope="module")
def clock(aws: InProcessAws) -> Iterator[Clock]:
    """The simulated time, by which the functions of this process go."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        use(aws, clock, patch)
        yield clock
    forget()


@pytest.fixture(scope="module")
def s3(aws: InProcessAws, clock: Clock) -> object:
    """What people upload with."""
    return aws.session().client("s3")


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSystem]:
    """The package as it is deployed, in a cloud of its own; a message that failed comes again after a second."""
    cloud = SmallCloud(tmp_path_factory.mktemp("cloud"))
    try:
        cloud.up(port=free_port_pair(), backbone="resnet18", quiet_seconds=2)
        system = LocalSystem(cloud)
        system.upload("weights/resnet18/resnet18-00000000.pth")
        queue = system.outputs["UploadQueueUrl"]
        system.session.client("sqs").set_queue_attributes(QueueUrl=queue, Attributes={"VisibilityTimeout": "1"})
        yield system
        system.api.close()
    finally:
        cloud.down()
