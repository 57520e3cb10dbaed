"""Telling somebody that a campaign has ended: a JSON text posted to the address that an environment variable holds.

The form, one field `text`, is what Slack, Mattermost, Teams and ntfy take. The address, which often holds a secret, is
read when it is needed and stands in no file, log or error.
"""

from __future__ import annotations

import json
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from configs.campaign import CampaignConfig, NotifyConfig

TIMEOUT_S = 10.0

logger = logging.getLogger(__name__)


class NotificationError(ValueError):
    """A webhook that is asked for and not there."""


class Notice:
    """What is said at the end; set by the campaign.

    Attributes:
        text: a sentence or two.
        facts: further fields.
    """

    def __init__(self) -> None:
        self.text = ""
        self.facts: dict[str, Any] = {}


@contextmanager
def notifying(config: CampaignConfig) -> Iterator[Notice]:
    """Post at the end of the block, or when it fails, if the settings say so.

    Raises: NotificationError: at the beginning, if the variable that is named is not set.
    """
    address_of(config.notify)
    notice = Notice()
    try:
        yield notice
    except Exception as error:
        said = f"Campaign {config.name} failed: {type(error).__name__}"
        post(config.notify, said, {"campaign": config.name, "state": "failed"})
        raise
    post(config.notify, notice.text, {"campaign": config.name, "state": "completed", **notice.facts})


def address_of(config: NotifyConfig) -> str | None:
    """The address that is posted to, None where nobody is told.

    Raises: NotificationError: if the variable that is named holds no http address.
    """
    if config.webhook_variable is None:
        return None
    address = os.environ.get(config.webhook_variable, "")
    if not address.startswith(("https://", "http://")):
        raise NotificationError(
            f"notify.webhook_variable names {config.webhook_variable}, which holds no http address: set that variable "
            "in the environment of the process that runs the campaign"
        )
    return address


def post(config: NotifyConfig, text: str, facts: dict[str, Any]) -> None:
    """Post a text; that it cannot be posted is a warning, since the campaign is done in any case."""
    address = address_of(config)
    if address is None:
        return
    body = json.dumps({"text": text, **facts}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
            reply.read()
    except urllib.error.HTTPError as error:
        logger.warning("the webhook of %s was not taken: HTTP status %d", config.webhook_variable, error.code)
    except (OSError, ValueError) as error:
        # Their texts may repeat the address.
        logger.warning("the webhook of %s could not be posted to: %s", config.webhook_variable, type(error).__name__)
