"""Pages that are made of the code: one for each metric, one for each public package, and the changes."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGES = (
    *("relatedness", "metrics", "evaluation", "study", "encoders", "data", "pseudo_labels", "training", "heads"),
    "transport",
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages of the metrics to their place in the navigation."""
    from jaxrel.metrics import METRICS

    assert config.nav is not None
    (metrics,) = (entry["Metrics"] for entry in config.nav if "Metrics" in entry)
    metrics += [{name: f"metrics/{name}.md"} for name in METRICS]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Write the pages."""
    pages = {"changelog.md": (ROOT / "CHANGELOG.md").read_text().replace("](docs/", "](")}
    pages |= {"reference/jaxrel.md": package_page("jaxrel")}
    pages |= {f"reference/{name}.md": package_page(f"jaxrel.{name}") for name in PACKAGES}
    pages |= metric_pages()
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def package_page(name: str) -> str:
    """Everything public of a package under a heading of its own, or a link to where it has one."""
    package = importlib.import_module(name)
    pages = metric_functions() if name == "jaxrel.metrics" else {}
    headings, links = [], []
    for each in sorted(package.__all__, key=str.lower):
        value = getattr(package, each)
        if each in pages:
            links.append(f"- [`{each}`](../metrics/{pages[each]}.md)")
        elif name == "jaxrel" and (home := home_of(value)):
            links.append(f"- [`{each}`][jaxrel.{home}.{each}]")
        elif documented(value):
            headings.append(f"::: {name}.{each}")
    return "\n\n".join([f"# `{name}`", inspect.getdoc(package) or "", "\n".join(links), *headings])


def home_of(value: object) -> str | None:
    """The package that exports a name of the top level too and has it on its page, if any."""
    _, _, inside = getattr(value, "__module__", "").partition(".")
    package = inside.partition(".")[0]
    if package in PACKAGES and getattr(value, "__name__", "") in importlib.import_module(f"jaxrel.{package}").__all__:
        return package
    return None


def metric_functions() -> dict[str, str]:
    """The name of the metric that each function computes."""
    from jaxrel.metrics import METRICS

    return {inspect.unwrap(metric.function).__name__: name for name, metric in METRICS.items()}


def documented(value: object) -> bool:
    """Whether a public name is a function or a class; modules and constants have no page of their own."""
    return inspect.isclass(value) or (callable(value) and bool(inspect.getdoc(value)))


def metric_pages() -> dict[str, str]:
    """A page for each metric: what it needs, where it is from, and its docstring."""
    from jaxrel.metrics.registry import METRICS, NEEDS

    pages = {}
    for name, metric in METRICS.items():
        function = inspect.unwrap(metric.function)
        facts = {
            "published in": metric.source,
            "better encoders have": "higher values" if metric.higher_is_better else "lower values",
            "differentiable": "yes" if metric.differentiable else "no",
        } | {need: NEEDS[need] for need in metric.needs}
        rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
        signature = f"::: jaxrel.metrics.{function.__name__}"
        pages[f"metrics/{name}.md"] = f"# {name}\n\n| | |\n| --- | --- |\n{rows}\n\n{signature}\n"
    return pages
