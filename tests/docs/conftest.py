"""The helpers beside these tests are imported by their names; a package called docs would stand in others' way."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
