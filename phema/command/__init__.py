"""The `phema` command."""

import sys

# httpx imports its own command line with click, rich and pygments where these are installed, at 0.2 s of CPU time.
# phema does not use it. With None in this place httpx skips it.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
