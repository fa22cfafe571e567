"""Requests made from /openapi.json: no 500, and no status that is not described."""

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import status_code_conformance
from servers import Fake

# Without a root for adapters, the admin routes refuse everything.
UNDESCRIBED = {403, 405}
HEADERS = {"Host": "localhost"}


def test_no_request_is_answered_with_500_or_an_unknown_status(calibrated_adapter):
    gate = Fake(calibrated_adapter).gate
    schema = schemathesis.openapi.from_asgi("/openapi.json", gate, headers=HEADERS)
    operations = [operation.ok() for operation in schema.get_all_operations()]
    assert len(operations) >= 20
    statuses = set()
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(max_examples=15, suppress_health_check=list(HealthCheck), deadline=None)
        def check(case):
            response = case.call(headers=HEADERS)
            statuses.add(response.status_code)
            assert response.status_code < 500, (case.path, case.body)
            if response.status_code not in UNDESCRIBED:
                case.validate_response(response, checks=[status_code_conformance])

        check()
    assert {200, 404, 422} <= statuses
