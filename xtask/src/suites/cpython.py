"""Runs one module of CPython's own tests and tells of each case as it begins and ends.

Lines of ours begin with a mark that the caller chooses; their fields have tabs between them: the mark, what happened,
the case, and why. Arguments: the mark, the seconds that one case may take, the module, and cases that come last, so that
one of them that hangs takes no others with it.
"""

import faulthandler
import importlib
import os
import sys
import traceback
import unittest

from test import support
from test.libregrtest.cmdline import _parse_args
from test.libregrtest.setup import setup_tests
from test.support import os_helper

MARK, LIMIT, MODULE, *LAST = sys.argv[1:]
# Tests close and replace their standard streams.
OUT = os.dup(1)
os.set_inheritable(OUT, False)


def tell(what, case, why=""):
    fields = (" ".join(str(field).split()) for field in (what, case, why))
    os.write(OUT, ("\n" + "\t".join((MARK, *fields)) + "\n").encode(errors="replace"))


def limit():
    faulthandler.dump_traceback_later(int(LIMIT), exit=True)


class Result(unittest.TestResult):
    def startTest(self, test):
        super().startTest(test)
        limit()
        tell("begin", test.id())

    def stopTest(self, test):
        super().stopTest(test)
        limit()

    def addSuccess(self, test):
        tell("pass", test.id())

    def addExpectedFailure(self, test, err):
        tell("pass", test.id())

    def addSkip(self, test, reason):
        tell("skip", test.id(), reason)

    def addError(self, test, err):
        tell("fail", test.id(), "".join(traceback.format_exception_only(*err[:2])))

    addFailure = addError

    def addUnexpectedSuccess(self, test):
        tell("fail", test.id(), "passes unexpectedly")

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.addError(test, err)


def cases(suite):
    for part in suite:
        if isinstance(part, unittest.TestSuite):
            yield from cases(part)
        else:
            yield part


limit()
setup_tests(_parse_args([]))
support.use_resources = []
with os_helper.temp_cwd("cpython-tests", quiet=True):
    module = importlib.import_module("test." + MODULE)
    every = list(cases(unittest.defaultTestLoader.loadTestsFromModule(module)))
    last = set(LAST)
    every.sort(key=lambda case: case.id() in last)
    unittest.TestSuite(every).run(Result())
limit()
