"""The rules of the house that no single file can keep: sizes, imports, documentation, registration."""

from __future__ import annotations

import ast
import graphlib
import importlib
import inspect
import pkgutil
import re
import runpy
import tomllib
from pathlib import Path

import pytest

import saccade
from saccade.families import FAMILIES
from saccade.methods import METHODS
from saccade.methods.kinds import PLAIN

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "saccade"
MODULES = sorted(SOURCE.rglob("*.py"))
BESIDE = ("tests", "benchmarks", "e2e", "tools")
CODE = [*MODULES, *(path for name in BESIDE for path in sorted((ROOT / name).rglob("*.py")))]

ROOMS = (
    *("_version", "former", "core", "system", "scoring", "extensions"),
    *("methods", "plans", "families", "opening", "inputs", "glance"),
    *("engine", "skip_vision", "asking", "models", "identity", "helpers", "vllm"),
    *("measure", "calibration", "evaluation", "check", "report", "tuning", "training", "healing", "lmms"),
    *("batch", "serve"),
    *(
        "research.names",
        "research.published",
        "research.embedded",
        "research.analysis",
        "research.gate",
        "research.demo",
    ),
    *("research.studies", "research.telling"),
    *("cli", "research.cli", "__main__"),
)
"""The rooms from the ground up: each may use those before it, and itself."""
RESEARCH = "saccade.research"
READS_ENVIRONMENT = "vllm/environment.py"
"""The one file that does: vLLM hands a plug-in nothing else."""
INSIDE_VLLM = "saccade.vllm.inside"
"""What imports vLLM, which only its own processes do; the linter looks at its docstrings."""

PURE = sorted((SOURCE / "core").glob("*.py"))
METHODS_MAY_USE = {"core", "methods"}
TAKES_MODELS_APART = ("families", "glance", "research/embedded")
CONFIGS_OF_NO_MODEL = {
    f"transformers.{name}"
    for name in ("AutoConfig", "GenerationConfig", "BitsAndBytesConfig", "TorchAoConfig")
}
MAY_USE_INTERNALS = (*TAKES_MODELS_APART, "engine", "opening")


def room(path: Path) -> str:
    """The first folder or file under the package: ``engine``, ``models.py``."""
    return path.relative_to(SOURCE).parts[0]


def within(path: Path, rooms: tuple[str, ...]) -> bool:
    """Whether a file is in one of these folders of the package."""
    return any(path.is_relative_to(SOURCE / name) for name in rooms)


def imports(path: Path) -> set[str]:
    """Dotted names a file imports, anywhere in it; ``from a import b`` gives ``a.b``."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(path: Path) -> set[str]:
    """Rooms of the package that a file imports from."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("saccade.")}


def module_of(path: Path) -> str:
    """The dotted name of a file of the package."""
    return ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")


def arrows() -> dict[str, set[str]]:
    """Modules of the package, each with those that it imports: anywhere in it, for types alone too."""
    known = {module_of(path) for path in MODULES}
    return {
        module_of(path): {
            name if name in known else name.rpartition(".")[0]
            for name in imports(path)
            if name.split(".")[0] == "saccade"
        }
        - {module_of(path)}
        for path in MODULES
    }


