"""A file's rows, read for training and for prediction."""

from pathlib import Path

from mtbert.data.readers import RowFile
from mtbert.data.spec import DataSpec
from mtbert.data.splits import check_rows
from mtbert.data.streaming import RowSource
from mtbert.modeling.task_spec import TaskSpec


def both(tmp_path: Path, name: str, content: str | bytes, texts: tuple[str, ...] = ("text",), **form) -> list[tuple]:
    """The texts and ids of a file, which training and prediction must read alike."""
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    kind, separator, quoting = form.get("format"), form.get("separator"), form.get("quoting")
    spec = DataSpec(texts, train=name, id="id", **form)
    source = RowFile(path, spec.format_of(name), spec.separator, spec.quoting)
    task = TaskSpec("t", "regression", texts=len(texts))
    trained, _ = check_rows(task, "test", source.dataset([*texts, "id"]), spec, str(path))
    chunks = list(RowSource(str(path), texts, "id", kind, 2, separator, quoting).chunks())
    keys = ["id", *["text", "text_pair"][: len(texts)]]
    predicted = {key: [value for chunk in chunks for value in chunk[key]] for key in keys}
    assert predicted == {key: trained[key][:] for key in keys}
    assert trained["row"][:] == [row for chunk in chunks for row in chunk["row"]] == list(range(1, 1 + len(trained)))
    return list(zip(*predicted.values(), strict=True))
