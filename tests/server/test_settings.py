import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conveyor_server import __main__ as entry
from conveyor_server.core.errors import StartError
from conveyor_server.engine.providers import ExecutionProvider
from conveyor_server.settings import Settings, describe_settings

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def parse(monkeypatch):
    """The settings that a command line results in, without a server."""
    seen = []

    async def remember(settings):
        seen.append(settings)

    monkeypatch.setattr(entry, "_run", remember)
    for name in [name for name in os.environ if name.startswith("CONVEYOR_")]:
        monkeypatch.delenv(name)

    def parse(*arguments):
        entry.command_line.config = entry._environment
        with pytest.raises(SystemExit) as stopped:
            entry.main([*map(str, arguments)])
        return seen[-1] if stopped.value.code == 0 else stopped.value.code

    return parse


def test_without_anything_the_defaults(parse):
    assert parse() == Settings()


def test_a_flag_beats_a_variable_beats_the_file_beats_the_default(parse, tmp_path, monkeypatch):
    file = tmp_path / "conveyor.toml"
    file.write_text('grpc_port = 1\nhttp_port = 2\nmax_batch_size = 3\nexecution_provider = "cpu"\n')
    monkeypatch.setenv("CONVEYOR_HTTP_PORT", "20")
    monkeypatch.setenv("CONVEYOR_MAX_BATCH_SIZE", "30")
    settings = parse("--config", file, "--max-batch-size", 300)
    assert (settings.grpc_port, settings.http_port, settings.max_batch_size) == (1, 20, 300)
    assert settings.execution_provider is ExecutionProvider.CPU


def test_the_file_can_be_named_by_a_variable(parse, tmp_path, monkeypatch):
    file = tmp_path / "conveyor.toml"
    file.write_text("lame_duck_seconds = 0.5\n")
    monkeypatch.setenv("CONVEYOR_CONFIG", str(file))
    assert parse().lame_duck_seconds == 0.5


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--grpc-port", "70000"], "--grpc-port. Must be <= 65535"),
        (["--grpc-prt", "1"], "Did you mean --grpc-port"),
        (["--execution-provider", "gpu"], "Choose from"),
        (["--max-batch-size", "0"], "Must be > 0"),
        (["models"], "Unused Tokens"),
        (["--config", "nowhere.toml"], "nowhere.toml"),
    ],
)
def test_a_wrong_setting_is_wrong_usage(parse, capsys, arguments, text):
    assert parse(*arguments) == 2
    captured = capsys.readouterr()
    output = captured.out + captured.err
    assert text in " ".join(output.replace("│", " ").split())


def test_an_unknown_key_of_the_file_is_named(parse, tmp_path, capsys):
    file = tmp_path / "conveyor.toml"
    file.write_text("grpc_prt = 1\n")
    assert parse("--config", file) == 2
    captured = capsys.readouterr()
    assert "grpc_prt" in captured.out + captured.err


def test_settings_that_contradict_each_other_are_refused(parse, capsys):
    with pytest.raises(StartError, match="largest request could never be queued"):
        Settings(max_batch_size=100, max_queue_rows=50)
    assert parse("--max-batch-size", 100, "--max-queue-rows", 50) == 1
    assert "conveyor-server: max_queue_rows (50) is smaller than max_batch_size (100)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"tls_certificate": "c"}, "come together; one of them is missing"),
        ({"tls_key": "k"}, "come together; one of them is missing"),
        ({"tls_client_authority": "a"}, "--tls-client-authority needs --tls-certificate"),
    ],
)
def test_tls_is_asked_for_whole(settings, text):
    with pytest.raises(StartError, match=text):
        Settings(**settings)


@pytest.mark.parametrize("value", ["true", "1", "yes"])
def test_a_flag_can_be_set_by_a_variable(parse, monkeypatch, value):
    monkeypatch.setenv("CONVEYOR_INSECURE", value)
    assert parse().insecure
    assert parse("--insecure").insecure


def test_a_token_is_made_by_a_command_of_its_own(parse, tmp_path, capsys, monkeypatch):
    file = tmp_path / "tokens"
    monkeypatch.setenv("CONVEYOR_NAME", "not-a-setting")
    with pytest.raises(SystemExit) as stopped:
        entry.main(["token", "frontend", "--scope", "read"])
    shown = capsys.readouterr()
    assert stopped.value.code == 0
    assert re.fullmatch(r"conveyor_[\w-]{43}\n", shown.out), "nothing else, so that it can be piped"
    assert re.search(r"^frontend read sha256:[0-9a-f]{64}$", shown.err, re.MULTILINE)
    for name in ("frontend", "other"):
        with pytest.raises(SystemExit):
            entry.main(["token", name, "--append", str(file)])
    assert [line.split()[:2] for line in file.read_text().splitlines()] == [
        ["frontend", "infer,read"],
        ["other", "infer,read"],
    ]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["two words"], "conveyor-server: a name has up to 64 letters"),
        (["x", "--append", "nowhere/tokens"], "'nowhere/tokens' cannot be written to: No such file or directory."),
    ],
)
def test_a_token_that_cannot_be_made(capsys, arguments, text):
    with pytest.raises(SystemExit) as stopped:
        entry.main(["token", *arguments])
    shown = capsys.readouterr()
    assert (stopped.value.code, shown.out) == (1, "")
    assert text in shown.err


def test_every_setting_has_a_help_text_of_its_own():
    rows = list(describe_settings())
    assert len(rows) == len(dataclasses.fields(Settings))
    assert len({row.help for row in rows}) == len(rows)
    assert all(row.help.endswith(".") for row in rows)


def test_the_readme_has_the_table_of_settings():
    table = ["| flag | environment variable | default | |", "|---|---|---|---|"]
    table += [f"| `{row.flag}` | `{row.variable}` | `{row.default}` | {row.help} |" for row in describe_settings()]
    text = README.read_text()
    assert "\n".join(table) in text, "README.md is out of date; its table should be:\n" + "\n".join(table)


def test_help_needs_no_runtime():
    code = "import sys; sys.modules['onnxruntime'] = None; sys.argv = ['conveyor-server', '--help']\n"
    code += "from conveyor_server.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.search(r"--execution-provider", done.stdout)


def test_without_a_runtime_the_error_says_what_to_install(tmp_path):
    code = "import sys; sys.modules['onnxruntime'] = None; sys.argv = ['conveyor-server']\n"
    code += "from conveyor_server.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "conveyor-server: onnxruntime is not installed. Install 'conveyor-server[cpu]' or, for CUDA, "
        "'conveyor-server[gpu]'.\n"
    )
