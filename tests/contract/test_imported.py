"""A real API server takes what is imported: the CRD's schema and its rules."""

import pytest

from tests.importing.test_cases import READ
from tests.importing.test_containers import COMPOSE, TABLE
from vllm_operator.importing.model import import_model

from .conftest import Server

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("text", [COMPOSE, TABLE, *(text for text, _ in READ)])
def test_an_imported_model_is_accepted(server: Server, text: str) -> None:
    server.create(import_model(text).model, namespace="default")
