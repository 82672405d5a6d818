"""Packages that only some users need: an error names the extra that installs them."""

from __future__ import annotations

from importlib.util import find_spec

from ..errors import InputError

PACKAGES = {
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "openvino": ("openvino", "nncf", "onnx", "onnxscript"),
}
RUNTIMES = {"onnx": ("onnxruntime",), "openvino": ("openvino",)}  # what running a graph takes


def require(extra: str, packages: tuple[str, ...]) -> None:
    """Raise InputError, with the command that installs them, if packages of an extra are missing."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise InputError(f"{', '.join(missing)} is not installed; install it with: pip install 'mtbert[{extra}]'")
