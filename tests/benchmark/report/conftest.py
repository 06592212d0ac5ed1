"""One made-up benchmark, analysed once, for all tests of its report."""

import pytest
from support.benchmark_results import two_datasets

from nnunet_plugins.benchmark.report import figures, overlays, page
from nnunet_plugins.benchmark.report.analysis import analyse
from nnunet_plugins.benchmark.report.markup import result_files


@pytest.fixture(scope="session")
def results():
    return two_datasets()


@pytest.fixture(scope="session")
def analysis(results):
    return analyse(results)


@pytest.fixture(scope="session")
def table(analysis):
    return analysis.table


@pytest.fixture(scope="session")
def texts(analysis):
    """The tables of the report, by file name."""
    return {name: content.decode() for name, content in result_files(analysis).items()}


def memory_key(results):
    """All that an analysis depends on."""
    return results.cases.to_csv(), results.record.suite


@pytest.fixture(scope="session")
def analyses(results, analysis):
    """Analyses of the same cases and suite, which take seconds."""
    return {memory_key(results): analysis}


@pytest.fixture
def analysed_once(analyses, monkeypatch):
    """The page's module analyses the same cases only once; other data are never taken from memory."""

    def remembering(results):
        key = memory_key(results)
        if key not in analyses:
            analyses[key] = analyse(results)
        return analyses[key]._replace(results=results)

    monkeypatch.setattr(page, "analyse", remembering)


@pytest.fixture
def quick(results, analysed_once, monkeypatch):
    """``write_report`` writes the made-up benchmark, without figures."""
    monkeypatch.setattr(page, "collect", lambda _: results)
    monkeypatch.setattr(figures, "draw_all", lambda *_: [])
    monkeypatch.setattr(overlays, "draw_overlays", lambda *_: [])
