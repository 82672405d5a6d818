"""Malformed recipes: each is read as a recipe that holds together, or refused with file (or command line) and key."""

from __future__ import annotations

import copy
import json

import pytest
import yaml
from hypothesis import given, strategies as st
from malformed import GOOD, places, tries, untouched

from mtbert.recipe import Recipe, RecipeError, load_recipe

KEYS = sorted({*GOOD, *GOOD["training"], *GOOD["tasks"]["sst"], *GOOD["tasks"]["sst"]["data"], "smart", "peft", "base"})
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**12, -(10**12), 10**400, 2**63, 1e308, -0.0, 1e-320]),
    st.floats(),
    st.sampled_from(["", "1e-5", "1e999999999", "-", "null", "../../x", "~", "<<", "*a", "a" * 5000, "☃", "é\u0301"]),
    st.text(max_size=8),
    st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=3)), max_size=3),
    st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), st.integers() | st.none(), max_size=2),
    st.just([[[]]]),
)


@st.composite
def trees(draw) -> dict:
    """A good recipe with up to four things wrong: a value, a key, a level, a copy in another place."""
    tree = copy.deepcopy(GOOD)
    for _ in range(draw(st.integers(1, 4))):
        path = draw(st.sampled_from(places(tree) or [("encoder",)]))
        node = tree
        for key in path[:-1]:
            node = node[key]
        key, how = path[-1], draw(st.sampled_from(["value", "value", "value", "drop", "rename", "nest", "move"]))
        if how == "value" or isinstance(node, list):
            node[key] = copy.deepcopy(draw(VALUES))
        elif how == "drop":
            del node[key]
        elif how == "rename":
            node[draw(st.sampled_from(KEYS) | st.text(max_size=8))] = node.pop(key)
        elif how == "nest":
            node[key] = draw(st.sampled_from([[node[key]], {key: node[key]}, {"a": {"b": node[key]}}]))
        else:
            tree[draw(st.sampled_from(KEYS))] = copy.deepcopy(node[key])
    return tree


SNIPPETS = [
    "&a",
    "*a",
    "<<: *a",
    "!!int x",
    "!!binary x",
    "!!set {a}",
    "!!timestamp 2020-01-01",
    "!!python/object/apply:os.system [echo]",
    "!x y",
    "? [a]: b",
    "%YAML 9.9\n---\n",
    "---\n",
    "\t",
    "\0",
    "\x85",
    "\ufeff",
    "{",
    "[",
    "'",
    '"',
    ": ",
    "- ",
    "|",
    ">",
    "#",
    "0x1F",
    "1_000",
    "9" * 5000,
    "[" * 2000,
]


@st.composite
def texts(draw) -> bytes:
    """The YAML of a good recipe with pieces put in, cut out or doubled, as bytes of some encoding."""
    text = yaml.safe_dump(GOOD, sort_keys=False)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        to = draw(st.integers(at, min(len(text), at + 60)))
        piece = draw(st.sampled_from(SNIPPETS) | st.just(text[at:to]) | st.text(max_size=3))
        text = text[:at] + piece + text[draw(st.sampled_from([at, to])) :]
    raw = text.encode("utf-8", "surrogatepass")
    how = draw(st.sampled_from(["as it is"] * 6 + ["utf-16", "latin-1", "cut", "crlf", "flipped"]))
    if how == "utf-16" or how == "latin-1":
        return text.encode(how, "replace")
    if how == "cut":
        return raw[: draw(st.integers(0, len(raw)))]
    if how == "flipped" and raw:
        at = draw(st.integers(0, len(raw) - 1))
        return raw[:at] + bytes([raw[at] ^ draw(st.integers(1, 255))]) + raw[at + 1 :]
    return raw.replace(b"\n", b"\r\n") if how == "crlf" else raw


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("recipes")


def attempt(tally, folder, content: bytes, overrides=()) -> None:
    path = folder / "recipe.yaml"
    path.write_bytes(content)
    with untouched(folder):
        found = tally.judge(lambda: load_recipe(path, overrides), str(path), "command line", allowed=(RecipeError,))
        if isinstance(found, Recipe):
            tree = json.loads(json.dumps(found.to_dict(), allow_nan=False))
            assert Recipe.from_dict(tree) == found
            for stage in found.in_stages():
                tally.judge(
                    lambda stage=stage: stage.training_arguments(use_cpu=True), "training", allowed=(RecipeError,)
                )


@tries(40)
@given(tree=trees())
def test_trees(tally, folder, tree):
    attempt(tally, folder, yaml.safe_dump(tree, allow_unicode=True, sort_keys=False).encode("utf-8", "surrogatepass"))


@tries(40)
@given(content=texts())
def test_texts(tally, folder, content):
    attempt(tally, folder, content)


@tries(40)
@given(data=st.data())
def test_command_lines(tally, folder, data):
    paths = [".".join(map(str, path)) for path in places(GOOD)]
    argument = st.builds(
        lambda key, glue, value: f"--{key}{glue}{value}",
        st.sampled_from(paths) | st.text(max_size=6),
        st.sampled_from(["=", "=", "=", ".", "..", ""]),
        st.sampled_from(SNIPPETS) | VALUES.map(lambda value: json.dumps(value)) | st.text(max_size=5),
    )
    overrides = data.draw(st.lists(argument, min_size=1, max_size=3))
    attempt(tally, folder, yaml.safe_dump(GOOD, sort_keys=False).encode(), overrides)
