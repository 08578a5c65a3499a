"""The OpenAPI document holds the endpoint to its word, whatever is sent."""

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode, checks

GENTLY = hypothesis.settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    derandomize=True,
    database=None,
)
LOOKED_AT = (
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.unsupported_method,
)


def not_our_fault(context, response, case) -> None:
    """503 and 504 are answers, as where a deadline is a microsecond; 500 never is."""
    assert response.status_code in (*range(200, 500), 503, 504), response.text


@pytest.fixture(scope="module")
def document(endpoint):
    return schemathesis.openapi.from_url(f"{endpoint}/openapi.json")


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize(
    ("method", "path"),
    [("post", "/v1/predict"), ("post", "/v1/predict/batch"), ("get", "/v1/info"), ("get", "/v1/health")],
)
def test_every_answer_is_as_the_document_says(document, method, path, mode):
    operation = document[path][method]
    if mode is GenerationMode.NEGATIVE and method == "get":
        pytest.skip("takes nothing that could be wrong")

    @GENTLY
    @hypothesis.given(operation.as_strategy(generation_mode=mode))
    def holds(case):
        looked_at = [*LOOKED_AT, not_our_fault]
        if "batch" not in path and case.media_type == "application/json":
            looked_at.append(checks.negative_data_rejection)  # in a batch, a sample at fault is one answer that says so
        case.call_and_validate(checks=looked_at, timeout=60)

    holds()
