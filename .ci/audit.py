"""Known advisories for the pins of the lock files, by pip-audit: `make audit`.

pip-audit passes what its service does not know as free of advisories, and a mirror of an index knows of none. Here only
an answer for every pin counts. Exit codes: 0, none is known; 1, there are advisories; 69, some pin got no answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = ("requirements.lock", "requirements-cuda.lock")
FOUND, UNAVAILABLE = 1, 69
"""Exit codes; the second is the one that sysexits.h has for a service that is not there."""


def verdict(report: str, said: str) -> tuple[int, str]:
    """Exit code and what to say.

    Args:
        report: pip-audit's output, JSON or nothing.
        said: its other words.
    """
    try:
        listed = json.loads(report)["dependencies"]
    except (ValueError, LookupError):
        reason = said.strip().splitlines()[-1] if said.strip() else "it said nothing"
        return UNAVAILABLE, f"the advisory service cannot be reached, so nothing was audited: {reason}"
    answered = [one for one in listed if "vulns" in one]
    silent = [one["name"] for one in listed if "vulns" not in one]
    lines = [
        f"{one['name']} {one['version']}: {advisory['id']}, mended in {', '.join(advisory['fix_versions']) or 'none'}"
        for one in answered
        for advisory in one["vulns"]
    ]
    known = len(lines)
    if not answered:
        return UNAVAILABLE, (
            f"the advisory service answers for none of {len(silent)} pins, so nothing was audited: ask where the "
            "service itself can be reached (a mirror of an index has no advisories), or AUDIT_SERVICE=osv"
        )
    if silent:
        lines.append(f"no answer for {len(silent)} of {len(listed)} pins: {', '.join(silent)}")
    lines.append(f"{known} advisories for {len(answered)} pins")
    return FOUND if known else UNAVAILABLE if silent else 0, "\n".join(lines)


def main() -> int:
    """Ask about both files; the exit code."""
    files = [word for name in FILES for word in ("--requirement", str(ROOT / name))]
    asked = subprocess.run(
        [sys.executable, "-m", "pip_audit", "--require-hashes", "--disable-pip", "--format", "json"]
        + ["--progress-spinner", "off", "--vulnerability-service", os.environ.get("AUDIT_SERVICE", "pypi"), *files],
        capture_output=True,
        text=True,
        check=False,
    )
    code, words = verdict(asked.stdout, asked.stderr)
    print(words, file=sys.stderr if code else sys.stdout)  # noqa: T201
    return code


if __name__ == "__main__":
    sys.exit(main())
