"""The cases of the value tests: every cell beside its reference, a file per family."""

from tests.values import gru, linear, lstm, simple, structured

CASES = simple.CASES | lstm.CASES | gru.CASES | linear.CASES | structured.CASES