def room_of(module: str) -> str:
    """The room of a module: its first folder or file, of research the one within."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2] if parts[0] == "research" else parts[:1])


def text_files() -> list[Path]:
    """Every text file of the repository that people wrote or generated; no lock of a command that runs."""
    folders = [
        p for p in (ROOT / n for n in ("src", *BESIDE, "configs", "docs", ".ci", ".github")) if p.exists()
    ]
    names = ["Makefile", ".gitignore", *(p.name for s in ("md", "toml", "txt") for p in ROOT.glob(f"*.{s}"))]
    files = [p for folder in folders for p in folder.rglob("*") if p.is_file()]
    files = [
        p
        for p in files
        if p.suffix not in (".pyc", ".safetensors", ".png", ".npz", ".lock") and "__pycache__" not in p.parts
    ]
    return files + [ROOT / name for name in names]


def test_no_file_is_longer_than_500_lines():
    long = {str(p.relative_to(ROOT)): n for p in CODE if (n := len(p.read_text("utf-8").splitlines())) > 500}
    assert not long, "usually two rooms in one"


@pytest.mark.parametrize("path", PURE, ids=lambda path: path.stem)
def test_the_pure_core_imports_nothing_of_ours_but_itself(path):
    assert ours(path) <= {"core"}
    assert not any(i.split(".")[0] == "transformers" for i in imports(path))


def test_no_module_imports_itself_in_a_circle():
    order = graphlib.TopologicalSorter({name: found for name, found in arrows().items() if name != "saccade"})
    try:
        tuple(order.static_order())
    except graphlib.CycleError as circle:
        pytest.fail(" <- ".join(circle.args[1]))


def test_rooms_import_only_downwards():
    found = {name: targets for name, targets in arrows().items() if name.count(".") and name != RESEARCH}
    assert {room_of(name) for name in found} == set(ROOMS), "a new room has its place among the others"
    up = [
        f"{name} imports {target}"
        for name, targets in found.items()
        for target in targets - {"saccade"}
        if ROOMS.index(room_of(target)) > ROOMS.index(room_of(name))
    ]
    assert not up


def test_no_two_classes_of_the_package_share_a_name():
    found: dict[str, list[str]] = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(module_of(path))
    assert not {name: places for name, places in found.items() if len(places) > 1}


def test_the_package_does_not_import_the_research_that_is_built_on_it():
    for path in MODULES:
        if room(path) != "research":
            assert "research" not in ours(path), path.name


def test_methods_know_only_the_pure_core():
    for path in (SOURCE / "methods").glob("*.py"):
        assert ours(path) <= METHODS_MAY_USE, path.name
        assert not any(i.split(".")[0] == "transformers" for i in imports(path)), path.name


def test_the_engine_and_the_families_import_no_method():
    for path in MODULES:
        if room(path) in ("engine", "families"):
            assert "methods" not in ours(path), path.name


def spoken_of(path: Path) -> set[str]:
    """Identifiers of a file and its strings, docstrings aside: what it names."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    prose = {id(n.value) for n in nodes if isinstance(n, ast.Expr)}
    found = {n.id for n in nodes if isinstance(n, ast.Name)}
    found |= {n.attr for n in nodes if isinstance(n, ast.Attribute)}
    constants = (n for n in nodes if isinstance(n, ast.Constant) and id(n) not in prose)
    return found | {n.value for n in constants if isinstance(n.value, str)}


@pytest.mark.parametrize("room", ["core", "plans", "engine", "families"])
def test_nothing_below_the_methods_names_one_of_them(room):
    """Neither as an identifier nor in a message: what a method needs is a capability that it declares."""
    plain = set(PLAIN)  # random, resize: words of any code
    names = {word for name, cls in METHODS.items() if name not in plain for word in (name, cls.__name__)}
    titles = {cls.title for name, cls in METHODS.items() if name not in plain}
    called = re.compile(rf"\b({'|'.join(METHODS)})\(|({'|'.join(map(re.escape, sorted(titles)))})")
    for path in (SOURCE / room).glob("*.py"):
        said = spoken_of(path)
        if path.name == "schema.py":
            said.remove("skip_vision")  # a field of the plan file: how such a model lays its rows out
        clash = said & names
        assert not clash, f"{path.name} says {clash}: declare a capability, or give the method another name"
        assert not {text for text in said if called.search(text)}, path.name


@pytest.mark.parametrize("room", ["core", "plans", "engine"])
def test_nothing_below_the_families_names_one_of_them(room):
    names = {family.name for family in FAMILIES.values()} | set(FAMILIES)
    words = re.compile("|".join(rf"(?<![\w-]){re.escape(name)}(?![\w.-])" for name in sorted(names)))
    for path in (SOURCE / room).glob("*.py"):
        assert not {text for text in spoken_of(path) if words.search(text)}, path.name


SNIFFING = {
    "measure/counter.py": "operators of bitsandbytes, which are there once it is imported",
    "measure/target.py": "functions of torch, some of which have no name",
}
"""Files that may ask an object which attributes it has, and why; families look at transformers' own."""


def test_what_an_object_can_is_declared_and_not_sniffed():
    for path in MODULES:
        where = path.relative_to(SOURCE).as_posix()
        if where.split("/")[0] not in (
            "core",
            "methods",
            "plans",
            "engine",
            "calibration",
            "measure",
            "evaluation",
        ):
            continue
        calls = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)]
        asked = [n for n in calls if isinstance(n.func, ast.Name) and n.func.id in ("hasattr", "getattr")]
        sniffs = [n for n in asked if n.func.id == "hasattr" or isinstance(n.args[1], ast.Constant)]
        assert bool(sniffs) == (where in SNIFFING), where


def test_the_engine_meets_transformers_in_two_files():
    """The cache, whose layers it swaps, and ``generate``, whose pieces the check of a forward knows."""
    meets = {
        path.name: {i for i in imports(path) if i.startswith("transformers")}
        for path in (SOURCE / "engine").glob("*.py")
    }
    assert {name for name, found in meets.items() if found} == {"cache.py", "checks.py"}
    assert meets["checks.py"] == {"transformers.GenerationMixin"}


