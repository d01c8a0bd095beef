"""Tests of applications: roll back per test, a database per test, and a record of what was done.

The pytest plugin, `scoped_async.pytest_plugin`, offers the first as a fixture, and a check for leaks.
"""

from ._clone import clone_database
from ._isolation import isolate
from ._recorder import HeldConnection, Recording, Statement, recorder

__all__ = ["HeldConnection", "Recording", "Statement", "clone_database", "isolate", "recorder"]
