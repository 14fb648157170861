"""A strict schema of the Kubernetes fields that phema uses.

What is not listed is a mistake until somebody has read the API's reference and adds it. Written from what is known of
Kubernetes 1.30, KubeRay 1.4 and prometheus-operator 0.75. `operator_definitions` checks against their own definitions.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

Schema = dict[str, Any]
TEXT: Schema = {"type": "string", "minLength": 1}
NAME: Schema = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"}
PORT_NAME: Schema = {"type": "string", "pattern": "^[a-z0-9-]{1,15}$"}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
COUNT: Schema = {"type": "integer", "minimum": 0}
YES_NO: Schema = {"type": "boolean"}
DURATION: Schema = {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"}
QUANTITY: Schema = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi|Ti)?$"}
LABELS: Schema = {"type": "object", "additionalProperties": {"type": "string", "maxLength": 63}}
ANNOTATIONS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}


def some(schema: Schema, **bounds: int) -> Schema:
    return {"type": "array", "items": schema, **bounds}


def fields(required: dict[str, Schema] | None = None, **optional: Schema) -> Schema:
    """An object with these fields and no other."""
    required = required or {}
    known = {**required, **optional}
    return {"type": "object", "properties": known, "required": [*required], "additionalProperties": False}


METADATA = fields({"name": NAME}, namespace=NAME, labels=LABELS, annotations=ANNOTATIONS)
SELECTOR = fields(
    matchLabels=LABELS,
    matchExpressions=some(
        fields({"key": TEXT, "operator": {"enum": ["In", "NotIn", "Exists", "DoesNotExist"]}}, values=some(TEXT))
    ),
)
KEY = fields({"name": NAME, "key": TEXT})
ENV = some(fields({"name": TEXT}, value={"type": "string"}, valueFrom=fields({"secretKeyRef": KEY})))
REFERENCE = fields({"name": NAME})
ENV_FROM = some(fields(configMapRef=REFERENCE, secretRef=REFERENCE))
AMOUNTS: Schema = {"type": "object", "additionalProperties": QUANTITY}
RESOURCES = fields({"requests": AMOUNTS, "limits": AMOUNTS})
CONTAINER_SECURITY = fields(
    allowPrivilegeEscalation=YES_NO, readOnlyRootFilesystem=YES_NO, capabilities=fields(drop=some(TEXT))
)
PROBE = fields(
    exec=fields({"command": some(TEXT, minItems=1)}),
    httpGet=fields({"path": TEXT, "port": PORT_NAME}),
    initialDelaySeconds=COUNT,
    periodSeconds=COUNT,
    timeoutSeconds=COUNT,
    failureThreshold=COUNT,
)
CONTAINER = fields(
    {"name": NAME, "image": TEXT, "resources": RESOURCES},
    command=some(TEXT, minItems=1),
    ports=some(fields({"name": PORT_NAME, "containerPort": PORT})),
    env=ENV,
    envFrom=ENV_FROM,
    startupProbe=PROBE,
    livenessProbe=PROBE,
    readinessProbe=PROBE,
    lifecycle=fields({}, preStop=fields({"exec": fields({"command": some(TEXT, minItems=1)})})),
    securityContext=CONTAINER_SECURITY,
    volumeMounts=some(fields({"name": NAME, "mountPath": TEXT})),
)
POD = fields(
    {"containers": some(CONTAINER, minItems=1)},
    serviceAccountName=NAME,
    automountServiceAccountToken=YES_NO,
    shareProcessNamespace=YES_NO,
    runtimeClassName=NAME,
    topologySpreadConstraints=some(
        fields(
            {
                "maxSkew": COUNT,
                "topologyKey": TEXT,
                "whenUnsatisfiable": {"enum": ["ScheduleAnyway", "DoNotSchedule"]},
                "labelSelector": SELECTOR,
            }
        )
    ),
    terminationGracePeriodSeconds=COUNT,
    restartPolicy={"enum": ["Always", "OnFailure", "Never"]},
    tolerations=some(fields(key=TEXT, operator={"enum": ["Exists", "Equal"]}, effect=TEXT)),
    securityContext=fields(
        runAsNonRoot=YES_NO, runAsUser=COUNT, runAsGroup=COUNT, fsGroup=COUNT, seccompProfile=fields({"type": TEXT})
    ),
    volumes=some(fields({"name": NAME}, emptyDir=fields(medium={"const": "Memory"}, sizeLimit=QUANTITY))),
)
TEMPLATE = fields({"metadata": fields({"labels": LABELS}, annotations=ANNOTATIONS), "spec": POD})
PEERS = some(fields(podSelector=SELECTOR, namespaceSelector=SELECTOR))
POLICY_PORTS = some(fields({"protocol": {"enum": ["TCP", "UDP"]}, "port": PORT}))
RAY_PARAMETERS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
AUTHORIZATION = fields({"credentials": KEY}, type=TEXT)
RULE: Schema = {
    "oneOf": [
        fields({"record": TEXT, "expr": TEXT}, labels=LABELS),
        fields({"alert": TEXT, "expr": TEXT, "labels": LABELS, "annotations": ANNOTATIONS}, **{"for": DURATION}),
    ]
}
GROUP = fields({"name": TEXT, "rules": some(RULE, minItems=1)}, interval=DURATION)
RELABELINGS = some(fields({"targetLabel": TEXT}, sourceLabels=some(TEXT), replacement=TEXT))

SPECS: dict[tuple[str, str], dict[str, Schema]] = {
    ("v1", "Namespace"): {},
    ("v1", "ServiceAccount"): {"automountServiceAccountToken": YES_NO},
    ("v1", "ConfigMap"): {"data": ANNOTATIONS},
    ("v1", "Secret"): {"data": ANNOTATIONS, "type": TEXT},
    ("v1", "Service"): {
        "spec": fields(
            {
                "selector": LABELS,
                "ports": some(fields({"name": PORT_NAME, "port": PORT, "targetPort": PORT_NAME}), minItems=1),
            }
        )
    },
    ("apps/v1", "Deployment"): {
        "spec": fields({"replicas": COUNT, "selector": SELECTOR, "template": TEMPLATE}),
    },
    ("apps/v1", "StatefulSet"): {
        "spec": fields(
            {"serviceName": NAME, "replicas": COUNT, "selector": SELECTOR, "template": TEMPLATE},
            volumeClaimTemplates=some(
                fields(
                    {
                        "metadata": METADATA,
                        "spec": fields({"accessModes": some(TEXT), "resources": fields({"requests": AMOUNTS})}),
                    }
                )
            ),
        )
    },
    ("batch/v1", "Job"): {
        "spec": fields({"template": TEMPLATE}, backoffLimit=COUNT, ttlSecondsAfterFinished=COUNT),
    },
    ("policy/v1", "PodDisruptionBudget"): {
        "spec": fields({"selector": SELECTOR}, minAvailable=COUNT, maxUnavailable=COUNT)
    },
    ("networking.k8s.io/v1", "Ingress"): {
        "spec": fields(
            {
                "ingressClassName": NAME,
                "tls": some(fields({"hosts": some(TEXT), "secretName": NAME})),
                "rules": some(
                    fields(
                        {
                            "host": TEXT,
                            "http": fields(
                                {
                                    "paths": some(
                                        fields(
                                            {
                                                "path": TEXT,
                                                "pathType": {"enum": ["Prefix", "Exact"]},
                                                "backend": fields(
                                                    {
                                                        "service": fields(
                                                            {"name": NAME, "port": fields({"name": PORT_NAME})}
                                                        )
                                                    }
                                                ),
                                            }
                                        )
                                    )
                                }
                            ),
                        }
                    )
                ),
            }
        )
    },
    ("networking.k8s.io/v1", "NetworkPolicy"): {
        "spec": fields(
            {"podSelector": SELECTOR, "policyTypes": some({"enum": ["Ingress", "Egress"]}, minItems=1)},
            ingress=some(fields(**{"from": PEERS, "ports": POLICY_PORTS})),
            egress=some(fields(to=PEERS, ports=POLICY_PORTS)),
        )
    },
    ("ray.io/v1", "RayCluster"): {
        "spec": fields(
            {
                "rayVersion": TEXT,
                "headGroupSpec": fields(
                    {"rayStartParams": RAY_PARAMETERS, "template": TEMPLATE}, serviceType={"const": "ClusterIP"}
                ),
                "workerGroupSpecs": some(
                    fields(
                        {
                            "groupName": NAME,
                            "replicas": COUNT,
                            "minReplicas": COUNT,
                            "maxReplicas": COUNT,
                            "rayStartParams": RAY_PARAMETERS,
                            "template": TEMPLATE,
                        }
                    )
                ),
            },
            enableInTreeAutoscaling=YES_NO,
            autoscalerOptions=fields(
                upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
                idleTimeoutSeconds=COUNT,
                env=ENV,
                securityContext=CONTAINER_SECURITY,
                resources=RESOURCES,
            ),
        )
    },
    ("monitoring.coreos.com/v1", "PrometheusRule"): {"spec": fields({"groups": some(GROUP, minItems=1)})},
    ("monitoring.coreos.com/v1", "PodMonitor"): {
        "spec": fields(
            {
                "selector": SELECTOR,
                "podMetricsEndpoints": some(
                    fields(
                        {"port": PORT_NAME},
                        path=TEXT,
                        interval=DURATION,
                        scrapeTimeout=DURATION,
                        authorization=AUTHORIZATION,
                        relabelings=RELABELINGS,
                    ),
                    minItems=1,
                ),
            }
        )
    },
    ("monitoring.coreos.com/v1alpha1", "ScrapeConfig"): {
        "spec": fields(
            {},
            scrapeInterval=DURATION,
            scrapeTimeout=DURATION,
            httpSDConfigs=some(
                fields({"url": TEXT}, refreshInterval=DURATION, authorization=AUTHORIZATION), minItems=1
            ),
            relabelings=RELABELINGS,
        )
    },
}


@cache
def _validator(version: str, kind: str) -> Draft202012Validator:
    rest = SPECS[version, kind]
    optional = {name: rest[name] for name in rest if name != "spec"}
    required = {"apiVersion": TEXT, "kind": TEXT, "metadata": METADATA}
    return Draft202012Validator(fields({**required, **({"spec": rest["spec"]} if "spec" in rest else {})}, **optional))


def faults(one: dict[str, Any]) -> list[str]:
    """What is wrong with an object, each with its path; empty when it is sound."""
    version, kind = str(one.get("apiVersion")), str(one.get("kind"))
    if (version, kind) not in SPECS:
        return [f"{kind} of {version} is not a kind that this schema knows"]
    name = one.get("metadata", {}).get("name")
    return [
        f"{kind} {name}: {'.'.join(map(str, error.absolute_path))}: {_said(error)}"
        for error in _validator(version, kind).iter_errors(one)
    ]


def _said(error: Any) -> str:
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        path = ".".join(str(part) for part in error.absolute_path)
        unknown = sorted(set(error.instance) - set(error.schema.get("properties", {})))
        return f"unknown {', '.join(f'{path}.{field}' for field in unknown)}"
    return str(error.message)
