"""torchvision can be imported beside any build of torch."""

from __future__ import annotations

import subprocess
import sys

_IMPORT = """
from phema.shared.datasets.preparation.torchvision_operators import declare_missing_operators
declare_missing_operators()
declare_missing_operators()
import torchvision.transforms
import timm
from diffusers import AutoencoderKL
print(torchvision.transforms.__name__)
"""


def test_torchvision_and_its_users_can_be_imported() -> None:
    command = [sys.executable, "-W", "error", "-c", _IMPORT]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "torchvision.transforms\n"
