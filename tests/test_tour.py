"""The tour writes its table, its pictures and a page that needs nothing else."""

from __future__ import annotations

import re

import pytest

import lowla
from lowla import _tour

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

_PICTURES = [
    "completion_photograph.png",
    "cur_digits.png",
    "cur_photograph.png",
    "cur_search.png",
    "kron_elevation.png",
    "lstsq_diabetes.png",
    "mfac_pruning.png",
    "rsvd_digits.png",
    "rsvd_photograph.png",
    "rsvd_spectrum.png",
    "sinkhorn_colours.png",
    "sinkhorn_convergence.png",
    "sinkhorn_digits.png",
]


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    out = tmp_path_factory.mktemp("tour") / "deep" / "folder"
    return out, _tour.run(out, "small")


def test_files(tour):
    out, _ = tour
    assert sorted(path.name for path in out.iterdir()) == sorted(["index.html", *_PICTURES])
    for name in _PICTURES:
        assert (out / name).read_bytes().startswith(b"\x89PNG\r\n")


def test_the_page_is_self_contained(tour):
    page = (tour[0] / "index.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == len(_PICTURES)
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert lowla.__version__ in page
    assert "sklearn randomized_svd" in page


def test_the_table_has_a_line_for_each_row():
    rows = [
        _tour.Row("rsvd k=3", "digits 10x8", 0.002, 0.125, "numpy.linalg.svd", 2.5, 0.0625),
        _tour.Row("rsvd", "x", 1.5, 1.0, "y", 0.75, 1.0),
    ]
    assert _tour.table(rows).splitlines() == [
        "kernel    input         lowla     error  usual tool        its time  its error    ratio",
        "--------  -----------  ------  --------  ----------------  --------  ---------  -------",
        "rsvd k=3  digits 10x8  2.0 ms  1.25e-01  numpy.linalg.svd    2.50 s   6.25e-02  1250.0x",
        "rsvd      x            1.50 s  1.00e+00  y                 750.0 ms   1.00e+00     0.5x",
    ]


def test_lowla_is_as_accurate_as_the_usual_tools(tour):
    for stop in tour[1]:
        for row in stop.rows:
            assert row.error <= 1.01 * row.usual_error, row
