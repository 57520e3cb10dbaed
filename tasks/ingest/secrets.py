"""Keys of databases: from the environment, else from a Prefect Secret; read where they are needed, and kept nowhere.

No key is a parameter, a result or a setting of anything: what Prefect records of flows and tasks cannot hold one.
"""

from __future__ import annotations

import os

from pydantic import SecretStr

SECRETS = {"materials-project": ("MP_API_KEY", "materials-project-api-key")}
"""Kind of database -> environment variable, and name of the Prefect Secret block, that hold its key."""


class SecretError(RuntimeError):
    """A Prefect Secret that is there, or may be, and cannot be read."""


def secret_of(kind: str) -> SecretStr | None:
    """The key of a kind of database, such as 'materials-project'; None if it needs none, or none is there.

    The Prefect server is asked only where one is known: inside a run, or where PREFECT_API_URL names it.

    Raises: SecretError: if the server cannot be asked, or the block holds no text.
    """
    if kind not in SECRETS:
        return None
    variable, block = SECRETS[kind]
    stated = os.environ.get(variable, "").strip()
    return SecretStr(stated) if stated else _from_block(block, variable)


def _from_block(name: str, variable: str) -> SecretStr | None:
    if not _has_server():
        return None
    from prefect.blocks.system import Secret

    try:
        held = Secret.load(name)  # type: ignore[var-annotated]
    except ValueError:  # Prefect's word for a block that is not there
        return None
    except Exception as error:  # a server's troubles come as a dozen types; their text may quote what was sent
        raise SecretError(
            f"the Prefect Secret {name!r} cannot be read ({type(error).__name__}): start the server, or set {variable}"
        ) from None
    value = held.value.get_secret_value()  # type: ignore[union-attr]
    if not isinstance(value, str) or not value.strip():
        raise SecretError(f"the Prefect Secret {name!r} holds no text: save the key in it as plain text")
    return SecretStr(value.strip())


def _has_server() -> bool:
    """Whether Prefect can be asked without starting a server for it."""
    if os.environ.get("PREFECT_API_URL"):
        return True
    from prefect.context import FlowRunContext, TaskRunContext
    from prefect.settings import get_current_settings

    inside = FlowRunContext.get() is not None or TaskRunContext.get() is not None
    return inside or get_current_settings().api.url is not None
