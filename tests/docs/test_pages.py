"""What the pages in docs/ say is so: tables that follow from the code, links, and files that they name."""

import re
import subprocess
from pathlib import Path

import pytest

import mtbert
from mtbert.recipe.combinations import combination_tables

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SCALING = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
ENGINES = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))


def test_the_tables_of_what_combines_are_those_of_the_rules():
    """Where they differ, put what `python -m mtbert.recipe.combinations` prints between the two comments."""
    shown = re.search(r"<!-- combinations -->\n(.*?)\n<!-- end -->", SCALING, re.DOTALL)
    assert shown is not None
    assert shown[1].strip() == combination_tables()


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = (heading.lower().strip() for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE))
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s:]+)\)", text):
        target, _, anchor = link.partition("#")
        file = page.parent / target if target else page
        assert file.exists(), link
        assert not anchor or anchor in anchors(file), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_it_names_exist(page):
    text = page.read_text(encoding="utf-8")
    folders, suffixes = "recipes|mtbert|tests|benchmarks|docs", "py|yaml|sbatch|md|mk|ipynb"
    for name in re.findall(rf"(?<![\w/])(?:{folders})/[\w/.]+\.(?:{suffixes})\b", text):
        assert (ROOT / name).exists() or "TOPIC" in name, name


@pytest.mark.parametrize("path", ENGINES, ids=lambda path: path.name)
def test_configs_of_accelerate_are_read_and_named(path):
    from accelerate.commands.config.config_args import load_config_from_file

    text = path.read_text(encoding="utf-8")
    assert load_config_from_file(str(path)).num_processes > 1  # an unknown key is an error
    assert text.startswith("#")
    assert f"recipes/accelerate/{path.name}" in text
    assert f"recipes/accelerate/{path.name}" in SCALING


def test_the_script_for_slurm_is_valid_bash():
    script = ROOT / "recipes" / "slurm" / "finetune.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "--training.resume_from_checkpoint auto" in script.read_text(encoding="utf-8")


def test_the_examples_of_sources_run(encoder_dir, tmp_path, monkeypatch):
    """The recipe and the Python of docs/sources.md train."""
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "sources.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    lines = [
        "a,it is very bad,technical,3,yes",
        "b,a good cat,billing,,no",
        "c,a dog eats,,1,",
        "d,a bird,billing,2,no",
    ]
    rows = [f"{row}{line.replace(',', f',{row} ', 1)}" for row in range(5) for line in lines]
    Path("tickets.csv").write_text("\n".join(["ticket,body,queue,urgency,angry", *rows]) + "\n")
    Path("recipe.yaml").write_text(recipe.replace("sentence-transformers/all-MiniLM-L6-v2", encoder_dir))
    result = mtbert.train("recipe.yaml", {"training.max_steps": 2, "training.report_to": "none"})
    assert list(result.scores)[:1] and result.trainer.plan().names == ("tickets",)
    names: dict = {}
    exec(compile(code.replace("sentence-transformers/all-MiniLM-L6-v2", encoder_dir), "docs/sources.md", "exec"), names)
    assert names["trainer"].state.global_step == 2
