import hashlib

import pytest

from conveyor_server.core.errors import NotPermitted, StartError, Unauthenticated
from conveyor_server.wire import access as module
from conveyor_server.wire.access import Access
from conveyor_server.wire.tokens import Scope, make_token

SCOPES = list(Scope)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tokens"


@pytest.fixture
def token(path):
    made, line = make_token("frontend", [Scope.INFER])
    path.write_text(f"{line}\n")
    return made


@pytest.fixture
def access(path, token):
    return Access(path)


def reload(access):
    """What the watch does at each look."""
    if access.files.look():
        access._known.clear()


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_token_opens_its_scopes_and_no_others(access, token, scheme):
    for _ in range(2):  # the second time it is remembered
        assert access.check(Scope.INFER, f"{scheme} {token}").name == "frontend"
        for scope in (Scope.READ, Scope.ADMIN):
            with pytest.raises(NotPermitted, match=f"'frontend' lacks the scope '{scope}'.*It has: infer"):
                access.check(scope, f"{scheme} {token}")
    assert access.denied == {NotPermitted: 4}


def test_without_a_token_it_says_how_to_send_one(access):
    for header in (None, ""):
        with pytest.raises(Unauthenticated, match="'authorization: Bearer <token>'"):
            access.check(Scope.INFER, header)


def test_what_is_not_the_token_is_refused_and_not_told_why(access, token):
    wrong = [token, f"Basic {token}", f"Bearer{token}", f"Bearer {token}x", f"Bearer {token[:-1]}", "Bearer", "Bearer "]
    wrong += [
        f"Bearer {token.upper()}",
        f"Bearer x {token}",
        f"Bearer {token}\0",
        "\udcff",
        "Bearer \udcff",
        "é" * 9000,
    ]
    for header in wrong:
        with pytest.raises(Unauthenticated) as caught:
            access.check(Scope.INFER, header)
        assert str(caught.value) == "The token is not known to this server."
        assert access.name_of(header) == ""
    assert access.denied == {Unauthenticated: len(wrong)}


def test_only_good_tokens_are_remembered_and_not_for_ever_many(access, token, monkeypatch):
    monkeypatch.setattr(module, "_MAX_KNOWN", 10)
    for spaces in range(100):
        access.check(Scope.INFER, f"Bearer {' ' * spaces}{token}")
        with pytest.raises(Unauthenticated):
            access.check(Scope.INFER, f"Bearer {spaces}")
    assert 0 < len(access._known) <= 10


def test_a_token_is_found_once_and_then_remembered(access, token, monkeypatch):
    header = f"Bearer {token}"
    access.check(Scope.INFER, header)
    monkeypatch.setattr(type(access.files.value), "find", lambda *_: pytest.fail("it was found before"))
    assert access.check(Scope.INFER, header).name == access.name_of(header) == "frontend"


def test_a_token_that_is_taken_out_is_refused_and_a_new_one_let_in(access, path, token):
    access.check(Scope.INFER, f"Bearer {token}")
    other, line = make_token("other", [Scope.INFER])
    path.write_text(f"{line}\n")
    reload(access)
    with pytest.raises(Unauthenticated):
        access.check(Scope.INFER, f"Bearer {token}")
    assert access.check(Scope.INFER, f"Bearer {other}").name == "other"


def test_a_token_whose_scopes_change_has_the_new_ones(access, path, token):
    access.check(Scope.INFER, f"Bearer {token}")
    path.write_text(f"frontend read sha256:{hashlib.sha256(token.encode()).hexdigest()}\n")
    reload(access)
    access.check(Scope.READ, f"Bearer {token}")
    with pytest.raises(NotPermitted):
        access.check(Scope.INFER, f"Bearer {token}")


def test_a_broken_file_changes_nothing_and_an_empty_one_locks_everybody_out(access, path, token):
    path.write_text("nonsense\n")
    for _ in range(3):
        reload(access)
    assert access.files.stale
    access.check(Scope.INFER, f"Bearer {token}")
    path.write_text("")
    reload(access)
    assert not access.files.stale
    with pytest.raises(Unauthenticated):
        access.check(Scope.INFER, f"Bearer {token}")


def test_it_does_not_begin_without_a_file(tmp_path):
    with pytest.raises(StartError, match="cannot be read"):
        Access(tmp_path / "nowhere")
