"""How clients, Lambda code and jobs reach a local cloud, and nothing else."""

import os
from typing import Any

import boto3
import botocore.session
from botocore.config import Config

REGION = "us-east-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}

# Neither Lambda code nor jobs may find the user's own AWS configuration.
AWS_ISOLATION = {
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_DEFAULT_REGION": REGION,
}


# The same for this process: a profile, a configuration file or a proxy of the user's shell must not matter.
ISOLATED_VARIABLES = {
    "profile": (None, None, None, None),
    "config_file": (None, None, os.devnull, None),
    "credentials_file": (None, None, os.devnull, None),
}


class LocalSession(boto3.Session):  # type: ignore[misc]
    """A boto3 session whose every client talks to one endpoint, whatever the user's shell says of AWS."""

    def __init__(self, endpoint_url: str) -> None:
        super().__init__(
            botocore_session=botocore.session.Session(session_vars=ISOLATED_VARIABLES),
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            region_name=REGION,
        )
        self._endpoint_url = endpoint_url

    def client(self, service_name: str, **arguments: Any) -> Any:
        """Return a client of `service_name` at the local endpoint."""
        config = Config(
            s3={"addressing_style": "path"},
            proxies={},
            connect_timeout=5,
            retries={"mode": "standard", "max_attempts": 3},
            max_pool_connections=32,
        )
        return super().client(service_name, endpoint_url=self._endpoint_url, config=config, **arguments)
