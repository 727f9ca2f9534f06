import pytest

from meshtune.errors import Fault, InputError, StorageError
from meshtune.plain_text import escaped, masked


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("see postgresql://me:pw@host/db: down", "see postgresql://me:***@host/db: down"),
        ("mysql+driver://me@corp:p/w@host", "mysql+driver://me@corp:***@host"),
        ("postgresql://:pw@host", "postgresql://:***@host"),
        ("postgresql://me:${PW}@host/db", "postgresql://me:${PW}@host/db"),
        ("postgresql://me@host/db?password=pw&x=1", "postgresql://me@host/db?password=***&x=1"),
        ("sqlite:////data/me/a:b.db", "sqlite:////data/me/a:b.db"),
        ("https://host:8080/page and a@b", "https://host:8080/page and a@b"),
    ],
)
def test_passwords_of_urls_are_starred_out(given: str, shown: str) -> None:
    assert masked(given) == shown
    assert masked(masked(given)) == shown


def test_control_characters_are_spelled() -> None:
    assert escaped("a\x1b[31mred\x1b]0;title\x07\x9b2J\tb\r\nc\rd") == (
        r"a\x1b[31mred\x1b]0;title\x07\x9b2J" + "\tb\nc" + r"\rd"
    )
    assert escaped("right\u202eleft \ud800") == r"right\u202eleft \ud800"
    assert escaped("höher ✓ 漢字 e\u0301 👩\u200d🔬") == "höher ✓ 漢字 e\u0301 👩\u200d🔬"


def test_errors_hold_neither() -> None:
    assert str(StorageError("postgresql://me:pw@host: \x1b[2J")) == r"postgresql://me:***@host: \x1b[2J"
    fault = Fault("`postgresql://me:pw@h`", "--set storage=x://me:pw@h", None, "a\x1b")
    error = InputError([fault])
    assert str(error) == "--set storage=x://me:***@h: a\\x1b: `postgresql://me:***@h`"
    assert "pw" not in repr(error.faults)


def test_a_message_shows_the_first_faults_and_counts_the_rest() -> None:
    error = InputError([Fault("wrong", "rows.jsonl", line) for line in range(1, 1053)])
    assert str(error).splitlines()[-2:] == ["rows.jsonl:50: wrong", "and 1,002 more faults: mend these first"]
    assert len(error.faults) == 1052
