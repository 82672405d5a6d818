"""The validation of a model card's metadata, as the hub does it."""

from __future__ import annotations

import re

import yaml

# Licences, languages and names as the hub's documentation of model cards gives them (a part of the lists).
LICENSES = ("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "bsd-3-clause", "gpl-3.0", "other", "unknown")
REPO_NAME = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")


def card_problems(content: str) -> list[str]:
    """What the hub's validation finds wrong in the metadata of a README.md, as far as its rules are documented."""
    match = re.match(r"\s*---\r?\n(.*?)\r?\n---", content, re.DOTALL)
    if match is None:
        return []
    try:
        data = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [f"YAML Metadata Error: {error}"]
    if not isinstance(data, dict):
        return ['"metadata" must be of type object']
    found = []

    def texts(key: str) -> list:
        values = data.get(key, [])
        values = [values] if isinstance(values, str) else values
        if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
            found.append(f'"{key}" must be a string or an array of strings')
            return []
        return values

    for key in ("tags", "metrics", "language", "license", "datasets", "base_model"):
        values = texts(key)
        if len(set(values)) < len(values):
            found.append(f'"{key}" contains a duplicate value')
    found += [f'"license" must be one of {LICENSES}' for each in texts("license") if each not in LICENSES]
    if data.get("license") == "other" and data.get("license_name") is None:
        found.append('"license_name" is required when license is other')
    wrong = [each for each in texts("language") if not re.fullmatch(r"[a-z]{2,3}|code|multilingual", each)]
    found += [f'"language" must be an ISO 639 code, not {each}' for each in wrong]
    for key in ("datasets", "base_model"):
        found += [f'"{key}" with value "{v}" is not valid' for v in texts(key) if not REPO_NAME.fullmatch(v)]
    for key in ("library_name", "pipeline_tag"):
        if key in data and not isinstance(data[key], str):
            found.append(f'"{key}" must be a string')
    emitted = data.get("co2_eq_emissions", 0)
    grams = emitted.get("emissions") if isinstance(emitted, dict) else emitted
    if not isinstance(grams, (int, float)):
        found.append('"co2_eq_emissions" must be a number of grams, or an object with "emissions"')
    return found + (_index_problems(data["model-index"]) if "model-index" in data else [])


def _index_problems(index) -> list[str]:
    """What is wrong in `model-index`."""
    if not isinstance(index, list):
        return ['"model-index" must be an array']
    found = []
    for i, model in enumerate(index):
        where = f"model-index[{i}]"
        if not isinstance(model, dict) or not isinstance(model.get("name"), str) or not model["name"]:
            found.append(f'"{where}.name" is required')
            continue
        if not isinstance(model.get("results"), list):
            found.append(f'"{where}.results" must be an array')
            continue
        for j, result in enumerate(model["results"]):
            place = f"{where}.results[{j}]"
            for key, parts in {"task": ("type",), "dataset": ("type", "name")}.items():
                value = result.get(key)
                missing = [part for part in parts if not isinstance(value, dict) or not value.get(part)]
                found += [f'"{place}.{key}.{part}" is required' for part in missing]
            metrics = result.get("metrics")
            if not isinstance(metrics, list) or not metrics:
                found.append(f'"{place}.metrics" must be a non-empty array')
                continue
            for k, metric in enumerate(metrics):
                found += [
                    f'"{place}.metrics[{k}].{part}" is required' for part in ("type", "value") if part not in metric
                ]
                if isinstance(metric.get("value"), float) and metric["value"] != metric["value"]:
                    found.append(f'"{place}.metrics[{k}].value" must be a number')
    return found
