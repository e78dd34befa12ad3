"""The renderer of the tests, against the facts and, where it is installed, against the real tool."""

import shutil
import subprocess

import pytest
import yaml

from support.kustomize import merge, render


def by_identity(objects):
    return {(thing["kind"], thing["metadata"]["name"]): thing for thing in objects}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_it_renders_what_kubectl_renders(folders, installations):
    for name, folder in folders.items():
        command = ["kubectl", "kustomize", str(folder)]
        real = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        assert by_identity(installations[name]) == by_identity(yaml.safe_load_all(real)), name


def test_maps_merge_and_null_removes():
    assert merge({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"c": 4, "d": None}, "e": 5}) == {"a": 1, "b": {"c": 4}, "e": 5}


def test_named_items_merge_and_those_of_the_patch_come_first():
    base = {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}
    patch = {"env": [{"name": "B", "value": "3"}, {"name": "C", "value": "4"}]}
    assert [(item["name"], item["value"]) for item in merge(base, patch)["env"]] == [("B", "3"), ("C", "4"), ("A", "1")]


def test_other_lists_are_replaced_whole():
    assert merge({"args": ["a", "b"]}, {"args": ["c"]}) == {"args": ["c"]}


def test_what_it_does_not_know_is_an_error(tmp_path):
    (tmp_path / "kustomization.yaml").write_text("configMapGenerator: []\n")
    with pytest.raises(NotImplementedError, match="configMapGenerator"):
        render(tmp_path)


def test_a_patch_that_fits_nothing_is_an_error(tmp_path):
    (tmp_path / "kustomization.yaml").write_text("patches:\n  - path: patch.yaml\n")
    (tmp_path / "patch.yaml").write_text("apiVersion: v1\nkind: Service\nmetadata:\n  name: lost\n")
    with pytest.raises(LookupError, match="lost"):
        render(tmp_path)
