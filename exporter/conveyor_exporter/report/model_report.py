"""Owns what the commands inspect and diff say about ONNX files: as text, as JSON. Runs no model."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from conveyor_exporter.onnx_file.comparison import Difference, differences
from conveyor_exporter.onnx_file.inspection import LayerDescription, describe_layers, describe_value
from conveyor_exporter.onnx_file.model_file import ModelFile, printable, read_model

LONGEST = 100  # characters of a value in a table


def inspect_model(path: Path) -> dict[str, Any]:
    """Return what an ONNX file is: signature, metadata, layers, totals; of what JSON can hold.

    Raises:
        ModelFileRefused: the file cannot be read as ONNX.
    """
    file = read_model(path)
    model, graph = file.model, file.model.graph
    constants = {tensor.name for tensor in graph.initializer}
    layers = describe_layers(model)
    return {
        "file": {"path": str(path), "bytes": file.size, "sha256": file.sha256},
        "versions": {
            "ir": model.ir_version,
            "opsets": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
            "producer": f"{model.producer_name} {model.producer_version}".strip(),
        },
        "inputs": [_as_dict(describe_value(value)) for value in graph.input if value.name not in constants],
        "outputs": [_as_dict(describe_value(value)) for value in graph.output],
        "metadata": {entry.key: _parsed(entry.value) for entry in model.metadata_props},
        "layers": [_as_dict(layer) for layer in layers],
        "totals": {
            "nodes": len(graph.node),
            "parameters": sum(layer.parameters for layer in layers),
            "multiply_adds": _total(layer.multiply_adds for layer in layers),
            "activation_bytes": _total(layer.activation_bytes for layer in layers),
        },
    }


def print_inspection(console: Console, path: Path, as_json: bool) -> None:
    """Say what an ONNX file is.

    Raises:
        ModelFileRefused: the file cannot be read as ONNX.
    """
    found = inspect_model(path)
    if as_json:
        console.out(json.dumps(found, indent=2), highlight=False)
        return
    file, versions = found["file"], found["versions"]
    opsets = ", ".join(f"{domain} {version}" for domain, version in versions["opsets"].items())
    lines = [f"{path}  {file['bytes']:,} bytes", f"sha256     {file['sha256']}"]
    lines.append(f"versions   IR {versions['ir']}, opset {opsets}, by {versions['producer'] or 'an unknown program'}")
    lines += [f"{kind:9}  {_value(value)}" for kind in ("inputs", "outputs") for value in found[kind]]
    lines += ["", *_metadata_lines(found["metadata"]), ""] if found["metadata"] else [""]
    lines += _layer_table([LayerDescription(**layer) for layer in found["layers"]], found["totals"])
    for line in lines:
        console.out(printable(line), highlight=False)


def print_differences(console: Console, first: Path, second: Path, as_json: bool) -> bool:
    """Say in what two ONNX files differ, and return whether they do.

    Raises:
        ModelFileRefused: a file cannot be read as ONNX.
    """
    files = [read_model(path) for path in (first, second)]
    found = differences(files[0].model, files[1].model)
    if as_json:
        report = {"equal": not found, "files": [_file(file) for file in files]}
        console.out(json.dumps(report | {"differences": [_as_dict(each) for each in found]}, indent=2), highlight=False)
        return bool(found)
    lines = [
        f"{sign} {file.path}  {file.size:,} bytes  sha256 {file.sha256}" for sign, file in zip("-+", files, strict=True)
    ]
    for kind in dict.fromkeys(each.kind for each in found):
        lines += ["", kind, *(line for each in found if each.kind == kind for line in _difference_lines(each))]
    if not found:
        same = files[0].sha256 == files[1].sha256
        lines.append("the same bytes" if same else "the same model; the files differ only in order or in notes")
    for line in lines:
        console.out(printable(line), highlight=False)
    return bool(found)


def _difference_lines(each: Difference) -> list[str]:
    if each.largest is not None:
        return [f"  {each.what}  {each.first}  largest difference {each.largest:.2e}"]
    sides = [f"    {sign} {_short(side)}" for sign, side in (("-", each.first), ("+", each.second)) if side]
    return [f"  {each.what}", *sides]


def _layer_table(layers: Sequence[LayerDescription], totals: dict[str, Any]) -> list[str]:
    rows: list[tuple[str, ...]] = [("layer", "operators", "output", "parameters", "multiply-adds", "activation bytes")]
    for layer in layers:
        shape = "?" if layer.output_shape is None else "x".join(map(str, layer.output_shape))
        numbers = map(_number, (layer.parameters, layer.multiply_adds, layer.activation_bytes))
        rows.append((layer.name, " ".join(layer.operators), shape, *numbers))
    totals_of = (totals["parameters"], totals["multiply_adds"], totals["activation_bytes"])
    rows.append(("in all", f"{totals['nodes']} nodes", "", *map(_number, totals_of)))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    return [
        "  ".join(
            cell.ljust(width) if column < 3 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _metadata_lines(metadata: dict[str, Any]) -> list[str]:
    width = max(map(len, metadata))
    return [
        f"{key.ljust(width)}  {_short(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))}"
        for key, value in metadata.items()
    ]


def _parsed(text: str) -> Any:
    """Return the list or the object that a value holds as JSON; other values stay text."""
    if text[:1] not in ("[", "{"):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _as_dict(each: Any) -> dict[str, Any]:
    return dataclasses.asdict(each)


def _file(file: ModelFile) -> dict[str, Any]:
    return {"path": str(file.path), "bytes": file.size, "sha256": file.sha256}


def _value(value: dict[str, Any]) -> str:
    shape = "of any shape" if value["shape"] is None else f"[{', '.join(map(str, value['shape']))}]"
    return f"{value['name']}  {value['dtype']} {shape}"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _number(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _total(numbers: Iterable[int | None]) -> int | None:
    known = list(numbers)
    return None if None in known else sum(number for number in known if number is not None)
