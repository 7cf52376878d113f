"""`deploy/rayjob.yaml` holds no field that KubeRay and Kubernetes do not document."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli import app

ROOT = Path(__file__).parent.parent

QUANTITY = re.compile(r"\d+(m|Ki|Mi|Gi)?")
TEXTS = {"": str}
"""A map from names that are the user's to texts."""

FIELDS: dict[str, dict[str, Any]] = {
    # KubeRay, docs/reference/api.md of github.com/ray-project/kuberay, package ray.io/v1; the same
    # page for KubeRay 1.7.1 is https://docs.ray.io/en/master/kuberay/references/api.html.
    "RayJob": {"apiVersion": str, "kind": str, "metadata": "ObjectMeta", "spec": "RayJobSpec"},
    "RayJobSpec": {
        "activeDeadlineSeconds": int,
        "backoffLimit": int,
        "rayClusterSpec": "RayClusterSpec",
        "submitterPodTemplate": "PodTemplateSpec",
        "metadata": TEXTS,
        "clusterSelector": TEXTS,
        "submitterConfig": {"backoffLimit": int},
        "managedBy": str,
        "entrypoint": str,
        "runtimeEnvYAML": str,
        "jobId": str,
        "submissionMode": {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"},
        "entrypointResources": str,
        "entrypointNumCpus": float,
        "entrypointNumGpus": float,
        "ttlSecondsAfterFinished": int,
        "shutdownAfterJobFinishes": bool,
        "suspend": bool,
    },
    "RayClusterSpec": {
        "suspend": bool,
        "managedBy": str,
        "autoscalerOptions": "AutoscalerOptions",
        "headServiceAnnotations": TEXTS,
        "enableInTreeAutoscaling": bool,
        "headGroupSpec": "HeadGroupSpec",
        "rayVersion": str,
        "workerGroupSpecs": ["WorkerGroupSpec"],
    },
    "AutoscalerOptions": {
        "resources": "ResourceRequirements",
        "image": str,
        "imagePullPolicy": {"Always", "IfNotPresent", "Never"},
        "idleTimeoutSeconds": int,
        "upscalingMode": {"Default", "Aggressive", "Conservative"},
        "version": {"v1", "v2"},
        "env": ["EnvVar"],
    },
    "HeadGroupSpec": {
        "template": "PodTemplateSpec",
        "enableIngress": bool,
        "rayStartParams": TEXTS,
        "serviceType": str,
    },
    "WorkerGroupSpec": {
        "suspend": bool,
        "groupName": str,
        "replicas": int,
        "minReplicas": int,
        "maxReplicas": int,
        "idleTimeoutSeconds": int,
        "rayStartParams": TEXTS,
        "template": "PodTemplateSpec",
        "numOfHosts": int,
    },
    # Kubernetes, https://kubernetes.io/docs/reference/kubernetes-api/: of each the fields in use,
    # and those that a user may well add.
    "ObjectMeta": {"name": str, "namespace": str, "labels": TEXTS, "annotations": TEXTS},
    "PodTemplateSpec": {"metadata": "ObjectMeta", "spec": "PodSpec"},
    "PodSpec": {
        "affinity": {"nodeAffinity": "NodeAffinity"},
        "containers": ["Container"],
        "nodeSelector": TEXTS,
        "serviceAccountName": str,
        "terminationGracePeriodSeconds": int,
        "tolerations": ["Toleration"],
    },
    "Container": {
        "name": str,
        "image": str,
        "imagePullPolicy": {"Always", "IfNotPresent", "Never"},
        "env": ["EnvVar"],
        "resources": "ResourceRequirements",
    },
    "EnvVar": {"name": str, "value": str},
    "ResourceRequirements": {"limits": {"": QUANTITY}, "requests": {"": QUANTITY}},
    "Toleration": {
        "key": str,
        "operator": {"Exists", "Equal"},
        "value": str,
        "effect": {"NoSchedule", "PreferNoSchedule", "NoExecute"},
    },
    "NodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": ["NodeSelectorTerm"]
        },
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": int, "preference": "NodeSelectorTerm"}
        ],
    },
    "NodeSelectorTerm": {
        "matchExpressions": [
            {
                "key": str,
                "operator": {"In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"},
                "values": [str],
            }
        ]
    },
}


