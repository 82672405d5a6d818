"""A drafted recipe that is read back, with its data."""

from pathlib import Path

from mtbert.recipe import load_data, load_recipe


class Draft:
    """A drafted recipe, which was read back and whose data passed all checks."""

    def __init__(self, text: str, found: list[str], path: Path):
        self.text, self.found = text, "\n".join(found)
        path.write_text(text, encoding="utf-8")
        self.recipe = load_recipe(path)
        self.tasks = self.recipe.tasks
        self.splits = {name: loaded.splits for name, loaded in load_data(self.recipe).items()}
        self.comments = " ".join(line.strip()[3:] for line in text.splitlines() if line.strip().startswith("## "))

    def kinds(self) -> dict[str, str]:
        return {
            name: str(task.spec(name).problem_type).removesuffix("_classification") for name, task in self.tasks.items()
        }
