"""The error of a model that cannot be served, for the person who starts the server."""


class ModelError(Exception):
    """A model folder that cannot be served; the message says why and what would be served."""
