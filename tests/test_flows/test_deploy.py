"""Deployments as a server takes them, and the files of containers and clusters by their schemas."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.filterwarnings("ignore")  # Prefect's own

HOME = Path(__file__).resolve().parents[2]
DEPLOY = HOME / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
SECRET = re.compile(r"(?i)(secret|password|key)[\"']?\s*[:=]\s*[\"']?[A-Za-z0-9/+]{16,}")


@pytest.fixture(scope="module")
def deployed(prefect):
    """What the server knows after two rounds of deploying."""
    import os

    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    from flows.deploy import deploy, names

    before = os.environ.get("PREFECT_API_URL")
    os.environ["PREFECT_API_URL"] = str(PREFECT_API_URL.value())  # for the command that it runs
    try:
        deploy()
        deploy()
    finally:
        os.environ.pop("PREFECT_API_URL") if before is None else None

    async def read():
        async with get_client() as client:
            found = {name: await client.read_deployment_by_name(name) for name in names()}
            return found, await client.read_automations(), await client.read_work_pool("skyfold")

    return asyncio.run(read())


def test_deployments_have_pool_tags_limits_and_forms(deployed):
    found, _, pool = deployed
    assert pool.concurrency_limit
    assert set(found) == {
        "train/train-weekly",
        "encode/encode-night",
        "objects/objects-night",
        "measure/measure-night",
        "publish/publish-night",
        "build/build-release",
        "train/retrain-on-drift",
    }
    for name, one in found.items():
        assert one.work_pool_name == "skyfold", name
        assert one.global_concurrency_limit.limit == 1, name
        assert "skyfold" in one.tags, name
        assert one.description, name
        form = one.parameter_openapi_schema["properties"]
        assert "survey.toml" in form["survey"]["description"], name
        assert "{night}" in form["night"]["description"], name
    assert [str(s.schedule.cron) for s in found["encode/encode-night"].schedules] == ["0 15 * * *"]
    assert len(found["train/train-weekly"].schedules) == 1


def test_deploying_again_adds_nothing_twice(deployed):
    from flows.deploy import NEXT

    names = [one.name for one in deployed[1]]
    assert sorted(names) == sorted(f"skyfold: {name}" for name in NEXT)


def test_each_step_of_a_night_starts_the_next_with_its_night(deployed):
    found, automations, _ = deployed
    by_id = {one.id: name for name, one in found.items()}
    chain = {
        next(iter(one.trigger.expect)): (by_id[action.deployment_id], action.parameters)
        for one in automations
        for action in one.actions
    }
    order = [chain[f"skyfold.release.{step}"][0] for step in ("encoded", "searched", "measured")]
    assert order == ["objects/objects-night", "measure/measure-night", "publish/publish-night"]
    template = chain["skyfold.release.encoded"][1]["night"]["template"]
    assert "skyfold.night" in template


def test_a_block_that_does_not_exist_is_told(deployed):
    from flows.deploy import deploy
    from skyfold.errors import ConfigError

    with pytest.raises(ConfigError, match="slack-webhook/nobody"):
        asyncio.run(_notify("slack-webhook/nobody"))
    assert deploy


async def _notify(block: str) -> None:
    from prefect.client.orchestration import get_client

    from flows.deploy import _notification

    async with get_client() as client:
        await _notification(client, block)


def test_without_a_server_deploying_says_what_to_do(monkeypatch):
    import flows.deploy
    from skyfold.errors import ConfigError

    class Unset:
        @staticmethod
        def value() -> None:
            return None

    monkeypatch.setattr(flows.deploy, "PREFECT_API_URL", Unset)
    with pytest.raises(ConfigError, match="make stack"):
        flows.deploy.deploy()


def tool(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False
    )


def test_compose_file_meets_its_schema():
    done = tool(
        "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml")
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.stem)
def test_kubernetes_files_meet_their_schemas(path):
    import kubernetes_validate

    for document in yaml.safe_load_all(path.read_text()):
        try:
            kubernetes_validate.validate(document, "1.31", strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            assert document["apiVersion"] == "kubernetes.dask.org/v1"  # of the Dask operator


def test_the_pod_of_a_flow_run_meets_its_schema():
    import kubernetes_validate

    template = json.loads((DEPLOY / "kubernetes/job-template.json").read_text())
    defaults = {
        name: one.get("default", {}) for name, one in template["variables"]["properties"].items()
    }
    defaults["command"], defaults["env"] = ["prefect"], [{"name": "A", "value": "b"}]

    def filled(value):
        if isinstance(value, dict):
            return {name: filled(one) for name, one in value.items()}
        if isinstance(value, list):
            return [filled(one) for one in value]
        if isinstance(value, str) and (whole := re.fullmatch(r"{{ (\w+) }}", value)):
            return defaults[whole[1]]
        if isinstance(value, str):
            return re.sub(r"{{ (\w+) }}", lambda found: str(defaults[found[1]]), value)
        return value

    manifest = filled(template["job_configuration"]["job_manifest"])
    kubernetes_validate.validate(manifest, "1.31", strict=True)


def containers(document) -> list[dict]:
    """Every container of a Kubernetes document."""
    if isinstance(document, dict):
        own = document.get("containers", [])
        return own + [one for value in document.values() for one in containers(value)]
    if isinstance(document, list):
        return [one for value in document for one in containers(value)]
    return []


def test_nothing_runs_as_root_or_unpinned():
    for path in (DEPLOY / "containers").iterdir():
        text = path.read_text()
        assert re.search(r"^USER 10001", text, re.MULTILINE), path
        for image in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
            assert re.search(r":\d+\.\d+\.\d+", image), image
        assert "--require-hashes" in text, path
    documents = [d for path in KUBERNETES for d in yaml.safe_load_all(path.read_text())]
    found = containers(documents)
    assert found
    for one in found:
        assert one["securityContext"]["allowPrivilegeEscalation"] is False, one["name"]
        assert "memory" in one["resources"]["limits"], one["name"]
        assert not one["image"].endswith("latest"), one["image"]


def test_no_file_of_the_deployment_holds_a_secret():
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            assert not SECRET.search(path.read_text()), path


def test_the_bucket_policy_lets_consumers_read_and_nobody_write():
    policy = json.loads((DEPLOY / "bucket-policy.json").read_text())
    allowed = {
        action
        for one in policy["Statement"]
        if one["Effect"] == "Allow"
        for action in one["Action"]
    }
    assert allowed == {"s3:GetObject", "s3:ListBucket"}
    assert all(one["Principal"] != "*" for one in policy["Statement"])
