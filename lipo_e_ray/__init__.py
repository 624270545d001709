"""LIPO-E on Ray: finds the instruction and the exemplars with which a language model errs least on a task."""

__version__ = "0.1.0"