def problems(value: Any, expected: Any, where: str) -> Iterator[str]:
    """What is not as documented, with its place."""
    if isinstance(expected, str):
        expected = FIELDS[expected]
    if isinstance(expected, list):
        if not isinstance(value, list):
            yield f"{where}: expected a list"
            return
        for number, item in enumerate(value):
            yield from problems(item, expected[0], f"{where}[{number}]")
    elif isinstance(expected, dict):
        if not isinstance(value, dict):
            yield f"{where}: expected fields"
            return
        for name, item in value.items():
            if name in expected or "" in expected:
                yield from problems(item, expected.get(name, expected.get("")), f"{where}.{name}")
            else:
                yield f"{where}.{name}: no such field"
    elif isinstance(expected, set):
        if value not in expected:
            yield f"{where}: {value!r} is none of {sorted(expected)}"
    elif isinstance(expected, re.Pattern):
        if not (isinstance(value, str) and expected.fullmatch(value)):
            yield f"{where}: {value!r} is no quantity"
    elif type(value) is not expected:
        yield f"{where}: {value!r} is no {expected.__name__}"


@pytest.fixture
def job() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "deploy/rayjob.yaml").read_text("utf-8"))
    return found


def test_every_field_is_documented(job: dict[str, Any]) -> None:
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert list(problems(job, "RayJob", "")) == []


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (["spec", "backoflimit"], 3, ".spec.backoflimit: no such field"),
        (["spec", "backoffLimit"], "3", ".spec.backoffLimit: '3' is no int"),
        (["spec", "submissionMode"], "K8sJob", "is none of"),
        (["spec", "rayClusterSpec", "workerGroupSpec"], [], "no such field"),
        (["spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxWorkers"], 8, "no such field"),
        (["spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"], 0, "no str"),
        (
            ["spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "container"],
            [],
            ".spec.rayClusterSpec.headGroupSpec.template.spec.container: no such field",
        ),
    ],
)
def test_what_is_not_documented_is_found(
    job: dict[str, Any], path: list[Any], value: Any, problem: str
) -> None:
    changed: Any = copy.deepcopy(job)
    inner = changed
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    (found,) = problems(changed, "RayJob", "")
    assert problem in found


def test_a_lost_cluster_is_followed_by_another_and_none_is_left(job: dict[str, Any]) -> None:
    spec = job["spec"]
    assert spec["backoffLimit"] >= 1
    assert spec["shutdownAfterJobFinishes"] is True


def test_no_work_on_the_head_and_gpus_only_while_tasks_wait(job: dict[str, Any]) -> None:
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
    assert cluster["enableInTreeAutoscaling"] is True
    (workers,) = cluster["workerGroupSpecs"]
    assert (workers["replicas"], workers["minReplicas"]) == (0, 0)
    (container,) = workers["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_spot_machines_come_first_and_never_carry_the_head(job: dict[str, Any]) -> None:
    cluster = job["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    head, worker = (
        group["template"]["spec"]["affinity"]["nodeAffinity"]
        for group in (cluster["headGroupSpec"], workers)
    )
    (required,) = head["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    (preferred,) = worker["preferredDuringSchedulingIgnoredDuringExecution"]
    spot = {"key": "karpenter.sh/capacity-type", "values": ["spot"]}
    assert required == {"matchExpressions": [{**spot, "operator": "NotIn"}]}
    assert preferred["preference"] == {"matchExpressions": [{**spot, "operator": "In"}]}


def test_the_entrypoint_is_one_command_that_texsynth_takes(job: dict[str, Any]) -> None:
    entrypoint = job["spec"]["entrypoint"]
    # Two shells read it, each in turn.
    assert not set(entrypoint) & set("|&;<>()$`\\\"'*?[#~\n")
    name, *words = shlex.split(entrypoint)
    assert name == "texsynth"
    _, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    options = bound.arguments["options"]
    assert (options.address, options.device) == ("auto", "cuda")
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert str(options.actors).split(":")[-1] == str(workers["maxReplicas"])
    assert str(bound.arguments["out"]).startswith("s3:/")


def test_ray_and_the_image_are_those_that_are_tested(job: dict[str, Any]) -> None:
    cluster = job["spec"]["rayClusterSpec"]
    constraints = (ROOT / "constraints.txt").read_text("utf-8")
    assert f"\nray=={cluster['rayVersion']}\n" in constraints
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    images = {c["image"] for g in groups for c in g["template"]["spec"]["containers"]}
    version = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.M)
    assert images == {f"REGISTRY/texsynth:{version[0]}"}
