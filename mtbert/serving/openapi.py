"""The OpenAPI description of the server, as JSON-ready values."""

from __future__ import annotations

from typing import Any

from .. import __version__
from .limits import Limits
from .requests import PredictRequest

ANSWER: dict[str, Any] = {
    "type": "object",
    "description": "The answer of one task. A classification has label (or labels, where an input may have several), "
    "confidence and probabilities, a regression score; a task that labels words entities, and labels, one for each "
    "word. What calibration has fitted: set, interval, abstained.",
    "properties": {
        "label": {"type": "string"},
        "labels": {"type": "array", "items": {"type": "string"}},
        "confidence": {
            "description": "Probability of the answer; of each label's, where an input may have several",
            "oneOf": [{"type": "number"}, {"type": "object", "additionalProperties": {"type": "number"}}],
        },
        "probabilities": {"type": "object", "additionalProperties": {"type": "number"}},
        "score": {"type": "number"},
        "entities": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "entity": {"type": "string"},
                    "word": {"type": "string", "description": "The characters from start to end of the input"},
                    "start": {"type": "integer"},
                    "end": {"type": "integer"},
                    "score": {"type": "number", "description": "Mean probability of the words' labels"},
                },
            },
        },
        "set": {"type": "array", "items": {"type": "string"}, "description": "Labels at the fitted coverage"},
        "interval": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
        "abstained": {"type": "boolean", "description": "Whether the confidence is below the fitted abstain_below"},
        "truncated": {"type": "integer", "description": "Tokens that were cut off the input; absent for none"},
    },
}


def describe(limits: Limits, keys: bool) -> dict[str, Any]:
    """The OpenAPI document.

    Args:
        limits: the server's limits, which the document names.
        keys: whether a key is needed.
    """
    request = PredictRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    request["properties"]["inputs"]["maxItems"] = limits.max_texts
    prediction = {"type": "object", "description": "Task → answer", "additionalProperties": _ref("Answer")}
    answers = {"type": "array", "items": prediction, "description": "One for each input, in their order"}
    response = {"type": "object", "required": ["predictions"], "properties": {"predictions": answers}}
    error = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    security: dict[str, Any] = {"security": [{"key": []}]} if keys else {}
    predict = {
        "summary": "Answer texts and pairs with the heads of the model",
        "operationId": "predict",
        "requestBody": {"required": True, "content": _json(_ref("PredictRequest"))},
        "responses": {"200": {"description": "The answers", "content": _json(_ref("PredictResponse"))}}
        | {status: {"description": what, "content": _json(_ref("Error"))} for status, what in problems(limits, keys)},
        **security,
    }
    schemes = {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if keys else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": "mtbert serve", "version": __version__, "description": "Every head of one model."},
        "paths": {
            "/predict": {"post": predict},
            "/health": {"get": _get("Whether the process works", "application/json", stops=True)},
            "/ready": {"get": _get("Whether the server takes requests", "application/json", stops=True)},
            "/metrics": {"get": _get("Metrics for Prometheus", "text/plain") | security},
            "/openapi.json": {"get": _get("This description", "application/json")},
        },
        "components": {
            "schemas": {"PredictRequest": request, "PredictResponse": response, "Answer": ANSWER, "Error": error},
            **schemes,
        },
    }


def problems(limits: Limits, keys: bool) -> list[tuple[str, str]]:
    """Status → when `/predict` answers with it."""
    return [
        *([("401", "No key, or a wrong one")] if keys else []),
        ("403", "The request comes from a page of another site"),
        ("408", f"The body did not arrive within {limits.body_timeout:g} s"),
        ("413", f"The body has more than {limits.max_body:,} bytes"),
        ("422", f"The body is invalid, or has more than {limits.max_texts:,} inputs or {limits.max_tokens:,} tokens"),
        (
            "429",
            f"Over {limits.max_queue_tokens:,} tokens wait for the model; Retry-After says when to try again",
        ),
        ("500", "The model failed, or its output is not finite"),
        ("503", f"The server is stopping, or had no answer within {limits.timeout:g} s"),
    ]


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _get(summary: str, content: str, stops: bool = False) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": {"description": summary, "content": {content: {}}}}
    if stops:
        responses["503"] = {"description": "It does not", "content": {content: {}}}
    return {"summary": summary, "responses": responses}
