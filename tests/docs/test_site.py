"""What the site makes when it is built: keys, rows of results, links; and the check of the built pages."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

from mtbert.cli.arguments import COMMANDS
from mtbert.recipe.combinations import COMBINATIONS
from mtbert.recipe.schema import help_groups

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
INSERT = re.compile(r"^<!-- insert: (.+?) -->$", re.MULTILINE)


@pytest.fixture
def site(monkeypatch):
    """A function: name of a module of docs/_extensions → the module."""
    monkeypatch.syspath_prepend(str(DOCS / "_extensions"))
    return importlib.import_module


def inserts(name: str) -> list[list[str]]:
    """The arguments of every insert of this name on all pages."""
    found = [text.split() for page in PAGES for text in INSERT.findall(page.read_text(encoding="utf-8"))]
    return [arguments for kind, *arguments in found if kind == name]


class TestKeys:
    def test_every_group_of_keys_stands_on_a_page_once(self):
        assert sorted(group for groups in inserts("recipe-keys") for group in groups) == sorted(help_groups())

    def test_every_key_has_its_type_default_and_text(self, site):
        page = site("recipe_keys").keys(*help_groups())
        for rows in help_groups().values():
            for key, kind, _, text in rows:
                assert f"### `{key}`\n\n*" in page, key
                assert kind and text, f"{key} has no type or help"
        assert "### `tasks.NAME.weight`\n\n*a number; default: 1.0.* w\\_t, the factor on the task's loss" in page

    def test_every_rule_stands_at_a_key_or_a_section(self, site):
        keys = site("recipe_keys")
        assert [rule.when for rule in keys.rules_elsewhere() if not rule.when.startswith(("tasks: ", "peft: "))] == []
        page = keys.keys(*help_groups())
        rule = next(rule for rule in COMBINATIONS if rule.when == "tasks.*.class_weights: balanced or numbers")
        assert page.count(f"is refused with `tasks.NAME.balanced: true`: {keys.escaped(rule.reason)}.") == 1
        assert page.count("is refused with `tasks.NAME.class_weights: balanced or numbers`") == 1

    def test_what_the_test_of_a_key_sets_beside_it(self, site):
        keys = site("recipe_keys")
        assert keys.settings_of_the_test("tasks.NAME.learning_rate") == ["optimizer.per_task: rates"]
        assert keys.settings_of_the_test("schedule.temperature") == ["schedule.name: temperature"]
        assert keys.settings_of_the_test("tasks.NAME.focal_gamma") == ["tasks.sst.loss: focal"]
        assert keys.settings_of_the_test("schedule.name") == keys.settings_of_the_test("no.such.key") == []

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("p_t ∝ N_t^α.", r"p\_t ∝ N\_t^α"),
            ("`a_b` and *c* <d> [e] $f$ {g} a|b", r"`a_b` and \*c\* \<d\> \[e\] \$f\$ \{g\} a\|b"),
            ("two\n  lines", "two lines"),
            ("an odd ` tick", r"an odd \` tick"),
        ],
    )
    def test_texts_are_shown_as_they_are(self, site, text, shown):
        assert site("recipe_keys").escaped(text) == shown

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("the label column", "The label column."),
            ("a file", "A file."),
            ("w_t, the factor", r"w\_t, the factor."),
            ("λ, in [0, 1].", r"λ, in \[0, 1\]."),
            ("`a` or `b`", "`a` or `b`."),
            ("focal: x", "Focal: x."),
        ],
    )
    def test_a_text_begins_and_ends_as_a_sentence(self, site, text, shown):
        assert site("recipe_keys").sentence(text) == shown

    def test_the_help_of_every_command(self, site):
        page = site("recipe_keys").commands()
        for name in COMMANDS:
            assert f"## mtbert {name}\n" in page and f"usage: mtbert {name}" in page


class TestMeasuredRows:
    def test_all_rows_that_pages_name_are_there_and_of_one_table(self, site):
        for names in inserts("measured"):
            assert site("measured_rows").table(*names).count("\n| ") == len(names)

    def test_a_row_is_the_committed_one(self, site):
        table = site("measured_rows").table("simultaneous", "pcgrad")
        committed = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
        for line in table.splitlines():
            if line.startswith("| `"):
                assert line in committed
        assert "(../../recipes/README.md#ways-of-training-compared)" in table

    @pytest.mark.parametrize("names", [("pcgrad", "pal"), ("no_such_row",)])
    def test_rows_of_no_table_and_of_two_are_errors(self, site, names):
        with pytest.raises(ValueError, match="no table of README.md has all of the rows"):
            site("measured_rows").table(*names)

    def test_finished_findings_stand_beside_their_rows(self, site, tmp_path, monkeypatch):
        rows = site("measured_rows")
        entry = {"finding": "a beats b", "rows": ["a", "b"], "verdict": "held"}
        (tmp_path / "f.json").write_text(json.dumps({"findings": [entry, entry | {"verdict": "not run"}]}))
        monkeypatch.setattr(rows, "FAIR", tmp_path / "f.json")
        assert rows.findings(("a",)) == ["", "Under the fair budget: a beats b: *held*."] and not rows.findings(("c",))


class TestLinks:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("[a](docs/x.md#b)", "[a](../x.md#b)"),
            ("[a](#b) [c](https://d.e/f)", "[a](#b) [c](https://d.e/f)"),
            ("`[a](b)` ![i](docs/images/i.png)", "`[a](b)` ![i](../images/i.png)"),
            ("```bash\n[a](b)\n```\n[a](b)", "```bash\n[a](b)\n```\n[a](../../b)"),
            ("[`a`](b)", "[`a`](../../b)"),
        ],
    )
    def test_a_page_that_moves(self, site, text, shown):
        assert site("page_links").rebased(text, ROOT, DOCS / "project") == shown

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("[a](../SECURITY.md#b)", "[a](project/security.md#b)"),
            ("[a](../recipes/README.md)", "[a](methods/tables.md)"),
            ("[a](../benchmarks/results/avx2.md)", "[a](path:../benchmarks/results/avx2.md)"),
            ("[a](tickets.ipynb)", "[a](guides/notebook.md)"),
            ("[a](api.md) [b](nowhere.md)", "[a](api.md) [b](nowhere.md)"),
            ("[folder](../recipes)", "folder"),
        ],
    )
    def test_a_link_out_of_the_pages(self, site, text, shown):
        assert site("page_links").site_links(text, DOCS / "index.md", DOCS) == shown

    def test_pages_that_the_site_shows_exist(self, site):
        for file, page in site("page_links").SHOWN.items():
            assert (ROOT / file).is_file() and (DOCS / page).is_file()

    def test_new_pages_find_their_place(self, site, tmp_path, monkeypatch):
        pytest.importorskip("sphinx")
        pages = site("mtbert_pages")
        for name in ("index", "api", "sources"):
            (tmp_path / f"{name}.md").write_text("# x")
        monkeypatch.setattr(pages, "DOCS", tmp_path)
        assert pages.expand("a\napi\n<!-- insert: pages -->\n", tmp_path / "index.md") == "a\napi\nsources\n"
        with pytest.raises(ValueError, match="no insert 'nothing'"):
            pages.expand("<!-- insert: nothing -->", tmp_path / "index.md")

    @pytest.mark.parametrize(
        ("line", "shown"),
        [
            ("the `tasks` of `loss_<task>`, N_t", "the ``tasks`` of ``loss_<task>``, N_t"),
            ("a * b | c, eval_ and `x`s", r"a \* b \| c, eval\_ and ``x``\ s"),
        ],
    )
    def test_docstrings(self, site, line, shown):
        pytest.importorskip("sphinx")
        assert site("mtbert_pages").restructured(line) == shown


class TestCheck:
    """The check of a built site."""

    GOOD = '<h1 id="a">x</h1><a href="#a"></a><a href="sub/b.html#c"></a><a href="https://x.y"></a>'
    PICTURE = '<img src="i.png" alt="i">'

    def lines(self, site, folder, html, css="") -> list[str]:
        (folder / "sub").mkdir()
        (folder / "i.png").write_bytes(b"")
        (folder / "a.css").write_text(css)
        (folder / "sub" / "b.html").write_text('<a name="c"></a><a href="../index.html#a"></a>')
        (folder / "index.html").write_text(self.GOOD + self.PICTURE + html)
        return list(site("check_site").problems(folder))

    def test_a_good_site(self, site, tmp_path, capsys):
        more = '<a href="sub/b.html?q=1"></a><img alt="x" src="data:image/png;base64,x">'
        assert self.lines(site, tmp_path, more) == []
        assert site("check_site").main(tmp_path) == 0 and "2 pages" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("html", "problem"),
        [
            ('<a href="gone.html">', "index.html: gone.html leads to no file"),
            ('<a href="sub/b.html#gone">', "index.html: sub/b.html#gone leads to no anchor"),
            ('<a href="#gone">', "index.html: #gone leads to no anchor"),
            ('<a href="../outside.html">', "leads to no file"),
            ('<img src="i.png" alt="">', "the picture i.png has no text in its place"),
            ('<img alt="a" src="gone.png">', "gone.png leads to no file"),
            ('<script src="https://cdn.x/y.js">', "loads https://cdn.x/y.js from elsewhere"),
            ('<link rel="stylesheet" href="//fonts.x/y.css">', "loads //fonts.x/y.css from elsewhere"),
            ('<iframe src="https://x.y/z">', "loads https://x.y/z from elsewhere"),
        ],
    )
    def test_what_is_wrong(self, site, tmp_path, capsys, html, problem):
        (line,) = self.lines(site, tmp_path, html)
        assert problem in line
        assert site("check_site").main(tmp_path) == 1

    def test_styles_that_load_from_elsewhere(self, site, tmp_path):
        (line,) = self.lines(site, tmp_path, "", "@import url('https://fonts.x/y.css'); a { background: url(i.png) }")
        assert line == "a.css: loads https://fonts.x/y.css from elsewhere"


def test_no_page_is_longer_than_it_may_be():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_the_data_of_the_guides_is_what_their_script_writes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "data"))
    import make_tickets

    make_tickets.main(tmp_path)
    sys.modules.pop("make_tickets")
    for file in tmp_path.glob("*.csv"):
        assert file.read_bytes() == (DOCS / "data" / file.name).read_bytes()


def test_pictures_are_small():
    for picture in (DOCS / "images").iterdir():
        assert picture.stat().st_size < 150_000, picture.name
