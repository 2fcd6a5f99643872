"""The schema of a RayJob, for the fields in benchmarks/cluster: names, types, values, required fields.

No Python package carries the schema of the operator. Other fields are refused: a new field in benchmarks/cluster
needs an entry here. Sources: the KubeRay 1.5 API reference
(https://ray-project.github.io/kuberay/reference/api/), for the fields below ``template`` the reference of Kubernetes
(https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/).
"""

TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
NAME = {"type": "string", "pattern": r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z", "maxLength": 63}
AMOUNT = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i)?\Z"}


def has(*required: str, **properties) -> dict:
    """An object with the given properties and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def one_of(*values: str) -> dict:
    return {"type": "string", "enum": values}


def items(schema: dict) -> dict:
    return {"type": "array", "items": schema, "minItems": 1}


RESOURCES = has(**{"cpu": AMOUNT, "memory": AMOUNT, "nvidia.com/gpu": AMOUNT})
CONTAINER = has(
    "name",
    "image",  # Kubernetes' schema leaves it out, its validation does not
    name=NAME,
    image=TEXT,
    resources=has(requests=RESOURCES, limits=RESOURCES),
    env=items(
        has(
            "name",
            name={"type": "string", "pattern": r"^[A-Za-z_][A-Za-z0-9_]*\Z"},
            value={"type": "string"},
        )
    ),
    volumeMounts=items(
        has("name", "mountPath", name=NAME, mountPath={"type": "string", "pattern": r"^/[^:]*\Z"})
    ),
)
VOLUME = {
    **has(
        "name",
        name=NAME,
        persistentVolumeClaim=has("claimName", claimName=TEXT),
        emptyDir=has(sizeLimit=AMOUNT, medium=one_of("", "Memory")),
    ),
    "minProperties": 2,  # its name, and one kind
    "maxProperties": 2,
}
POD = has("spec", spec=has("containers", containers=items(CONTAINER), volumes=items(VOLUME)))


def rayjob(start_options) -> dict:
    """The schema of the resource; ``start_options``: options of ``ray start`` without the leading dashes."""
    group = {
        # Text to text, or the operator refuses it: a port wants quotes.
        "rayStartParams": {
            "type": "object",
            "propertyNames": {"enum": sorted(start_options)},
            "additionalProperties": {"type": "string"},
        },
        "template": POD,
    }
    cluster = has(
        "headGroupSpec",
        rayVersion=TEXT,
        authOptions=has(mode=one_of("disabled", "token")),
        headGroupSpec=has("rayStartParams", "template", **group),
        workerGroupSpecs=items(
            has(
                *("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
                **group,
                groupName=NAME,
                replicas=COUNT,
                minReplicas=COUNT,
                maxReplicas=COUNT,
            )
        ),
    )
    return has(
        *("apiVersion", "kind", "metadata", "spec"),
        apiVersion=one_of("ray.io/v1"),
        kind=one_of("RayJob"),
        metadata=has("name", name={**NAME, "maxLength": 47}),  # the operator appends to it
        spec=has(
            *("entrypoint", "rayClusterSpec"),
            entrypoint=TEXT,
            submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
            backoffLimit=COUNT,
            shutdownAfterJobFinishes={"type": "boolean"},
            ttlSecondsAfterFinished=COUNT,
            rayClusterSpec=cluster,
        ),
    )
