"""Renders the part of kustomize that our manifests keep to, so that tests need no cluster tools.

Resources, components, patches from files (strategic merge, or JSON's `add` to what a target selects), images and
namespace. Anything else is an error.
"""

import copy
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

_KEYS = {"apiVersion", "kind", "resources", "components", "patches", "images", "namespace"}
_MERGE_KEYS = {"containers": "name", "initContainers": "name", "volumes": "name", "env": "name"}
_MERGE_KEYS |= {"volumeMounts": "mountPath", "ports": "containerPort"}
"""Lists of a pod whose items are merged by a key. All others are replaced whole, as Kubernetes does with them."""
_SERVICE_PORTS = "port"
"""The key of a Service's ports, which have another one than those of a container."""
_UNKNOWN = {"imagePullSecrets", "hostAliases", "ephemeralContainers", "topologySpreadConstraints"}
"""Lists that Kubernetes merges by a key and this renderer does not."""
_WITHOUT_NAMESPACE = {"Namespace"}


def render(folder: Path) -> list[Object]:
    """What `kubectl kustomize FOLDER` prints, in the order of the files."""
    return _build(folder.resolve(), [])


def read(path: Path) -> list[Object]:
    """The documents of one YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def merge(base: Any, patch: Any) -> Any:
    """A strategic merge: maps by key, null removes, lists by their merge key (the patch's first) or whole."""
    if not isinstance(base, dict) or not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(base)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, list) and isinstance(result.get(name), list):
            result[name] = _merge_lists(name, result[name], value)
        else:
            result[name] = merge(result.get(name, {}), value)
    return result


def _merge_lists(name: str, base: list[Any], patch: list[Any]) -> list[Any]:
    if name in _UNKNOWN:
        raise NotImplementedError(f"patching the list {name}")
    if not (key := _MERGE_KEYS.get(name)):
        return copy.deepcopy(patch)
    if name == "ports" and all(key not in item for item in base):
        key = _SERVICE_PORTS
    theirs = {item[key]: item for item in base}
    merged = [merge(theirs.pop(item[key], {}), item) for item in patch]
    return merged + list(theirs.values())


def _build(folder: Path, inherited: list[Object]) -> list[Object]:
    """The objects of a folder; a component goes on with those of the folder that names it."""
    [settings] = read(folder / "kustomization.yaml")
    if unknown := settings.keys() - _KEYS:
        raise NotImplementedError(f"{folder}/kustomization.yaml: {sorted(unknown)}")
    objects = list(inherited)
    for resource in settings.get("resources", []):
        path = folder / resource
        objects += _build(path, []) if path.is_dir() else read(path)
    for component in settings.get("components", []):
        objects = _build((folder / component).resolve(), objects)
    for entry in settings.get("patches", []):
        if entry.keys() not in ({"path"}, {"path", "target"}):
            raise NotImplementedError(f"{folder}/kustomization.yaml: patch {entry}")
        for patch in read(folder / entry["path"]):
            if "target" in entry:
                objects = [_add_to(thing, patch) if _selects(entry["target"], thing) else thing for thing in objects]
            else:
                objects = _apply(objects, patch)
    for thing in objects:
        _set_images(thing, settings.get("images", []))
        if (namespace := settings.get("namespace")) and thing["kind"] not in _WITHOUT_NAMESPACE:
            thing["metadata"]["namespace"] = namespace
    return objects


def _apply(objects: list[Object], patch: Object) -> list[Object]:
    wanted = _identity(patch)
    if [_identity(thing) for thing in objects].count(wanted) != 1:
        raise LookupError(f"the patch of {wanted} fits not exactly one object")
    return [merge(thing, patch) if _identity(thing) == wanted else thing for thing in objects]


def _selects(target: Object, thing: Object) -> bool:
    if target.keys() != {"kind", "name"}:
        raise NotImplementedError(f"target {target}")
    return (thing["kind"], thing["metadata"]["name"]) == (target["kind"], target["name"])


def _add_to(thing: Object, operations: list[Object]) -> Object:
    """The object with values added at the paths of a JSON patch."""
    changed = copy.deepcopy(thing)
    for operation in operations:
        *parents, name = operation["path"].strip("/").split("/")
        if operation["op"] != "add":
            raise NotImplementedError(f"operation {operation}")
        place: Any = changed
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place[part]
        if not isinstance(place, dict):
            raise NotImplementedError(f"adding to a list: {operation}")
        place[name] = copy.deepcopy(operation["value"])
    return changed


def _identity(thing: Object) -> tuple[str, str, str]:
    return thing["apiVersion"], thing["kind"], thing["metadata"]["name"]


def _set_images(thing: Object, images: list[Object]) -> None:
    """As kustomize does it: in containers of workloads, by the name before the tag."""
    pod = thing.get("spec", {}).get("template", {}).get("spec", {})
    for container in pod.get("containers", []) + pod.get("initContainers", []):
        for image in images:
            if container["image"].split(":")[0] == image["name"]:
                container["image"] = f"{image.get('newName', image['name'])}:{image['newTag']}"
