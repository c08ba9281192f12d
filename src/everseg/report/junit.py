"""The gate as JUnit XML, which every CI system shows: one test case per comparison."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from everseg.errors import printable
from everseg.files import write_bytes
from everseg.runs.gate import Gate
from everseg.runs.verdict import headline, place, power, remarks


def write_junit(gate: Gate, out: Path) -> None:
    """Write the comparisons as test cases: "worse" is a failure, "cannot tell" is skipped.

    Raises:
        UserError: the file cannot be written.
    """
    worse, unsure = len(gate.worse), len(gate.unsure) + len(gate.left_out)
    counts = {
        "tests": str(len(gate.comparisons) + len(gate.left_out)),
        "failures": str(worse),
        "skipped": str(unsure),
        "errors": "0",
    }
    root = ElementTree.Element("testsuites", {"name": "everseg gate", **counts})
    suite = ElementTree.SubElement(
        root, "testsuite", {"name": _text(f"{gate.new} against {gate.old}"), **counts}
    )
    for c in gate.comparisons:
        case = ElementTree.SubElement(
            suite, "testcase", name=_text(place(c)), classname=f"gate.{c.kind}", time="0"
        )
        d = c.difference
        if c.finding == "worse":
            ElementTree.SubElement(case, "failure", message=_text(c.reason), type="worse").text = (
                f"IoU {c.old:.3f} before, {c.new:.3f} now; difference {d.estimate:+.4f}, 95 % interval "
                f"{d.low:+.4f} to {d.high:+.4f}; corrected p {min(c.drop_p, c.flips_p):.2g}"
            )
        elif c.finding == "cannot tell":
            ElementTree.SubElement(case, "skipped", message=_text(f"cannot tell: {c.reason}"))
        ElementTree.SubElement(case, "system-out").text = _text(power(gate, c))
    for text in gate.left_out:
        case = ElementTree.SubElement(
            suite, "testcase", name=_text(text), classname="gate.left_out", time="0"
        )
        ElementTree.SubElement(case, "skipped", message=_text(text))
    warnings = [] if gate.health is None else list(gate.health.warnings)
    said = [f"{gate.verdict}: {headline(gate)}", *remarks(gate), *(f"warning: {text}" for text in warnings)]
    ElementTree.SubElement(suite, "system-out").text = _text("\n".join(said))
    ElementTree.indent(root)
    content = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    write_bytes(out, content + b"\n")


def _text(text: str) -> str:
    """Without what XML cannot hold."""
    return "\n".join(printable(line) for line in text.split("\n"))
