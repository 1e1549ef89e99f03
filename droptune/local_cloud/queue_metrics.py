"""Lets the alarms of a deployed stack see its queues.

ministack keeps alarms, and on each metric that arrives it evaluates them and tells SNS; but it measures no queue.
Here the metric that SQS sends to CloudWatch is sent for each queue that an alarm watches. A queue that is empty and
whose alarm rests is left alone, so that an idle cloud stays idle.

ministack's evaluation takes no notice of a metric's dimensions: there can be one such alarm.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("droptune.queue_metrics")

# SQS sends its metrics once a minute; here nobody wants to wait so long.
PERIOD_SECONDS = 5.0
NAMESPACE, VISIBLE = "AWS/SQS", "ApproximateNumberOfMessagesVisible"


class QueueMetrics:
    """Measures the queues of the ministack of this process.

    Args:
        on_change: is called when an alarm has changed its state.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change

    async def run(self) -> None:
        """Measure every few seconds, until cancelled."""
        while True:
            try:
                if self.measure():
                    self._on_change()
            except (KeyError, ValueError, RuntimeError) as error:
                # A stack that is being deployed, or a queue that is deleted meanwhile.
                logger.warning("the queues cannot be measured, and are tried again: %r", error)
            await asyncio.sleep(PERIOD_SECONDS)

    def measure(self) -> bool:
        """Send one metric of each watched queue that has something to tell; return whether an alarm has changed."""
        from ministack.services import cloudwatch

        alarms = [alarm for alarm in cloudwatch._alarms.values() if _watches_a_queue(alarm)]
        before = [alarm["StateValue"] for alarm in alarms]
        for alarm in alarms:
            (name,) = [dimension["Value"] for dimension in alarm["Dimensions"] if dimension["Name"] == "QueueName"]
            count = _visible(name)
            if count or alarm["StateValue"] != "OK":
                cloudwatch.record_metric(NAMESPACE, VISIBLE, count, "Count", {"QueueName": name})
                cloudwatch._evaluate_alarm(alarm)
        cloudwatch._evict_old_metrics()
        return before != [alarm["StateValue"] for alarm in alarms]


def _watches_a_queue(alarm: dict[str, Any]) -> bool:
    return bool(alarm["Namespace"] == NAMESPACE and alarm["MetricName"] == VISIBLE)


def _visible(name: str) -> int:
    from ministack.services import sqs

    with sqs._queues_lock:
        queue = sqs._queues[sqs._queue_url(name)]
        sqs._refresh_counts(queue)
        return int(queue["attributes"]["ApproximateNumberOfMessages"])
