"""What a page for others must not show: absolute paths, and where the storage is.

A path is cut to its last part. Host names and rows of the data are never put into a public page at all: see `page`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

DROPPED = ("storage", "folder")  # keys of study.yaml that only say where things lie

# An absolute path inside a text: not after what makes it part of a relative one, such as a letter or a dot. The scheme
# and host of a URL are found first, so that what follows them is such a part; those of a file's are part of its path.
_PATH = re.compile(
    r"""(?P<url>(?<![A-Za-z])(?!(?i:file):)[A-Za-z][\w+.-]+://[^\s'"\\/=,]+)
    | (?<![\w.~*?%$)\]}\\/-]) (?P<option>-[A-Za-z]+)? (?i:file:)? (?:~[\w.-]*|[A-Za-z]:)?
      [\\/]+ (?:[^\\/\s'"=,\])}<>|;&]+[\\/]+)* (?P<last>[^\\/\s'"=,\])}<>|;&]+)""",
    re.VERBOSE,
)


def hidden(value: Any) -> Any:
    """A value of JSON with the absolute paths in it cut to their last parts."""
    if isinstance(value, Mapping):
        return {hidden(key): hidden(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [hidden(inner) for inner in value]
    if not isinstance(value, str):
        return value
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(value).is_absolute() or value.startswith("~"):
            return kind(value).name  # as a whole: there may be spaces in it
    return _PATH.sub(lambda found: found["url"] or (found["option"] or "") + found["last"], value)


def hidden_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A study.yaml for others."""
    kept: dict[str, Any] = hidden({key: value for key, value in config.items() if key not in DROPPED})
    return kept
