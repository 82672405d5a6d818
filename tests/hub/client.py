"""A process of its own that runs what it is sent, a JSON line each way: `python client.py BLOCKED_MODULE...`.

The clients of a hub read their settings when they are imported, so each setting needs a process; keeping it for many
tests spares the imports. A blocked module cannot be imported.
"""

import json
import os
import sys
import time
import traceback

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for module in sys.argv[1:]:
    sys.modules[module] = None


def at_once(job):
    """Run a job without the waits of up to 8 s between the attempts of huggingface_hub."""
    before, time.sleep = time.sleep, lambda seconds: None
    try:
        return job()
    finally:
        time.sleep = before


names: dict = {"at_once": at_once}
for line in sys.stdin:
    names["result"] = None
    try:
        exec(compile(json.loads(line), "sent", "exec"), names)
        answer = {"result": names["result"]}
    except BaseException as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        answer = {"error": kinds, "message": str(error), "traceback": traceback.format_exc()}
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
