"""`meshtune prefer serve`: the server, with its links and its warnings."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from urllib.parse import urlsplit

from meshtune.errors import InputError
from meshtune.preference.locate import find, need_preference


def serve(path: Path, *, host: str, port: int, url: str | None, as_json: bool) -> None:
    """Serve until interrupted; prints the links first. Raises InputError."""
    need_preference("fastapi", "uvicorn", "jinja2", "markdown_it")
    from meshtune.preference import serve as server

    folder = find(path)
    if url is not None and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc):
        raise InputError(f"--url {url}: give what people open, such as https://study.example.org")
    if urlsplit(url or "").path.strip("/"):
        raise InputError(f"--url {url}: the study must be at the top of its host, without a path behind it")

    def report(facts: dict[str, object]) -> None:
        if as_json:
            print(json.dumps(facts), flush=True)
        else:
            links = facts["links"]
            assert isinstance(links, dict)
            print("\n".join(f"{name}  {link}" for name, link in links.items()))
            print(f"admin  {facts['admin']}\nserving {facts['url']} until Ctrl-C", flush=True)

    if host not in server.LOCAL and not (url or "").startswith("https://"):
        print(
            f"meshtune: warning: {host} is reached by plain HTTP, which others on the way can read and change. Put a"
            " server with https before it (Caddy, nginx), and give its address with --url https://..",
            file=sys.stderr,
            flush=True,
        )
    server.serve(folder, host, port, url, report)
