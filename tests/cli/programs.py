"""A kubectl that says what a cluster would."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest


def install_kubectl(folder: Path, monkeypatch: pytest.MonkeyPatch, answers: Mapping[str, str]) -> None:
    """Put one into the PATH. `answers`: pattern of the shell's for its arguments → file of the folder that it prints (absent: it
    fails).
    """
    cases = "".join(f"{pattern}) cat {folder}/{file} ;;\n" for pattern, file in answers.items())
    program = folder / "kubectl"
    program.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}*) echo "unexpected: $*" >&2; exit 1 ;;\nesac\n')
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
