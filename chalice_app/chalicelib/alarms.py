"""The mail that says that messages about uploads could not be handled.

An alarm watches the dead-letter queue and tells SNS when it changes its state. So the owner hears once of an
incident, however many messages it brings; it ends when the queue has been empty for five minutes.
"""

import json
from typing import Any

from aws_lambda_powertools import Logger

from chalicelib import config, notifications
from chalicelib.mail_format import Block, Command, Heading, Paragraph
from chalicelib.once import once

logger = Logger(child=True)


def on_alarm(message: str, context: Any) -> None:
    """Handle what CloudWatch says of an alarm.

    Args:
        message: the JSON document that CloudWatch sends to SNS
            (https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/AlarmThatSendsEmail.html).
        context: Lambda's context.
    """
    alarm = json.loads(message)
    if alarm["NewStateValue"] != "ALARM":
        return
    # SNS delivers at least once.
    incident = f"{alarm['AlarmName']}#{alarm['StateChangeTime']}"
    once(_mail, context, told_by="incident", incident=incident)


def dead_letters(count: int) -> tuple[str, list[Block]]:
    """Subject and blocks of the mail about `count` messages in the dead-letter queue."""
    messages = "1 message" if count == 1 else f"{count} messages"
    return f"droptune: {messages} about uploads could not be handled", [
        Paragraph(
            f"{messages} about uploads failed five times and were put aside in the dead-letter queue. The uploads "
            "are where they were put, but a run may not have seen them."
        ),
        Heading("What to do"),
        Command("See what they are", "droptune redrive --dry-run"),
        Command("Put them back when the cause is mended", "droptune redrive"),
        Paragraph("They are kept for 14 days after the upload."),
        Paragraph("You get this mail once, however many more come, until the queue has been empty for five minutes."),
    ]


def _mail(*, incident: str) -> None:
    attributes = config.client("sqs").get_queue_attributes(
        QueueUrl=config.dead_letter_queue_url(), AttributeNames=["ApproximateNumberOfMessages"]
    )["Attributes"]
    # It is an approximation, and the alarm has seen at least one.
    count = max(1, int(attributes["ApproximateNumberOfMessages"]))
    logger.warning("messages lie in the dead-letter queue", incident=incident, count=count)
    notifications.send(*dead_letters(count), config.run_config())
