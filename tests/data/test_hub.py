import pytest

from meshtune.data.hub import explain

errors = pytest.importorskip("huggingface_hub.errors")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("GatedRepoError", "the model `a/b` is gated: accept its terms on https://huggingface.co/a/b, then log in"),
        ("RepositoryNotFoundError", "the model `a/b` does not exist on the Hugging Face hub, or is private"),
        ("RevisionNotFoundError", "the model `a/b` has no such revision"),
        ("OfflineModeIsEnabled", "the model `a/b` is not in the local cache, and HF_HUB_OFFLINE forbids to fetch it"),
    ],
)
def test_the_reason_is_found_behind_the_error_that_wraps_it(kind: str, message: str) -> None:
    reason = getattr(errors, kind).__new__(getattr(errors, kind))
    outer = OSError("We could not load it")
    outer.__cause__ = reason
    assert str(explain(outer, "a/b", "model", "model")).startswith(f"model: {message}")


def test_an_unknown_reason_is_told_as_it_is() -> None:
    fault = explain(ValueError("the\n  sky fell"), "a/b", "data set")
    assert str(fault) == "the data set `a/b` cannot be loaded: the sky fell"
