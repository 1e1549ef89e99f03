"""What every operation may use: the store, the clients, the workers."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from droptune.local_cloud.sagemaker.images import Image, repository_name
from droptune.local_cloud.sagemaker.store import Store

if TYPE_CHECKING:
    from droptune.local_cloud.sagemaker.jobs import Jobs
    from droptune.local_cloud.sagemaker.workers import Workers

REGION = "us-east-1"
ACCOUNT = "000000000000"

logger = logging.getLogger(__name__)


@dataclass
class Context:
    """One local SageMaker: its memory, its place, its processes.

    `stopping` is set as soon as the server goes down; background work then ends without writing.
    """

    store: Store
    state_dir: Path
    gateway_url: str
    images: dict[str, Image]
    workers: "Workers"
    jobs: "Jobs"
    region: str = REGION
    account: str = ACCOUNT
    stopping: threading.Event = field(default_factory=threading.Event)
    _clients: dict[str, Any] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def arn(self, kind: str, name: str) -> str:
        """`arn:aws:sagemaker:<region>:<account>:<kind>/<name>`, with kinds such as `training-job`."""
        return f"arn:aws:sagemaker:{self.region}:{self.account}:{kind}/{name}"

    def image(self, uri: str) -> Image | None:
        """The image of a repository URI, or None if this machine does not have it."""
        return self.images.get(repository_name(uri))

    def client(self, service: str) -> Any:
        """A boto3 client of the gateway, shared by all threads (clients are thread-safe)."""
        # Creating one is not: boto3's default session must not be used by two threads at once.
        with self._lock:
            if service not in self._clients:
                self._clients[service] = boto3.client(
                    service,
                    endpoint_url=self.gateway_url,
                    region_name=self.region,
                    aws_access_key_id="test",
                    aws_secret_access_key="test",  # noqa: S106 (the local cloud knows no secrets)
                    config=Config(
                        s3={"addressing_style": "path"},
                        retries={"mode": "standard", "max_attempts": 3},
                        connect_timeout=5,
                        read_timeout=60,
                        max_pool_connections=32,
                    ),
                )
            return self._clients[service]

    def run_in_background(self, function: Callable[..., object], *args: Any) -> threading.Thread:
        """Runs the function in a thread of its own; an exception in it is logged."""
        thread = threading.Thread(target=_logged, args=(function, args), daemon=True, name=function.__name__)
        thread.start()
        return thread


def _logged(function: Callable[..., object], args: tuple[Any, ...]) -> None:
    try:
        function(*args)
    except Exception:
        logger.exception("%s failed", function.__name__)
