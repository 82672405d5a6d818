"""The CPU's benchmark leaves out what the processor has no instructions for, and the README shows its results."""

import json
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bench(monkeypatch):
    """The module `bench` of the benchmarks, which are no package."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import bench

    yield bench
    for name in ("bench", "measure"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("capability", "flags", "instructions", "bf16"),
    [
        ("AVX2", {"avx2"}, "avx2", False),
        ("AVX512", {"avx2", "avx512f"}, "avx512", False),
        ("AVX512", {"avx2", "avx512f", "avx512_bf16"}, "avx512", True),
        ("AVX512", {"avx512_bf16", "amx_tile", "amx_bf16"}, "amx", True),
        ("AVX2", {"avx512_bf16", "amx_tile", "amx_bf16"}, "avx2", False),  # a wider processor, held to AVX2
    ],
)
def test_bf16_is_measured_where_there_are_instructions(bench, monkeypatch, capability, flags, instructions, bf16):
    import measure

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(measure, "cpu_flags", lambda: flags)
    assert measure.instruction_set() == instructions
    console = Console(record=True, quiet=False, width=200)
    assert bench.precisions(None, console) == (["fp32", "bf16"] if bf16 else ["fp32"])
    assert ("bf16 is left out" in console.export_text()) != bf16
    assert bench.precisions(["bf16"], console) == ["bf16"]


@pytest.fixture
def readme_table(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import readme_table

    return readme_table


def test_the_readme_shows_the_stored_results(readme_table):
    shown = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = shown.split("<!-- speed: python benchmarks/readme_table.py -->\n")[1].split("\n<!-- end -->")[0]
    assert shown == readme_table.table(readme_table.ratios())


def test_every_processor_has_a_column_for_each_precision(readme_table, tmp_path):
    training = {"padded": {"mtbert is × as fast": 3.14}}
    (tmp_path / "avx2.json").write_text(json.dumps({"fp32": {"training": training}}))
    (tmp_path / "amx.json").write_text(json.dumps({name: {"training": training} for name in ("fp32", "bf16")}))
    columns = readme_table.ratios(tmp_path)
    assert [*columns] == ["AVX2, fp32", "AMX, fp32", "AMX, bf16"]
    assert "| 3.14 × | 3.14 × | 3.14 × |" in readme_table.table(columns)
