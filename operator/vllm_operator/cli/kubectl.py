"""The user's own kubectl: it knows the way to the cluster, and who the user is."""

import subprocess


class KubectlError(Exception):
    """kubectl is not there, or did not do what it was asked; says what it said."""


def kubectl(*words: str, context: str | None) -> str:
    """What kubectl writes. Raises KubectlError, which begins with the words up to the first flag."""
    command = ["kubectl", *(["--context", context] if context else []), *words]
    asked = " ".join(["kubectl", *words[: next((place for place, word in enumerate(words) if word[0] == "-"), None)]])
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout  # noqa: S603 — the user's own kubectl
    except FileNotFoundError as error:
        raise KubectlError("kubectl is not there") from error
    except subprocess.CalledProcessError as error:
        raise KubectlError(f"{asked}: {' '.join(error.stderr.split())[:500]}") from error
    except subprocess.TimeoutExpired as error:
        raise KubectlError(f"{asked}: {error}") from error
