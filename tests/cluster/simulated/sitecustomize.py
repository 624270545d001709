"""Python imports this at its start, in every process under the head of these tests. Only drivers need the formula."""

import sys

if any("lipo" in word for word in sys.orig_argv[1:3]):
    import formula  # noqa: F401
