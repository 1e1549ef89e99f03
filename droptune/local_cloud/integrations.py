"""Where SageMaker is attached to ministack: the service itself and its Step Functions integrations.

ministack offers no plug-in interface, so this module reaches into nine of its private module globals. They are
the ones of ministack 1.5.33, which the lock pins; `tests/local_cloud/test_integrations.py` is the contract test
that says so when they move.
"""

import contextvars
import json
import logging
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import boto3
import httpx
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    HTTPClientError,
    ParamValidationError,
)

from droptune.local_cloud.outbox import Outbox
from droptune.local_cloud.session import CREDENTIALS

logger = logging.getLogger("droptune.integrations")

Json = dict[str, Any]
HandlerResponse = tuple[int, dict[str, str], bytes]

# Request headers that the SageMaker process reads; hop-by-hop headers must not be forwarded.
FORWARDED_REQUEST_HEADERS = ("accept", "authorization", "content-type", "x-amz-target", "x-amzn-sagemaker-")
FORWARDED_RESPONSE_HEADERS = ("content-type", "x-amzn-")

# An invocation may take 60 s on SageMaker; the gateway must outwait it.
FORWARD_TIMEOUT_SECONDS = 70.0
SYNC_POLL_SECONDS = 0.25
# On AWS, SageMaker is always there; here its process may be killed, and a state waits until `droptune up` brings it
# back.
ABSENCE_SECONDS = 900.0
ABSENCE_POLL_SECONDS = 1.0


class SyncJob:
    """How the `.sync` pattern of one Create… action finds out that its job has ended."""

    def __init__(self, noun: str) -> None:
        self.describe = f"describe_{xform_name(noun)}"
        self.stop = f"stop_{xform_name(noun)}"
        self.name_field = f"{noun}Name"
        self.status_field = f"{noun}Status"


SYNC_JOBS = {
    "createTrainingJob": SyncJob("TrainingJob"),
    "createHyperParameterTuningJob": SyncJob("HyperParameterTuningJob"),
    "createProcessingJob": SyncJob("ProcessingJob"),
}

# Error names begin with the service as the AWS SDK for Java spells it; an error code that the service model does
# not list (SageMaker's ValidationException) is reported under the service's base exception.
AWS_SDK_ERRORS = {"sagemaker": ("SageMaker", "SageMakerException"), "sesv2": ("SesV2", "SesV2Exception")}

write_errors: contextvars.ContextVar[list[OSError] | None] = contextvars.ContextVar("write_errors", default=None)
"""What kept the objects of the current request from reaching the disk: ministack only logs it, and answers 200."""

_execution_arn: contextvars.ContextVar[str | None] = contextvars.ContextVar("droptune_execution_arn", default=None)


def attach(sagemaker_url: str, gateway_url: str, outbox: Outbox) -> None:
    """Attach SageMaker and the outbox to the ministack of this process.

    Args:
        sagemaker_url: where the local SageMaker listens.
        gateway_url: where this process will listen.
        outbox: takes what SES sends.
    """
    from ministack import app as ministack_app
    from ministack.core import router
    from ministack.services import apigateway_v1, lambda_svc, s3, ses, ses_v2, stepfunctions

    ministack_app.SERVICE_HANDLERS["sagemaker"] = forwarder(sagemaker_url)
    router.SERVICE_PATTERNS["sagemaker"] = {
        "target_prefixes": ["SageMaker."],
        "host_patterns": [],
        "credential_scope": "sagemaker",
    }
    integrations = StepFunctionsIntegrations(stepfunctions, sagemaker_url, gateway_url)
    # The dispatcher takes the first prefix that fits and runs before the generic aws-sdk integration.
    stepfunctions._SERVICE_DISPATCH.update(
        {
            "arn:aws:states:::sagemaker:": integrations.sagemaker,
            "arn:aws:states:::aws-sdk:sagemaker:": integrations.aws_sdk,
            "arn:aws:states:::aws-sdk:sesv2:": integrations.aws_sdk,
        }
    )
    stepfunctions._run_execution = _remember_execution(stepfunctions._run_execution)
    lambda_svc._execute_function_warm = _restore_error_type(lambda_svc._execute_function_warm)
    apigateway_v1._import_rest_api = _import_binary_types(apigateway_v1._import_rest_api)
    ses._smtp_relay = ses_v2._smtp_relay = outbox.add
    s3._atomic_write = _report_write_errors(s3._atomic_write)


