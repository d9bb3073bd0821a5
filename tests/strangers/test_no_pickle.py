"""Nothing of ours writes or reads a pickle, nor anything else that runs code from a file: told from the code itself."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SOURCES = sorted(path for room in ("feclip", "jobs", "benchmarks") for path in (REPOSITORY / room).rglob("*.py"))
PICKLERS = {"cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "pickle", "shelve", "_pickle"}
RUNNERS = {"eval", "exec", "compile", "__import__"}  # builtins
LOADERS = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "np.save": ("allow_pickle", False),
    "numpy.save": ("allow_pickle", False),
}
"""What pickles unless it is told not to, by the argument that tells it; numpy's own default for `load` is safe too."""
FORBIDDEN = {
    "torch.save", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "pd.read_pickle",
    "pandas.read_pickle", "pa.PyExtensionType", "pyarrow.PyExtensionType", "torch.jit.load", "torch.package",
    "torch.export.load", "tune.Tuner.restore", "Tuner.restore", "pa.deserialize", "pyarrow.deserialize",
}  # fmt: skip
ALLOWED = {
    ("feclip/export/torch_program.py", "torch.export.load"),  # of a program that this process made, without a pickle
    ("feclip/model/weights.py", "import pickle"),  # for the error that torch.load(weights_only=True) raises
    ("benchmarks/decoders.py", "importlib.import_module"),  # of rivals that may be absent, from a table of their names
    ("benchmarks/winclip_once.py", "torch.save"),  # the checkpoint that a rival wants, in the rival's own environment
}


def found(path: Path) -> Iterator[str]:
    """Yield what a file imports or calls that could run code from a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (f"import {name.name}" for name in node.names if name.name.split(".")[0] in PICKLERS)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PICKLERS:
            yield f"import {node.module}"
        elif isinstance(node, ast.Call):
            yield from _called(node)


def _called(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    given = {argument.arg: argument.value for argument in node.keywords}
    if name in FORBIDDEN or name in RUNNERS:
        yield name
    if name in LOADERS:
        argument, safe = LOADERS[name]
        value = given.get(argument)
        if not (isinstance(value, ast.Constant) and value.value is safe):
            yield name
    if name == "importlib.import_module" and not isinstance(node.args[0], ast.Constant):
        yield name
    shell = given.get("shell")
    if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
        yield f"{name} with a shell"


def test_no_code_pickles_or_runs_what_it_reads() -> None:
    offences = {(str(path.relative_to(REPOSITORY)), what) for path in SOURCES for what in found(path)}
    assert len(SOURCES) > 100
    assert offences == ALLOWED  # an entry that is needed no more goes


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("import pickle", "import pickle"),
        ("from cloudpickle import dumps", "import cloudpickle"),
        ("import torch\ntorch.load(path)", "torch.load"),
        ("torch.load(path, weights_only=False)", "torch.load"),
        ("torch.save(model, path)", "torch.save"),
        ("np.load(path, allow_pickle=True)", "np.load"),
        ("yaml.load(text, Loader=yaml.SafeLoader)", "yaml.load"),
        ("subprocess.run(text, shell=True)", "subprocess.run with a shell"),
        ("eval(text)", "eval"),
        ("importlib.import_module(text)", "importlib.import_module"),
        ("tune.Tuner.restore(path)", "tune.Tuner.restore"),
    ],
)
def test_an_offence_is_known_when_seen(text: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(text)
    assert list(found(tmp_path / "code.py")) == [named]
