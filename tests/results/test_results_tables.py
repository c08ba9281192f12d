from everseg.results import ImageScore, Results, Summary, as_text, bytes_text, compare_table, table


def results() -> Results:
    def scores(a: float, b: float) -> list[ImageScore]:
        return [ImageScore(n, "0", {"iou": v}, route=n, probability=1.0) for n, v in [("a[x]", a), ("b", b)]]

    return Results({"iou": False}).with_stage("a[x]", scores(0.8, 0.5)).with_stage("b", scores(0.75, 0.9))


def test_the_matrix_as_text() -> None:
    text = as_text(table(results(), "iou"))
    assert "iou (higher is better)" in text and "untouched base" not in text
    assert "a[x]" in text, "a name with brackets is no markup"
    assert "0.800" in text and "0.825" in text
    assert "untouched base" in as_text(table(results().with_baseline(cells={"b": {"iou": 0.3}}), "iou"))


def test_what_a_run_does_not_know_is_a_dash() -> None:
    summary: Summary = {
        "method": "samcl",
        "stored_bytes": {"modules": 246096, "buffer": 1000},
        "trainable_parameters": 61524,
        "stage_seconds": [1.25, 2.0],
    }
    text = as_text(compare_table([("full", results(), summary), ("bare", results(), {})]))
    full, bare = (next(line for line in text.splitlines() if name in line) for name in ("full", "bare"))
    assert "samcl" in full and "61,524" in full and "241.3 KiB" in full and "3.2" in full and "1.000" in full
    assert bare.count("\N{EN DASH}") == 4
    assert "0.825 [0.825, 0.825]" in full


def test_bytes_for_people() -> None:
    assert [bytes_text(n) for n in (0, 1023, 246096, 5 * 2**20, 3 * 2**30)] == [
        "0 B",
        "1023 B",
        "240.3 KiB",
        "5.0 MiB",
        "3.00 GiB",
    ]