def forwarder(base_url: str) -> Callable[..., Any]:
    """Return a ministack service handler that passes each request on to `base_url`."""
    client = httpx.AsyncClient(base_url=base_url, timeout=FORWARD_TIMEOUT_SECONDS, trust_env=False)

    async def handle(
        method: str, path: str, headers: Mapping[str, str], body: bytes, _query: Mapping[str, Any]
    ) -> HandlerResponse:
        kept = {k: v for k, v in headers.items() if k.lower().startswith(FORWARDED_REQUEST_HEADERS)}
        try:
            answer = await client.request(method, path, headers=kept, content=body or b"")
        except httpx.HTTPError as error:
            document = {
                "__type": "ServiceUnavailable",
                "message": f"The local SageMaker at {base_url} does not answer ({error!r}). "
                "Start it again with: droptune up",
            }
            return 503, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps(document).encode()
        returned = {k: v for k, v in answer.headers.items() if k.lower().startswith(FORWARDED_RESPONSE_HEADERS)}
        return answer.status_code, returned, answer.content

    return handle


class StepFunctionsIntegrations:
    """The Step Functions service integrations that ministack lacks: sagemaker (with .sync) and aws-sdk:sesv2."""

    def __init__(self, stepfunctions: Any, sagemaker_url: str, gateway_url: str) -> None:
        self._stepfunctions = stepfunctions
        self._urls = {"sagemaker": sagemaker_url}
        self._gateway_url = gateway_url
        self._clients: dict[str, Any] = {}

    def sagemaker(self, resource: str, arguments: Json) -> Json:
        """Run an optimised integration `arn:aws:states:::sagemaker:<action>[.sync]`."""
        action = resource.split("sagemaker:")[1]
        name = action.removesuffix(".sync")
        result = self._call("sagemaker", name, arguments, ("SageMaker", "AmazonSageMakerException"))
        if name == action:
            return result
        return self._wait(SYNC_JOBS[name], arguments)

    def aws_sdk(self, resource: str, arguments: Json) -> Json:
        """Run an AWS SDK integration `arn:aws:states:::aws-sdk:<service>:<action>`."""
        service, action = resource.split("aws-sdk:")[1].split(":")
        return self._call(service, action, arguments, AWS_SDK_ERRORS[service])

    def _client(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = boto3.client(
                service,
                endpoint_url=self._urls.get(service, self._gateway_url),
                region_name=self._stepfunctions.get_region(),
                aws_access_key_id=self._stepfunctions.get_account_id(),
                aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
                config=Config(retries={"max_attempts": 3}, parameter_validation=True),
            )
        return self._clients[service]

    def _call(self, service: str, action: str, arguments: Json, error_names: tuple[str, str]) -> Json:
        client = self._client(service)
        prefix, unmodelled = error_names
        method = getattr(client, xform_name(action[0].upper() + action[1:]))
        try:
            # Refused connections only: what was sent must not be sent twice.
            answer = self._outwait(lambda: method(**arguments), EndpointConnectionError)
        except ParamValidationError as error:
            raise self._error("States.Runtime", str(error)) from error
        except ClientError as error:
            code = error.response["Error"]["Code"]
            modelled = {
                shape.metadata.get("error", {}).get("code", shape.name)
                for shape in client.meta.service_model.error_shapes
            } | {shape.name for shape in client.meta.service_model.error_shapes}
            name = f"{code.removesuffix('Exception')}Exception" if code in modelled else unmodelled
            raise self._error(f"{prefix}.{name}", error.response["Error"]["Message"]) from error
        except BotoCoreError as error:
            raise self._error(f"{prefix}.SdkClientException", str(error)) from error
        return plain(answer)

    def _wait(self, job: SyncJob, arguments: Json) -> Json:
        client = self._client("sagemaker")
        name = {job.name_field: arguments[job.name_field]}
        while True:
            try:
                description = self._outwait(lambda: getattr(client, job.describe)(**name), HTTPClientError)
            except (ClientError, BotoCoreError) as error:
                raise self._error("SageMaker.AmazonSageMakerException", str(error)) from error
            status = description[job.status_field]
            if status == "Completed":
                return plain(description)
            if status in ("Failed", "Stopped"):
                raise self._error("States.TaskFailed", json.dumps(plain(description)))
            if not self._execution_is_running():
                # As on AWS: stopping an execution stops the job that its .sync task waits for.
                getattr(client, job.stop)(**name)
                raise self._error("States.TaskFailed", f"The execution was stopped; {arguments} was stopped too.")
            time.sleep(SYNC_POLL_SECONDS)

    def _outwait(self, call: Callable[[], Json], absence: type[BotoCoreError]) -> Json:
        deadline = time.monotonic() + ABSENCE_SECONDS
        while True:
            try:
                return call()
            except absence as error:
                if time.monotonic() > deadline or not self._execution_is_running():
                    raise
                logger.warning("a state of an execution waits until the service answers again: %s", error)
                time.sleep(ABSENCE_POLL_SECONDS)

    def _execution_is_running(self) -> bool:
        arn = _execution_arn.get()
        if arn is None:
            return True
        execution = self._stepfunctions._executions.get(arn)
        return execution is not None and execution["status"] == "RUNNING"

    def _error(self, name: str, cause: str) -> Exception:
        error: Exception = self._stepfunctions._ExecutionError(name, cause)
        return error


def plain(answer: Mapping[str, Any]) -> Json:
    """Return a botocore answer as Step Functions shows it: no metadata, timestamps in epoch milliseconds."""

    def default(value: object) -> object:
        if isinstance(value, datetime):
            return int(value.timestamp() * 1000)
        raise TypeError(f"{type(value).__name__} is no JSON value")

    document: Json = json.loads(
        json.dumps({k: v for k, v in answer.items() if k != "ResponseMetadata"}, default=default)
    )
    return document


def _remember_execution(run_execution: Callable[[str], None]) -> Callable[[str], None]:
    def run(arn: str) -> None:
        token = _execution_arn.set(arn)
        try:
            run_execution(arn)
        finally:
            _execution_arn.reset(token)

    return run


def _restore_error_type(execute: Callable[..., Json]) -> Callable[..., Json]:
    """Give a failed Lambda its own exception's name as errorType, as the Lambda service does.

    ministack's Python worker reports every exception as Runtime.HandlerError; the class stands in the last
    unindented line of the traceback that it logs.
    """

    def execute_function(function: Json, event: Any, request_id: str) -> Json:
        result = execute(function, event, request_id)
        body = result.get("body")
        if result.get("error") and isinstance(body, dict) and body.get("errorType") == "Runtime.HandlerError":
            name = exception_name(result.get("log") or "")
            if name:
                body["errorType"] = name
        return result

    return execute_function


def _report_write_errors(atomic_write: Callable[..., None]) -> Callable[..., None]:
    def write(path: str, data: Any, *, text: bool = False) -> None:
        try:
            atomic_write(path, data, text=text)
        except OSError as error:
            errors = write_errors.get()
            if errors is not None:
                errors.append(error)
            raise

    return write


def _import_binary_types(import_rest_api: Callable[..., str]) -> Callable[..., str]:
    """Honour the OpenAPI extension that says which bodies are binary; ministack reads all of the rest.

    Without it a JPEG reaches the Lambda decoded as UTF-8, which destroys it.
    """

    def import_api(spec: Json, base_data: Json | None = None) -> str:
        types = spec.get("x-amazon-apigateway-binary-media-types", [])
        base = dict(base_data or {})
        return import_rest_api(spec, {**base, "binaryMediaTypes": base.get("binaryMediaTypes") or types})

    return import_api


def exception_name(log: str) -> str | None:
    """Return the class name of the exception whose traceback ends `log`, without its module, or None.

    >>> exception_name('Traceback (most recent call last):\\n  File …\\nerrors.EmptyDataset: no files')
    'EmptyDataset'
    """
    start = log.rfind("Traceback (most recent call last):")
    if start < 0:
        return None
    unindented = [line for line in log[start:].splitlines()[1:] if line and not line[0].isspace()]
    if not unindented:
        return None
    # The message may span lines; the first unindented line of the traceback names the class.
    name = unindented[0].split(":")[0].strip().rsplit(".", 1)[-1]
    return name if name.isidentifier() else None
