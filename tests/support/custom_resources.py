"""What is documented of the custom resources that our manifests use: the fields we use, and no others.

Pods, containers and scaling behaviour inside them are Kubernetes' own types; those are checked against its schemas.
"""

from typing import Any

Schema = dict[str, Any]

STRING: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
KUBERNETES: Schema = {}
"""Checked against Kubernetes' schemas elsewhere."""


def fields(*required: str, **schemas: Schema) -> Schema:
    """An object with these fields and no others."""
    return {"type": "object", "properties": schemas, "required": list(required), "additionalProperties": False}


def items(schema: Schema) -> Schema:
    return {"type": "array", "items": schema, "minItems": 1}


def one_of(*values: str) -> Schema:
    return {"enum": list(values)}


def resource(group_version: str, kind: str, spec: Schema) -> Schema:
    return fields(
        *("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": group_version},
        kind={"const": kind},
        metadata={"type": "object", "required": ["name"]},
        spec=spec,
    )


DURATION: Schema = {"type": "string", "pattern": r"^\d+(ms|s|m|h)$"}
PROTOCOL = one_of("v1", "v2", "grpc-v1", "grpc-v2")
FORMAT = fields("name", name=STRING, version=STRING, autoSelect=FLAG, priority={"type": "integer", "minimum": 1})

SERVING_RUNTIME = resource(
    "serving.kserve.io/v1alpha1",
    "ServingRuntime",
    fields(
        "containers",
        annotations={"type": "object", "additionalProperties": STRING},
        supportedModelFormats=items(FORMAT),
        protocolVersions=items(PROTOCOL),
        multiModel=FLAG,
        containers=items(KUBERNETES),
    ),
)

INFERENCE_SERVICE = resource(
    "serving.kserve.io/v1beta1",
    "InferenceService",
    fields(
        "predictor",
        predictor=fields(
            minReplicas=COUNT,
            maxReplicas=COUNT,
            scaleMetric=one_of("cpu", "memory", "concurrency", "rps"),
            scaleTarget=COUNT,
            terminationGracePeriodSeconds=KUBERNETES,
            enableServiceLinks=KUBERNETES,
            automountServiceAccountToken=KUBERNETES,
            model=fields(
                "modelFormat",
                modelFormat=fields("name", name=STRING, version=STRING),
                protocolVersion=PROTOCOL,
                runtime=STRING,
                storageUri={"type": "string", "pattern": "^[a-z0-9]+://"},
            ),
        ),
    ),
)

TRIGGER = fields(
    *("type", "metadata"),
    type=STRING,
    name=STRING,
    metricType=one_of("AverageValue", "Value", "Utilization"),
    metadata={"type": "object", "additionalProperties": {"type": "string"}},
)
TRIGGER_METADATA = {"prometheus": {"serverAddress", "query", "threshold"}, "cpu": {"value"}}
"""What each type of trigger must be told."""

SCALED_OBJECT = resource(
    "keda.sh/v1alpha1",
    "ScaledObject",
    fields(
        *("scaleTargetRef", "triggers"),
        scaleTargetRef=fields("name", apiVersion=STRING, kind=STRING, name=STRING),
        pollingInterval=COUNT,
        minReplicaCount=COUNT,
        maxReplicaCount=COUNT,
        fallback=fields(
            *("failureThreshold", "replicas"),
            failureThreshold=COUNT,
            replicas=COUNT,
            behavior=one_of("static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"),
        ),
        advanced=fields(horizontalPodAutoscalerConfig=fields(behavior=KUBERNETES)),
        triggers=items(TRIGGER),
    ),
)

KEY_OF_A_SECRET = fields("name", "key", name=STRING, key=STRING)
ENDPOINT = fields(
    port=STRING,
    path=STRING,
    interval=DURATION,
    scrapeTimeout=DURATION,
    scheme=one_of("http", "https"),
    tlsConfig=fields(serverName=STRING, ca=fields("secret", secret=KEY_OF_A_SECRET)),
    authorization=fields("credentials", type=STRING, credentials=KEY_OF_A_SECRET),
)

SERVICE_MONITOR = resource(
    "monitoring.coreos.com/v1",
    "ServiceMonitor",
    fields(
        *("selector", "endpoints"),
        selector=fields(matchLabels={"type": "object", "additionalProperties": STRING}),
        endpoints=items(ENDPOINT),
    ),
)

SCHEMAS: dict[str, Schema] = {
    "ServingRuntime": SERVING_RUNTIME,
    "InferenceService": INFERENCE_SERVICE,
    "ScaledObject": SCALED_OBJECT,
    "ServiceMonitor": SERVICE_MONITOR,
}
