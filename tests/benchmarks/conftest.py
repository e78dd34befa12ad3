"""A comparison as benchmarks/compare.py writes it, with figures that are easy to check."""

import copy
from typing import Any

import pytest

WINDOW = {
    "requests": 1000,
    "requests_per_second": 1000.0,
    "images_per_second": 1000.0,
    "cpu_us": 100.0,
    "p50_ms": 1.0,
    "p99_ms": 2.0,
    "server_busy": 0.9,
    "stolen": 0.0,
    "others": 0.01,
    "tries": 1,
}
RATES = {"conveyor-h2": 40_000.0, "conveyor-grpcio": 3_000.0, "triton": 15_000.0, "mosec": 30_000.0, "kserve": 2_000.0}
FOLDERS = ("conveyor", "triton", "mosec", "kserve")


def window(**figures: float) -> dict[str, float]:
    return {**WINDOW, **figures}


def one_round(rate: float) -> dict[str, Any]:
    return {
        "start_seconds": 1.0,
        "idle_mib": 100.0,
        "loaded_mib": 150.0,
        "rows": {
            "single-1": window(p50_ms=1e3 / rate),
            "single-32": window(),
            "single-64": window(requests_per_second=rate, cpu_us=0.5e6 / rate),
            "batch-8": window(images_per_second=2 * rate),
            "batch-32": window(images_per_second=5 * rate),
            "batch-1000": window(images_per_second=6 * rate),
        },
    }


@pytest.fixture
def raw() -> dict[str, Any]:
    servers = {name: {"rounds": [one_round(rate * factor) for factor in (0.9, 1, 3)]} for name, rate in RATES.items()}
    servers["conveyor-h2"]["with_demo_models"] = [{"start_seconds": 0.5, "idle_mib": 120.0}]
    return copy.deepcopy(
        {
            "commit": "0123456789ab",
            "date": "2026-11-25",
            "machine": {
                "processor": "P",
                "vectors": "avx2",
                "cores": 2,
                "memory_gib": 24,
                "system": "S",
                "kernel": "K",
                "python": "3.11",
            },
            "seconds": 1.5,
            "tries": 3,
            "environments": {folder: {"mib": 200, "packages": {"onnxruntime": "1.32.0"}} for folder in FOLDERS},
            "in_process": [{"1": 60_000.0, "32": 210_000.0, "64": 250_000.0, "1000": 140_000.0}] * 3,
            "servers": servers,
        }
    )


@pytest.fixture
def overload() -> dict[str, Any]:
    point = {
        "factor": 3.0,
        "offered_per_second": 120_000.0,
        "goodput_per_second": 38_000.0,
        "goodput_ratio": 0.95,
        "codes": {"no answer": 10, "OK": 38_000, "UNAVAILABLE": 81_990},
        "answered_p50_ms": 20.0,
        "answered_p99_ms": 90.0,
        "refused_p50_ms": 1.0,
        "sent_late_p99_ms": 0.2,
        "resident_mib_by_second": [100.0] * 60,
        "stolen": 0.0,
        "others": 0.0,
        "ended": "",
    }
    ours = {
        "sustainable_per_second": 40_000.0,
        "curve": [point | {"factor": 0.5}, point],
        "minute": point | {"server_refusal_p50_ms": 0.5},
    }
    triton = {"sustainable_per_second": 15_000.0, "curve": [point | {"ended": "ended by SIGSEGV", "codes": {"OK": 1}}]}
    tutorial = {"deadline_ms": 100.0, "servers": {"conveyor-h2": ours, "triton": triton}}
    return {"commit": "0123456789ab", "networks": {"tutorial": tutorial}}
