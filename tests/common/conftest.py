"""transformers' own tests of a model, on request: `make common` downloads them and says where they are."""

import os

collect_ignore_glob = [] if os.environ.get("MTBERT_COMMON") else ["test_*.py"]
