"""A process of its own that runs what it is sent, a JSON line each way: `python client.py BLOCKED_MODULE...`.

The clients of a hub read their settings when they are imported, so each setting needs a process; keeping it for many
tests spares the imports. A blocked module cannot be imported.
"""

import json
import os
import sys
import traceback

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for module in sys.argv[1:]:
    sys.modules[module] = None
names: dict = {}
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