def test_only_families_and_glance_name_model_classes_of_transformers():
    for path in MODULES:
        foreign = {i for i in imports(path) if i.split(".")[0] == "transformers"}
        if not within(path, TAKES_MODELS_APART):
            named = {
                i for i in foreign if re.search(r"\.models\.|For\w+Generation$|(?<!PreTrained)Config$", i)
            }
            assert not {i for i in named if ".models.auto." not in i} - CONFIGS_OF_NO_MODEL, path.name
        if not within(path, MAY_USE_INTERNALS):
            deep = {i for i in foreign if i.count(".") > 1 and not i.startswith("transformers.cache_utils.")}
            assert not deep, path.name


def test_everything_public_is_documented():
    missing = []
    names = [
        m.name
        for m in pkgutil.walk_packages(saccade.__path__, "saccade.")
        if not m.name.endswith("__main__") and not m.name.startswith(INSIDE_VLLM)
    ]
    for name in ["saccade", *names]:
        module = importlib.import_module(name)
        if not inspect.getdoc(module):
            missing.append(name)
        for key, thing in vars(module).items():
            if key.startswith("_") or getattr(thing, "__module__", None) != name:
                continue
            if not (inspect.isclass(thing) or inspect.isfunction(thing)):
                continue
            if not thing.__doc__:
                missing.append(f"{name}.{key}")
            if inspect.isclass(thing):
                missing += [f"{name}.{key}.{m}" for m in undocumented(thing)]
    assert not missing


def undocumented(cls: type) -> list[str]:
    """Public methods and properties without a docstring, their own or that of what they override."""
    members = {k: v for k, v in vars(cls).items() if not k.startswith("_")}
    real = {
        k: v for k, v in members.items() if inspect.isfunction(v) or isinstance(v, (property, classmethod))
    }
    return [k for k in real if not inspect.getdoc(getattr(cls, k)) and not inspect.getdoc(real[k])]


def test_no_file_names_a_path_of_one_machine():
    path = re.compile(
        "|".join(rf"(?<![\w.~]){p}" for p in ("/" + "tmp/", "/" + "root/", "/" + "work/", "/" + "opt/"))
    )
    home = re.compile("/" + r"(home|Users)/[a-z]")
    named = [
        f"{p.relative_to(ROOT)}: {found[0]}"
        for p in text_files()
        if (found := path.search(t := p.read_text("utf-8")) or home.search(t))
    ]
    assert not named


def test_nobody_is_sent_to_the_package_index_for_a_package_of_another_project():
    asks = re.compile(r"pip install [^`\n]*\bsaccade\b")
    sent = [str(p.relative_to(ROOT)) for p in text_files() if asks.search(p.read_text("utf-8"))]
    assert not sent, "the index has another project under our name: say .[extra] in the clone"


def test_the_environment_configures_nothing():
    reads = re.compile(r"os\.environ|getenv")
    found = {p.relative_to(SOURCE).as_posix() for p in MODULES if reads.search(p.read_text("utf-8"))}
    assert found == {READS_ENVIRONMENT}


def test_vllm_is_imported_inside_vllm_alone():
    for path in MODULES:
        if any(i.split(".")[0] == "vllm" for i in imports(path)):
            assert module_of(path).startswith(INSIDE_VLLM), path


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_finds_all_that_it_imports(path):
    assert callable(runpy.run_path(str(path), run_name="benchmark")["main"])


def test_nothing_is_left_for_later_and_no_test_is_skipped():
    later = re.compile("|".join(("NotImplemented" + "Error", "TO" + "DO", "FIX" + "ME")))
    skipped = re.compile(
        "|".join((r"pytest\.sk" + r"ip", r"mark\.sk" + "ip", "xf" + "ail\\(", "importor" + "skip"))
    )
    assert not [str(p.relative_to(ROOT)) for p in CODE if later.search(p.read_text("utf-8"))]
    tests = (ROOT / "tests").rglob("*.py")
    assert not [str(p.relative_to(ROOT)) for p in tests if skipped.search(p.read_text("utf-8"))]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_is_one_documented_file_and_in_the_table(name):
    cls = METHODS[name]
    assert cls.title and cls.saves and cls.__doc__
    assert Path(inspect.getfile(cls)).name == f"{name}.py"
    page = (ROOT / "docs" / "methods" / "index.md").read_text("utf-8")
    table = page.split("<!-- generated:methods -->")[1].split("<!-- /generated -->")[0]
    assert f"`{name}`" in table and (cls.paper or cls.title) in table


def test_pins_fit_what_the_package_asks_for():
    from packaging.requirements import Requirement
    from packaging.version import Version

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        wanted = Requirement(text)
        assert Version(pins[wanted.name]) in wanted.specifier, text
