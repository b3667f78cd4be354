"""What ends a run before its pictures do."""


class DescribeError(Exception):
    """A run that cannot begin or go on. What was answered before is kept."""
