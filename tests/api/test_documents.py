"""docs/api.md, docs/openapi.json and the examples in both agree with the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from phema.services.api.app import create_app
from phema.services.api.http.auth import OPEN_PATHS
from phema.services.api.http.openapi import examples
from phema.shared.settings import Settings
from tests.api.documents import (
    API_MD,
    OPENAPI_JSON,
    ROOT,
    api_page,
    openapi_text,
    recorded_names,
    with_places,
)

EXAMPLES = examples()


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    app = create_app(Settings(state_dir=Path(tmp_path_factory.mktemp("state"))))
    document = app.openapi()
    app.state.services.catalog.close()
    return document


def _operations(document: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """`METHOD path` -> path and operation."""
    return {
        f"{method.upper()} {path}": (path, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }


def test_the_committed_document_is_that_of_the_code(document: dict[str, Any]) -> None:
    """To change it, run `python -m tests.api.record --render`; without `--render` when answers change too."""
    assert OPENAPI_JSON.read_text() == openapi_text(document)


def test_every_endpoint_is_documented_with_a_request_that_was_run(document: dict[str, Any]) -> None:
    # A recorded answer may be Markdown with headings of its own.
    page = re.sub(r"^(`{3,}).*?^\1$", "", API_MD.read_text(), flags=re.MULTILINE | re.DOTALL)
    parts = re.split(r"^### (.+)$", page, flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    operations = _operations(document)
    assert set(sections) == set(operations)
    for heading, text in sections.items():
        identity = operations[heading][1]["operationId"]
        assert identity in recorded_names(text), f"{heading} shows no recorded request"
        assert {name.partition(".")[0] for name in recorded_names(text)} == {identity}


def test_the_page_shows_what_was_recorded(document: dict[str, Any]) -> None:
    text = API_MD.read_text()
    assert set(recorded_names(text)) == set(EXAMPLES)
    assert text == api_page(text, document, EXAMPLES)


def test_a_new_operation_gets_a_place_on_the_page() -> None:
    operation = {"operationId": "list_sweeps", "tags": ["sweeps"], "description": "Sweeps, newest first."}
    document = {"paths": {"/v1/sweeps": {"get": operation, "post": operation | {"operationId": "create_sweep"}}}}
    exchanges: dict[str, Any] = {"list_sweeps": {}, "create_sweep": {}, "create_sweep.invalid": {}}
    text = "# REST API\n\n## Sweeps\n\n### GET /v1/sweeps\n\nNewest first.\n\n## Jobs\n\nThe queue.\n"
    page = with_places(text, document, exchanges)
    assert page.split("\n\n") == [
        "# REST API",
        "## Sweeps",
        "### GET /v1/sweeps",
        "Newest first.",
        "<!-- recorded: list_sweeps -->\n<!-- end -->",
        "### POST /v1/sweeps",
        "Sweeps, newest first.",
        "<!-- recorded: create_sweep -->\n<!-- end -->",
        "<!-- recorded: create_sweep.invalid -->\n<!-- end -->",
        "## Jobs",
        "The queue.\n",
    ]
    assert with_places(page, document, exchanges) == page
    without = with_places(page, document, {"list_sweeps": {}})
    assert recorded_names(without) == ["list_sweeps"]


def test_every_recorded_request_is_of_its_operation(document: dict[str, Any]) -> None:
    templates = {operation["operationId"]: heading for heading, (_, operation) in _operations(document).items()}
    for name, exchange in EXAMPLES.items():
        method, template = templates[name.partition(".")[0]].split(" ")
        path = exchange["path"].partition("?")[0]
        assert method == exchange["method"]
        assert re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path), (name, path)


def _validator(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": document["components"]})


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_every_example_fits_its_schema(document: dict[str, Any], name: str) -> None:
    exchange = EXAMPLES[name]
    operation = next(o for _, o in _operations(document).values() if o["operationId"] == name.partition(".")[0])
    if "request" in exchange:
        _validator(document, operation["requestBody"]["content"]["application/json"]["schema"]).validate(
            exchange["request"]
        )
    response = operation["responses"][str(exchange["status"])]
    if "response" in exchange:
        # Some answers come as data or as pictures, whose bytes are not recorded.
        content = response["content"].get("application/json") or next(iter(response["content"].values()))
        _validator(document, content["schema"]).validate(exchange["response"])
    known = {header.lower() for header in response.get("headers", {})}
    assert known <= set(exchange.get("response_headers", {})), "a documented header was not there"


def test_every_operation_has_examples_and_all_its_errors(document: dict[str, Any]) -> None:
    for heading, (path, operation) in _operations(document).items():
        responses = operation["responses"]
        if "requestBody" in operation:
            assert operation["requestBody"]["content"]["application/json"]["examples"], heading
        good = [response for status, response in responses.items() if status.startswith("2")]
        shown = [content.get("examples") for response in good for content in response.get("content", {}).values()]
        headers = [header.get("example") for response in good for header in response.get("headers", {}).values()]
        # Pages for people are too long to be recorded.
        is_page = any("text/html" in response.get("content", {}) for response in good)
        assert is_page or any([*shown, *headers]), f"{heading} has no example of an answer"
        assert operation["summary"], heading
        assert operation["tags"], heading
        assert "422" in responses, heading
        if path not in OPEN_PATHS:
            assert operation["security"] == [{"token": []}], heading
            assert {"401", "503"} <= set(responses), heading


def test_every_error_is_a_problem_document(document: dict[str, Any]) -> None:
    for heading, (_, operation) in _operations(document).items():
        for status, response in operation["responses"].items():
            if status[0] in "45" and heading != "GET /readyz":
                (kind,) = response["content"]
                assert kind == "application/problem+json", (heading, status)
                schema = response["content"][kind]["schema"]
                assert schema == {"$ref": "#/components/schemas/ProblemDocument"}, (heading, status)


def test_every_parameter_says_what_it_is(document: dict[str, Any]) -> None:
    for heading, (_, operation) in _operations(document).items():
        for parameter in operation.get("parameters", []):
            assert "description" in parameter, (heading, parameter["name"])


def test_everything_that_is_routed_is_described(document: dict[str, Any]) -> None:
    """Every endpoint is in the document, except HEAD (GET covers it) and the document itself."""
    routed = set()
    for path in (ROOT / "services" / "api").rglob("endpoints.py"):
        found = re.findall(r'@router\.(get|post|put|patch|delete)\(\s*"([^"]+)"', path.read_text())
        routed |= {f"{method.upper()} {route.replace(':run}', '}')}" for method, route in found}
    assert routed == set(_operations(document))
