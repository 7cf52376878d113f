"""Nothing that is read, be it weights, configuration or manifests, is ever run as code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Those of them that check a type or an error, and run nothing.
HARMLESS = {"pickle.UnpicklingError"}
RUN_CODE = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
UNPICKLE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def find_dangers(source: str) -> Iterator[str]:
    """What in a module could run what it reads, one line each."""
    tree = ast.parse(source)
    safe = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and {ast.unparse(base) for base in node.bases} & {"yaml.SafeLoader", "yaml.CSafeLoader"}
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNPICKLE:
            yield f"from {node.module} import"
        if isinstance(node, ast.Import):
            renamed = (alias.name for alias in node.names if alias.asname)
            yield from (name for name in renamed if name.split(".")[0] in UNPICKLE)
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if name.split(".")[0] in UNPICKLE and name not in HARMLESS:
                yield name
        if isinstance(node, ast.Call):
            yield from _find_in_call(node, safe | {"yaml.SafeLoader", "yaml.CSafeLoader"})


def _find_in_call(call: ast.Call, safe: set[str]) -> Iterator[str]:
    name = ast.unparse(call.func)
    options = {option.arg: ast.unparse(option.value) for option in call.keywords}
    if name in RUN_CODE:
        yield name
    if name in ("yaml.load", "yaml.load_all"):
        loader = options.get("Loader", "") or "".join(ast.unparse(a) for a in call.args[1:2])
        if loader not in safe:
            yield f"{name} with loader {loader or 'none'}"
    if name.startswith("yaml.") and name.split(".")[1] in ("unsafe_load", "full_load"):
        yield name
    if name.endswith("torch.load") and options.get("weights_only") != "True":
        yield f"{name} without weights_only=True"
    dangerous = {"allow_pickle": "True", "shell": "True", "trust_remote_code": "True"}
    for option, value in dangerous.items():
        if options.get(option, "False") == value:
            yield f"{name} with {option}"


@pytest.mark.parametrize("package", ["texsynth", "pipeline"])
def test_no_module_runs_what_it_reads(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert len(files) > 10
    dangers = {file.name: list(find_dangers(file.read_text(encoding="utf-8"))) for file in files}
    assert {name: found for name, found in dangers.items() if found} == {}


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle as p", "from pickle import loads", "import pickle\npickle.loads(data)"),
        *("eval(text)", "exec(text)", "os.system(text)", "subprocess.run(text, shell=True)"),
        *("yaml.load(text)", "yaml.load(text, yaml.Loader)", "yaml.load(text, Loader=Mine)"),
        *("yaml.unsafe_load(text)", "torch.load(path)", "torch.load(path, weights_only=False)"),
        *("np.load(path, allow_pickle=True)", "class L(yaml.Loader): ...\nyaml.load(text, L)"),
    ],
)
def test_the_check_sees_what_is_dangerous(source: str) -> None:
    assert list(find_dangers(source))


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle\npickle.UnpicklingError", "torch.load(path, weights_only=True)"),
        *("class L(yaml.SafeLoader): ...\nyaml.load(text, L)", "yaml.safe_load(text)"),
        *("network.eval()", "pattern.compile(text)", "re.compile(text)", "np.load(path)"),
    ],
)
def test_the_check_passes_what_is_safe(source: str) -> None:
    assert list(find_dangers(source)) == []
