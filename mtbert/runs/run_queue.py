"""Work on runs a few at a time, without a place that waits for what another run makes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
LOOK = 2.0  # seconds after which a place without work looks again whether a folder is there


def work_in_turns(
    items: Iterable[Item], jobs: int, work: Callable[[Item], None], needs: Callable[[Item], Path | None]
) -> None:
    """Work on items in their order, each in a thread, `jobs` at a time.

    Items may need the same folder, such as that of a pre-trained encoder. The first of them makes it; until it is
    there, the others are passed over for later items, which need it not.

    Args:
        items: the items.
        jobs: number of threads.
        work: works on an item, and makes the folder that it needs if it is absent. It handles its own errors.
        needs: item → a folder that it needs, or None. Folders of one parent are made one after the other.
    """
    waiting, turn = list(items), threading.Condition()
    making: set[Path | None] = set()

    def take() -> tuple[Item, Path | None] | None:
        with turn:
            while waiting:
                for number, item in enumerate(waiting):
                    folder = needs(item)
                    maker = None if folder is None or folder.is_dir() else folder.parent
                    if maker is None or maker not in making:
                        making.add(maker)
                        return waiting.pop(number), maker
                turn.wait(LOOK)
        return None

    def place() -> None:
        while (taken := take()) is not None:
            item, maker = taken
            try:
                work(item)
            finally:
                with turn:
                    making.discard(maker)
                    turn.notify_all()

    with ThreadPoolExecutor(jobs) as pool:
        for each in [pool.submit(place) for _ in range(jobs)]:
            each.result()
