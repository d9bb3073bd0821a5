"""Bridges to other frameworks, each an extra; none is imported unless it is asked for."""
