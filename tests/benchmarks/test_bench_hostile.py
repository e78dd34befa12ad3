"""The attacks of hostile clients, and the page about them."""

import itertools
import json

import hostile
import pytest

from harness.attacks.attack import Prey
from harness.attacks.catalogue import ATTACKS
from harness.attacks.frames import greeting
from harness.environments import ROOT

PREY = Prey(b"request", 2**20, 1.0)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_sends_and_pauses(name):
    script = ATTACKS[name].script(PREY, 0)
    steps = list(itertools.islice(script, 50))
    assert all(isinstance(step, float | int) or len(step) > 0 for step in steps)
    sent = b"".join(step for step in steps if isinstance(step, bytes))
    if name not in ("garbage", "mute", "nothing"):
        assert sent.startswith(greeting()[:24]), "it begins as a client of HTTP/2 does"


def found(calm, under, lost=0):
    newcomers = {"p50": 1.0, "worst": 2.0, "asked": 10, "lost": 0}
    return {
        "calm": {"p50": 0.5, "p99": calm, "asked": 100, "lost": 0, "newcomers": newcomers},
        "under": {"p50": 0.5, "p99": under, "asked": 100, "lost": lost, "newcomers": newcomers},
        "mib": 180.0, "most_mib": 190.0, "server_busy_under": 0.1, "stolen": 0.0, "others": 0.25,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("calm", "under", "lost", "good"),
    [(1.0, 2.0, 0, True), (1.0, 2.1, 0, False), (1.0, 1.0, 1, False), (1.0, None, 100, False)],
)
def test_twice_the_usual_is_the_bound_and_nothing_may_be_lost(calm, under, lost, good):
    assert hostile.holds(found(calm, under, lost)) is good
    table = hostile.table({"servers": {"conveyor-h2": {"pings": found(calm, under, lost)}}}, "conveyor-h2", True)
    assert table.rows[0][-1] == ("yes" if good else "no")


def test_what_is_promised_is_in_the_catalogue():
    assert set(hostile.SHOWN_FIRST) <= set(ATTACKS)


def test_the_page_in_docs_is_made_of_the_results_beside_it():
    results = json.loads((ROOT / "docs" / "benchmarks" / "hostile.json").read_text())
    page = (ROOT / "docs" / "hostile-clients.md").read_text()
    assert page == hostile.page(results), "changed by hand, or not made anew: python benchmarks/hostile.py --page"
