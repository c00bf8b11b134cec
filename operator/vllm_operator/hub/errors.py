"""Why a model's facts are not there, told apart because what to do differs."""


class HubError(Exception):
    """Facts cannot be read; the message says why and what to do."""

    retry = False
    """Whether the same question may be answered later without anybody changing anything."""


class GatedModelError(HubError):
    """The repository exists but access is not given."""


class ModelNotFoundError(HubError):
    """There is no such repository, revision, directory or config.json."""


class HubUnavailableError(HubError):
    """The hub does not answer, or not sensibly: wait and try again."""

    retry = True


class InvalidModelError(HubError):
    """The files are there, but say nothing that sizing can use."""
