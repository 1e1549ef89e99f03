"""Deploys a package into CloudFormation: the same calls on AWS and on the local cloud.

Needs a boto3 session whose endpoint is either. The template and the code go to a bucket of their own
(`<stack>-artifacts-<account>-<region>`) under names made from their content, as `aws cloudformation package` does.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError, WaiterError

from droptune.errors import OperationFailed
from droptune.packaging import Package

STACK_NAME = "droptune"
CAPABILITIES = ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"]


@dataclass(frozen=True)
class Deployment:
    """A deployed stack: its outputs (docs/reference/contracts.md) and whether this call changed it."""

    outputs: dict[str, str]
    changed: bool


def deploy(
    session: boto3.Session,
    package: Package,
    parameters: Mapping[str, str],
    *,
    poll_seconds: float = 5,
    on_progress: Callable[[str], None] = lambda _: None,
) -> Deployment:
    """Create the stack, or update it if anything changed, and wait until it stands.

    Raises:
        OperationFailed: CloudFormation refused the template or rolled the stack back; the message carries the
            first resource that failed and its reason.
    """
    cloudformation = session.client("cloudformation")
    template_url = _upload(session, package)
    arguments = {
        "StackName": STACK_NAME,
        "TemplateURL": template_url,
        "Parameters": [{"ParameterKey": k, "ParameterValue": v} for k, v in sorted(parameters.items())],
        "Capabilities": CAPABILITIES,
    }
    exists = _exists(cloudformation)
    on_progress("updating the stack" if exists else "creating the stack")
    try:
        if exists:
            cloudformation.update_stack(**arguments)
        else:
            cloudformation.create_stack(**arguments)
        waiter = cloudformation.get_waiter("stack_update_complete" if exists else "stack_create_complete")
        waiter.wait(StackName=STACK_NAME, WaiterConfig={"Delay": poll_seconds, "MaxAttempts": 720})
    except ClientError as error:
        if "No updates are to be performed" not in error.response["Error"]["Message"]:
            raise OperationFailed(
                f"CloudFormation refused the stack: {error.response['Error']['Message']}",
                hint="Run `droptune up` again; if it stays so, the template and this version do not fit.",
                code="DeploymentRefused",
            ) from error
        return Deployment(stack_outputs(session) or {}, changed=False)
    except WaiterError as error:
        raise OperationFailed(
            "The stack could not be deployed.",
            why=_first_failure(cloudformation),
            hint="Mend the cause and deploy again; CloudFormation has rolled the change back.",
            code="DeploymentFailed",
        ) from error
    return Deployment(stack_outputs(session) or {}, changed=True)


def stack_outputs(session: boto3.Session) -> dict[str, str] | None:
    """Return the outputs of the stack, or None if there is no usable stack."""
    try:
        stack = session.client("cloudformation").describe_stacks(StackName=STACK_NAME)["Stacks"][0]
    except ClientError as error:
        if "does not exist" in error.response["Error"]["Message"]:
            return None
        raise
    if stack["StackStatus"] not in ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"):
        return None
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


def _exists(cloudformation: Any) -> bool:
    try:
        status = cloudformation.describe_stacks(StackName=STACK_NAME)["Stacks"][0]["StackStatus"]
    except ClientError as error:
        if "does not exist" in error.response["Error"]["Message"]:
            return False
        raise
    if status in ("ROLLBACK_COMPLETE", "CREATE_FAILED", "ROLLBACK_FAILED"):
        # A stack whose creation failed cannot be updated, only deleted.
        cloudformation.delete_stack(StackName=STACK_NAME)
        cloudformation.get_waiter("stack_delete_complete").wait(StackName=STACK_NAME)
        return False
    return bool(status != "DELETE_COMPLETE")


def _first_failure(cloudformation: Any) -> str:
    events = cloudformation.describe_stack_events(StackName=STACK_NAME)["StackEvents"]
    failures = [event for event in events if event["ResourceStatus"].endswith("_FAILED")]
    if not failures:
        return "CloudFormation names no failed resource."
    first = min(failures, key=lambda event: event["Timestamp"])
    return f"{first['LogicalResourceId']}: {first.get('ResourceStatusReason', 'no reason given')}"


def _upload(session: boto3.Session, package: Package) -> str:
    s3 = session.client("s3")
    account = session.client("sts").get_caller_identity()["Account"]
    bucket = f"{STACK_NAME}-artifacts-{account}-{session.region_name}"
    try:
        s3.head_bucket(Bucket=bucket)
    except ClientError:
        # us-east-1 is the one region that must not be named as a location constraint.
        location = {} if session.region_name == "us-east-1" else {"LocationConstraint": session.region_name}
        s3.create_bucket(Bucket=bucket, **({"CreateBucketConfiguration": location} if location else {}))
        s3.put_public_access_block(
            Bucket=bucket,
            PublicAccessBlockConfiguration=dict.fromkeys(
                ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
            ),
        )
    code_key = _put(s3, bucket, package.code.read_bytes(), "zip")
    template = json.loads(package.template.read_text())
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["CodeUri"] = f"s3://{bucket}/{code_key}"
    template_key = _put(s3, bucket, json.dumps(template).encode(), "template.json")
    return f"{s3.meta.endpoint_url}/{bucket}/{template_key}"


def _put(s3: Any, bucket: str, content: bytes, suffix: str) -> str:
    key = f"{hashlib.sha256(content).hexdigest()}.{suffix}"
    s3.put_object(Bucket=bucket, Key=key, Body=content)
    return key


def upload_weights(session: boto3.Session, bucket: str, backbone: str, file: Path) -> bool:
    """Put pretrained weights where the workflow looks for them; return whether they were not there already."""
    s3 = session.client("s3")
    key = f"weights/{backbone}/{file.name}"
    try:
        if s3.head_object(Bucket=bucket, Key=key)["ContentLength"] == file.stat().st_size:
            return False
    except ClientError as error:
        if error.response["Error"]["Code"] != "404":
            raise
    s3.upload_file(str(file), bucket, key)
    return True


def ensure_mail_identity(session: boto3.Session, address: str) -> bool:
    """Register `address` as a sender of SES if it is not one yet; return whether SES has verified it.

    An identity is no part of the stack: an account that already has it could not create it again, and removing the
    stack must not take away an identity that others use. On AWS, SES mails the address a link to click.
    """
    ses = session.client("sesv2")
    with contextlib.suppress(ses.exceptions.AlreadyExistsException):
        ses.create_email_identity(EmailIdentity=address)
    return bool(ses.get_email_identity(EmailIdentity=address)["VerifiedForSendingStatus"])
