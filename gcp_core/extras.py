"""Packages that only some features need: which one is missing, and what installs it (stdlib only)."""

from __future__ import annotations

import importlib.util

#: Extra of pip -> packages that it brings.
PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
}


def missing(*extras: str) -> tuple[str, str]:
    """The first package of these extras that is not installed, and the command that installs it; empty if none lacks.

    >>> missing()
    ('', '')
    """
    for extra in extras:
        for package in PACKAGES[extra]:
            if not is_installed(package):
                return package, f"pip install 'gcp-sweep[{extra}]'"
    return "", ""


def is_installed(package: str) -> bool:
    """Whether it can be imported; it is not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # ValueError: a module without a spec, or None, stands in sys.modules
        return False


def not_a_program(program: str, extra: str) -> str:
    """What a program says that was installed without what it needs: ``pip install .`` brings the method alone."""
    return f"error: {program} was installed without what it needs (pip install 'gcp-sweep[{extra}]')"
