import json
import re
import sys
from pathlib import Path

import pytest

from harness.environments import RIVALS, ROOT
from harness.exporters import rival_process
from harness.results import Comparison, to_text
from harness.rows import ROWS
from harness.servers import SERVERS

sys.path.insert(0, str(ROOT / "benchmarks"))
import report


@pytest.fixture
def folder(tmp_path, raw, overload):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "comparison.json").write_text(to_text(raw))
    (tmp_path / "benchmarks" / "overload.json").write_text(to_text(overload))
    return tmp_path


def test_the_report_shows_the_figures_of_the_results(raw, overload):
    text = report.document(Comparison(raw), overload)
    assert "$" not in text
    assert "nan" not in text
    row = next(line for line in text.splitlines() if line.startswith("| Conveyor, h2 | gRPC |"))
    assert (
        row
        == "| Conveyor, h2 | gRPC | 0.03 | 1,000 | 40,000 | 12.5 | 2.00 | 80,000 | 200,000 | 1.00 | 100 / 150 | 200 |"
    )
    assert "0123456789ab" in text
    assert "| 3 times, ended by SIGSEGV |" in text


def test_a_run_that_is_not_worth_citing_says_so(raw):
    assert "it has 3 rounds, not 5" in report.document(Comparison(raw), None)
    for server in raw["servers"].values():
        server["rounds"] *= 2
    assert "Do not cite" not in report.document(Comparison(raw), None)
    for one in raw["servers"]["kserve"]["rounds"] + raw["servers"]["mosec"]["rounds"]:
        for window in one["rows"].values():
            window["others"] = 0.3
    assert "others used the machine in 72 of 180 measurements" in report.document(Comparison(raw), None)


def test_a_void_row_says_why(raw):
    raw["servers"]["triton"]["rounds"][0]["rows"]["single-64"] = {"void": "3 of 1,000\nrequests | failed"}
    assert "| void: 3 of 1,000 requests / failed |" in report.document(Comparison(raw), None)


def test_what_could_not_be_measured_is_named(raw):
    raw["servers"]["ray"] = {"rounds": [{"unavailable": "it ended with 1"}]}
    assert "- Ray Serve: it ended with 1." in report.document(Comparison(raw), None)


def test_the_same_results_give_the_same_bytes(folder):
    def written() -> dict[str, bytes]:
        report.write(folder)
        return {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    first = written()
    assert len([name for name in first if name.endswith(".svg")]) == 5
    assert first == written()
    assert not any(re.search(rb"<dc:date>|20\d\d-\d\d-\d\dT", data) for name, data in first.items() if "svg" in name)


def test_every_picture_of_the_report_is_written(folder):
    report.write(folder)
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (folder / "benchmarks.md").read_text())
    assert len(pictures) == 5
    assert all((folder / picture).exists() for picture in pictures)


def test_the_page_in_docs_is_made_of_the_results_beside_it():
    data = ROOT / "docs" / "benchmarks"
    found = Comparison(json.loads((data / "comparison.json").read_text()))
    overload = json.loads((data / "overload.json").read_text())
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    assert page == report.document(found, overload), "it was changed by hand, or not made anew: make bench-report"


def test_names_are_unique_and_every_server_can_be_made():
    assert len({server.name for server in SERVERS}) == len(SERVERS)
    assert len({row.name for row in ROWS}) == len(ROWS)
    for server in SERVERS:
        requirements = (RIVALS / server.folder / "requirements.txt").read_text()
        assert server.kind == "ours" or (RIVALS / server.folder / server.script).exists()
        packages = [line for line in requirements.splitlines() if line and line[0] not in "#-"]
        assert all("==" in package for package in packages), "every package is pinned"


def test_every_folder_of_a_rival_is_a_server_or_an_exporter():
    folders = {path.parent.name for path in Path(RIVALS).glob("*/requirements.txt")}
    assert folders == {server.folder for server in SERVERS} | set(rival_process.NAMES)
    for name in rival_process.NAMES:
        assert all("==" in line for line in (RIVALS / name / "requirements.txt").read_text().splitlines())
