import pytest

from meshtune.errors import InputError
from meshtune.system.storage_url import fault, hidden, resolved, secret, shown


def test_variables_are_read_where_the_url_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PW", "p@ss/w:d %")
    monkeypatch.setenv("HOST", "db.example:5433")
    monkeypatch.setenv("WHOLE", "postgresql://me:p%40ss@host/db")
    assert resolved("postgresql://me:${PW}@${HOST}/db") == "postgresql://me:p%40ss%2Fw%3Ad%20%25@db.example:5433/db"
    assert resolved("${WHOLE}") == "postgresql://me:p%40ss@host/db"
    assert resolved("sqlite:////a/$b.db") == "sqlite:////a/$b.db"
    monkeypatch.delenv("PW")
    with pytest.raises(InputError, match="storage: the environment variable `PW` is not set"):
        resolved("postgresql://me:${PW}@host/db")


@pytest.mark.parametrize("password", ["pw", "p@ss", "p/w", "two words", "?x", "line\nbreak", "${PW}x"])
def test_no_password_is_shown(password: str) -> None:
    url = f"postgresql://me:{password}@host/db"
    assert shown(url) == "postgresql://me:***@host/db"
    assert secret(url)
    assert password not in str(fault(url))


def test_what_needs_no_secrecy() -> None:
    for url in (
        "sqlite:///C:/b.db",
        "postgresql://me@host:5432/db",
        "postgresql://me@[::1]:5432/db",
        "mysql://h:${P}/d",
    ):
        assert (shown(url), hidden(url), fault(url)) == (url, url, None)
    for url in ("sqlite:////a/b.db", "postgresql://me@host/db", "postgresql://me:${PW}@host/db", "${URL}"):
        assert (shown(url), secret(url), fault(url)) == (url, False, None)
    assert not secret(None)
    assert secret("postgresql://me@host/db?password=pw")


@pytest.mark.parametrize("url", ["me:pw@host/db", "postgresql:me:pw", "postgresql//me:pw@host/db", "'me:pw@host'"])
def test_of_what_is_no_url_nothing_is_shown(url: str) -> None:
    assert hidden(url) == "***"
    assert "pw" not in str(fault(url))


def test_what_stands_for_a_port_may_be_a_password() -> None:
    for url in ("postgresql://me:pw", "postgresql://me:p w/db"):
        assert shown(url) == hidden(url) == "postgresql://me:***"
        assert str(fault(url)).startswith("behind the host's colon is no port")


def test_what_is_no_url_is_said() -> None:
    assert str(fault("study.db")).startswith("this is no URL of a database")
    assert "write `postgresql://me:${MY_PASSWORD}@..`" in str(fault("postgresql://me:p@ss@host/db"))
