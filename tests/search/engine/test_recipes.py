"""The recipes in the engine's README: they are there, validate against the schemas of their readers, and are true.

`tests/whole_program/test_hosts.py` runs those that can be run.
"""

import gzip
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from search import _parser

ROOT = Path(__file__).resolve().parents[3]
README = ROOT / "cmp" / "search" / "engine" / "README.md"
SCHEMAS = Path(__file__).parent / "schemas"


def recipe(name: str) -> str:
    """The code block behind a recipe's mark."""
    found = re.search(rf"<!-- recipe: {name} -->\n```\w+\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None, f"no recipe {name}"
    return found[1]


def strict(schema: Any) -> Any:
    """As kubectl validates: a field that the definition does not know is a mistake."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {key: strict(value) for key, value in schema.items()}
    if "properties" in parts:
        parts["properties"] = {name: strict(part) for name, part in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            parts.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    return parts


@pytest.fixture(scope="module")
def rayjob() -> Any:
    """KubeRay's definition of a RayJob (ray-operator/config/crd/bases/ray.io_rayjobs.yaml), without its prose.

    Not `jsonschema.validate`, which looks for mistakes in this large schema each time, for three seconds.
    """
    schema = strict(json.loads(gzip.decompress((SCHEMAS / "kuberay-v1.7.0-rayjob.json.gz").read_bytes())))
    return jsonschema.validators.validator_for(schema)(schema)


def test_the_cluster_file_validates_against_the_schema_of_ray_up() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())

    jsonschema.validate(yaml.safe_load(recipe("ray-up")), schema)


def test_the_job_validates_against_kuberays_definition(rayjob: Any) -> None:
    rayjob.validate(yaml.safe_load(recipe("kuberay")))


def test_a_mistake_in_the_job_is_noticed(rayjob: Any) -> None:
    job = yaml.safe_load(recipe("kuberay"))
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplica"] = 3
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        rayjob.validate(job)


@pytest.mark.parametrize("name", ["first", "second", "search", "slurm", "job"])
def test_shell_recipes_are_shell(name: str) -> None:
    subprocess.run(["bash", "-n"], input=recipe(name), text=True, check=True)


@pytest.mark.parametrize("name", ["search", "slurm", "job", "kuberay"])
def test_every_search_in_a_recipe_is_a_command_that_the_program_understands(name: str) -> None:
    commands = re.findall(r"python (?:/app/)?search\.py ((?:\"[^\"\n]*\"|[^\n&\"'#])+)", recipe(name))
    assert commands
    for command in commands:
        arguments = _parser().parse_args(shlex.split(command))
        assert (ROOT / arguments.space.removeprefix("/app/")).exists()


def test_a_submitted_working_directory_leaves_secrets_data_and_results_behind(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

    (tmp_path / ".rayignore").write_text((ROOT / ".rayignore").read_text())
    excludes = get_excludes_from_ignore_files(tmp_path, include_gitignore=False)

    def stays(name: str) -> bool:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return any(exclude is not None and exclude(path) for exclude in excludes)

    assert all(
        stays(name) for name in (".env", ".env.local", "results/a/journal.jsonl", "data/tokens/x", ".venv/bin/x")
    )
    assert not any(
        stays(name) for name in ("search.py", "cmp/train/data/cache.py", "spaces/demo.yaml", "cmp/results/x.py")
    )
