"""Contract tests for what plugins and scripts add, and fixtures with a tiny data set.

All that a package registers, in one call::

    def test_the_contract():
        carvana.testing.check_plugin("carvana-mine")

The fixtures ``tiny_data`` and ``tiny_config`` come with ``pytest_plugins = ["carvana.testing.fixtures"]``.
"""

from carvana.testing.data import check_augment, check_layout
from carvana.testing.network import check_arch, check_loss
from carvana.testing.plugin import check_plugin

__all__ = ["check_arch", "check_augment", "check_layout", "check_loss", "check_plugin"]
