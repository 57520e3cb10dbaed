"""Who is told of the end: a server on loopback, and nobody who reads a log."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from configs.campaign import CampaignConfig
from tasks.campaign.notifying import NotificationError, notifying

SECRET = "T0SecretNobodyShouldSee"


class Hook(HTTPServer):
    """Takes what is posted; answers with `status`."""

    posted: list[tuple[str, dict[str, Any]]]
    status = 200

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{SECRET}"


class Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted.append((self.path, json.loads(body)))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Hook(("127.0.0.1", 0), Handler) as server:
        server.posted = []
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("MY_HOOK", server.address)
        yield server
        server.shutdown()
        thread.join()


def config(variable: str | None = "MY_HOOK") -> CampaignConfig:
    return CampaignConfig.model_validate(
        {"name": "told", "systems": ["Ti-B"], "notify": {"webhook_variable": variable}}
    )


def test_the_end_is_posted_with_its_text_and_facts(hook: Hook) -> None:
    with notifying(config()) as notice:
        notice.text, notice.facts = "done", {"finds": 3}
    assert hook.posted == [(f"/{SECRET}", {"text": "done", "campaign": "told", "state": "completed", "finds": 3})]


def test_a_failure_is_posted_by_its_kind_and_goes_on(hook: Hook) -> None:
    with pytest.raises(KeyError), notifying(config()):
        raise KeyError("/home/somebody")
    ((_, said),) = hook.posted
    assert said == {"text": "Campaign told failed: KeyError", "campaign": "told", "state": "failed"}


def test_without_the_setting_nobody_is_told(hook: Hook) -> None:
    with notifying(config(None)) as notice:
        notice.text = "done"
    assert not hook.posted


@pytest.mark.parametrize("status", [404, 500, None])
def test_a_webhook_that_fails_is_a_warning_without_its_address(
    status: int | None, hook: Hook, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if status is None:
        monkeypatch.setenv("MY_HOOK", f"http://127.0.0.1:9/{SECRET}")  # where nobody listens
    else:
        hook.status = status
    with caplog.at_level(logging.DEBUG), notifying(config()) as notice:
        notice.text = "done"
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "MY_HOOK" in warnings[0].getMessage()
    assert SECRET not in caplog.text


@pytest.mark.parametrize("value", [None, "", SECRET])
def test_a_variable_that_holds_no_address_stops_the_campaign_before_it_begins(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_HOOK", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_HOOK", value)
    with pytest.raises(NotificationError, match="MY_HOOK, which holds no http address") as caught, notifying(config()):
        raise AssertionError("begun")
    assert SECRET not in str(caught.value)
