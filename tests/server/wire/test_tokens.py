import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conveyor_server.core.errors import StartError
from conveyor_server.wire import tokens as module
from conveyor_server.wire.tokens import Caller, Scope, Tokens, make_token, read_tokens

A, B = ("a" * 43, "b" * 43)


def line(name, scopes, token):
    return f"{name} {scopes} sha256:{hashlib.sha256(token.encode()).hexdigest()}"


def written(tmp_path, *lines):
    path = tmp_path / "tokens"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_new_token_is_found_by_its_line(tmp_path):
    token, made = make_token("front.end-1", [Scope.READ, Scope.INFER, Scope.READ])
    assert re.fullmatch(r"conveyor_[\w-]{43}", token), "256 bits, safe in a header and a shell"
    assert re.fullmatch(r"front\.end-1 infer,read sha256:[0-9a-f]{64}", made)
    assert token not in made
    found = read_tokens(written(tmp_path, made)).find(token)
    assert found == Caller("front.end-1", frozenset({Scope.INFER, Scope.READ}))


def test_no_two_tokens_are_the_same():
    assert len({make_token("x", [Scope.READ])[0] for _ in range(100)}) == 100


def test_comments_and_empty_lines_are_no_tokens(tmp_path):
    path = written(tmp_path, "# who may", "", "   ", line("a", "infer", A) + "  # since spring", line("b", "admin", B))
    tokens = read_tokens(path)
    assert len(tokens) == 2
    assert tokens.find(A).name == "a"
    assert tokens.find(B).scopes == {Scope.ADMIN}


def test_two_tokens_may_have_one_name_while_one_follows_the_other(tmp_path):
    tokens = read_tokens(written(tmp_path, line("a", "infer", A), line("a", "infer", B)))
    assert tokens.find(A) == tokens.find(B)


def test_a_file_may_let_in_nobody(tmp_path):
    assert len(read_tokens(written(tmp_path, "# nobody"))) == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a infer", "line 2: expected a name, scopes and a hash, got 2 words"),
        (line("a", "infer, read", A), "line 2: expected a name, scopes and a hash, got 4 words"),
        (line("a", "write", A), "line 2: expected scopes out of infer, read, admin"),
        (line("a", "infer,", A), "line 2: expected scopes out of infer, read, admin"),
        (line("ä", "infer", A), "line 2: a name has up to 64 letters"),
        (line("a" * 65, "infer", A), "line 2: a name has up to 64 letters"),
        (line("a", "infer", A)[:-1], "line 2: expected a hash of the form sha256:<64 hex digits>"),
        (f"a infer {A}", "line 2: expected a hash of the form"),
        (line("a", "infer", A).replace("sha256", "md5"), "line 2: expected a hash of the form"),
        (line("a", "infer", A).upper(), "line 2: expected scopes"),
        (line("a", "infer", A) + "\n" + line("b", "read", A), "line 3: the same token as in a line before"),
        ("x" * 2**20, "is larger than 1048576 bytes"),
        ("\n".join(line(f"n{i}", "read", f"t{i}") for i in range(1001)), "has 1001 tokens; 1000 are the limit"),
    ],
)
def test_a_wrong_line_is_named_and_not_shown(tmp_path, text, reason):
    with pytest.raises(StartError, match=re.escape(reason)) as caught:
        read_tokens(written(tmp_path, "# a comment", text))
    assert A not in str(caught.value), "someone may have put the token itself there"


def test_a_file_that_is_not_there_or_not_text(tmp_path):
    with pytest.raises(StartError, match="The file of tokens cannot be read"):
        read_tokens(tmp_path / "nowhere")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(StartError, match="The file of tokens cannot be read"):
        read_tokens(tmp_path / "bytes")


@pytest.mark.parametrize(("name", "scopes"), [("two words", [Scope.READ]), ("", [Scope.READ]), ("fine", []), ("#", [])])
def test_a_token_that_could_not_stand_in_the_file_is_not_made(name, scopes):
    with pytest.raises(StartError):
        make_token(name, scopes)


@given(st.text())
def test_any_text_is_no_token(text):
    tokens = Tokens([(hashlib.sha256(A.encode()).digest(), Caller("a", frozenset(Scope)))])
    assert tokens.find(text) is None


def test_every_hash_is_compared_in_constant_time_and_none_left_out(monkeypatch):
    compared = []

    def remember(known, given):
        compared.append((known, given))
        return known == given

    monkeypatch.setattr(module.hmac, "compare_digest", remember)
    entries = [(hashlib.sha256(token.encode()).digest(), Caller(token, frozenset())) for token in ("x", "y", "z")]
    for wanted in ("x", "z", "nobody"):
        compared.clear()
        Tokens(entries).find(wanted)
        assert [known for known, _ in compared] == [digest for digest, _ in entries], "a match ends no comparison early"
        assert all(len(given) == 32 for _, given in compared), "of hashes, whose length says nothing"
